"""Max pooling and interpolation, in a version for CPU and TPU and in one for GPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from thermo_jax.models.operations import GPU, NATIVE

by_platform = pytest.mark.parametrize("operations", [NATIVE, GPU], ids=["native", "gpu"])


def random(*shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


@by_platform
@pytest.mark.parametrize("shape", [(2, 3), (5, 4), (7, 1), (1, 1)])
def test_upsampling_doubles_with_aligned_corners(shape, operations):
    image = np.asarray(random(*shape))
    up = operations.upsample(jnp.asarray(image)[None, :, :, None])[0, :, :, 0]
    expected = ndimage.zoom(image.astype(np.float64), 2, order=1, mode="nearest", grid_mode=False)
    np.testing.assert_allclose(up, expected, atol=1e-6)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(up[corner], image[corner], rtol=1e-6)


@by_platform
def test_upsampling_keeps_a_linear_ramp_linear(operations):
    rows, columns = np.mgrid[:5, :7].astype(np.float32)
    up = operations.upsample(jnp.asarray(3 * rows - 2 * columns)[None, :, :, None])[0, :, :, 0]
    expected = 3 * np.linspace(0, 4, 10)[:, None] - 2 * np.linspace(0, 6, 14)
    np.testing.assert_allclose(up, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (5, 4), (7, 1)])
def test_upsampling_by_gathers_has_the_same_gradient(shape):
    with jax.enable_x64(True):
        x = random(2, *shape, 3, dtype=np.float64)
        up, pull_back = jax.vjp(NATIVE.upsample, x)
        _, ours = jax.vjp(GPU.upsample, x)
        np.testing.assert_allclose(ours(up)[0], pull_back(up)[0], rtol=1e-12, atol=1e-12)


@by_platform
def test_max_pooling_equals_flaxs_and_leaves_out_an_odd_row_and_column(operations):
    x = random(2, 5, 7, 3)
    expected, pull_back = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    actual, ours = jax.vjp(operations.max_pool, x)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(ours(expected)[0], pull_back(expected)[0])


def test_of_equal_values_the_first_gets_the_whole_gradient_on_a_gpu():
    # 3 is the maximum of each 2x2 window, in one to four places.
    x = np.array([[3, 1, 1, 3, 3, 3], [1, 1, 3, 1, 3, 3], [1, 3, 1, 1, 1, 1], [1, 3, 3, 3, 1, 3]])
    first = np.array([[1, 0, 0, 1, 1, 0], [0] * 6, [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1]])
    values = jnp.asarray(x[None, :, :, None], jnp.bfloat16)
    y, pull_back = jax.vjp(GPU.max_pool, values)
    np.testing.assert_array_equal(pull_back(jnp.ones_like(y))[0][0, :, :, 0], first)
    _, flaxs = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), values)
    np.testing.assert_array_equal(flaxs(jnp.ones_like(y))[0][0, :, :, 0], first)


@by_platform
def test_upsampling_rounds_bfloat16_twice_at_most(operations):
    with jax.enable_x64(True):
        x = random(2, 6, 8, 16, dtype=np.float64).astype(jnp.bfloat16)
        expected, pull_back = jax.vjp(NATIVE.upsample, x.astype(np.float64))
        actual, ours = jax.vjp(operations.upsample, x)
        pairs = [(actual, expected)]
        pairs += [(ours(expected.astype(jnp.bfloat16))[0], pull_back(expected)[0])]
        for rounded, exact in pairs:
            assert rounded.dtype == jnp.bfloat16
            assert np.abs(np.asarray(rounded, np.float64) - exact).max() < np.abs(exact).max() / 64


@pytest.mark.parametrize(("height", "width"), [(12, 28), (9, 7), (3, 8), (3, 7)])
def test_resizing_by_gathers_equals_jaxs(height, width):
    x = random(2, 3, 7, 4)
    expected = NATIVE.resize(x, height=height, width=width)
    actual = GPU.resize(x, height=height, width=width)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
