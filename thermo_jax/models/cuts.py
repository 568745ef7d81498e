"""The CUTS encoder (Liu et al. 2022, arXiv 2209.11359) and its patch reconstruction.

Four 5x5 convolutions at full resolution turn a thermogram into a latent vector per pixel; one
linear layer turns a latent back into the 5x5 patch around its pixel (SPEC section 2).
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from thermo_jax.models.layers import BatchNorm, Convolution, bias_init, kernel_init
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.patches import extract_patches, gather_latents

CHANNELS = {"gray": 1, "heat": 3}  # of the images, by data type
KERNEL_SIZE = 5
NUM_BLOCKS = 4
LEAKY_SLOPE = 0.01


def scale_images(images: UInt8[Array, "b h w c"], *, dtype=jnp.float32) -> Float[Array, "b h w c"]:
    """Returns 8-bit images in the encoder's input range: x/127.5 - 1, in [-1, 1]."""
    return images.astype(dtype) / 127.5 - 1


class CutsEncoder(nn.Module):
    """Images in [-1, 1] `[B,H,W,C]` -> latents `[B,H,W,8*num_kernels]` of the same resolution.

    Attributes:
      channels: C of the images, 1 (gray) or 3 (heatmap).
      num_kernels: width of the first block; each of the next three doubles it (16 -> 128 latents).
      operations: how layers compute.
    """

    channels: int
    num_kernels: int = 16
    operations: Operations = NATIVE

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        *,
        train: bool,
        only_at: Int[Array, "b s 2"] | None = None,
    ) -> Float[Array, "b h w l"] | Float[Array, "b s l"]:
        """Returns latents at every position, or only at the positions `only_at`.

        Batch statistics are always computed over all positions. Pretraining reads few positions.
        With `only_at`, the last block normalises only the values at these positions.
        """
        ops = self.operations
        conv = partial(Convolution, size=KERNEL_SIZE, edges="replicate", bias=True, operations=ops)
        norm = partial(BatchNorm, slope=LEAKY_SLOPE, operations=ops)
        x, only = images, None
        for block in range(NUM_BLOCKS):
            x = conv(self.num_kernels * 2**block, name=f"conv{block + 1}")(x)
            if only_at is not None and block == NUM_BLOCKS - 1:
                only = gather_latents(x, only_at)
            x = norm(name=f"batch_norm{block + 1}")(x, train=train, only=only)
        return x


class RawPixels(nn.Module):
    """Replaces an encoder in comparisons: its latents are the scaled pixels themselves.

    Attributes:
      channels: C of the images.
      operations: only its `dtype` is used.
    """

    channels: int
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        # A constant 1, because a checkpoint cannot save a model without variables.
        one = self.param("one", nn.initializers.ones, ())
        self.variable("batch_stats", "none", jnp.zeros, ())
        return (images * one).astype(self.operations.dtype)


Encoder = CutsEncoder | RawPixels  # the encoders whose latents a decoder can read


class PatchReconstruction(nn.Module):
    """One linear layer: latents `[...,L]` -> patches `[...,P,P,C]`.

    Attributes:
      patch_size: P, pixels.
      channels: C of the images.
    """

    channels: int
    patch_size: int = KERNEL_SIZE

    @nn.compact
    def __call__(self, latents: Float[Array, "*batch l"]) -> Float[Array, "*batch p p c"]:
        flat = nn.Dense(
            self.patch_size**2 * self.channels,
            precision=jax.lax.Precision.HIGHEST,  # because this is a part of the loss
            kernel_init=kernel_init,
            bias_init=bias_init(fan_in=latents.shape[-1]),
            name="linear",
        )(latents)
        # Rows of the published weights are ordered (channel, row, column).
        shape = (*latents.shape[:-1], self.channels, self.patch_size, self.patch_size)
        return jnp.moveaxis(flat.reshape(shape), -3, -1)


class CutsOutputs(NamedTuple):
    """What the pretraining losses need; one row per sampled patch."""

    anchors: Float[Array, "b s l"]
    positives: Float[Array, "b s l"]
    patches: Float[Array, "b s p p c"]
    reconstructed: Float[Array, "b s p p c"]


class Cuts(nn.Module):
    """Encoder and patch reconstruction together: the model that is pretrained.

    Attributes:
      channels: C of the images, 1 (gray) or 3 (heatmap).
      patch_size: P, pixels.
      num_kernels, operations: as in `CutsEncoder`.
    """

    channels: int
    patch_size: int = KERNEL_SIZE
    num_kernels: int = 16
    operations: Operations = NATIVE

    def setup(self):
        self.encoder = CutsEncoder(
            self.channels, num_kernels=self.num_kernels, operations=self.operations
        )
        self.reconstruction = PatchReconstruction(self.channels, patch_size=self.patch_size)

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        anchors_hw: Int[Array, "b s 2"],
        positives_hw: Int[Array, "b s 2"],
        *,
        train: bool,
    ) -> CutsOutputs:
        positions = jnp.concatenate([anchors_hw, positives_hw], axis=1)
        latents = self.encoder(images, train=train, only_at=positions)
        # The losses are computed in float32, whatever the encoder's compute type.
        wide = jnp.promote_types(latents.dtype, jnp.float32)
        anchors, positives = jnp.split(latents.astype(wide), 2, axis=1)
        return CutsOutputs(
            anchors=anchors,
            positives=positives,
            patches=extract_patches(images, anchors_hw, patch_size=self.patch_size),
            reconstructed=self.reconstruction(anchors),
        )
