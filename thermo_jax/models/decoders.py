"""The two decoders on frozen latents (SPEC section 2).

A decoder sees `views`: the latents of one image, or of the three colour channels of a heatmap that
a gray encoder read as three gray images. Their logits are averaged.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from thermo_jax.models.initializers import bias_init, kernel_init
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.unet import UNet

HEADS = ("linear", "pooled")


def soft_labels(
    label_maps: UInt8[Array, "b h0 w0"], *, height: int, num_classes: int, dtype=jnp.float32
) -> Float[Array, "b h w k"]:
    """Block means of the one-hot map: the training target at the images' resolution."""
    batch, full_height, full_width = label_maps.shape
    factor = full_height // height
    blocks = label_maps.reshape(batch, height, factor, full_width // factor, factor)
    # Pixel by pixel of a block: the one-hot map of full size, 32 bytes a pixel, is never written.
    pixels = [blocks[:, :, row, :, column] for row in range(factor) for column in range(factor)]
    counts = sum((pixel[..., None] == jnp.arange(num_classes)).astype(dtype) for pixel in pixels)
    return counts / factor**2


class Segmenter(nn.Module):
    """Latents of V views `[B,V,H,W,L]` -> logits `[B,H,W,K]`."""

    num_classes: int = 8
    width: int = 64
    axis_name: str | None = None
    dtype: jnp.dtype | None = None
    operations: Operations = NATIVE

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b v h w l"], *, train: bool
    ) -> Float[Array, "b h w k"]:
        batch, views = latents.shape[:2]
        logits = UNet(
            self.num_classes,
            width=self.width,
            axis_name=self.axis_name,
            dtype=self.dtype,
            operations=self.operations,
            name="unet",
        )(latents.reshape(-1, *latents.shape[2:]), train=train)
        return logits.reshape(batch, views, *logits.shape[1:]).mean(1)


class Classifier(nn.Module):
    """Latents of V views `[B,V,H,W,L]` -> (logits `[B]`, evidence `[B,H,W]`).

    The head is linear over the U-Net's one channel u, so `evidence = u*w` adds up exactly to the
    logit less its bias. `head="pooled"` averages u over pixels instead, for images of any size.
    """

    head: str = "linear"
    width: int = 64
    axis_name: str | None = None
    dtype: jnp.dtype | None = None
    operations: Operations = NATIVE

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b v h w l"], *, train: bool
    ) -> tuple[Float[Array, " b"], Float[Array, "b h w"]]:
        batch, views, height, width = latents.shape[:4]
        channel = UNet(
            1,
            width=self.width,
            axis_name=self.axis_name,
            dtype=self.dtype,
            operations=self.operations,
            name="unet",
        )(latents.reshape(-1, *latents.shape[2:]), train=train)
        channel = channel.reshape(batch, views, height, width)
        weights, bias = self._head_parameters(height, width, dtype=channel.dtype)
        evidence = (channel * weights).mean(1)
        return evidence.sum((1, 2)) + bias, evidence

    def _head_parameters(self, height: int, width: int, *, dtype):
        pixels = height * width
        if self.head == "pooled":
            weight = self.param("head_weight", nn.initializers.ones, (), dtype)
            bias = self.param("head_bias", nn.initializers.zeros, (), dtype)
            return weight / pixels, bias
        if self.head not in HEADS:
            raise ValueError(f"Unknown classifier head {self.head!r}: choose 'linear' or 'pooled'.")
        kernel = self.param("head_weight", kernel_init, (pixels, 1), dtype)
        bias = self.param("head_bias", bias_init(fan_in=pixels), (), dtype)
        return kernel.reshape(height, width), bias
