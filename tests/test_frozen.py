"""The frozen encoder: bridges between data types, and its latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax.models import frozen
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.frozen import FrozenEncoder, bridge

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


def uint8_images(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape), jnp.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_the_encoders_own_type_are_one_view(channels):
    images = uint8_images(2, 4, 5, channels)
    np.testing.assert_array_equal(bridge(images, encoder_channels=channels), images[:, None])


def test_a_gray_encoder_gets_a_heatmap_as_three_gray_views():
    images = uint8_images(2, 4, 5, 3)
    views = bridge(images, encoder_channels=1)
    assert views.shape == (2, 3, 4, 5, 1)
    for channel in range(3):
        np.testing.assert_array_equal(views[:, channel, :, :, 0], images[..., channel])


def test_a_heatmap_encoder_gets_a_gray_image_as_three_equal_channels():
    images = uint8_images(2, 4, 5, 1)
    views = bridge(images, encoder_channels=3)
    assert views.shape == (2, 1, 4, 5, 3)
    for channel in range(3):
        np.testing.assert_array_equal(views[:, 0, :, :, channel], images[..., 0])


@pytest.mark.parametrize(("channels", "encoder_channels"), [(2, 1), (4, 3), (3, 2)])
def test_numbers_of_channels_without_a_bridge_are_refused(channels, encoder_channels):
    message = f"encoder of {encoder_channels} channel.* images of {channels} channels"
    with pytest.raises(ValueError, match=message):
        bridge(uint8_images(1, 4, 5, channels), encoder_channels=encoder_channels)


@pytest.mark.parametrize("kind", ["pretrained", "none"])
@pytest.mark.parametrize(
    ("encoder_type", "data_type", "views"), [("gray", "heat", 3), ("heat", "gray", 1)]
)
def test_the_latents_shape_and_type_are_known_without_arrays(encoder_type, data_type, views, kind):
    facts = {"data_type": encoder_type, "num_kernels": 1, "kind": kind}
    encoder = FrozenEncoder.abstract(facts, dtype="bfloat16")
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), encoder.variables)
    latents = jax.jit(frozen.encode, static_argnames="encoder")(
        uint8_images(2, 8, 9, CHANNELS[data_type]), encoder=encoder.module, variables=variables
    )
    expected = encoder.latents((8, 9, CHANNELS[data_type]))
    length = CHANNELS[encoder_type] if kind == "none" else 8
    assert latents.shape == (2, *expected.shape) == (2, views, 8, 9, length)
    assert latents.dtype == expected.dtype == jnp.bfloat16


def test_the_width_is_that_of_the_facts_or_else_the_argument():
    known = FrozenEncoder.abstract({"data_type": "gray", "num_kernels": 2}, num_kernels=5)
    silent = FrozenEncoder.abstract({"data_type": "gray", "kind": "random"}, num_kernels=5)
    assert (known.module.num_kernels, silent.module.num_kernels) == (2, 5)
