"""Damaged, random and hostile files of thermograms, in the way of test_fuzz.py.

Every reader gives a value or an error of one line. `test_fuzz_annotations.py` has annotations.
"""

import io
import pathlib
import shutil
import struct
import sys
import types
import zipfile
import zlib

import numpy as np
import pytest
from fuzzing import damaged, fuzz, memory_limit, only_user_errors, time_limit
from hypothesis import strategies as st
from PIL import ExifTags, Image

from thermo_jax.data import file_listing, identity, layouts, reader
from thermo_jax.data.data_report import DataReport
from thermo_jax.data.picture import read_picture
from thermo_jax.data.thermogram import DataError
from thermo_jax.errors import UserError
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


def written(folder: pathlib.Path, name: str, data: bytes) -> pathlib.Path:
    path = folder / name
    path.write_bytes(data)
    return path


def check_file(path: pathlib.Path):
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

_rng = np.random.default_rng(0)
CELSIUS = _rng.uniform(20, 36, (20, 24)).round(2)
LEVELS = (CELSIUS * 7).astype(np.uint8)
COLOURS = np.stack([LEVELS, LEVELS // 2, 255 - LEVELS], -1)


def image_bytes(kind: str, pixels, *, mode: str = "", **options) -> bytes:
    image, file = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def frames_of(*images) -> dict:
    return {"save_all": True, "append_images": [Image.fromarray(image) for image in images]}


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "DJI"
    return exif


CENTIKELVIN = (CELSIUS * 100 + 27315).astype(np.uint16)
FLOATS = CELSIUS.astype(np.float32)
IMAGES = [
    image_bytes("JPEG", LEVELS, exif=rotated()),
    image_bytes("JPEG", COLOURS, progressive=True),
    image_bytes("MPO", COLOURS, **frames_of(COLOURS)),
    image_bytes("PNG", COLOURS, mode="P", transparency=3, exif=rotated()),
    image_bytes("PNG", COLOURS, mode="RGBA", **frames_of(COLOURS)),
    image_bytes("PNG", CENTIKELVIN),
    image_bytes("TIFF", FLOATS, **frames_of(FLOATS[:17], CENTIKELVIN)),
    image_bytes("TIFF", COLOURS, compression="tiff_lzw"),
    image_bytes("TIFF", FLOATS, big_tiff=True, exif=rotated()),
    image_bytes("GIF", COLOURS, **frames_of(LEVELS, COLOURS[::-1])),
    image_bytes("BMP", LEVELS),
    image_bytes("WEBP", COLOURS, **frames_of(COLOURS[::-1])),
]
SUFFIXES = [".jpg", ".png", ".tif", ".gif", ".webp", ".txt", "_snap.jpg"]


@fuzz(CASES["images"], data=damaged(IMAGES), suffix=st.sampled_from(SUFFIXES))
def test_a_damaged_image_is_read_or_refused(folder, data, suffix):
    check_file(written(folder, f"damaged{suffix}", data))


def flir_jpeg(raw: bytes, *, num_records: int = 5) -> bytes:
    """A radiometric JPEG with FLIR's records, in segments of 1000 bytes."""
    settings = bytearray(900)
    struct.pack_into("<6f", settings, 32, 0.95, 1, 293.15, 293.15, 293.15, 1)
    struct.pack_into("<7f", settings, 88, 21106.77, 1501, 1, 0, 0, 0, 0.006569)
    struct.pack_into("<i", settings, 776, -7340)
    height, width = CELSIUS.shape
    raw = struct.pack("<HHH", 2, width, height).ljust(32, b"\0") + raw
    entries = [(1, 160, len(raw)), (32, 160 + len(raw), 900), (14, 160, len(raw))]
    records = (b"FFF\0" + bytes(16) + struct.pack(">III", 100, 64, num_records)).ljust(64, b"\0")
    for kind, start, length in entries:
        records += struct.pack(">HHIIII", kind, 1, 100, 1, start, length).ljust(32, b"\0")
    records += raw + settings
    pieces = [records[start : start + 1000] for start in range(0, len(records), 1000)]
    segments = [
        b"\xff\xe1" + struct.pack(">H", len(piece) + 10) + b"FLIR\0\1%c%c" % (i, len(pieces) - 1)
        for i, piece in enumerate(pieces)
    ]
    joined = b"".join(map(bytes.__add__, segments, pieces))
    return IMAGES[0][:2] + joined + IMAGES[0][2:]


RAW = np.linspace(14_000, 15_000, CELSIUS.size).astype("<u2")
FLIR = [
    flir_jpeg(RAW.tobytes()),
    flir_jpeg(image_bytes("PNG", RAW.byteswap().reshape(CELSIUS.shape))),
]


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


# --------------------------------------------------------------------------------------------------
# Tables and arrays of temperatures
# --------------------------------------------------------------------------------------------------


def text_bytes(*, separator: str = " ", newline: str = "\n") -> bytes:
    return newline.join(separator.join(map(str, row)) for row in CELSIUS).encode()


MATRICES = [
    text_bytes(),
    text_bytes(separator=",", newline="\r\n"),
    b"[Settings]\nEmissivity;0,95\n\n" + text_bytes(separator=";").replace(b".", b","),
    text_bytes(separator="\t", newline="\r\r\n").decode().encode("utf-16"),
    b'"' + text_bytes(separator='","', newline='"\n"') + b'"',
]


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


def npy_bytes(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


NPY = npy_bytes(FLOATS)
ARRAYS = [
    npy_bytes(CELSIUS.astype(np.float16)),
    npy_bytes(np.asfortranarray([CELSIUS, CELSIUS])),
    zip_bytes({"a.npy": NPY}),
    zip_bytes({"a.npy": NPY}, zipfile.ZIP_LZMA),
    zip_bytes({"a.npy": NPY, "b.npy": NPY}, zipfile.ZIP_STORED),
]


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


def check_folder(root: pathlib.Path, report_folder: pathlib.Path):
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


# --------------------------------------------------------------------------------------------------
# Files that are or claim to be huge
# --------------------------------------------------------------------------------------------------


def huge_png() -> bytes:
    """A whole PNG of 30,000 x 30,000 black pixels in 1 MB."""
    rows = zlib.compress(bytes(30_000 * (30_000 // 8 + 1)), 1)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0), b"IDAT": rows}
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return IMAGES[3][:8] + body + IMAGES[3][-12:]


def huge_jpeg() -> bytes:
    """A JPEG whose header claims 65,535 x 65,535 pixels."""
    data = bytearray(IMAGES[0])
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = b"\xff\xff\xff\xff"
    return bytes(data)


def many_scans() -> bytes:
    """A progressive JPEG of 100,000 scans, each of which takes 10 ms in the largest pictures."""
    last = IMAGES[1].rindex(b"\xff\xda")
    return IMAGES[1][:last] + IMAGES[1][last:-2] * 100_000 + IMAGES[1][-2:]


def many_gif_frames(size: int = 16) -> bytes:
    data = image_bytes("GIF", LEVELS[:16, :16])
    frame = data.index(b",\0\0\0\0")
    corner = struct.pack("<HH", size - 16, size - 16)
    pixels = b"," + corner + data[frame + 5 : -1]
    return data[:-1] + pixels * (100_000 if size == 16 else 1) + b";"


def many_tiff_frames() -> bytes:
    tags = ((256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 8), (278, 16), (279, 256))
    entries = struct.pack("<H", len(tags))
    entries += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = len(entries) + 4
    frames = [entries + struct.pack("<I", 8 + size * number) for number in range(1, 5000)]
    return b"II*\0\x08\0\0\0" + b"".join(frames) + entries + bytes(500)


HUGE = {
    "bomb.jpg": huge_jpeg,
    "bomb.png": huge_png,
    "scans.jpg": many_scans,
    "segments.jpg": lambda: IMAGES[0][:2] + b"\xff\xe3\0\2" * 100_000 + IMAGES[0][2:],
    "chunks.png": lambda: IMAGES[3][:33] + b"\0\0\0\0abCd\x5e\x4b\x56\x26" * 10**5,
    "frames.gif": many_gif_frames,
    "second.gif": lambda: many_gif_frames(13_000),
    "frames.tif": many_tiff_frames,
    "columns.txt": lambda: b"36.6 " * 1_000_000,
    "lines.csv": lambda: b"36.6\n" * 1_000_000,
    "quotes.csv": lambda: b'""' * 5_000_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_a_file_that_is_or_claims_to_be_huge_is_refused(tmp_path, name):
    path = written(tmp_path, name, HUGE[name]())
    with time_limit(), memory_limit():
        assert reader.count_frames(path) == 1
        with pytest.raises(DataError):
            reader.read_file(path)


def test_a_number_of_records_that_would_take_hours_is_not_believed(tmp_path, flyr):
    path = written(tmp_path, "a.jpg", flir_jpeg(RAW.tobytes(), num_records=2**32 - 1))
    with time_limit():
        assert "4294967295 records" in reader.read_file(path).notes[0][1]


def test_a_table_of_too_many_rows_is_refused(tmp_path):
    written(tmp_path, "a.npy", NPY)
    written(tmp_path, "thermograms.csv", b"file\n" + b"a\n" * 200_000)
    with memory_limit(), pytest.raises(UserError, match="100000 rows"):
        layouts.survey(tmp_path)


def test_eight_threads_read_what_one_reads(tmp_path, monkeypatch, flyr):
    """Pillow's formats, matplotlib's colour maps and caches are shared by threads."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    kinds = {".png": IMAGES, ".txt": MATRICES, ".npy": ARRAYS, ".jpg": FLIR}
    files = [
        written(tmp_path, f"{number}{suffix}", data)
        for suffix, contents in kinds.items()
        for number, data in enumerate(contents)
    ]

    def read(file):
        picture, errors = read_picture([file])
        return str(errors), picture and (picture.heat.tobytes(), picture.notes)

    together = list(reader.ordered_map(read, files * 4, description="reading"))
    assert together == [read(file) for file in files] * 4
