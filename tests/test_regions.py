"""Temperatures by region, and image left against image right."""

import numpy as np
import pytest

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.inference.regions import differences, measure_regions


@pytest.fixture
def scene():
    """A left breast of 30 to 33 degrees C, a right one of 31, and a neck."""
    label_map = np.full((4, 10), CLASS_NAMES.index("background"), np.uint8)
    temperatures = np.full((4, 10), 20.0, np.float32)
    label_map[1:3, :2], temperatures[1:3, :2] = 0, [[30, 31], [33, 30]]
    label_map[1:3, 8:], temperatures[1:3, 8:] = 1, 31
    label_map[0, 4:6] = CLASS_NAMES.index("neck")
    return label_map, temperatures


def test_every_region_but_the_background_is_measured(scene):
    left, right, neck = measure_regions(*scene)
    assert [r.class_name for r in (left, right, neck)] == ["left_breast", "right_breast", "neck"]
    assert (left.area, left.share) == (4, 0.1)
    assert (left.mean, left.median, left.min, left.max) == (31, 30.5, 30, 33)
    assert left.sd == pytest.approx(np.std([30, 31, 33, 30]))
    assert left.hottest == (0, 2)  # x, y


def test_differences_are_image_left_minus_image_right(scene):
    assert differences(measure_regions(*scene)) == {"breasts, mean": 0, "breasts, max": 2}


def test_without_temperatures_there_are_areas_only(scene):
    regions = measure_regions(scene[0], None)
    assert [region.area for region in regions] == [4, 4, 2]
    assert all(np.isnan(region.mean) and region.hottest is None for region in regions)
    assert differences(regions) == {}


def test_pixels_that_were_not_measured_do_not_count(scene):
    label_map, temperatures = scene
    good = temperatures != 33  # a lamp
    left, right, _ = measure_regions(label_map, temperatures, good=good & (label_map != 1))
    assert (left.area, left.max, left.hottest) == (4, 31, (1, 1))
    assert right.hottest is None and np.isnan(right.max)
    assert differences([left, right]) == {}
