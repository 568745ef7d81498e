"""The files of one thermogram put together, and the images that models read."""

import numpy as np
import pytest
from PIL import Image
from thermogram_files import gray_pixels, matrix, matrix_text, write_gray, write_matrix, write_snap

from thermo_jax.data import radiometry
from thermo_jax.data.picture import Picture, load_pixels, read_one, read_picture
from thermo_jax.data.thermogram import DataError, Thermogram


def test_files_of_one_name_are_one_picture(tmp_path):
    files = [
        write_gray(tmp_path / "a.jpg"),
        write_snap(tmp_path / "a_snap.jpg"),
        write_matrix(tmp_path / "a.txt"),
    ]
    picture, errors = read_picture(files)
    assert picture.kinds == ("temperatures", "gray", "colour") and not errors
    assert picture.colour.shape == (120, 160, 3) and picture.main_file == files[2]
    assert picture.sizes == ["temperatures 480x640", "gray 480x640", "heat 120x160"]
    assert not picture.notes


def test_a_bad_file_does_not_exclude_the_good_one_of_its_name(tmp_path):
    write_gray(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("no number")
    picture, errors = read_picture([tmp_path / "a.jpg", tmp_path / "a.txt"])
    assert picture.kinds == ("gray",)
    assert [error.file for error in errors] == [str(tmp_path / "a.txt")]


def test_no_usable_file_is_no_picture(tmp_path):
    picture, errors = read_picture([tmp_path / "absent.jpg"])
    assert picture is None and errors[0].file == str(tmp_path / "absent.jpg")


@pytest.mark.parametrize(("name", "size"), [("a.png", (160, 120)), ("a_snap.png", (120, 120))])
def test_colours_beside_temperatures_are_left_out_unless_they_are_the_databases_heatmap(
    name, size, tmp_path
):
    files = [write_matrix(tmp_path / "a.txt"), write_snap(tmp_path / name, size)]
    picture, _ = read_picture(files)
    assert picture.kinds == ("temperatures",)
    note = f"{name}: left out: heatmaps are rendered as for training"
    assert note in picture.notes


def test_a_gray_image_of_another_size_than_the_temperatures_is_left_out(tmp_path):
    Image.fromarray(gray_pixels()[:240, :320]).save(tmp_path / "a.png")
    picture, _ = read_picture([tmp_path / "a.png", write_matrix(tmp_path / "a.txt")])
    assert picture.kinds == ("temperatures",)
    assert picture.notes == ("a.png: left out: of another size than the temperatures",)


def test_a_second_file_of_one_kind_is_left_out(tmp_path):
    write_gray(tmp_path / "a.jpg")
    Image.fromarray(gray_pixels()).save(tmp_path / "a.png")
    picture, _ = read_picture([tmp_path / "a.jpg", tmp_path / "a.png"])
    assert picture.notes == ("a.png: left out: a.jpg is used",)


def test_another_aspect_is_noted(tmp_path):
    write_matrix(tmp_path / "a.txt", matrix()[:480, :480])
    assert read_one(tmp_path / "a.txt").notes == (
        "480x480 pixels (rows x columns) are not 4:3: edges repeated",
    )


def test_temperatures_are_rendered_by_their_minimum_and_maximum():
    values = matrix().astype(np.float32)
    picture = Picture(temperatures=values)
    np.testing.assert_array_equal(picture.model_image("gray"), radiometry.render_gray(values))
    np.testing.assert_array_equal(
        picture.model_image("heat", colormap="hot"),
        radiometry.render_heat(values, colormap="hot"),
    )


def test_a_clamped_area_does_not_change_how_the_rest_is_rendered(tmp_path):
    values = matrix()
    expected = radiometry.render_gray(values[20:].astype(np.float32))
    values[:20, :40] = 8.0
    picture = read_one(write_matrix(tmp_path / "a.txt", values))
    rendered = picture.model_image("gray")
    np.testing.assert_array_equal(rendered[20:], expected)
    assert not rendered[:20, :40].any()


def test_images_are_read_as_they_are_and_gray_gives_a_heatmap():
    gray = gray_pixels()
    picture = Picture(levels=gray)
    np.testing.assert_array_equal(picture.model_image("gray")[..., 0], gray)
    heat = picture.model_image("heat")
    np.testing.assert_array_equal(heat, radiometry.render_heat(gray.astype(np.float32)))
    colour = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    picture = Picture(levels=gray, colour=colour)
    np.testing.assert_array_equal(picture.model_image("heat"), colour)


def test_a_gray_model_says_that_it_cannot_read_colours():
    picture = Picture(colour=np.zeros((120, 160, 3), np.uint8))
    assert picture.gray is None
    with pytest.raises(DataError, match="give temperatures or a gray image"):
        picture.model_image("gray")


@pytest.mark.parametrize("shape", [(240, 320), (120, 160), (60, 60)])
def test_any_size_becomes_the_models_size(shape):
    values = 30 + np.arange(shape[0] * shape[1]).reshape(shape) / 1e4
    picture = Picture(temperatures=values.astype(np.float32))
    assert picture.model_image("gray").shape == (480, 640, 1)
    assert picture.model_image("heat").shape == (120, 160, 3)


# --------------------------------------------------------------------------------------------------
# Thermograms of a data set
# --------------------------------------------------------------------------------------------------


def record(**paths):
    return Thermogram(name="0001/a", patient="0001", patient_known=True, **paths)


def test_missing_pictures_are_rendered_from_temperatures(tmp_path):
    path = write_matrix(tmp_path / "a.txt")
    pixels = load_pixels(record(temperature_path=path), colormap="inferno")
    np.testing.assert_array_equal(pixels.gray, radiometry.render_gray(pixels.temperatures))
    np.testing.assert_array_equal(
        pixels.heat, radiometry.render_heat(pixels.temperatures, colormap="inferno")
    )


def test_a_file_is_used_rather_than_rendered(tmp_path):
    path = write_matrix(tmp_path / "a.txt")
    snap = write_snap(tmp_path / "a_snap.jpg")
    pixels = load_pixels(record(temperature_path=path, heat_path=snap))
    np.testing.assert_array_equal(pixels.heat, np.asarray(Image.open(snap)))
    np.testing.assert_array_equal(pixels.gray, radiometry.render_gray(pixels.temperatures))


def test_a_heatmap_is_rendered_from_gray_only_where_the_scan_says_so(tmp_path):
    gray = write_gray(tmp_path / "a.jpg")
    pixels = load_pixels(record(gray_path=gray))
    assert pixels.heat is None and pixels.temperatures is None
    assert pixels.gray.shape == (480, 640, 1)
    heat = load_pixels(record(gray_path=gray, heat_path=gray)).heat
    np.testing.assert_array_equal(
        heat, radiometry.render_heat(pixels.gray[..., 0].astype(np.float32))
    )


def test_only_what_is_wanted_is_read(tmp_path):
    gray = write_gray(tmp_path / "a.jpg")
    thermogram = record(gray_path=gray, temperature_path=tmp_path / "absent.txt")
    assert load_pixels(thermogram, wanted=("gray",)).gray is not None


def test_temperatures_of_any_size_are_resampled_for_the_models(tmp_path):
    (tmp_path / "a.csv").write_text(matrix_text(matrix()[::4, ::4]))
    pixels = load_pixels(record(temperature_path=tmp_path / "a.csv"))
    assert pixels.temperatures.shape == (480, 640)
    assert pixels.temperatures.mean() == pytest.approx(matrix()[::4, ::4].mean(), abs=0.01)


def test_a_colour_picture_beside_temperatures_of_its_size_is_left_out(tmp_path):
    Image.fromarray(radiometry.colours(gray_pixels() / 255, colormap="jet")).save(
        tmp_path / "a.png"
    )
    picture, _ = read_picture([tmp_path / "a.png", write_matrix(tmp_path / "a.txt")])
    assert picture.kinds == ("temperatures",)
    assert "a.png: left out: images are rendered from the temperatures" in picture.notes
