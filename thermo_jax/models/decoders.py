"""The two decoders on frozen latents (SPEC section 2).

A decoder reads "views": the latents of one image, or of the three colour channels of a heatmap, if
a gray encoder read them as three gray images. The logits of the views are averaged.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from thermo_jax.models.layers import bias_init, kernel_init
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.unet import UNet

HEADS = ("linear", "pooled")


def soft_labels(
    label_maps: UInt8[Array, "b h0 w0"], *, height: int, num_classes: int, dtype=jnp.float32
) -> Float[Array, "b h w k"]:
    """Returns block means of the one-hot map: the training target at the images' resolution."""
    batch, full_height, full_width = label_maps.shape
    factor = full_height // height
    blocks = label_maps.reshape(batch, height, factor, full_width // factor, factor)
    # The pixels of a block are added up one by one, so that the one-hot map of full size (32 bytes
    # for each pixel) is never written.
    pixels = [blocks[:, :, row, :, column] for row in range(factor) for column in range(factor)]
    counts = sum((pixel[..., None] == jnp.arange(num_classes)).astype(dtype) for pixel in pixels)
    return counts / factor**2


class Decoder(nn.Module):
    """What all decoders have in common; `rivals/networks.py` has some without a U-Net.

    Attributes:
      width: channels of the first stage, see `UNet`.
      operations: how layers compute.
    """

    width: int = 64
    operations: Operations = NATIVE


class _UNetDecoder(Decoder):
    """What both decoders below have in common: one U-Net, which reads each view."""

    def _run_unet(
        self, latents: Float[Array, "b v h w l"], num_outputs: int, *, train: bool
    ) -> Float[Array, "n h w k"]:
        """Returns the U-Net's outputs for all views of the batch, n = b * v."""
        unet = UNet(num_outputs, width=self.width, operations=self.operations, name="unet")
        return unet(latents.reshape(-1, *latents.shape[2:]), train=train)


class Segmenter(_UNetDecoder):
    """Latents of V views `[B,V,H,W,L]` -> logits `[B,H,W,K]`."""

    num_classes: int = 8

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b v h w l"], *, train: bool
    ) -> Float[Array, "b h w k"]:
        logits = self._run_unet(latents, self.num_classes, train=train)
        return logits.reshape(*latents.shape[:2], *logits.shape[1:]).mean(1)


class Classifier(_UNetDecoder):
    """Latents of V views `[B,V,H,W,L]` -> (logits `[B]`, evidence `[B,H,W]`).

    The U-Net has one output channel u, and the head is linear in it: `evidence = u*w`. The sum of
    the evidence of all pixels, plus the bias, is exactly the logit.

    Attributes:
      head: "linear" has a weight for each pixel. "pooled" has one weight for the mean of u, so that
        it can read images of any size.
    """

    head: str = "linear"

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b v h w l"], *, train: bool
    ) -> tuple[Float[Array, " b"], Float[Array, "b h w"]]:
        channel = self._run_unet(latents, 1, train=train).reshape(latents.shape[:4])
        weights, bias = self._head_parameters(*latents.shape[2:4], dtype=channel.dtype)
        evidence = (channel * weights).mean(1)
        return evidence.sum((1, 2)) + bias, evidence

    def _head_parameters(self, height: int, width: int, *, dtype):
        pixels = height * width
        if self.head == "pooled":
            weight = self.param("head_weight", nn.initializers.ones, (), dtype)
            bias = self.param("head_bias", nn.initializers.zeros, (), dtype)
            return weight / pixels, bias
        kernel = self.param("head_weight", kernel_init, (pixels, 1), dtype)
        bias = self.param("head_bias", bias_init(fan_in=pixels), (), dtype)
        return kernel.reshape(height, width), bias
