"""Temperatures: units, bad pixels, and the images that are rendered from them."""

import numpy as np
import pytest
from thermogram_files import matrix

from thermo_jax.data import radiometry
from thermo_jax.data.radiometry import to_celsius
from thermo_jax.data.thermogram import DataError

VALUES = np.round(28 + np.arange(40 * 50).reshape(40, 50) / 400, 3)


def refused(values, **settings):
    """Check that the error names the file; return it."""
    with pytest.raises(DataError) as caught:
        to_celsius("a.txt", values, **settings)
    assert "a.txt" in str(caught.value)
    return caught.value


UNITS = {
    "celsius": VALUES,
    "fahrenheit": VALUES * 1.8 + 32,
    "kelvin": VALUES + 273.15,
    "centikelvin": (VALUES + 273.15) * 100,
}


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_recognised_by_the_median_and_noted(unit):
    celsius = to_celsius("a.txt", UNITS[unit])
    assert celsius.values.dtype == np.float32 and celsius.good is None
    np.testing.assert_allclose(celsius.values, VALUES, atol=1e-4)
    notes = [text for kind, text in celsius.notes if kind == "converted-unit"]
    assert bool(notes) == (unit != "celsius") and all(text.startswith(unit) for text in notes)


@pytest.mark.parametrize("median", [-7.0, 48, 150, 25_000])
def test_a_median_of_no_unit_is_refused_and_named(median):
    values = VALUES - VALUES.mean() + median
    error = refused(values)
    assert error.kind == "unknown-unit"
    assert f"the median {np.median(values):.6g} fits no unit" in error.detail
    assert "config.data.unit" in error.detail


def test_a_unit_can_be_forced():
    warm = (VALUES + 2) * 1.8 + 32  # some 90 degrees Fahrenheit
    assert to_celsius("a.txt", warm, unit="fahrenheit").values.mean() < 40
    assert refused(warm, unit="celsius").kind == "bad-pixels"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 9.99, 45.01, -300.0, 1e300])
def test_an_isolated_bad_pixel_takes_the_median_of_its_neighbours(value):
    values = VALUES.copy()
    values[7, 9] = value
    celsius = to_celsius("a.txt", values)
    around = np.delete(VALUES[6:9, 8:11].reshape(-1), 4)
    assert celsius.values[7, 9] == pytest.approx(np.median(around), abs=1e-5)
    assert (~celsius.good).sum() == 1
    ((kind, text),) = celsius.notes
    assert kind == "repaired-pixels" and "1 replaced by the median of their neighbours" in text


def test_bad_pixels_at_the_corner_and_in_groups_use_good_neighbours_only():
    values = VALUES.copy()
    values[:3, :3] = 0
    repaired = to_celsius("a.txt", values).values[:3, :3]
    assert repaired.min() >= VALUES[:4, :4].min() and repaired.max() <= VALUES[:4, :4].max()


def test_a_larger_area_is_clamped_and_the_rendering_ignores_it():
    values = VALUES.copy()
    values[:4, :5], values[20:24, 20:24] = 8.0, 60.0
    celsius = to_celsius("a.txt", values)
    assert (celsius.values[0, 0], celsius.values[20, 20]) == (10, 45)
    assert "36 in larger areas clamped" in celsius.notes[0][1]
    mean = radiometry.measured_mean(celsius.values, celsius.good)
    assert mean == pytest.approx(VALUES[celsius.good].mean(), abs=1e-4)


@pytest.mark.parametrize(("share", "kind"), [(0.19, None), (0.21, "bad-pixels")])
def test_at_most_a_fifth_of_the_pixels_may_be_bad(share, kind):
    values = VALUES.copy()
    values[: int(40 * share + 0.9)] = np.nan
    if kind is None:
        assert np.isfinite(to_celsius("a.txt", values).values).all()
    else:
        assert refused(values).kind == kind


def test_nothing_but_bad_pixels_is_refused():
    assert refused(np.full((20, 20), np.nan)).kind == "bad-pixels"


@pytest.mark.parametrize("dead", [0, 1])
def test_an_image_in_which_nothing_varies_is_refused(dead):
    values = np.full((20, 20), 30.0)
    values[0, :dead] = 0
    assert refused(values).kind == "constant-temperatures"


def test_the_limits_themselves_are_accepted():
    values = VALUES.copy()
    values[0, :2] = (10, 45)
    celsius = to_celsius("a.txt", values)
    assert (celsius.values.min(), celsius.values.max(), celsius.good) == (10, 45, None)


def test_limits_clip_what_is_rendered():
    values = np.array([[10, 30], [32, 34]], np.float32)
    gray = radiometry.render_gray(values, limits=(30, 34))
    assert gray[..., 0].tolist() == [[0, 0], [128, 255]]


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
