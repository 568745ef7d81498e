"""Hand-crafted features: what each file's features see, what they ignore, and what is left out."""

import sys

import cv2
import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from thermo_jax.errors import UserError
from thermo_jax.rivals import curvelet, rank_pooling, temperature_statistics, texture

pytestmark = pytest.mark.filterwarnings("error")

HEIGHT, WIDTH = 480, 640
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
OF_IMAGES = {
    "temperature_statistics": temperature_statistics,
    "texture": texture,
    "curvelet": curvelet,
}
LENGTHS = {"temperature_statistics": 50, "texture": 48 + 30 + 1008, "curvelet": 16 + 10}


def _image(seed=0):
    """Returns a smooth random image [480,640] with levels 1 to 255, so that nothing is left out."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH)), (0, 0), 8)
    return np.rint(1 + 254 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def _two_circles(image, radius=150):
    """Returns the image with a circle kept in each half, and level 0 elsewhere."""
    inside = np.hypot(ROWS - HEIGHT / 2 + 0.5, COLUMNS % 320 - 159.5) < radius
    return np.where(inside, image, 0).astype(np.uint8)


def _halves(image):
    return image[:, :320], image[:, 320:]


def _stripes(direction):
    """Returns waves of 20 pixels whose levels change in the direction (radians; 0 = to right)."""
    phase = 2 * np.pi * (COLUMNS * np.cos(direction) + ROWS * np.sin(direction)) / 20
    return np.rint(128 + 80 * np.sin(phase)).astype(np.uint8)


def _features(module, *images):
    return module.features(np.stack(images)[..., None])


def _statistics(*images):
    """Returns five arrays [n,10]: of the left half, the right, both, and their differences."""
    return np.split(_features(temperature_statistics, *images), 5, axis=1)


def _glcm(*images):
    """Returns properties [n,6,2,4] by name, distance (1, 3) and angle (0, 45, 90, 135 degrees)."""
    return _features(texture, *images)[:, :48].reshape(-1, 6, 2, 4)


def _lbp(*images):
    """Returns shares of patterns [n,3,10] by radius (1, 2, 4)."""
    return _features(texture, *images)[:, 48:78].reshape(-1, 3, 10)


def _curvelets(*images):
    """Returns means [n,4,4] by scale and direction (down, right, lower right, lower left)."""
    return _features(curvelet, *images)[:, :16].reshape(-1, 4, 4)


# All features of one image


@pytest.mark.parametrize("name", OF_IMAGES)
def test_features_are_finite_numbers_of_a_fixed_count(name):
    found = _features(OF_IMAGES[name], _image(0), _two_circles(_image(1)))
    assert found.shape == (2, LENGTHS[name]) and found.dtype == np.float64
    assert np.isfinite(found).all()
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize("name", OF_IMAGES)
def test_features_of_an_image_do_not_depend_on_the_other_images(name):
    module, images = OF_IMAGES[name], [_image(0), _two_circles(_image(1)), _stripes(0.0)]
    together = _features(module, *images)
    np.testing.assert_array_equal(together, np.vstack([_features(module, x) for x in images]))
    np.testing.assert_array_equal(together[::-1], _features(module, *images[::-1]))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_an_image_in_which_all_is_left_out_has_features_of_zero(name):
    assert not _features(OF_IMAGES[name], np.zeros((HEIGHT, WIDTH), np.uint8)).any()


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("kept", ["one pixel", "one half", "one level"])
def test_features_of_a_nearly_empty_image_are_finite_and_quiet(name, kept):
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    if kept == "one pixel":
        image[7, 600] = 3
    elif kept == "one half":
        image[:, 320:] = _image()[:, 320:]
    else:
        image[:] = 255
    found = _features(OF_IMAGES[name], image)
    assert np.isfinite(found).all()
    assert found.any() or kept == "one pixel"  # which has no texture


@pytest.mark.parametrize(
    ("module", "library"), [(texture, "skimage.feature"), (curvelet, "curvelets.numpy")]
)
def test_a_missing_library_is_an_error_that_says_what_to_install(module, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    curvelet._transform.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'thermo_jax\[rivals\]'"):
        _features(module, _image())


# Temperature statistics


def test_statistics_are_those_of_the_kept_levels():
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    image[5, 10:15] = 10, 20, 30, 40, 100  # left; mean 40, median 30
    image[9, 400:402] = 50, 70  # right
    left, right, both, *_ = (part[0] for part in _statistics(image))
    np.testing.assert_allclose(left[:4], [40, np.sqrt(1000), 10, 100])
    np.testing.assert_allclose(left[4:9], [12, 20, 30, 40, 88])
    np.testing.assert_allclose(left[9], (-27000 - 8000 - 1000 + 216000) / 5 / 1000**1.5)
    np.testing.assert_allclose(right, [60, 10, 50, 70, 51, 55, 60, 65, 69, 0])
    np.testing.assert_allclose(both[:4], [320 / 7, both[1], 10, 100])


def test_a_warm_spot_on_the_left_raises_the_left_right_difference():
    image = _two_circles(np.full((HEIGHT, WIDTH), 100))
    warm = image.copy()
    warm[200:260, 100:160] = 220
    *_, signed, absolute = _statistics(image, warm)
    assert not signed[0].any() and not absolute[0].any()
    mean, deviation, minimum, maximum = signed[1, :4]
    assert mean > 1 and deviation > 1 and minimum == 0 and maximum == 120


def test_exchanging_the_sides_changes_only_the_sign_of_the_differences():
    image = _two_circles(_image())
    exchanged = np.roll(image, 320, axis=1)
    left, right, both, signed, absolute = _statistics(image, exchanged)
    assert signed[0].all()
    np.testing.assert_array_equal(signed[1], -signed[0])
    np.testing.assert_array_equal(absolute[1], absolute[0])
    np.testing.assert_array_equal(left[1], right[0])
    np.testing.assert_allclose(both[1], both[0], rtol=1e-9)


def test_statistics_do_not_see_where_in_a_half_the_kept_pixels_lie():
    image = _two_circles(_image())
    sorted_halves = [np.sort(half, axis=None).reshape(HEIGHT, 320) for half in _halves(image)]
    found = _features(temperature_statistics, image, np.concatenate(sorted_halves, axis=1))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_nothing_is_known_about_differences_if_one_half_is_left_out():
    image = _two_circles(_image())
    image[:, :320] = 0
    left, right, both, signed, absolute = _statistics(image)
    assert not left.any() and not signed.any() and not absolute.any()
    np.testing.assert_array_equal(right, both)


# Texture


def test_glcm_of_a_full_image_is_that_of_scikit_image():
    image = _image()
    reduced = image.reshape(120, 4, 160, 4).mean(axis=(1, 3))
    pairs = graycomatrix(
        (reduced // 8).astype(np.uint8),
        texture.GLCM_DISTANCES,
        texture.GLCM_ANGLES,
        levels=32,
        symmetric=True,
        normed=True,
    )
    for name, found in zip(texture.GLCM_PROPERTIES, _glcm(image)[0], strict=True):
        np.testing.assert_allclose(found, graycoprops(pairs, name), rtol=1e-9)


def test_pairs_with_a_pixel_that_is_left_out_do_not_count():
    """The rows of a ramp are equal, so that a cut through all columns leaves the same pairs."""
    ramp = np.broadcast_to(1 + COLUMNS // 4, (HEIGHT, WIDTH)).astype(np.uint8)
    cut = ramp.copy()
    cut[:200] = 0
    full, part = _glcm(ramp, cut)
    np.testing.assert_allclose(full, part, rtol=1e-9)
    assert part[0].max() < 1  # the contrast; a pair of level 0 with another adds hundreds


def test_patterns_do_not_see_the_border_of_what_is_left_out():
    """All neighbourhoods in waves of one whole period are equal, whatever is cut off."""
    stripes = _stripes(0.0)
    full, small = _lbp(stripes, np.where(ROWS < 203, stripes, 0))
    np.testing.assert_allclose(full, small, atol=0.02)
    np.testing.assert_allclose(full.sum(axis=1), 1)
    flat, circles = _lbp(np.full((HEIGHT, WIDTH), 90, np.uint8), _two_circles(90))
    np.testing.assert_array_equal(flat, circles)


def test_gradients_do_not_see_the_border_of_what_is_left_out():
    flat = _features(texture, _two_circles(np.full((HEIGHT, WIDTH), 90)))[:, 78:]
    assert not flat.any()


def test_glcm_and_patterns_change_little_with_the_outline_of_what_is_kept():
    image = _image()
    image = np.concatenate([image[:, :320], image[:, 319::-1]], axis=1)
    square = np.where((abs(ROWS - 240) < 130) & (abs(COLUMNS % 320 - 160) < 130), image, 0)
    glcm = _glcm(_two_circles(image), square.astype(np.uint8))
    lbp = _lbp(_two_circles(image), square.astype(np.uint8))
    np.testing.assert_allclose(glcm[0], glcm[1], rtol=0.15)
    np.testing.assert_allclose(lbp[0], lbp[1], atol=0.03)


def test_texture_of_stripes_differs_by_direction():
    to_right, downward = _glcm(_stripes(0.0), _stripes(np.pi / 2))[:, 0, 0]  # contrasts
    assert to_right[0] > 10 and to_right[2] < 1e-9
    assert downward[0] < 1e-9 and downward[2] > 10
    gradients = _features(texture, _stripes(0.0), _stripes(np.pi / 2))[:, 78:]
    assert abs(np.corrcoef(gradients)[0, 1]) < 0.5


def test_patterns_and_glcm_do_not_see_brightness():
    image = _image() // 2
    image = np.maximum(image, 1)
    brighter = image + 64  # by eight whole levels of the GLCM
    np.testing.assert_allclose(*_glcm(image, brighter), rtol=1e-9)
    # Where levels are equal, rounding of the interpolated neighbours decides about a pattern.
    np.testing.assert_allclose(*_lbp(image, brighter), atol=1e-3)


# Curvelets


@pytest.mark.parametrize(
    ("direction", "largest"),
    [(np.pi / 2, 0), (0.0, 1), (np.pi / 4, 2), (3 * np.pi / 4, 3)],
    ids=["down", "right", "lower right", "lower left"],
)
def test_curvelets_see_the_direction_in_which_the_levels_change(direction, largest):
    by_direction = _curvelets(_stripes(direction))[0].sum(axis=0)
    others = np.delete(by_direction, largest)
    assert by_direction[largest] > 3 * others.max()


@pytest.mark.parametrize(("wave", "scale"), [(44, 0), (22, 1), (11, 2), (5.5, 3)])
def test_curvelets_see_the_scale_of_waves(wave, scale):
    waves = np.rint(128 + 80 * np.sin(2 * np.pi * COLUMNS / wave)).astype(np.uint8)
    by_scale = _curvelets(waves)[0, :, 1]
    assert by_scale.argmax() == scale
    assert by_scale[scale] > 2 * np.delete(by_scale, scale).max()


def test_curvelets_do_not_see_the_border_of_what_is_left_out():
    found = _curvelets(_two_circles(np.full((HEIGHT, WIDTH), 90)))
    np.testing.assert_allclose(found, 0, atol=1e-9)


def test_curvelets_count_only_where_pixels_are_kept():
    """Half of the kept pixels are striped; leaving the flat half out doubles the mean."""
    stripes = _stripes(0.0)
    half_flat = np.where(COLUMNS < 320, stripes, 128).astype(np.uint8)
    only_stripes = np.where(COLUMNS < 320, stripes, 0).astype(np.uint8)
    scale = _curvelets(stripes)[0, :, 1].argmax()
    half, whole = _curvelets(half_flat, only_stripes)[:, scale, 1]
    assert whole == pytest.approx(2 * half, rel=0.1)


def test_curvelets_end_with_the_statistics_of_the_levels():
    image = _two_circles(_image())
    both = _statistics(image)[2]
    np.testing.assert_array_equal(_features(curvelet, image)[:, 16:], both)


# Rank pooling


def _recording(change=2, count=8, half="left"):
    """Returns frames [t,480,640,1] in which one half changes by some levels in each frame."""
    columns = slice(0, 320) if half == "left" else slice(320, 640)
    frames = np.stack([_two_circles(np.full((HEIGHT, WIDTH), 100))] * count)
    part = frames[..., columns]
    steps = change * np.arange(count)[:, None, None]
    part[:] = np.where(part > 0, part + steps, 0)
    return frames[..., None]


def test_rank_pooling_has_one_vector_of_length_1_for_each_recording():
    recordings = [_recording(count=5), _recording(-2), _recording(half="right")]
    found = rank_pooling.features(recordings)
    assert found.shape == (3, 48 + 2 * 34) and found.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_array_equal(found[:2], rank_pooling.features(recordings[:2]))


def test_rank_pooling_sees_warming_and_cooling_with_opposite_signs():
    warming, cooling = rank_pooling.features([_recording(2), _recording(-2)])[:, :48]
    changed = np.abs(warming) > 1e-6
    assert changed.any()
    assert (warming[changed] > 0).all() and (cooling[changed] < 0).all()


def test_rank_pooling_sees_in_which_half_the_levels_change():
    for half, place in (("left", 0), ("right", 1)):
        weights = rank_pooling.features([_recording(half=half)])[0, :48].reshape(6, 2, 4)
        size = np.abs(weights).sum(axis=(0, 2))
        assert size[place] > 0.1 and size[1 - place] < 1e-6


def test_rank_pooling_sees_the_order_of_the_frames():
    recording = np.stack([_two_circles(_image(seed)) for seed in range(6)])[..., None]
    forward, same, backward = rank_pooling.features([recording, recording.copy(), recording[::-1]])
    np.testing.assert_array_equal(forward, same)
    assert forward @ backward < 0.5


def test_rank_pooling_is_of_running_means_which_stay_higher_after_one_warm_frame():
    recording = _recording(0, count=5)
    recording[2] = _recording(20, count=2)[1]  # in the middle: unrelated to the frame's number
    weights = rank_pooling.features([recording])[0, :48]
    assert weights.max() > 0.05 and weights.min() > -1e-6


def test_rank_pooling_of_frames_that_do_not_change_or_are_left_out_is_zero():
    empty = np.zeros((6, HEIGHT, WIDTH, 1), np.uint8)
    assert not rank_pooling.features([_recording(0), empty]).any()


def test_rank_pooling_names_a_recording_that_is_too_short():
    with pytest.raises(UserError, match="Recording 1 .* has 4 frames, .* at least 5"):
        rank_pooling.features([_recording(), _recording(count=4)])
