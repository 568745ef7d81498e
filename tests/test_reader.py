"""One file of any camera: every kind that can be read, and the reasons for those that cannot."""

import sys
import types

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile
from thermogram_files import flir_jpeg, gray_pixels, matrix_text, write_gray, write_snap

from thermo_jax import data
from thermo_jax.data import palettes, reader
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings, count_frames, read_file
from thermo_jax.data.thermogram import DataError
from thermo_jax.errors import UserError

SMOOTH = gray_pixels()[:60, :80] // 2 + 40


def temperatures(height=60, width=80):
    return (30 + np.arange(height * width).reshape(height, width) / height / width).astype("f4")


def save_text(values, **form):
    return lambda path: path.write_text(matrix_text(values, **form))


def save_image(pixels, **options):
    return lambda path: Image.fromarray(pixels).save(path, **options)


def refused(path, *, kind=None, settings=AS_RECOGNISED):
    """Check that the error names the file and has this kind; return its message."""
    with pytest.raises(DataError) as caught:
        read_file(path, settings)
    assert kind in (None, caught.value.kind)
    assert caught.value.file == str(path)
    return caught.value.detail


def save_double(*frames):
    return lambda path: cv2.imwritemulti(str(path), [frame.astype(np.float64) for frame in frames])


CENTIKELVIN = np.round((temperatures() + 273.15) * 100).astype(np.uint16)
TEMPERATURES = {
    "a.txt": save_text(temperatures()),
    "a.asc": save_text(temperatures(), separator="\t"),
    "decimal_comma.csv": save_text(temperatures(), separator=";", comma=True),
    "a.npy": lambda path: np.save(path, temperatures()),
    "half.npy": lambda path: np.save(path, temperatures().astype(np.float16)),
    "a.npz": lambda path: np.savez_compressed(path, celsius=temperatures()),
    "a.tiff": save_image(temperatures()),
    "double.tif": save_double(temperatures()),
    "centikelvin.tif": save_image(CENTIKELVIN),
    "centikelvin.png": save_image(CENTIKELVIN),
}


@pytest.mark.parametrize("name", TEMPERATURES)
def test_temperatures_are_read_from(name, tmp_path):
    TEMPERATURES[name](tmp_path / name)
    content = read_file(tmp_path / name)
    assert content.kind == "temperatures" and content.pixels.dtype == np.float32
    np.testing.assert_allclose(content.pixels, temperatures(), atol=0.02)
    assert [kind for kind, _ in content.notes] == ["converted-unit"] * name.startswith("centi")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif"])
def test_gray_and_coloured_images_are_distinguished(suffix, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    save_image(SMOOTH, **options)(tmp_path / f"gray.{suffix}")
    coloured = np.stack([SMOOTH, SMOOTH // 2, 255 - SMOOTH], -1)
    save_image(coloured, **options)(tmp_path / f"colour.{suffix}")
    gray, colour = (read_file(tmp_path / f"{name}.{suffix}") for name in ("gray", "colour"))
    assert (gray.kind, gray.pixels.shape, gray.notes) == ("gray", (60, 80), ())
    assert np.abs(gray.pixels.astype(int) - SMOOTH).max() <= 4
    assert (colour.kind, colour.pixels.shape) == ("colour", (60, 80, 3))
    assert [kind for kind, _ in colour.notes] == ["unknown-palette"]


def test_a_picture_of_one_colour_is_noted(tmp_path):
    Image.new("RGB", (80, 60), (200, 9, 9)).save(tmp_path / "a.png")
    assert [kind for kind, _ in read_file(tmp_path / "a.png").notes] == ["blank-image"]


def test_a_snap_is_a_heatmap_whatever_its_colours(tmp_path, monkeypatch):
    monkeypatch.setattr(palettes, "gray_levels", lambda rgb: pytest.fail("looked for a palette"))
    path = write_snap(tmp_path / "a_snap.jpg")
    assert read_file(path).kind == "colour"
    write_gray(path)
    assert read_file(path).kind == "colour"


STACKS = {
    "a.npy": lambda path, frames: np.save(path, frames),
    "a.npz": lambda path, frames: np.savez(path, frames),
    "a.tif": lambda path, frames: Image.fromarray(frames[0]).save(
        path, save_all=True, append_images=[Image.fromarray(frame) for frame in frames[1:]]
    ),
    "double.tif": lambda path, frames: save_double(*frames)(path),
    "channel.npy": lambda path, frames: np.save(path, frames[..., np.newaxis]),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_has_frames(name, tmp_path):
    frames = np.stack([temperatures() + shift for shift in range(3)])
    STACKS[name](tmp_path / name, frames)
    assert count_frames(tmp_path / name) == read_file(tmp_path / name).num_frames == 3
    for frame in range(3):
        np.testing.assert_array_equal(read_file(tmp_path / name, frame=frame).pixels, frames[frame])
    with pytest.raises(DataError):
        read_file(tmp_path / name, frame=3)


def test_a_file_of_too_many_frames_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.full((1001, 16, 16), 30, np.uint8))
    assert "more than 1000 frames" in refused(tmp_path / "a.npy", kind="too-large")
    assert count_frames(tmp_path / "a.npy") == 1  # reported when it is read


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
    Image.fromarray(SMOOTH).save(turned, exif=exif)
    Image.fromarray(SMOOTH).save(plain)
    upright = read_file(turned).pixels
    np.testing.assert_array_equal(upright, UPRIGHT[orientation](read_file(plain).pixels))


def test_damaged_exif_data_do_not_rotate_the_picture(tmp_path):
    exif = b"Exif\x00\x00MM\x00*\x00\x00"  # cut short
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", exif=exif)
    assert read_file(tmp_path / "a.jpg").pixels.shape == (60, 80)


# --------------------------------------------------------------------------------------------------
# Radiometric JPEGs (test_flir.py uses flyr itself)
# --------------------------------------------------------------------------------------------------


class FakeThermogram:
    """What flyr returns."""

    metadata = {"emissivity": 0.95, "reflected_apparent_temperature": 294.15}

    def __init__(self, celsius):
        self.celsius = celsius

    def adjust_metadata(self, emissivity):
        return FakeThermogram(self.celsius + emissivity)


def radiometric(path, orientation=1):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(SMOOTH).save(path, exif=exif)
    path.write_bytes(flir_jpeg(path.read_bytes()))
    return path


def use_flyr(monkeypatch, unpack):
    monkeypatch.setitem(sys.modules, "flyr", types.SimpleNamespace(unpack=unpack))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_temperatures_of_a_radiometric_image_are_turned_like_its_picture(
    orientation, tmp_path, monkeypatch
):
    use_flyr(monkeypatch, lambda file: FakeThermogram(temperatures()))
    content = read_file(radiometric(tmp_path / "a.jpg", orientation))
    np.testing.assert_array_equal(content.pixels, UPRIGHT[orientation](temperatures()))
    assert content.notes == (
        ("radiometry", "emissivity 0.95, reflected temperature 21.0 degrees C"),
    )


def test_the_users_emissivity_replaces_the_recorded_one(tmp_path, monkeypatch):
    use_flyr(monkeypatch, lambda file: FakeThermogram(temperatures()))
    path = radiometric(tmp_path / "a.jpg")
    content = read_file(path, ReaderSettings(emissivity=0.98))
    np.testing.assert_allclose(content.pixels, temperatures() + 0.98, rtol=1e-6)
    assert "emissivity 0.95 replaced by 0.98" in content.notes[0][1]


def test_a_radiometric_scene_at_no_bodys_temperature_is_refused(tmp_path, monkeypatch):
    use_flyr(monkeypatch, lambda file: FakeThermogram(temperatures() - 37))
    detail = refused(radiometric(tmp_path / "a.jpg"), kind="unknown-unit")
    assert "the median -6.5" in detail


def test_a_radiometric_scene_at_60_degrees_is_not_taken_for_fahrenheit(tmp_path, monkeypatch):
    use_flyr(monkeypatch, lambda file: FakeThermogram(temperatures() + 30))
    detail = refused(radiometric(tmp_path / "a.jpg"), kind="unknown-unit")
    assert detail.endswith("(10..45 celsius)")  # no unit can be forced: FLIR's is known


def no_thermal_image(file):
    raise KeyError("no raw thermal image")


def test_a_radiometric_image_that_cannot_be_read_is_a_picture_with_a_note(tmp_path, monkeypatch):
    use_flyr(monkeypatch, no_thermal_image)
    content = read_file(radiometric(tmp_path / "a.jpg"))
    assert content.kind == "gray"
    ((kind, text),) = content.notes
    assert kind == "no-temperatures" and "no raw thermal image" in text
    monkeypatch.setitem(sys.modules, "flyr", None)
    ((_, text),) = read_file(tmp_path / "a.jpg").notes
    assert text.endswith("pip install 'thermo_jax[flir]'")


def test_an_ordinary_image_is_not_radiometric(tmp_path):
    content = write_gray(tmp_path / "a.jpg").read_bytes()
    comment = b"Teledyne FLIR\x00"
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    (tmp_path / "a.jpg").write_bytes(content[:2] + segment + content[2:])
    assert read_file(tmp_path / "a.jpg").notes == ()


@pytest.mark.parametrize(
    ("make", "name"), [("DJI", "DJI R-JPEG"), ("HIKMICRO", "HIKMICRO"), ("FLIR Systems AB", "FLIR")]
)
def test_another_makers_file_is_named_with_the_way_to_its_temperatures(make, name, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = make
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", exif=exif)
    ((kind, text),) = read_file(tmp_path / "a.jpg").notes
    assert kind == "no-temperatures" and name in text and "; " in text


# --------------------------------------------------------------------------------------------------
# Files that are refused
# --------------------------------------------------------------------------------------------------


def huge_header(path):
    header = {"descr": "<f8", "fortran_order": False, "shape": (40_000, 40_000)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)


def damaged(content):
    return content[:11] + b"(" + content[12:]


BAD = {
    "empty.jpg": (lambda path: path.write_bytes(b""), "the file is empty"),
    "empty.npy": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text.jpg": (lambda path: path.write_text("hello"), "not a complete image"),
    "cut.jpg": (
        lambda path: path.write_bytes(write_gray(path).read_bytes()[:9000]),
        "not a complete image",
    ),
    "tiny.png": (lambda path: Image.new("L", (8, 8)).save(path), "8x8 pixels (rows x columns); ex"),
    "long.png": (lambda path: Image.new("L", (9000, 20)).save(path), "20x9000 pixels"),
    "deep.png": (save_image(np.arange(4800, dtype=np.uint16).reshape(60, 80)), "the median 2399.5"),
    "words.txt": (lambda path: path.write_text("a b\nc d\n"), "no matrix of temperatures"),
    "hot.txt": (save_text(temperatures() + 200), "fits no unit"),
    "nan.npy": (lambda path: np.save(path, temperatures() * np.nan), "NaN or infinite"),
    "channels.npy": (lambda path: np.save(path, np.full((20, 20, 3), 30.0)), "20x3 pixels"),
    "deep.npy": (lambda path: np.save(path, np.full((2, 2, 20, 20), 30.0)), "shape [2, 2, 20, 20]"),
    "names.npy": (lambda path: np.save(path, np.array(["a"])), "no array of numbers"),
    "two.npz": (lambda path: np.savez(path, a=temperatures(), b=temperatures()), "2 arrays; expec"),
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
    detail = refused(tmp_path / name)
    assert reason in detail and "\n" not in detail


@pytest.mark.parametrize("name", ["a.txt", "a.png", "a.npy"])
def test_a_huge_file_is_refused_unread(name, tmp_path):
    with open(tmp_path / name, "wb") as file:
        file.truncate(reader.MAX_ARRAY_BYTES + 1)  # sparse: uses no disk space
    assert "1024 MB; expected at most" in refused(tmp_path / name, kind="too-large")


def test_a_compressed_array_that_grows_beyond_the_limit_is_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((64, 128, 128)))
    monkeypatch.setattr(reader, "MAX_NPZ_BYTES", 2**20)
    assert "8 MB after decompression" in refused(tmp_path / "a.npz")


def test_a_decompression_bomb_is_never_decoded(tmp_path, monkeypatch):
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert "expected at most 4096x4096" in refused(tmp_path / "bomb.png", kind="wrong-size")


def test_an_error_gives_the_size_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (8, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert "8x20 pixels" in refused(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"unit": "rankine"}, "choose one of auto, celsius"), ({"emissivity": 2}, "at most 1")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ReaderSettings(**settings)


def test_python_reads_one_file_and_can_draw_it(tmp_path):
    np.save(tmp_path / "a.npy", temperatures() * 1.8 + 32)
    thermogram = data.read(tmp_path / "a.npy")
    np.testing.assert_allclose(thermogram.temperatures, temperatures(), atol=1e-4)
    assert thermogram.gray.shape == (60, 80) and thermogram.heat.shape == (60, 80, 3)
    assert (thermogram.gray.min(), thermogram.gray.max()) == (0, 255)
    assert thermogram.notes == ("fahrenheit (median 86.8998) converted to degrees C",)
    axes = thermogram.plot()
    assert axes.images[0].get_array().shape == (60, 80)
    assert axes.figure.axes[1].get_ylabel() == "degrees C"
    with pytest.raises(FileNotFoundError):
        data.read(tmp_path / "absent.npy")
