"""A U-Net whose two deepest stages are transformers (SPEC section 12).

After TransUNet (Chen et al. 2021): convolutions for the fine scales, transformer layers for the
coarse ones, and a decoder of convolutions with skips. Different: no pretrained weights, and sizes
for which it is comparable with our U-Net. Everything but the two stages is as in `models/unet.py`:
the stages at 1/8 and 1/16 of the image's size have one transformer layer each, in place of two
convolutions. For width 16, gray pixels and 8 outputs it has 987,960 parameters at 60x80 pixels (at
480x640, 1,011,640), where `UNet` has 1,080,760.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from thermo_jax.models.decoders import Decoder
from thermo_jax.models.layers import Logits
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.unet import DoubleConv, check_size, concatenate_skip
from thermo_jax.rivals.transformer_layers import TransformerLayer, position_init

_HEADS = 4


class TransformerUNet(Decoder):
    """Pixels of V views `[B,V,H,W,L]` -> logits `[B,H,W,K]`, any size of at least 16x16.

    The learned positions belong to the image size for which the parameters were made.

    Attributes:
      width, operations: those of `UNet`.
      num_classes: K.
    """

    num_classes: int = 8

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b v h w l"], *, train: bool
    ) -> Float[Array, "b h w k"]:
        check_size(*latents.shape[2:4])
        ops, width = self.operations, self.width
        conv = partial(DoubleConv, operations=ops)
        x = conv(width, width, name="in")(latents.reshape(-1, *latents.shape[2:]), train=train)
        skips = [x]
        for level, features in enumerate((2 * width, 4 * width), start=1):
            x = conv(features, features, name=f"down{level}")(ops.max_pool(x), train=train)
            skips.append(x)
        x = TransformerStage(8 * width, ops, name="down3")(ops.max_pool(x))
        skips.append(x)
        x = TransformerStage(8 * width, ops, name="down4")(ops.max_pool(x))
        for level, features in enumerate((4 * width, 2 * width, width, width), start=1):
            x = concatenate_skip(skips.pop(), ops.upsample(x))
            x = conv(x.shape[-1] // 2, features, name=f"up{level}")(x, train=train)
        logits = Logits(self.num_classes, name="out")(x)
        return logits.reshape(*latents.shape[:2], *logits.shape[1:]).mean(1)


class TransformerStage(nn.Module):
    """A linear layer, learned positions (a sum for rows and columns), and a transformer layer.

    Attributes:
      features: channels of the output.
      operations: only its `dtype` is used.
    """

    features: int
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        x = nn.Dense(self.features, dtype=self.operations.dtype, name="features")(x)
        _, height, width, channels = x.shape
        rows = self.param("rows", position_init, (height, 1, channels), jnp.float32)
        columns = self.param("columns", position_init, (1, width, channels), jnp.float32)
        x += (rows + columns).astype(x.dtype)
        tokens = x.reshape(x.shape[0], height * width, channels)
        tokens = TransformerLayer(_HEADS, self.operations, name="layer")(tokens)
        return nn.LayerNorm(dtype=self.operations.dtype, name="norm")(tokens).reshape(x.shape)
