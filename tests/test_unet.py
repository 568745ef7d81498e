"""The U-Net: parameters, sizes, aligned-corner interpolation, padding."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from scipy import ndimage

from thermo_jax.models.unet import UNet, concatenate_skip, max_pool, upsample_aligned

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


def shapes(model, size, *, batch=1, channels=128):
    """Shapes of logits and variables, without computing them."""
    latents = jnp.zeros((batch, *size, channels))
    return jax.eval_shape(partial(model.init_with_output, train=True), jax.random.key(0), latents)


@pytest.mark.parametrize(("outputs", "count"), [(8, 17_335_432), (1, 17_334_977)])
def test_the_number_of_parameters_is_the_published_one(outputs, count):
    _, variables = shapes(UNet(outputs), (16, 16))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (30, 45), (120, 160)])
def test_any_size_from_16_by_16_is_kept(size):
    logits, _ = shapes(UNet(8, width=4), size, batch=2)
    assert logits.shape == (2, *size, 8)


@pytest.mark.parametrize("size", [(15, 40), (40, 15)])
def test_less_than_16_pixels_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels are too few, 16x16"):
        shapes(UNet(8, width=4), size)


def test_stages_have_the_published_widths():
    _, variables = shapes(UNet(8), (16, 16))
    kernels = {
        name: tuple(stage[layer]["kernel"].shape[2:] for layer in ("conv1", "conv2"))
        for name, stage in variables["params"].items()
        if name != "out"
    }
    assert kernels == {
        "in": ((128, 64), (64, 64)),
        "down1": ((64, 128), (128, 128)),
        "down2": ((128, 256), (256, 256)),
        "down3": ((256, 512), (512, 512)),
        "down4": ((512, 512), (512, 512)),
        "up1": ((1024, 512), (512, 256)),
        "up2": ((512, 256), (256, 128)),
        "up3": ((256, 128), (128, 64)),
        "up4": ((128, 64), (64, 64)),
    }


def test_initial_weights_lie_within_one_over_root_fan_in():
    variables = jax.jit(partial(UNet(8, width=4).init, train=False))(
        jax.random.key(0, impl="rbg"),  # compiles faster than the default
        jnp.zeros((1, 16, 16, 6)),
    )
    layers = {**variables["params"]["down3"], "out": variables["params"]["out"]}
    for name in ("conv1", "conv2", "out"):
        kernel = layers[name]["kernel"]
        bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert 0.75 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
    bias = np.abs(layers["out"]["bias"])
    assert 0.5 * bound < bias.max() <= bound


@pytest.mark.parametrize("shape", [(2, 3), (5, 4), (7, 1), (1, 1)])
def test_upsampling_doubles_with_aligned_corners(shape):
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    up = upsample_aligned(jnp.asarray(image)[None, :, :, None])[0, :, :, 0]
    expected = ndimage.zoom(image.astype(np.float64), 2, order=1, mode="nearest", grid_mode=False)
    np.testing.assert_allclose(up, expected, atol=1e-6)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(up[corner], image[corner], rtol=1e-6)


def test_upsampling_keeps_a_linear_ramp_linear():
    rows, columns = np.mgrid[:5, :7].astype(np.float32)
    up = upsample_aligned(jnp.asarray(3 * rows - 2 * columns)[None, :, :, None])[0, :, :, 0]
    expected = 3 * np.linspace(0, 4, 10)[:, None] - 2 * np.linspace(0, 6, 14)
    np.testing.assert_allclose(up, expected, atol=1e-5)


def test_padding_to_the_skip_puts_the_smaller_half_left_and_top():
    skip = jnp.full((1, 7, 9, 2), 5.0)
    joined = np.asarray(concatenate_skip(skip, jnp.ones((1, 4, 6, 3))))
    np.testing.assert_array_equal(joined[..., :2], 5)
    expected = np.zeros((7, 9))
    expected[1:5, 1:7] = 1  # 3 rows and 3 columns are missing: 1 before, 2 after
    for channel in range(2, 5):
        np.testing.assert_array_equal(joined[0, :, :, channel], expected)


def test_max_pooling_equals_flaxs_and_leaves_out_an_odd_row_and_column():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 6, 3)), jnp.float32)
    expected, pull_back = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    actual, ours = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(ours(expected)[0], pull_back(expected)[0])
