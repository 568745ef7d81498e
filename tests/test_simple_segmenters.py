"""Segmenters without a network: the mean label map, and Otsu's threshold with rules of anatomy."""

import numpy as np
import pytest

from thermo_jax.data import annotations, layouts, phantom
from thermo_jax.data.examples import read_pixels
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.errors import UserError
from thermo_jax.rivals import mean_label_map, otsu_geometry

LEFT, RIGHT, NECK = (CLASS_NAMES.index(n) for n in ("left_breast", "right_breast", "neck"))


def full(value):
    return np.full((480, 640), value, np.uint8)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Return the gray images and label maps of four patients."""
    root = phantom.write_phantom(tmp_path_factory.mktemp("phantom") / "site", patients=4)
    records, _ = layouts.scan(root)
    images = np.stack([read_pixels(record, "gray") for record in records])
    return images, np.stack([annotations.label_map_480x640(record) for record in records])


def iou(truth, found, index):
    both, either = ((truth == index) & (found == index)), ((truth == index) | (found == index))
    return both.sum() / either.sum()


def test_the_mean_label_map_is_the_most_frequent_class_of_each_pixel():
    maps = np.stack([full(LEFT), full(LEFT), full(RIGHT)])
    maps[:2, :240] = NECK
    shares = mean_label_map.fit(maps)
    assert shares.shape == (480, 640, len(CLASS_NAMES))
    np.testing.assert_allclose(shares[0, 0, [NECK, RIGHT]], [2 / 3, 1 / 3])
    (predicted,) = mean_label_map.predict(shares, count=1)
    assert (predicted[:240] == NECK).all() and (predicted[240:] == LEFT).all()


def test_all_images_get_the_same_mean_label_map():
    predicted = mean_label_map.predict(mean_label_map.fit([full(LEFT)]), count=3, shape=(120, 160))
    assert predicted.shape == (3, 120, 160) and predicted.dtype == np.uint8
    assert (predicted == LEFT).all()


def test_background_loses_a_tie_in_the_mean_label_map():
    shares = mean_label_map.fit(iter([full(BACKGROUND), full(NECK)]))
    assert (mean_label_map.predict(shares, count=1) == NECK).all()


def test_a_smaller_mean_label_map_has_the_most_frequent_class_of_each_block():
    label_map = full(RIGHT)
    label_map[::4] = LEFT  # a quarter of each block
    predicted = mean_label_map.predict(mean_label_map.fit([label_map]), count=1, shape=(120, 160))
    assert (predicted == RIGHT).all()


def test_without_label_maps_there_is_no_mean():
    with pytest.raises(UserError, match="no training image is annotated"):
        mean_label_map.fit([])


def test_otsu_and_geometry_find_the_breasts_of_phantoms(phantoms):
    images, truth = phantoms
    found = otsu_geometry.segment(images)
    assert found.shape == truth.shape and found.dtype == np.uint8
    for index in (LEFT, RIGHT):
        assert min(map(iou, truth, found, [index] * 4)) > 0.4


def test_otsu_and_geometry_find_every_class_at_any_size(phantoms):
    images, _ = phantoms
    large, small = (otsu_geometry.segment(images, shape=shape) for shape in [(480, 640), (60, 80)])
    assert all(set(np.unique(label_map)) == set(range(8)) for label_map in large)
    np.testing.assert_array_equal(small, large[:, 4::8, 4::8])


def test_the_regions_of_otsu_and_geometry_follow_the_body(phantoms):
    images, _ = phantoms
    moved = np.pad(images, ((0, 0), (0, 0), (40, 0), (0, 0)), mode="edge")[:, :, :-40]
    before, after = (otsu_geometry.segment(array) for array in (images, moved))
    for index in (LEFT, RIGHT):
        columns = [np.nonzero(maps == index)[2].mean() for maps in (before, after)]
        assert 25 < columns[1] - columns[0] < 55


@pytest.mark.parametrize("level", [0, 100])
def test_an_image_without_a_body_is_background(level):
    images = np.full((1, 60, 80, 1), level, np.uint8)
    assert (otsu_geometry.segment(images) == BACKGROUND).all()


@pytest.mark.parametrize("seed", range(5))
def test_otsu_and_geometry_do_not_fail_on_other_pictures(seed):
    images = np.random.default_rng(seed).integers(0, 256, (2, 48, 64, 1), np.uint8)
    images[1, :, : 12 * seed] = 0
    assert otsu_geometry.segment(images, shape=(48, 64)).max() < len(CLASS_NAMES)
