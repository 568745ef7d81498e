"""The layers of both models: a convolution, batch norm with its activation, and logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thermo_jax.models.convolution import same_padding
from thermo_jax.models.initializers import bias_init, kernel_init
from thermo_jax.models.normalization import Moments, activate, moments
from thermo_jax.models.operations import NATIVE, Operations

DECAY = 0.9


class Convolution(nn.Module):
    """A convolution that keeps the image's size.

    Attributes:
      features: channels of the output.
      size: of the square kernel.
      edges: what lies outside the image: "zero", or "replicate" for its outermost pixels.
      bias: whether there is one. Batch norm, which follows, subtracts any constant in training,
        so that its true gradient is zero (`Operations.bias_gradient`).
      dtype: compute type; parameters stay float32.
      operations: how it is computed.
    """

    features: int
    size: int
    edges: str = "zero"
    bias: bool = False
    dtype: jnp.dtype | None = None
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if self.edges == "replicate":
            y = self.operations.convolve_edges(x, kernel)
        else:
            y = self.operations.convolve(x, kernel, same_padding(kernel))
        if self.bias:
            fan_in = self.size**2 * x.shape[-1]
            bias = self.param("bias", bias_init(fan_in=fan_in), (self.features,), jnp.float32)
            if not self.operations.bias_gradient:
                bias = jax.lax.stop_gradient(bias)
            y += bias.astype(y.dtype)
        return y


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last one (eps 1e-5), then leaky ReLU.

    The running statistics (decay 0.9) store the unbiased variance, as the published models do:
    Flax's own layer stores the biased one, and with a handful of images the difference is visible.

    Attributes:
      slope: of the leaky ReLU; 0 is ReLU, 1 none.
      axis_name: mapped axis that shares the batch, None outside `pmap`/`shard_map`.
      operations: how it is computed.
    """

    slope: float
    axis_name: str | None = None
    operations: Operations = NATIVE

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch c"],
        *,
        train: bool,
        only: Float[Array, "*some c"] | None = None,
    ) -> Float[Array, "*normalized c"]:
        """Normalises x; or, by the statistics of x, `only` those of its vectors."""
        features = x.shape[-1]
        # Statistics and affine in float32 at least, whatever the compute type.
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (features,), dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,), dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), dtype)
        var = self.variable("batch_stats", "var", jnp.ones, (features,), dtype)
        affine = {"scale": scale, "bias": bias, "slope": self.slope}
        chosen = x if only is None else only
        if not train or self.is_initializing():
            return activate(chosen, Moments(mean.value, var.value), **affine)
        if only is None:
            normalize = self.operations.normalize
            y, batch = normalize(x, scale, bias, mean.value, self.slope, self.axis_name)
        else:
            batch = moments(x, shift=mean.value, axis_name=self.axis_name)
            y = activate(only, batch, **affine)
        devices = jax.lax.axis_size(self.axis_name) if self.axis_name else 1
        count = devices * x.size // features
        unbiased = batch.var * (count / max(count - 1, 1))
        mean.value = DECAY * mean.value + (1 - DECAY) * batch.mean
        var.value = DECAY * var.value + (1 - DECAY) * unbiased
        return y


class Logits(nn.Module):
    """A linear layer of each pixel: x `[B,H,W,C]` -> logits `[B,H,W,K]`, in float32 at least.

    In bfloat16 classes would tie, and ties go to the lower class. So x and the kernel, which is
    rounded to x's type, are multiplied with sums in float32.

    Attributes:
      features: K.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w k"]:
        channels = x.shape[-1]
        kernel = self.param("kernel", kernel_init, (1, 1, channels, self.features), jnp.float32)
        bias = self.param("bias", bias_init(fan_in=channels), (self.features,), jnp.float32)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        kernel = kernel[0, 0].astype(x.dtype)
        return jnp.matmul(x, kernel, preferred_element_type=wide) + bias.astype(wide)
