import numpy as np
import pytest
from PIL import Image, ImageFile
from thermogram_files import gray_pixels, matrix, matrix_text, write_gray, write_matrix, write_snap

from thermo_jax.data import radiometry
from thermo_jax.data.thermogram import DataError, Thermogram


def refused(path, *, kind, read=radiometry.read_temperatures):
    """Check that the error names the file and has this kind; return its message."""
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.kind == kind
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("separator", [" ", "\t", ";", "; "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_every_separator_and_line_end_reads_the_same(tmp_path, separator, end):
    path = write_matrix(tmp_path / "T0001.txt", separator=separator, end=end)
    temperatures = radiometry.read_temperatures(path)
    assert temperatures.dtype == np.float32
    np.testing.assert_array_equal(temperatures, matrix().astype(np.float32))


@pytest.mark.parametrize("separator", [" ", "\t", ";"])
def test_decimal_comma_is_read_where_another_character_separates_the_numbers(tmp_path, separator):
    path = write_matrix(tmp_path / "T0001.txt", separator=separator, comma=True)
    np.testing.assert_array_equal(radiometry.read_temperatures(path), matrix().astype(np.float32))


def test_trailing_separators_blank_lines_and_byte_order_mark_are_harmless(tmp_path):
    path = tmp_path / "T0001.txt"
    text = matrix_text(matrix(), separator=";", end=";\n\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n \n")
    np.testing.assert_array_equal(radiometry.read_temperatures(path), matrix().astype(np.float32))


@pytest.mark.parametrize("separator", [",", ", "])
def test_comma_as_separator_is_refused(tmp_path, separator):
    path = write_matrix(tmp_path / "T0001.txt", separator=separator)
    assert "commas" in refused(path, kind="unreadable-matrix")


def test_kelvin_is_recognised(tmp_path):
    path = write_matrix(tmp_path / "T0001.txt", matrix() + 273.15)
    assert "looks like Kelvin" in refused(path, kind="kelvin")


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-inf"])
def test_nan_and_infinity_are_counted(tmp_path, word):
    path = tmp_path / "T0001.txt"
    path.write_text(matrix_text(matrix()).replace("28.05", word, 1))
    assert "1 of 307200 values" in refused(path, kind="not-a-number")


@pytest.mark.parametrize("value", [9.99, 45.01, -300.0, 1e300])
def test_a_value_outside_10_to_45_degrees_is_refused_with_its_extent(tmp_path, value):
    values = matrix()
    values[7, 9] = value
    path = write_matrix(tmp_path / "T0001.txt", values)
    assert "1 of 307200 values outside 10..45" in refused(path, kind="out-of-range")


def test_the_limits_themselves_are_accepted(tmp_path):
    values = matrix()
    values[0, :2] = (10, 45)
    temperatures = radiometry.read_temperatures(write_matrix(tmp_path / "T0001.txt", values))
    assert (temperatures.min(), temperatures.max()) == (10, 45)


@pytest.mark.parametrize(
    "shape", [(240, 320), (640, 480), (479, 640), (481, 640), (480, 639), (1, 307200)]
)
def test_another_shape_is_refused(tmp_path, shape):
    path = write_matrix(tmp_path / "T0001.txt", np.full(shape, 30.0))
    assert "expected 480 lines of 640" in refused(path, kind="wrong-shape")


def test_a_matrix_cut_short_is_refused(tmp_path):
    path = tmp_path / "T0001.txt"
    path.write_text(matrix_text(matrix())[:-300])
    assert "expected 480 lines of 640" in refused(path, kind="wrong-shape")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"Emissivity 0.98\n", b"\xff\xd8\xff\xe0\x00"])
def test_a_file_without_numbers_is_refused(tmp_path, content):
    path = tmp_path / "T0001.txt"
    path.write_bytes(content)
    refused(path, kind="unreadable-matrix")


def test_a_word_among_the_numbers_is_refused(tmp_path):
    path = tmp_path / "T0001.txt"
    path.write_text(matrix_text(matrix()).replace("28.05", "2x.05", 1))
    assert "2x.05" in refused(path, kind="unreadable-matrix")


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "T0001.txt"
    with open(path, "wb") as file:
        file.truncate(radiometry.MAX_FILE_BYTES + 1)  # sparse: uses no disk space
    assert "64 MB" in refused(path, kind="too-large")


def test_gray_is_the_same_from_one_channel_and_from_three(tmp_path):
    one = radiometry.read_gray(write_gray(tmp_path / "one.jpg", rgb=False))
    three = radiometry.read_gray(write_gray(tmp_path / "three.jpg"))
    assert one.shape == (480, 640, 1) and one.dtype == np.uint8
    assert np.abs(one.astype(int) - three).max() <= 2
    assert np.abs(one[..., 0].astype(int) - gray_pixels())[:, :-2].mean() < 3


@pytest.mark.parametrize(("levels", "accepted"), [(8, True), (9, False)])
def test_channels_more_than_8_levels_apart_are_not_gray(tmp_path, levels, accepted):
    pixels = np.full((480, 640, 3), 100, np.uint8)
    pixels[:8, :8, 0] += levels
    path = tmp_path / "gray.jpg"
    Image.fromarray(pixels).save(path, "PNG")  # lossless, so that the spread is exact
    if accepted:
        assert radiometry.read_gray(path).shape == (480, 640, 1)
    else:
        message = refused(path, kind="coloured-gray", read=radiometry.read_gray)
        assert "9 levels apart" in message


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_image_is_refused(tmp_path, share):
    path = write_gray(tmp_path / "gray.jpg")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, kind="unreadable-image", read=radiometry.read_gray)


def test_an_image_of_the_wrong_size_is_refused(tmp_path):
    path = write_snap(tmp_path / "gray.jpg", (800, 600))
    assert "600x800" in refused(path, kind="wrong-size", read=radiometry.read_gray)
    assert "expected 120x160" in refused(path, kind="wrong-size", read=radiometry.read_heat)


def test_a_decompression_bomb_is_never_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.jpg"
    Image.new("1", (9000, 9000)).save(path, "PNG")
    assert path.stat().st_size < 100_000

    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    refused(path, kind="wrong-size", read=radiometry.read_heat)


def test_heat_is_rgb(tmp_path):
    heat = radiometry.read_heat(write_snap(tmp_path / "a_snap.jpg"))
    assert heat.shape == (120, 160, 3) and heat.dtype == np.uint8
    assert heat[60, 150, 0] > 200 > 60 > heat[60, 150, 1]


def test_gray_renders_the_image_minimum_as_0_and_maximum_as_255():
    temperatures = matrix().astype(np.float32)
    gray = radiometry.render_gray(temperatures)
    assert gray.shape == (480, 640, 1)
    assert (gray.min(), gray.max()) == (0, 255)
    share = (temperatures - temperatures.min()) / np.ptp(temperatures)
    np.testing.assert_allclose(gray[..., 0], share * 255, atol=0.501)


def test_heat_renders_the_mean_of_4x4_cells_through_the_colour_map():
    temperatures = np.full((480, 640), 20.0, np.float32)
    temperatures[:, 320:] = 30.0
    temperatures[0:2, 0:4] = 30.0  # half of the first cell
    heat = radiometry.render_heat(temperatures, colormap="gray")
    assert heat.shape == (120, 160, 3)
    assert (heat[50, 10], heat[50, 150], heat[0, 0]) == (
        pytest.approx([0] * 3),
        pytest.approx([255] * 3),
        pytest.approx([128] * 3, abs=1),
    )


def test_the_default_colour_map_is_jet_and_unknown_ones_are_named():
    temperatures = matrix().astype(np.float32)
    np.testing.assert_array_equal(
        radiometry.render_heat(temperatures), radiometry.render_heat(temperatures, colormap="jet")
    )
    with pytest.raises(ValueError, match="'jett'"):
        radiometry.render_heat(temperatures, colormap="jett")


def test_one_temperature_everywhere_renders_as_black():
    assert not radiometry.render_gray(np.full((480, 640), 30, np.float32)).any()


def record(**paths):
    return Thermogram(name="0001/a", patient="0001", patient_known=True, **paths)


def test_missing_pictures_are_rendered_from_temperatures(tmp_path):
    path = write_matrix(tmp_path / "a.txt")
    pixels = radiometry.load_pixels(record(temperature_path=path), colormap="inferno")
    np.testing.assert_array_equal(pixels.gray, radiometry.render_gray(pixels.temperatures))
    np.testing.assert_array_equal(
        pixels.heat, radiometry.render_heat(pixels.temperatures, colormap="inferno")
    )


def test_a_file_is_used_rather_than_rendered(tmp_path):
    path = write_matrix(tmp_path / "a.txt")
    snap = write_snap(tmp_path / "a_snap.jpg")
    pixels = radiometry.load_pixels(record(temperature_path=path, heat_path=snap))
    np.testing.assert_array_equal(pixels.heat, radiometry.read_heat(snap))
    np.testing.assert_array_equal(pixels.gray, radiometry.render_gray(pixels.temperatures))


def test_without_temperatures_a_missing_snap_stays_missing(tmp_path):
    pixels = radiometry.load_pixels(record(gray_path=write_gray(tmp_path / "a.jpg")))
    assert pixels.heat is None and pixels.temperatures is None
    assert pixels.gray.shape == (480, 640, 1)


def test_only_what_is_wanted_is_read(tmp_path):
    gray = write_gray(tmp_path / "a.jpg")
    absent = tmp_path / "absent.txt"
    thermogram = record(gray_path=gray, temperature_path=absent)
    assert radiometry.load_pixels(thermogram, wanted=("gray",)).gray is not None
    with pytest.raises(ValueError, match="grey"):
        radiometry.load_pixels(thermogram, wanted=("grey",))
