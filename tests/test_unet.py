"""The U-Net: parameters, sizes, aligned-corner interpolation, padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax.models.unet import UNet, concatenate_skip

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


def test_padding_to_the_skip_puts_the_smaller_half_left_and_top():
    skip = jnp.full((1, 7, 9, 2), 5.0)
    joined = np.asarray(concatenate_skip(skip, jnp.ones((1, 4, 6, 3))))
    np.testing.assert_array_equal(joined[..., :2], 5)
    expected = np.zeros((7, 9))
    expected[1:5, 1:7] = 1  # 3 rows and 3 columns are missing: 1 before, 2 after
    for channel in range(2, 5):
        np.testing.assert_array_equal(joined[0, :, :, channel], expected)
