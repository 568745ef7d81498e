"""The U-Net decoder (Ronneberger et al. 2015) on the encoder's latents (SPEC section 2)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thermo_jax.errors import UserError
from thermo_jax.models.initializers import bias_init, kernel_init
from thermo_jax.models.normalization import BatchNorm


class DoubleConv(nn.Module):
    """A stage: twice (3x3 convolution without bias, batch norm, ReLU)."""

    hidden: int
    features: int
    axis_name: str | None = None
    dtype: jnp.dtype | None = None
    conv_general_dilated: Callable | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        for index, features in enumerate((self.hidden, self.features), start=1):
            x = nn.Conv(
                features,
                (3, 3),
                padding=1,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=kernel_init,
                conv_general_dilated=self.conv_general_dilated,
                name=f"conv{index}",
            )(x)
            x = BatchNorm(axis_name=self.axis_name, name=f"batch_norm{index}")(x, train=train)
            x = nn.relu(x)
        return x


class UNet(nn.Module):
    """Latents `[B,H,W,L]` -> logits `[B,H,W,num_outputs]`, any size of at least 16x16.

    Attributes:
      num_outputs: channels of the result (8 for segmentation, 1 for classification).
      width: channels of the first stage; 64 gives 17,335,432 parameters for 8 outputs.
      axis_name, dtype, conv_general_dilated: as in `CutsEncoder`.
    """

    num_outputs: int
    width: int = 64
    axis_name: str | None = None
    dtype: jnp.dtype | None = None
    conv_general_dilated: Callable | None = None

    @nn.compact
    def __call__(self, latents: Float[Array, "b h w l"], *, train: bool) -> Float[Array, "b h w k"]:
        if min(latents.shape[1:3]) < 16:
            raise UserError(
                f"The U-Net halves its input four times: {latents.shape[1]}x{latents.shape[2]} "
                "pixels are too few, 16x16 is the least."
            )

        def stage(x, hidden, features, name):
            return DoubleConv(
                hidden,
                features,
                axis_name=self.axis_name,
                dtype=self.dtype,
                conv_general_dilated=self.conv_general_dilated,
                name=name,
            )(x, train=train)

        width = self.width
        x = stage(latents, width, width, "in")
        skips = []
        for level, features in enumerate((2 * width, 4 * width, 8 * width, 8 * width), start=1):
            skips.append(x)
            x = max_pool(x)
            x = stage(x, features, features, f"down{level}")
        for level, features in enumerate((4 * width, 2 * width, width, width), start=1):
            x = concatenate_skip(skips.pop(), upsample_aligned(x))
            x = stage(x, x.shape[-1] // 2, features, f"up{level}")
        # Logits in float32: in bfloat16 classes would tie, and ties go to the lower class.
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return nn.Conv(
            self.num_outputs,
            (1, 1),
            kernel_init=kernel_init,
            bias_init=bias_init(fan_in=x.shape[-1]),
            conv_general_dilated=self.conv_general_dilated,
            name="out",
        )(x)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2x2 max pooling; the last row or column of an odd size is left out.

    By element-wise maxima: the gradient of `nn.max_pool` took ten times as long on the CPU. Where
    values are equal the gradient is shared; after a ReLU those are zeros, whose gradient is zero.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def upsample_aligned(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Doubles height and width by bilinear interpolation with aligned corners.

    `jax.image.resize` aligns pixel edges, not corners; two small matrix products do it exactly.
    """
    precision = jax.lax.Precision.HIGHEST
    rows = jnp.asarray(_aligned_weights(x.shape[1]), x.dtype)
    columns = jnp.asarray(_aligned_weights(x.shape[2]), x.dtype)
    x = jnp.einsum("ph,bhwc->bpwc", rows, x, precision=precision)
    return jnp.einsum("qw,bpwc->bpqc", columns, x, precision=precision)


def _aligned_weights(size: int) -> np.ndarray:
    """Interpolation matrix [2*size, size]: output i reads input i * (size-1) / (2*size-1)."""
    source = np.arange(2 * size) * (size - 1) / (2 * size - 1)
    low = np.minimum(np.floor(source).astype(int), max(size - 2, 0))
    fraction = source - low
    weights = np.zeros((2 * size, size))
    outputs = np.arange(2 * size)
    weights[outputs, low] += 1 - fraction
    weights[outputs, np.minimum(low + 1, size - 1)] += fraction
    return weights


def concatenate_skip(
    skip: Float[Array, "b h w c"], up: Float[Array, "b h2 w2 d"]
) -> Float[Array, "b h w e"]:
    """[skip, up] on the channel axis; `up` zero-padded to the skip's size, floor half left, top."""
    rows, columns = skip.shape[1] - up.shape[1], skip.shape[2] - up.shape[2]
    padding = (
        (0, 0),
        (rows // 2, rows - rows // 2),
        (columns // 2, columns - columns // 2),
        (0, 0),
    )
    return jnp.concatenate([skip, jnp.pad(up, padding)], axis=-1)
