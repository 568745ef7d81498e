"""Damaged, random and hostile files of thermograms, in the way of test_fuzz.py.

Every reader gives a value or an error of one line. `test_fuzz_annotations.py` has annotations.
"""

import shutil
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
from fuzzing import damaged, fuzz, only_user_errors, time_limit
from hypothesis import strategies as st
from sample_contents import (
    ARRAYS,
    CELSIUS,
    FLIR,
    IMAGES,
    MATRICES,
    NPY,
    npy_bytes,
    written,
    zip_bytes,
)
from thermogram_files import flir_jpeg

from thermo_jax.data import file_listing, identity, layouts, reader
from thermo_jax.data.data_report import DataReport
from thermo_jax.data.picture import read_picture
from thermo_jax.data.thermogram import DataError
from thermo_jax.inference import inputs

# test -> cases in the quick suite, cases in the slow one
CASES = {
    "images": (60, 1000),
    "flir": (20, 500),
    "matrices": (30, 600),
    "numbers": (40, 700),
    "arrays": (30, 500),
    "headers": (30, 500),
    "names": (40, 700),
    "tables": (20, 300),
    "zips": (20, 300),
    "folders": (10, 100),
}


def test_there_are_as_many_cases_as_launch_reliability_states():
    assert list(np.sum(list(CASES.values()), axis=0)) == [300, 5200]


def check_file(path):
    num_frames = reader.count_frames(path)
    assert 1 <= num_frames <= 1000
    for frame in {0, num_frames - 1}:
        picture, errors = read_picture([path], frame=frame)
        assert (picture is None) == bool(errors)
        assert all(error.detail.strip() and "\n" not in str(error) for error in errors)
        if picture is None:
            continue
        assert np.isfinite(picture.pixels).all()
        assert all(note.strip() and "\n" not in note for note in picture.notes)
        for kind, shape in (("gray", (480, 640, 1)), ("heat", (120, 160, 3))):
            try:
                assert picture.model_image(kind).shape == shape
            except DataError as error:
                assert error.kind == "unknown-palette"


# --------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------

SUFFIXES = [".jpg", ".png", ".tif", ".gif", ".webp", ".txt", "_snap.jpg"]


@fuzz(CASES["images"], data=damaged(IMAGES), suffix=st.sampled_from(SUFFIXES))
def test_a_damaged_image_is_read_or_refused(folder, data, suffix):
    check_file(written(folder, f"damaged{suffix}", data))


@pytest.fixture
def flyr(monkeypatch):
    """flyr, if it is installed; else a function that reads as few bytes as possible."""
    if "flyr" not in sys.modules:
        try:
            import flyr  # noqa: F401
        except ImportError:
            metadata = {"emissivity": 0.95, "reflected_apparent_temperature": 293.15}
            read = types.SimpleNamespace(celsius=CELSIUS, metadata=metadata)
            module = types.SimpleNamespace(unpack=lambda file: read)
            monkeypatch.setitem(sys.modules, "flyr", module)


@fuzz(CASES["flir"], "flyr", data=damaged(FLIR))
def test_a_damaged_radiometric_image_is_read_or_refused(folder, data, flyr):
    check_file(written(folder, "damaged.jpg", data))


@pytest.mark.parametrize("data", FLIR, ids=["raw", "png"])
def test_the_undamaged_radiometric_image_is_read(tmp_path, data, flyr):
    content = reader.read_file(written(tmp_path, "a.jpg", data))
    assert content.kind == "temperatures" and content.notes[0][0] == "radiometry"


def test_a_number_of_records_that_would_take_half_an_hour_is_not_believed(tmp_path, flyr):
    path = written(tmp_path, "a.jpg", flir_jpeg(IMAGES[0], num_records=2**32 - 1))
    with time_limit():
        assert "4294967295 records" in reader.read_file(path).notes[0][1]


# --------------------------------------------------------------------------------------------------
# Tables and arrays of temperatures
# --------------------------------------------------------------------------------------------------


@fuzz(CASES["matrices"], data=damaged(MATRICES), suffix=st.sampled_from([".txt", ".csv", ".asc"]))
def test_a_damaged_matrix_is_read_or_refused(folder, data, suffix):
    check_file(written(folder, f"damaged{suffix}", data))


words = st.sampled_from(["1", "36,6", "36.6", "-0", "nan", "inf", "1e400", "0x1p3", "1_0", "", "٣"])
separators = st.sampled_from([" ", "\t", ";", ",", "\n", "\r\r\n", "\x0b", "\u2028", "\x00", '"'])
numbers = words | st.text(max_size=3) | st.floats().map(repr) | st.just("9" * 5000)


@fuzz(
    CASES["numbers"],
    row=st.lists(st.tuples(numbers, separators), max_size=40),
    repeats=st.sampled_from([1, 17, 2000]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]),
)
def test_any_text_is_read_or_refused_as_a_matrix(folder, row, repeats, encoding):
    line = "".join(map("".join, row)) + "\n"
    text = line * min(repeats, 1 + 20_000 // len(line))
    errors = "replace" if encoding == "cp1252" else "surrogatepass"
    check_file(written(folder, "text.csv", text.encode(encoding, errors)))


@fuzz(CASES["arrays"], data=damaged(ARRAYS), suffix=st.sampled_from([".npy", ".npz"]))
def test_a_damaged_array_is_read_or_refused(folder, data, suffix):
    check_file(written(folder, f"damaged{suffix}", data))


dtypes = st.sampled_from(["<f8", ">f4", "<f2", "|u1", "<i8", ">u2", "|O", "|b1", "<c8", "<M8[s]"])
sizes = st.sampled_from([0, 1, 3, 16, 20, 4096, 4097, 2**31, 2**62, -1])


@fuzz(
    CASES["headers"],
    dtype=dtypes | st.text(max_size=4),
    shape=st.lists(sizes, max_size=4),
    fortran=st.booleans(),
    length=st.sampled_from([0, 256, 5000]),
    zipped=st.booleans(),
)
def test_an_array_of_any_type_and_shape_is_read_or_refused(
    folder, dtype, shape, fortran, length, zipped
):
    header = {"descr": dtype, "fortran_order": fortran, "shape": tuple(shape)}
    text = f"{header!r}\n".encode("utf-8", "backslashreplace")
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + b"\x41\xf0" * length
    check_file(written(folder, "made.npy", zip_bytes({"a.npy": data}) if zipped else data))


# --------------------------------------------------------------------------------------------------
# Names, tables, zips, folders
# --------------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    ["T0001", ".1", ".D", ".2012-13-08", "_snap", "sub-", "P", "07", "healthy", "sick", "ses-2"]
    + ["left", "lateral", " ", "45", "frontal", "C:\\x", "..", "imgimg", "20190503", "ﷺ", "é"]
)
letters = st.characters(exclude_characters="/\0", exclude_categories=())  # with lone surrogates
names = st.lists(pieces | st.text(letters, max_size=4) | st.just("x" * 240), max_size=8)
paths = st.lists(names.map("".join), min_size=1, max_size=4)


@fuzz(CASES["names"], listed=st.lists(st.tuples(paths, st.sampled_from(SUFFIXES)), max_size=8))
def test_any_names_of_files_and_folders_are_understood_or_reported(folder, listed):
    places = {folder.joinpath(*path[:-1], f"{path[-1]}{suffix}") for path, suffix in listed}
    inside = [place for place in places if ".." not in place.parts]
    files = file_listing.FileListing(folder, pixels=sorted(inside))
    report = DataReport(folder)
    groups = file_listing.group_by_name(files)
    records = report.collect(identity.identify(groups, files))
    assert len(records) + report.count("patient-mismatch") == len(groups)
    assert all(record.patient.strip() and 0 <= record.view <= 5 for record in records)
    records = report.collect(identity.without_conflicts(records, files))
    report.write(folder / "report", records)


TABLE = (
    b"file,patient,label,view,protocol,date,visit,frame,annotation\n"
    b"a.npy,P1,healthy,1,S,2019-05-03,1,0,\n"
    b"stack.npy,P2,sick,frontal,D,03/25/2019,2,1,a.json\n"
)


@fuzz(CASES["tables"], table=damaged([TABLE, TABLE.replace(b",", b";"), TABLE[:40]]))
def test_a_damaged_table_of_thermograms_is_read_or_refused(folder, table):
    root = folder / "root"
    if not root.exists():
        root.mkdir()
        written(root, "a.npy", NPY)
        written(root, "stack.npy", npy_bytes(np.stack([CELSIUS, CELSIUS + 1])))
    written(root, "thermograms.csv", table)
    check_folder(root, folder / "report")


def check_folder(root, report_folder):
    with only_user_errors():
        records, report = layouts.survey(root)
        assert records or report.problem
        assert "\n" not in report.problem
        assert all("\n" not in oddity.detail for oddity in report.oddities)
        report.write(report_folder, records)


ZIP = {"x/a.npy": NPY, "../b.txt": MATRICES[0], "/c.png": IMAGES[3], "thermograms.csv": TABLE}
ZIPS = [
    zip_bytes(ZIP, method)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
]


@fuzz(CASES["zips"], data=damaged(ZIPS))
def test_a_damaged_zip_is_unpacked_or_refused(folder, data):
    unpack_dir = folder / "unpacked"
    shutil.rmtree(unpack_dir, ignore_errors=True)
    unpack_dir.mkdir()
    with only_user_errors():
        inputs.find_thermograms(written(folder, "a.zip", data), unpack_dir=unpack_dir)
    assert {path.name for path in folder.iterdir()} == {"a.zip", "unpacked"}


names_on_disk = st.lists(
    st.sampled_from(["healthy", "sick", "sub-1", "T0001.1.1.S.2012-10-08.00", "1", "_snap"])
    | st.text(st.characters(exclude_characters="/\0", codec="utf-8"), max_size=3)
    | st.sampled_from(["\udcff", "mask", "readme", "."]),
    min_size=1,
    max_size=3,
).map(lambda parts: "/".join(part for part in parts if part != "." and len(part)) or "a")
SOUND = [*IMAGES, *MATRICES, *ARRAYS, *FLIR, TABLE, b"", b"{}"]
ENDINGS = [*file_listing.MATRICES, *file_listing.IMAGES, ".json", "/thermograms.csv", ""]


@fuzz(
    CASES["folders"],
    contents=st.lists(
        st.tuples(names_on_disk, st.sampled_from(ENDINGS), st.sampled_from(SOUND) | damaged(SOUND)),
        max_size=8,
    ),
)
def test_any_folder_is_surveyed(folder, contents):
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, ending, data in contents:
        path = root / f"{name}{ending}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError:  # a file of this name is where a folder should be, or the other way round
            continue
    check_folder(root, folder / "report")
