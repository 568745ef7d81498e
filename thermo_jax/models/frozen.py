"""The frozen encoder whose latents a decoder reads. Its variables never change (SPEC section 2).

    images -> bridge -> encoder (inference mode, no gradient) -> latents

The decoder's images may be of another data type than the encoder's. Only `bridge` converts them
to images that the encoder can read.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from thermo_jax.models.cuts import CHANNELS, CutsEncoder, Encoder, RawPixels, scale_images
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.precision import array_dtype


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """An encoder whose training is over, or one that replaces it in a comparison.

    Attributes:
      module: the model without its variables.
      variables: "params" and "batch_stats": arrays, or shapes and types only (`abstract`).
      facts: what its run recorded about it: "data_type", "num_kernels", "seen_patients", ...
    """

    module: Encoder
    variables: dict
    facts: dict[str, Any]

    @classmethod
    def abstract(
        cls,
        facts: dict[str, Any],
        *,
        num_kernels: int | None = None,
        dtype: str = "float32",
        operations: Operations = NATIVE,
    ) -> "FrozenEncoder":
        """Returns the encoder that `facts` describe, with shapes and types in place of arrays.

        Args:
          facts: "data_type" is "gray" or "heat"; if "kind" is "none", the latents are raw pixels.
          num_kernels: used if the facts do not contain it.
          dtype: the compute type, see `models/precision.py`.
        """
        channels = CHANNELS[facts["data_type"]]
        operations = dataclasses.replace(operations, dtype=array_dtype(dtype))
        if facts.get("kind") == "none":
            module: Encoder = RawPixels(channels, operations=operations)
        else:
            num_kernels = facts.get("num_kernels", num_kernels)
            module = CutsEncoder(channels, num_kernels=num_kernels, operations=operations)
        variables = jax.eval_shape(lambda key: init(module, rng=key), jax.random.key(0))
        return cls(module, variables, facts)

    def with_variables(self, variables: Mapping) -> "FrozenEncoder":
        """Returns the same encoder with these variables."""
        return dataclasses.replace(self, variables=variables)

    def latents(self, image_shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        """Returns shape (V, H, W, L) and type of the latents of an image of shape (H, W, C)."""
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
        encode_images = partial(encode, encoder=self.module)
        latents = jax.eval_shape(encode_images, image, variables=self.variables)
        return jax.ShapeDtypeStruct(latents.shape[1:], latents.dtype)


def init(encoder: Encoder, *, rng: Key[Array, ""]) -> dict:
    """Returns random variables of an encoder."""
    return encoder.init(rng, jnp.zeros((1, 8, 8, encoder.channels)), train=False)


def bridge(images: UInt8[Array, "b h w c"], *, encoder_channels: int) -> UInt8[Array, "b v h w e"]:
    """Returns images of the decoder's data type as the views that the encoder can read.

    A gray encoder reads a heatmap as three gray images. A heatmap encoder reads a gray image as
    three equal channels.

    Raises:
      ValueError: the two numbers of channels are neither equal, nor 1 and 3.
    """
    channels = images.shape[-1]
    if channels == encoder_channels:
        return images[:, None]
    if (channels, encoder_channels) == (3, 1):
        return jnp.moveaxis(images, -1, 1)[..., None]
    if (channels, encoder_channels) == (1, 3):
        return jnp.repeat(images, 3, axis=-1)[:, None]
    raise ValueError(
        f"An encoder of {encoder_channels} channel(s) cannot read images of {channels} channels."
    )


def encode(
    images: UInt8[Array | np.ndarray, "b h w c"], *, encoder: Encoder, variables: Mapping
) -> Float[Array, "b v h w l"]:
    """Returns the frozen latents of images of the decoder's data type."""
    views = bridge(images, encoder_channels=encoder.channels)
    flat = views.reshape(-1, *views.shape[2:])
    dtype = jax.tree.leaves(variables["params"])[0].dtype
    latents = encoder.apply(variables, scale_images(flat, dtype=dtype), train=False)
    return jax.lax.stop_gradient(latents.reshape(*views.shape[:2], *latents.shape[1:]))
