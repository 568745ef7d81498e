"""A user's files: every kind that can be read, and the reasons given for those that cannot."""

import errno
import os
import pathlib
import sys
import types

import numpy as np
import pytest
from PIL import ExifTags, Image
from thermogram_files import gray_pixels, matrix, matrix_text, write_gray, write_matrix, write_snap

from thermo_jax.configs import predict
from thermo_jax.data import radiometry
from thermo_jax.data.thermogram import DataError
from thermo_jax.inference import pictures
from thermo_jax.inference.patients import patient_of
from thermo_jax.inference.pictures import Picture, Unreadable, model_input, read_picture
from thermo_jax.programs.workdir import open_workdir


def temperatures(height=60, width=80):
    return (30 + np.arange(height * width).reshape(height, width) / height / width).astype("f4")


def save_text(values, **form):
    return lambda path: path.write_text(matrix_text(values, **form))


WRITERS = {
    "a.txt": save_text(temperatures()),
    "decimal_comma.csv": save_text(temperatures(), separator=";", comma=True),
    "comma.csv": save_text(temperatures(), separator=","),
    "comma_and_space.csv": save_text(temperatures(), separator=", "),
    "a.npy": lambda path: np.save(path, temperatures()),
    "double.npy": lambda path: np.save(path, temperatures().astype(np.float64)),
    "a.tiff": lambda path: Image.fromarray(temperatures()).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_temperatures_are_read_from(name, tmp_path):
    WRITERS[name](tmp_path / name)
    picture = read_picture("a", [tmp_path / name])
    assert picture.temperatures.dtype == np.float32 and not picture.notes
    np.testing.assert_allclose(picture.temperatures, temperatures(), atol=0.006)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_gray_and_coloured_images_are_distinguished(suffix, tmp_path):
    gray = gray_pixels()
    Image.fromarray(gray).convert("RGB").save(tmp_path / f"gray.{suffix}")
    Image.fromarray(np.stack([gray, gray // 2, gray], -1)).save(tmp_path / f"colour.{suffix}")
    picture = read_picture("gray", [tmp_path / f"gray.{suffix}"])
    assert picture.gray.shape == (480, 640) and picture.colour is None
    assert picture.notes == (pictures.NOT_RADIOMETRIC,)
    picture = read_picture("colour", [tmp_path / f"colour.{suffix}"])
    assert picture.colour.shape == (480, 640, 3) and picture.gray is None
    assert picture.notes == (pictures.NOT_RADIOMETRIC, pictures.COLOURS)


UPRIGHT = {  # by EXIF orientation
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.T,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].T,
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_read_upright_whatever_its_exif_orientation(suffix, orientation, tmp_path):
    turned, plain, exif = tmp_path / f"turned.{suffix}", tmp_path / f"plain.{suffix}", Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(gray_pixels()).save(turned, exif=exif)
    Image.fromarray(gray_pixels()).save(plain)
    as_stored = read_picture("plain", [plain]).gray
    upright = read_picture("turned", [turned]).gray
    np.testing.assert_array_equal(upright, UPRIGHT[orientation](as_stored))


def test_an_error_gives_the_size_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (8, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert "8x20 pixels" in read_picture("a", [tmp_path / "a.jpg"]).reason


def test_damaged_exif_data_do_not_rotate_the_picture(tmp_path):
    exif = b"Exif\x00\x00MM\x00*\x00\x00"  # cut short
    Image.fromarray(gray_pixels()).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture("a", [tmp_path / "a.jpg"]).gray.shape == (480, 640)


def test_files_of_one_name_are_one_thermogram(tmp_path):
    folder = tmp_path / "0001"
    write_gray(folder / "T0001.1.1.S.2012-10-08.00.jpg")
    write_snap(folder / "T0001.1.1.S.2012-10-08.00_snap.jpg")
    write_matrix(folder / "T0001.1.1.S.2012-10-08.00.txt")
    write_matrix(tmp_path / "other.txt")
    (tmp_path / ".hidden.txt").write_text("x")
    (tmp_path / "description.html").write_text("x")
    thermograms = dict(pictures.find_pictures(tmp_path))
    assert list(thermograms) == ["0001/T0001.1.1.S.2012-10-08.00", "other"]
    picture = read_picture(*next(iter(thermograms.items())))
    assert None not in (picture.gray is not None, picture.temperatures is not None)
    assert picture.colour.shape == (120, 160, 3)
    assert picture.notes == (pictures.COLOURS,)


def test_a_bad_file_does_not_exclude_the_good_one_of_its_name(tmp_path):
    write_gray(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("no number")
    ((name, files),) = pictures.find_pictures(tmp_path)
    picture = read_picture(name, files)
    assert picture.gray is not None and picture.temperatures is None
    assert any(note.startswith("a.txt: no matrix of numbers") for note in picture.notes)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("0001/T0044.1.1.S.2012-10-08.00", ("name says patient 0044, folder says 0001",)),
        ("0044/0001/T0044", ()),
        ("2/T0044", ()),  # may be a visit
        ("0001/frontal", ()),
    ],
)
def test_a_name_and_a_folder_of_two_patients_are_noted(name, note, tmp_path):
    write_matrix(tmp_path / f"{name}.txt")
    ((_, files),) = pictures.find_pictures(tmp_path)
    assert read_picture(name, files).notes == note


@pytest.mark.parametrize(("name", "size"), [("a.png", (160, 120)), ("a_snap.png", (120, 120))])
def test_colours_beside_temperatures_are_left_out_unless_they_are_the_databases_heatmap(
    name, size, tmp_path
):
    write_matrix(tmp_path / "a.txt")
    write_snap(tmp_path / name, size)
    ((_, files),) = pictures.find_pictures(tmp_path)
    picture = read_picture("a", files)
    assert picture.colour is None and picture.file == "a.txt"
    assert picture.notes == (f"{name}: left out, heatmaps are rendered as for training",)


def test_the_folder_of_results_is_left_out(tmp_path):
    write_matrix(tmp_path / "a.txt")
    write_gray(tmp_path / "results" / "label_maps" / "a.png")
    thermograms = pictures.find_pictures(tmp_path, leave_out=tmp_path / "results")
    assert [name for name, _ in thermograms] == ["a"]


def test_workdirs_are_skipped_with_a_log_message_but_similar_folders_are_read(tmp_path, caplog):
    write_matrix(tmp_path / "0001" / "a.txt")
    workdir = open_workdir(tmp_path / "0001" / "out", predict.get_config())
    write_gray(workdir / "overlays" / "a.png")
    others = ("", "[]", "{}", '{"config": {"task": "predict"}}', '{"config": {}, "versions": {}}')
    for index, text in enumerate(others):
        write_matrix(tmp_path / f"own{index}" / "a.txt")
        (tmp_path / f"own{index}" / "config.json").write_text(text)
    names = [name for name, _ in pictures.find_pictures(tmp_path)]
    assert names == ["0001/a", *(f"own{index}/a" for index in range(len(others)))]
    assert f"{workdir} is left out: the workdir of a run of predict" in caplog.text
    with pytest.raises(ValueError, match="out is the workdir of a run of predict.*name the folder"):
        pictures.find_pictures(workdir)


def test_a_folder_that_cannot_be_read_is_reported_and_the_rest_is_read(tmp_path, monkeypatch):
    write_matrix(tmp_path / "b" / "T0002.txt")
    for name in ("0001", "c"):
        write_matrix(tmp_path / name / "a.txt")
    close(monkeypatch, tmp_path / "0001", tmp_path / "c")
    first, second, third = pictures.find_pictures(tmp_path)
    assert first == Unreadable("0001/*", "folder 0001 cannot be read: check its permissions")
    assert patient_of(first.name) == "0001"
    assert second[0] == "b/T0002" and third.name == "c/*"
    close(monkeypatch, tmp_path)
    with pytest.raises(PermissionError, match="cannot be read: check the permissions"):
        pictures.find_pictures(tmp_path)


def close(monkeypatch, *folders):
    """Make folders unreadable, even for root."""
    scandir = os.scandir

    def refuse(path):
        if pathlib.Path(path) in folders:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_linked_folders_are_read_once(tmp_path):
    write_matrix(tmp_path / "elsewhere" / "a.txt")
    data = tmp_path / "data"
    write_matrix(data / "own" / "b.txt")
    (data / "link").symlink_to(tmp_path / "elsewhere")
    (data / "own" / "loop").symlink_to(data)
    assert [name for name, _ in pictures.find_pictures(data)] == ["link/a", "own/b"]


def test_files_of_other_kinds_are_counted(tmp_path, caplog):
    write_matrix(tmp_path / "a.txt")
    for name in ("b.bmp", "c.BMP", "d.webp", "README", ".hidden.gif"):
        (tmp_path / name).write_bytes(b"x")
    pictures.find_pictures(tmp_path)
    assert "ignored 4 files of other kinds: .bmp (2), .webp (1), no suffix (1)" in caplog.text


def test_a_missing_folder_and_one_without_thermograms_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        pictures.find_pictures(tmp_path / "nowhere")
    (tmp_path / "a.html").write_text("x")
    with pytest.raises(ValueError, match="expected files of txt, csv, npy"):
        pictures.find_pictures(tmp_path)


def huge_header(path):
    header = {"descr": "<f8", "fortran_order": False, "shape": (40_000, 40_000)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)


def damaged(data):
    return data[:11] + b"(" + data[12:]


BAD = {
    "empty.jpg": (lambda path: path.write_bytes(b""), "the file is empty"),
    "empty.npy": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text.jpg": (lambda path: path.write_text("hello"), "not a complete image"),
    "cut.jpg": (
        lambda path: path.write_bytes(write_gray(path).read_bytes()[:9000]),
        "not a complete image",
    ),
    "tiny.png": (lambda path: Image.new("L", (8, 8)).save(path), "8x8 pixels; expected 16 to 4096"),
    "long.png": (lambda path: Image.new("L", (9000, 20)).save(path), "20x9000 pixels"),
    "deep.png": (
        lambda path: Image.fromarray(np.full((60, 80), 30_000, np.uint16)).save(path),
        "more than 8 bit",
    ),
    "kelvin.tiff": (
        lambda path: Image.fromarray(temperatures() + 273.15).save(path),
        "looks like Kelvin",
    ),
    "words.txt": (lambda path: path.write_text("a b\nc d\n"), "no matrix of numbers"),
    "blank.txt": (lambda path: path.write_text("\n\n"), "no matrix of numbers"),
    "ragged.txt": (lambda path: path.write_text("30 31\n30\n"), "no matrix of numbers"),
    "small.csv": (lambda path: path.write_text("30,31\n30,32\n"), "2x2 pixels"),
    "binary.csv": (lambda path: path.write_bytes(bytes(range(256))), "not a text file"),
    "hot.txt": (save_text(temperatures() + 60), "outside 10..45 degrees C"),
    "fahrenheit.npy": (lambda path: np.save(path, temperatures() * 1.8 + 32), "outside 10..45"),
    "nan.npy": (lambda path: np.save(path, temperatures() * np.nan), "NaN or infinite"),
    "cube.npy": (lambda path: np.save(path, np.full((20, 20, 3), 30.0)), "shape [20, 20, 3]"),
    "names.npy": (lambda path: np.save(path, np.array(["a"])), "no array of numbers"),
    "pickle.npy": (
        lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
        "not a NumPy array",
    ),
    "huge.npy": (huge_header, "not a NumPy array"),
    "parenthesis.npy": (
        lambda path: (np.save(path, temperatures()), path.write_bytes(damaged(path.read_bytes()))),
        "not a NumPy array",
    ),
    "zip.npy": (lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 99), "not a NumPy array"),
    "folder_link.jpg": (lambda path: path.symlink_to(path.parent / "gone.jpg"), "does not exist"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_reason(name, tmp_path):
    write, reason = BAD[name]
    write(tmp_path / name)
    result = read_picture("a", [tmp_path / name])
    assert isinstance(result, Unreadable)
    assert result.reason.startswith(f"{name}: ") and reason in result.reason
    assert "\n" not in result.reason


def test_another_aspect_is_noted(tmp_path):
    np.save(tmp_path / "a.npy", temperatures(60, 60))
    assert pictures.LETTERBOXED in read_picture("a", [tmp_path / "a.npy"]).notes


def test_an_image_of_one_value_is_noted(tmp_path):
    np.save(tmp_path / "a.npy", np.full((480, 640), 30.0))
    assert read_picture("a", [tmp_path / "a.npy"]).notes == (pictures.CONSTANT,)


def radiometric(path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(gray_pixels()).save(path, exif=exif)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1\x00\x0aFLIR\x00\x01\x00\x01" + data[2:])
    return path


def test_temperatures_of_a_radiometric_image_are_not_rotated(tmp_path, monkeypatch):
    thermogram = types.SimpleNamespace(celsius=temperatures())
    module = types.SimpleNamespace(unpack=lambda file: thermogram)
    monkeypatch.setitem(sys.modules, "flyr", module)
    picture = read_picture("a", [radiometric(tmp_path / "a.jpg")])
    np.testing.assert_array_equal(picture.temperatures, temperatures())
    assert not picture.notes


def no_thermal_image(file):
    raise KeyError("no raw thermal image")


@pytest.mark.parametrize(
    ("unpack", "reason"),
    [
        (no_thermal_image, "its temperatures cannot be read ('no raw thermal image')"),
        (lambda file: types.SimpleNamespace(celsius=temperatures() - 60), "outside 10..45"),
    ],
)
def test_a_radiometric_image_without_usable_temperatures_is_a_picture(
    unpack, reason, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "flyr", types.SimpleNamespace(unpack=unpack))
    picture = read_picture("a", [radiometric(tmp_path / "a.jpg")])
    assert picture.gray is not None and picture.temperatures is None
    assert picture.notes[0].startswith("radiometric, read as a picture: ")
    assert reason in picture.notes[0]


def test_an_ordinary_image_of_a_flir_camera_is_not_radiometric(tmp_path):
    data = write_gray(tmp_path / "a.jpg").read_bytes()
    comment = b"Teledyne FLIR\x00"
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    assert read_picture("a", [tmp_path / "a.jpg"]).notes == (pictures.NOT_RADIOMETRIC,)


def test_without_flyr_a_radiometric_image_is_a_picture_with_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flyr", None)
    picture = read_picture("a", [radiometric(tmp_path / "a.jpg")])
    assert picture.gray is not None
    assert picture.notes == ("radiometric, read as a picture: pip install 'thermo_jax[flir]'",)


# --------------------------------------------------------------------------------------------------
# What a model reads
# --------------------------------------------------------------------------------------------------


def test_temperatures_are_rendered_as_for_training():
    values = matrix().astype(np.float32)
    picture = Picture(name="a", temperatures=values)
    np.testing.assert_array_equal(
        model_input(picture, data_type="gray"), radiometry.render_gray(values)
    )
    np.testing.assert_array_equal(
        model_input(picture, data_type="heat", colormap="hot"),
        radiometry.render_heat(values, colormap="hot"),
    )


def test_images_are_read_as_they_are_and_gray_gives_a_heatmap():
    gray = np.clip(gray_pixels(), 0, 255)
    picture = Picture(name="a", gray=gray)
    np.testing.assert_array_equal(model_input(picture, data_type="gray")[..., 0], gray)
    heat = model_input(picture, data_type="heat")
    np.testing.assert_array_equal(heat, radiometry.render_heat(gray.astype(np.float32)))
    colour = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    picture = Picture(name="a", gray=gray, colour=colour)
    np.testing.assert_array_equal(model_input(picture, data_type="heat"), colour)


def test_a_gray_model_says_that_it_cannot_read_colours():
    picture = Picture(name="a", colour=np.zeros((120, 160, 3), np.uint8))
    with pytest.raises(DataError, match="give temperatures or a gray image"):
        model_input(picture, data_type="gray")
