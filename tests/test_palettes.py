"""Colour pictures become gray levels: gray ones with marks, and those of a known colour map."""

import numpy as np
import pytest
from PIL import Image

from thermo_jax.data import colour_maps
from thermo_jax.data.data_report import NOTES
from thermo_jax.data.palettes import fill_marks, gray_levels


def body(height=60, width=80):
    """Smooth levels 0..255: a warm body in the middle, a cold background at both sides."""
    y, x = np.mgrid[:height, :width] / np.array([[[height]], [[width]]])
    warmth = np.exp(-(((x - 0.5) / 0.25) ** 2)) * (0.8 + 0.2 * np.sin(9 * y) * np.cos(12 * x))
    return np.round(255 * (warmth - warmth.min()) / np.ptp(warmth)).astype(np.uint8)


def as_rgb(levels):
    return np.repeat(levels[..., np.newaxis], 3, axis=-1)


def table(name):
    return colour_maps.tables(name)[0]


def largest_error(levels, truth):
    return np.abs(levels.astype(int) - truth).max()


@pytest.mark.parametrize("spread", [0, 8])
def test_a_gray_picture_becomes_what_pillow_makes_of_it(spread):
    rgb = as_rgb(body().clip(0, 247)) + np.array([spread, 0, spread // 2], np.uint8)
    levels, notes = gray_levels(rgb)
    np.testing.assert_array_equal(levels, np.array(Image.fromarray(rgb).convert("L")))
    assert notes == []


def test_coloured_marks_of_a_gray_picture_become_their_gray_neighbours():
    truth = body()
    rgb = as_rgb(truth)
    rgb[28:33, 40:48] = (255, 0, 0)  # 40 of 4800 pixels
    levels, notes = gray_levels(rgb)
    assert notes == [("coloured-marks", "40 coloured pixels replaced by their gray neighbours")]
    assert largest_error(levels, truth) <= 30
    outside = (rgb == truth[..., np.newaxis]).all(axis=-1)
    np.testing.assert_array_equal(levels[outside], truth[outside])


def test_a_gray_picture_with_a_colour_bar_stays_gray():
    truth = body(height=100, width=100)
    rgb = as_rgb(truth)
    rgb[5:95, 95:98] = table("jet")[np.linspace(255, 0, 90).astype(int), np.newaxis]
    levels, notes = gray_levels(rgb)
    assert [kind for kind, _ in notes] == ["coloured-marks"]
    np.testing.assert_array_equal(levels[:, :95], truth[:, :95])


def test_a_gray_picture_is_not_taken_for_a_map_that_contains_gray():
    truth = body() // 16 + 95  # the middle of arctic is gray, too
    rgb = as_rgb(truth)
    rgb[:4, :40] = (255, 0, 0)  # 3.3 % of the pixels
    levels, notes = gray_levels(rgb)
    assert [kind for kind, _ in notes] == ["coloured-marks"]
    assert largest_error(levels, truth) <= 16


def test_a_picture_of_which_99_percent_is_gray_is_gray():
    rgb = np.full((60, 80, 3), 101, np.uint8)  # this gray and this orange are colours of arctic
    rgb[20:24, 30:40] = (237, 101, 13)
    levels, notes = gray_levels(rgb)
    assert [kind for kind, _ in notes] == ["coloured-marks"]
    assert (levels == 101).all()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reversed"])
@pytest.mark.parametrize("name", colour_maps.NAMES)
def test_colours_of_a_map_become_its_scale(name, reverse):
    truth = body()
    for colours in colour_maps.tables(name):
        levels, notes = gray_levels((colours[::-1] if reverse else colours)[truth])
        ((kind, text),) = notes
        assert kind == "known-palette" and text.startswith(name) and "100.0%" in text
        assert ("reversed because" in text) == reverse
        errors = np.abs(levels.astype(int) - truth)
        assert errors.mean() < 0.2 and errors.max() <= 3  # jet repeats some colours


def test_marks_on_a_map_become_their_neighbours():
    truth = body()
    rgb = table("viridis")[truth]
    rgb[30, 30:50] = rgb[20:40, 40] = (255, 255, 255)
    levels, notes = gray_levels(rgb)
    assert notes == [
        (
            "known-palette",
            "viridis: colours of this palette (99.2% of the pixels) turned into gray levels",
        )
    ]
    assert largest_error(levels, truth) <= 12


@pytest.mark.parametrize("name", ["jet", "iron", "inferno", "arctic"])
def test_a_scaled_jpeg_is_recognised(name, tmp_path):
    truth = body(height=120, width=160)
    small = Image.fromarray(table(name)[truth]).resize((120, 90), Image.Resampling.BILINEAR)
    small.resize((160, 120), Image.Resampling.BILINEAR).save(tmp_path / "a.jpg", quality=75)
    levels, notes = gray_levels(np.array(Image.open(tmp_path / "a.jpg")))
    assert notes[0][1].startswith(name)
    assert np.abs(levels.astype(int) - truth).mean() < 3


@pytest.mark.parametrize("share, known", [(0.92, True), (0.88, False)])
def test_nine_tenths_of_the_pixels_must_have_the_colours_of_the_map(share, known):
    truth = body(height=40, width=50)
    rgb = table("viridis")[truth]
    rgb.reshape(-1, 3)[int(share * truth.size) :] = (255, 255, 255)
    levels, notes = gray_levels(rgb)
    assert (levels is not None) == known
    assert notes[0][0] == ("known-palette" if known else "unknown-palette")


@pytest.mark.parametrize("distance, known", [(20, True), (21, False)])
def test_colours_may_be_20_levels_from_those_of_the_map(distance, known):
    red, green, blue = table("viridis")[96]  # no colour of viridis with more blue is nearer
    rgb = np.full((60, 80, 3), (red, green, blue + distance), np.uint8)
    assert (gray_levels(rgb)[0] is not None) == known


def test_colours_that_fit_two_maps_are_no_known_palette():
    # The dark ends of inferno and magma are almost the same.
    levels, notes = gray_levels(table("inferno")[body() // 32])
    assert levels is None and notes[0][0] == "unknown-palette"
    assert "inferno" in notes[0][1] and "magma" in notes[0][1]


def test_maps_that_share_most_colours_are_told_apart_by_how_close_the_colours_are():
    # At 20 levels, more than 90 % of these colours are also those of iron.
    _, notes = gray_levels(table("inferno")[body()])
    assert notes[0][1].startswith("inferno")


@pytest.mark.parametrize(
    "dark, bright",
    [
        ((90, 50, 35), (240, 200, 180)),
        ((40, 22, 15), (150, 100, 75)),
        ((60, 110, 190), (200, 220, 245)),
    ],
    ids=["light skin", "dark skin", "sky"],
)
def test_the_shades_of_a_photograph_are_no_known_palette(dark, bright):
    mixture = body()[..., np.newaxis] / 255
    rgb = np.round(np.array(dark) * (1 - mixture) + np.array(bright) * mixture).astype(np.uint8)
    levels, notes = gray_levels(rgb)
    assert levels is None
    assert (
        notes[0][0] == "unknown-palette" and "expected at least 90% of one palette" in notes[0][1]
    )


def test_a_frame_around_the_picture_does_not_reverse_the_map():
    truth = np.pad(body(), 10, constant_values=255)  # white in iron: the hottest colour
    levels, notes = gray_levels(table("iron")[truth])
    assert "reversed" not in notes[0][1]
    np.testing.assert_array_equal(levels, truth)


def test_a_picture_that_varies_little_keeps_the_direction_of_the_map():
    flat = np.full((60, 80), 120, np.uint8)
    levels, notes = gray_levels(table("viridis")[flat])
    assert "reversed" not in notes[0][1]
    np.testing.assert_array_equal(levels, flat)


@pytest.mark.parametrize("width", [1, 5, 9, 21])
def test_a_mark_of_any_width_is_filled(width):
    truth = np.full((50, 60), 90, np.uint8)
    marks = np.zeros(truth.shape, bool)
    marks[20 : 20 + width, 10:50] = True
    np.testing.assert_array_equal(fill_marks(np.where(marks, np.uint8(255), truth), marks), truth)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
@pytest.mark.parametrize("colour", [(7, 7, 7), (255, 0, 0), (10, 200, 90)])
def test_tiny_pictures_are_read(size, colour):
    levels, notes = gray_levels(np.full((*size, 3), colour, np.uint8))
    assert levels is None or levels.shape == size
    assert {kind for kind, _ in notes} <= NOTES.keys()


@pytest.mark.parametrize("name, error", [("jet640", 3), ("inferno", 0), ("gray_with_red_cross", 5)])
def test_pictures_of_the_foreign_sample_become_the_gray_one(foreign_dir, name, error):
    folder = foreign_dir / "pictures"
    rgb = np.array(Image.open(folder / f"{name}.png").convert("RGB"))
    levels, notes = gray_levels(rgb)
    assert largest_error(levels, np.array(Image.open(folder / "gray.png"))) <= error
    assert len(notes) == 1
