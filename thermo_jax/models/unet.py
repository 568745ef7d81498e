"""The U-Net decoder (Ronneberger et al. 2015) on the encoder's latents (SPEC section 2)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from thermo_jax.errors import UserError
from thermo_jax.models.layers import BatchNorm, Convolution, Logits
from thermo_jax.models.operations import NATIVE, Operations


class DoubleConv(nn.Module):
    """A stage of the U-Net: 3x3 convolution without bias, batch norm, ReLU; twice."""

    hidden: int
    features: int
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        conv = partial(Convolution, size=3, operations=self.operations)
        norm = partial(BatchNorm, slope=0.0, operations=self.operations)
        for index, features in enumerate((self.hidden, self.features), start=1):
            x = conv(features, name=f"conv{index}")(x)
            x = norm(name=f"batch_norm{index}")(x, train=train)
        return x


class UNet(nn.Module):
    """Latents `[B,H,W,L]` -> logits `[B,H,W,num_outputs]`, any size of at least 16x16.

    Attributes:
      num_outputs: channels of the result (8 for segmentation, 1 for classification).
      width: channels of the first stage; 64 gives 17,335,432 parameters for 8 outputs.
      operations: how layers compute.
    """

    num_outputs: int
    width: int = 64
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, latents: Float[Array, "b h w l"], *, train: bool) -> Float[Array, "b h w k"]:
        check_size(*latents.shape[1:3])
        ops, width = self.operations, self.width
        stage = partial(DoubleConv, operations=ops)
        x = stage(width, width, name="in")(latents, train=train)
        skips = []
        for level, features in enumerate((2 * width, 4 * width, 8 * width, 8 * width), start=1):
            skips.append(x)
            x = stage(features, features, name=f"down{level}")(ops.max_pool(x), train=train)
        for level, features in enumerate((4 * width, 2 * width, width, width), start=1):
            x = concatenate_skip(skips.pop(), ops.upsample(x))
            x = stage(x.shape[-1] // 2, features, name=f"up{level}")(x, train=train)
        return Logits(self.num_outputs, name="out")(x)


def check_size(height: int, width: int) -> None:
    """Raises UserError if an image is too small for a U-Net."""
    if min(height, width) < 16:
        raise UserError(
            f"The U-Net halves its input four times: {height}x{width} pixels are too few, 16x16 is "
            "the least."
        )


def concatenate_skip(
    skip: Float[Array, "b h w c"], up: Float[Array, "b h2 w2 d"]
) -> Float[Array, "b h w e"]:
    """Joins the channels of both, after padding `up` with zeros to the skip's size.

    If the padding is odd, the smaller half is at the top or on the left.
    """
    missing = [large - small for large, small in zip(skip.shape[1:3], up.shape[1:3], strict=True)]
    rows, columns = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
    return jnp.concatenate([skip, jnp.pad(up, ((0, 0), rows, columns, (0, 0)))], axis=-1)
