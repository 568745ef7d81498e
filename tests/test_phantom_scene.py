"""Phantom version 2: bodies, the regions that annotators draw, what the camera sees, the files.

Compiling `example` takes seconds, so that one function and a few images serve all tests.
"""

import functools
import inspect
import re
from dataclasses import replace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from scipy.stats import norm

from thermo_jax.data import (
    annotations,
    layouts,
    phantom,
    phantom_anatomy,
    phantom_scene,
    radiometry,
)
from thermo_jax.data.dataset import DataSettings
from thermo_jax.data.phantom_anatomy import PARAMETERS, Chance, Egg, Normal, Uniform
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, GRAY_SHAPE, HEALTHY, SICK

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

SMALL = (24, 32)
EVERY_CLASS = set(range(len(CLASS_NAMES)))


@functools.cache
def example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return jax.device_get(compiled_example()(jax.random.key(seed)))


@functools.cache
def compiled_example():
    return jax.jit(functools.partial(phantom_scene.example, shape=SMALL))


def keys_of(seed: int) -> list[jax.Array]:
    """Return the keys of the body, the scene and the noise of an example."""
    return list(jax.random.split(jax.random.key(seed), 3))


@functools.cache
def body_of(seed: int) -> phantom_anatomy.Body:
    return compiled_draw()(keys_of(seed)[0])


@functools.cache
def compiled_draw():
    return jax.jit(phantom_anatomy.draw_body)


@functools.cache
def rendered(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return temperatures, and how much of each pixel is skin, of 480x640 pixels."""
    return jax.device_get(phantom_scene.render(body_of(seed), keys_of(seed)[1]))


@jax.jit
def full_labels(body) -> jax.Array:
    return phantom_scene.label_map(body, *phantom_scene.grid(body, GRAY_SHAPE))


def block_means(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = shape
    return image.reshape(rows, image.shape[0] // rows, columns, -1).mean((1, 3))


# --------------------------------------------------------------------------- bodies


def test_every_parameter_is_used():
    code = inspect.getsource(phantom_anatomy) + inspect.getsource(phantom_scene)
    read = set(re.findall(r'body\["(\w+)"\]', code)) | {"chin", "collar"}  # drawn_neck's loop
    assert read == PARAMETERS.keys()


def test_parameters_follow_their_distributions():
    """A pair's two numbers share `sd`, and each has `own` for itself."""
    z = np.random.default_rng(0).standard_normal((3, 20_000)).astype(np.float32)
    numbers = z, norm.cdf(z)
    normal = Normal(5.0, 2.0)(*numbers)
    left, right = Normal(5.0, 2.0, 1.5)(*numbers)
    uniform = np.asarray(Uniform(-1.0, 3.0)(*numbers))
    chances = np.asarray(Chance(0.3, sides=True)(*numbers))
    np.testing.assert_allclose([normal.mean(), normal.std()], (5, 2), atol=0.1)
    np.testing.assert_allclose([left.mean(), left.std()], (5, 2.5), atol=0.1)
    np.testing.assert_allclose(np.corrcoef(left, right)[0, 1], 4 / 6.25, atol=0.03)
    np.testing.assert_allclose([uniform.mean(), uniform.std()], (1, 4 / 12**0.5), atol=0.05)
    np.testing.assert_allclose(chances.mean(1), (0.3, 0.3), atol=0.02)
    assert abs(np.corrcoef(*chances)[0, 1]) < 0.03


def test_a_body_is_made_of_a_number_or_a_pair_for_each_parameter():
    body = body_of(0)
    assert body.keys() == PARAMETERS.keys()
    for name, rule in PARAMETERS.items():
        is_pair = getattr(rule, "own", None) is not None or getattr(rule, "sides", False)
        assert body[name].shape == ((2,) if is_pair else ()), name
        assert body[name].dtype == jnp.float32, name


@pytest.mark.parametrize("seed", [0, 1])
def test_pixel_and_body_coordinates_are_inverse(seed):
    x, y = np.random.default_rng(seed).uniform(0, 640, (2, 50)).astype(np.float32)
    u, v = phantom_anatomy.to_body(body_of(seed), x, y)
    assert np.abs(u - (x - 320)).max() > 5  # this body is turned or moved
    np.testing.assert_allclose(phantom_anatomy.to_pixels(body_of(seed), u, v), (x, y), atol=1e-3)


@pytest.mark.parametrize("side", [-1, 1])
def test_an_eggs_point_is_the_inverse_of_its_local_coordinates(side):
    egg = Egg(side, side * 80.0, 200.0, 60.0, 90.0, tilt=0.4, taper=-0.5)
    p, q = np.random.default_rng(0).uniform(-2, 2, (2, 50)).astype(np.float32)
    np.testing.assert_allclose(egg.local(*egg.point(p, q)), (p, q), atol=1e-4)
    u, v = egg.point(1.0, 0.0)
    assert v > egg.v and abs(u) > abs(egg.u)  # the lower end points outward


# --------------------------------------------------------------------------- drawn regions


@pytest.mark.parametrize("seed", range(6))
def test_polygons_enclose_the_pixels_of_the_label_map(seed):
    drawn = np.full(GRAY_SHAPE, BACKGROUND, np.uint8)
    polygons = phantom_anatomy.polygons(body_of(seed))
    for name, vertices in polygons.items():
        cv2.fillPoly(drawn, [np.round(vertices).astype(np.int32)], CLASS_NAMES.index(name))
    labels = np.asarray(full_labels(body_of(seed)))
    assert set(np.unique(labels)) == EVERY_CLASS
    for index, name in enumerate(CLASS_NAMES):
        both, either = ((drawn == index) & (labels == index)), (drawn == index) | (labels == index)
        # The outline of a small region is a larger part of it; a polygon's pixels include it.
        least = 0.93 if "nipple" in name else 0.97
        assert both.sum() / either.sum() > least, name


def test_left_is_image_left():
    for seed in range(6):
        labels = np.asarray(full_labels(body_of(seed)))
        middle = [np.nonzero(labels == i)[1].mean() for i in range(6)]
        pairs = zip(middle[::2], middle[1::2], strict=True)
        assert all(left + 100 < right for left, right in pairs), seed


# --------------------------------------------------------------------------- images


def test_an_example_is_a_gray_image_of_all_levels_and_shares_of_the_classes():
    images, targets = zip(*(example(seed) for seed in range(4)), strict=True)
    for image, target in zip(images, targets, strict=True):
        assert (image.shape, image.dtype) == ((*SMALL, 1), np.uint8)
        assert (image.min(), image.max()) == (0, 255)
        assert (target.shape, target.dtype) == ((*SMALL, len(CLASS_NAMES)), np.float32)
        np.testing.assert_array_equal(target.sum(-1), 1)
        assert set(np.unique(target)) <= {0, 0.25, 0.5, 0.75, 1}
        assert target.max((0, 1)).min() == 1  # of each class


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_small_example_looks_like_the_large_image_of_the_same_key(seed):
    """All lengths are pixels of 640x480. Only noise and thin lines differ."""
    image, targets = example(seed)
    expected = block_means(rendered(seed)[0], SMALL)
    assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.97
    shares = np.eye(len(CLASS_NAMES))[np.asarray(full_labels(body_of(seed)))]
    shares = shares.reshape(SMALL[0], 20, SMALL[1], 20, -1).mean((1, 3))
    assert np.abs(targets - shares).mean((0, 1)).max() < 0.02
    np.testing.assert_allclose(targets.sum((0, 1)), shares.sum((0, 1)), rtol=0.15, atol=1)


def test_temperatures_are_those_of_a_body_in_a_cool_room():
    for seed in range(2):
        body, (image, skin) = body_of(seed), rendered(seed)
        assert image.shape == skin.shape == GRAY_SHAPE and 0 <= skin.min() < skin.max() <= 1
        assert image.min() > radiometry.MIN_CELSIUS and image.max() < radiometry.MAX_CELSIUS
        wall, warm = image[skin < 0.01].mean(), image[skin > 0.99].mean()
        assert abs(wall - body["room"]) < 2.5 and abs(warm - body["skin"]) < 3


def test_regions_lie_on_the_skin():
    for seed in range(2):
        labels, skin = np.asarray(full_labels(body_of(seed))), rendered(seed)[1]
        assert all(skin[labels == i].mean() > 0.5 for i in EVERY_CLASS - {BACKGROUND})


def test_equal_keys_give_equal_bits_and_other_keys_give_others():
    again = compiled_example()(jax.random.key(0))
    for first, second in zip(example(0), again, strict=True):
        np.testing.assert_array_equal(first, second)
    images = [example(seed)[0] for seed in range(4)]
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])


# --------------------------------------------------------------------------- files


def exposures(*, sick: bool):
    """Return the polygons, and the function that takes pictures, of a patient of a data set."""
    return phantom._second_version(np.random.default_rng(0), seed=(0, 1), sick=sick)


def test_the_skin_rewarms_and_the_room_does_not():
    polygons, expose = exposures(sick=False)
    first, second, rested = (expose(frame) for frame in (0, 1, None))
    y, x = polygons["left_breast"].mean(0).astype(int)[::-1]
    on_breast = np.s_[y - 20 : y + 20, x - 20 : x + 20]
    assert first[on_breast].mean() < second[on_breast].mean() < rested[on_breast].mean() - 0.5
    assert np.abs((rested - first).reshape(24, 20, 32, 20).mean((1, 3))).min() < 0.05  # the wall


def test_sick_patients_have_a_warm_spot_in_one_breast():
    (polygons, healthy), (same, sick) = exposures(sick=False), exposures(sick=True)
    tiny.assert_same_tree(polygons, same)
    warmer = sick(0) - healthy(0)
    drawn = np.full(GRAY_SHAPE, BACKGROUND, np.uint8)
    for side, name in enumerate(("left_breast", "right_breast")):
        cv2.fillPoly(drawn, [np.round(polygons[name]).astype(np.int32)], side)
    well, ill = sorted((warmer[drawn == side] for side in (0, 1)), key=np.mean)
    assert np.abs(well).max() < 0.05 < ill.mean() and ill.max() > 1


def write(folder, **changes):
    return phantom.write_phantom(folder, version=2, **{"patients": 2} | changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("second") / "phantom")


def test_scan_reads_the_second_versions_files_and_finds_nothing_odd(root):
    records, report = layouts.scan(root)
    assert report.oddities == [] and {r.label for r in records} == {HEALTHY, SICK}
    for record in records:
        labels = annotations.label_map(record.regions)
        assert set(np.unique(labels)) == EVERY_CLASS


@pytest.mark.slow
def test_the_same_arguments_give_the_same_bytes(root, tmp_path):
    again = write(tmp_path / "again")
    paths = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    assert len(paths) == 2 * 3 + 2
    assert all((root / path).read_bytes() == (again / path).read_bytes() for path in paths)


def test_the_versions_have_their_own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(phantom, "write_phantom", lambda root, **arguments: (root, arguments))
    settings = DataSettings(root="phantom", type="gray", phantom_patients=1)
    (first, old), (second, new) = (
        replace(settings, phantom_version=version).find_root() for version in phantom.VERSIONS
    )
    assert first.name == "patients1" and second.name == "version2_patients1"
    assert (old["version"], new["version"]) == (1, 2)


def test_a_folder_of_the_first_version_is_not_used_for_the_second(tmp_path):
    phantom.write_phantom(tmp_path / "phantom", patients=1)
    with pytest.raises(ValueError, match="version=1 there, 2 wanted.*choose another folder"):
        write(tmp_path / "phantom", patients=1)


def test_an_unknown_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"phantom: version=3 must be one of \(1, 2\)"):
        phantom.write_phantom(tmp_path / "phantom", version=3)
