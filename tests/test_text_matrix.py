"""Matrices of temperatures in text files, in every form that cameras' programs write."""

import numpy as np
import pytest
from thermogram_files import matrix_text

from thermo_jax.data.text_matrix import parse_matrix
from thermo_jax.data.thermogram import DataError

SMALL = np.round(30 + np.arange(20 * 24).reshape(20, 24) / 37, 2)


def parse(text, encoding="utf-8"):
    return parse_matrix("a.txt", text.encode(encoding))


def refused(data):
    with pytest.raises(DataError) as caught:
        parse_matrix("a.txt", data)
    assert caught.value.kind == "unreadable-matrix" and "a.txt" in str(caught.value)
    return caught.value.detail


@pytest.mark.parametrize("separator", [" ", "\t", ";", "; ", ",", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_every_separator_and_line_end_reads_the_same(separator, end):
    np.testing.assert_array_equal(parse(matrix_text(SMALL, separator=separator, end=end)), SMALL)


@pytest.mark.parametrize("separator", [" ", "\t", ";", "; "])
def test_a_decimal_comma_is_read_where_another_character_separates_the_numbers(separator):
    np.testing.assert_array_equal(parse(matrix_text(SMALL, separator=separator, comma=True)), SMALL)


def test_numbers_in_quotes_may_have_a_decimal_comma():
    text = "\n".join(",".join(f'"{value:.2f}"'.replace(".", ",") for value in row) for row in SMALL)
    np.testing.assert_array_equal(parse(text), SMALL)


@pytest.mark.parametrize("end", [";\n\n", ";;\n"])
def test_separators_at_the_end_of_lines_and_blank_lines_are_harmless(end):
    np.testing.assert_array_equal(parse(matrix_text(SMALL, separator=";", end=end)), SMALL)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_encoding_of_a_header_does_not_matter(encoding):
    text = "File:;C:\\a.jpg\nRefl. temp.:;23 °C\n\n" + matrix_text(SMALL, separator=";", comma=True)
    np.testing.assert_array_equal(parse(text, encoding), SMALL)


HEADERS = {
    "comments": "# camera: A\n# 24 x 20\n",
    "sections": "[Settings]\nEmissivity=0.98\n1,2,3\n[Data]\n",
    "units": "Image 1, deg C\nWidth: 24\n",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_the_matrix_is_the_largest_block_of_equally_long_lines(header):
    text = header + matrix_text(SMALL, separator=",") + "min,30\n\nmax,42\n1,2\n"
    np.testing.assert_array_equal(parse(text), SMALL)


def test_two_matrices_with_an_empty_line_between_them_are_refused():
    text = matrix_text(SMALL, separator=";")
    assert "2 matrices" in refused(f"{text}\n{text}".encode())


def with_indexes(first):
    columns = ",".join(map(str, range(first, first + 24)))
    lines = matrix_text(SMALL, separator=",").splitlines()
    rows = [f"{row},{line}" for row, line in enumerate(lines, start=first)]
    return "\n".join(["," + columns, *rows])


@pytest.mark.parametrize("first", [0, 1])
def test_an_index_row_and_an_index_column_are_removed(first):
    np.testing.assert_array_equal(parse(with_indexes(first)), SMALL)


def test_many_consecutive_numbers_are_an_index_row_wherever_they_begin():
    wide = np.tile(SMALL, 2)
    text = ",".join(map(str, range(100, 148))) + "\n" + matrix_text(wide, separator=",")
    np.testing.assert_array_equal(parse(text), wide)


@pytest.mark.parametrize("name", ["Image 1", "", "row"])
def test_a_name_before_the_numbers_of_lines_is_removed(name):
    lines = matrix_text(SMALL, separator=";").splitlines()
    text = "\n".join(f"{name if row == 0 else ''};{line}" for row, line in enumerate(lines))
    np.testing.assert_array_equal(parse(text), SMALL)


@pytest.mark.parametrize("word", ["nan", "NaN", "", "--", "#N/A", "****", "1.#QNAN", "< 10", "OVR"])
def test_a_missing_number_is_nan(word):
    text = matrix_text(SMALL, separator=";").replace(f"{SMALL[7, 9]:.2f}", word, 1)
    assert np.isnan(parse(text)[7, 9]) and np.isnan(parse(text)).sum() == 1


def test_a_word_among_the_numbers_is_refused_rather_than_the_rest_used():
    lines = matrix_text(SMALL).splitlines()
    lines[3] = lines[3].replace(" ", " x", 1)
    detail = refused("\n".join(lines * 2).encode())
    assert "19 lines of 24 numbers, and elsewhere 19 more" in detail


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"Emissivity 0.98\n", b"30 31\n30\n", b"30,31\n30,32\n", b";;;\n" * 50],
)
def test_a_file_without_a_matrix_is_refused(data):
    assert "expected at least 16 lines of equally many numbers" in refused(data)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0\x00", bytes(range(256))])
def test_a_binary_file_is_refused(data):
    assert refused(data) == "not a text file"


def test_a_file_of_too_many_lines_is_refused():
    assert "200000 lines; expected at most 100000" in refused(b"1\n" * 200_000)
