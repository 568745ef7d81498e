"""Patch sampling: where anchors and positives may lie, and which candidate becomes the positive."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from scipy import stats

from thermo_jax.models import patches

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

MARGIN = 2  # pixels of a 5x5 patch on each side of its center
DRAWS = 200


@partial(jax.jit, static_argnames=("num_patches", "patch_size"))
def _sample(keys, images, num_patches=16, patch_size=5):
    height, width = images.shape[1:3]
    anchors, candidates = patches.draw_positions(
        keys, height=height, width=width, num_patches=num_patches, patch_size=patch_size
    )
    return anchors, patches.choose_positives(images, anchors, candidates, patch_size=patch_size)


_choose = jax.jit(patches.choose_positives)


def sample(image: np.ndarray, *, seed: int = 0, patch_size: int = 5):
    """Anchors and positives [DRAWS * 16, 2] in `image` [H,W,C], for DRAWS keys."""
    images = jnp.broadcast_to(jnp.asarray(image, jnp.float32), (DRAWS, *image.shape))
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    anchors, positives = _sample(keys, images, patch_size=patch_size)
    return np.asarray(anchors).reshape(-1, 2), np.asarray(positives).reshape(-1, 2)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def smooth(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.sin(rows / 9 + columns / 7)[..., None]


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 for one window per channel, data range 2."""
    values = []
    for x, y in zip(a.reshape(-1, a.shape[-1]).T, b.reshape(-1, b.shape[-1]).T, strict=True):
        (var_x, covariance), (_, var_y) = np.cov(x, y)
        luminance = (2 * x.mean() * y.mean() + 0.02**2) / (x.mean() ** 2 + y.mean() ** 2 + 0.02**2)
        values.append(luminance * (2 * covariance + 0.06**2) / (var_x + var_y + 0.06**2))
    return float(np.mean(values))


def choose_positive(image, anchor, candidates) -> tuple[np.ndarray, bool]:
    """Return the positive as specified, and whether it is one of the candidates."""

    def patch(center):
        y, x = center
        return image[y - 2 : y + 3, x - 2 : x + 3].astype(np.float64)

    best, best_ssim = None, 0.5
    for candidate in candidates:
        value = ssim(patch(anchor), patch(candidate))
        if tuple(candidate) != tuple(anchor) and value > best_ssim + 1e-9:
            best, best_ssim = candidate, value
    if best is not None:
        return best, True
    center = (np.array(image.shape[:2]) - 1) / 2
    return anchor + np.where(anchor < center, 1, -1), False


def positives_of(image, anchors, candidates) -> np.ndarray:
    """Return the positives [S,2] for anchors [S,2] and candidates [S,10,2]."""
    drawn = (jnp.asarray(positions, jnp.int32)[None] for positions in (anchors, candidates))
    return np.asarray(_choose(jnp.asarray(image, jnp.float32)[None], *drawn)[0])


def random_positions(image, *, num: int = 60, seed: int = 0):
    """Return random anchors and candidates; some candidates equal their anchor."""
    rng = np.random.default_rng(seed)
    low, high = np.full(2, MARGIN), np.array(image.shape[:2]) - MARGIN
    anchors = rng.integers(low, high, (num, 2))
    offsets = rng.integers(-5, 6, (num, 10, 2))
    offsets[::3, 4] = 0
    return anchors, np.clip(anchors[:, None] + offsets, low, high - 1)


def test_anchors_have_their_patch_inside_the_image_and_reach_its_borders():
    anchors, _ = sample(noise(9, 12, 1))
    np.testing.assert_array_equal(anchors.min(0), [2, 2])
    np.testing.assert_array_equal(anchors.max(0), [6, 9])


def test_a_smaller_patch_lets_anchors_closer_to_the_border():
    anchors, positives = sample(noise(9, 12, 1), patch_size=3)
    np.testing.assert_array_equal(anchors.min(0), [1, 1])
    np.testing.assert_array_equal(anchors.max(0), [7, 10])
    assert positives.min() >= 1 and (positives <= [7, 10]).all()


def test_positives_lie_inside_and_within_five_pixels_of_their_anchor():
    anchors, positives = sample(smooth(30, 34))
    np.testing.assert_array_equal(positives.min(0), [2, 2])
    np.testing.assert_array_equal(positives.max(0), [27, 31])
    offsets = positives - anchors
    np.testing.assert_array_equal(offsets.min(0), [-5, -5])
    np.testing.assert_array_equal(offsets.max(0), [5, 5])


@pytest.mark.parametrize("image", [noise(6, 6, 1), np.zeros((6, 6, 1))])
def test_a_positive_is_inside_and_never_its_anchor_in_the_smallest_image(image):
    anchors, positives = sample(image)
    assert (anchors != positives).any(1).all()
    assert positives.min() >= 2 and (positives < np.array(image.shape[:2]) - 2).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_positive_is_the_most_similar_candidate_above_one_half(channels):
    image = smooth(20, 24) + 0.4 * noise(20, 24, channels)
    anchors, candidates = random_positions(image)
    expected = [choose_positive(image, *pair) for pair in zip(anchors, candidates, strict=True)]
    positives = positives_of(image, anchors, candidates)
    np.testing.assert_array_equal(positives, [position for position, _ in expected])
    assert 10 < sum(similar for _, similar in expected) < 50  # both rules were used


def test_of_equally_similar_candidates_the_first_that_is_not_the_anchor_is_chosen():
    image = np.zeros((20, 24, 1))
    anchors, candidates = random_positions(image)
    candidates[::2, 0] = anchors[::2]
    candidates[::2, 1] = anchors[::2] + np.where(anchors[::2] < 10, 2, -2)
    first = np.where(np.all(candidates[:, 0] == anchors, axis=1), 1, 0)
    positives = positives_of(image, anchors, candidates)
    np.testing.assert_array_equal(positives, candidates[np.arange(60), first])


def test_without_a_similar_candidate_the_positive_is_one_diagonal_step_toward_the_center():
    anchors = np.array([[2, 2], [2, 21], [17, 2], [17, 21], [9, 11], [10, 12]] * 10)
    expected = [[3, 3], [3, 20], [16, 3], [16, 20], [10, 12], [9, 11]] * 10
    candidates = np.broadcast_to(anchors[:, None], (60, 10, 2))  # excluded: they equal the anchor
    positives = positives_of(np.zeros((20, 24, 1)), anchors, candidates)
    np.testing.assert_array_equal(positives, expected)


def test_positions_are_uniform_over_the_interior():
    # On a constant image the first candidate is chosen, from a window around the whole interior.
    for positions in sample(np.zeros((9, 9, 1))):
        counts = np.histogram2d(*positions.T, bins=np.arange(2, 8))[0]
        assert counts.sum() == DRAWS * 16
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_another_key_draws_other_positions_and_the_same_key_the_same():
    first, same, other = (sample(noise(9, 9, 1), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0][:16], first[0][16:32])  # two keys of one batch


def test_positions_of_an_image_do_not_depend_on_the_rest_of_the_batch():
    keys, other_keys = (jax.random.split(jax.random.key(seed), DRAWS) for seed in (5, 6))
    images = jnp.asarray(noise(DRAWS, 9, 9, 1))
    first = _sample(keys, images)
    second = _sample(other_keys.at[7].set(keys[7]), (-images).at[7].set(images[7]))
    for positions, others in zip(first, second, strict=True):
        np.testing.assert_array_equal(positions[7], others[7])
        assert not np.array_equal(positions[8], others[8])


@pytest.mark.parametrize(("height", "width"), [(5, 30), (30, 5), (3, 3)])
def test_an_image_too_small_for_a_patch_and_its_neighbour_is_refused(height, width):
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(ValueError, match=f"{height}x{width} pixels are too small.*at least 6"):
        patches.draw_positions(keys, height=height, width=width)


def test_patch_ssim_equals_the_definition():
    first, second = noise(7, 5, 5, 3), noise(7, 5, 5, 3, seed=1)
    second[:4] = 0.7 * first[:4] + 0.2
    expected = [ssim(a, b) for a, b in zip(first, second, strict=True)]
    actual = patches.patch_ssim(jnp.asarray(first), jnp.asarray(second))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_patches_and_latents_are_those_around_and_at_the_positions():
    images = noise(2, 8, 9, 3)
    centers = np.array([[[2, 2], [5, 6]], [[3, 4], [2, 6]]])
    cut = patches.extract_patches(jnp.asarray(images), jnp.asarray(centers))
    latents = patches.gather_latents(jnp.asarray(images), jnp.asarray(centers))
    for image in range(2):
        for index, (row, column) in enumerate(centers[image]):
            expected = images[image, row - 2 : row + 3, column - 2 : column + 3]
            np.testing.assert_array_equal(cut[image, index], expected)
            np.testing.assert_array_equal(latents[image, index], images[image, row, column])
