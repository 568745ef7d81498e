"""The layers of both models: a convolution, batch norm with its activation, and logits.

The initial weights and biases are those of the published models: uniform in +-1/sqrt(fan_in).
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thermo_jax.models.convolution import same_padding
from thermo_jax.models.normalization import Moments, activate, moments
from thermo_jax.models.operations import NATIVE, Operations

DECAY = 0.9

kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_init(*, fan_in: int) -> nn.initializers.Initializer:
    """Returns the initializer of a bias; the layer's fan-in cannot be read from its shape."""
    bound = 1 / math.sqrt(fan_in)
    return partial(jax.random.uniform, minval=-bound, maxval=bound)


class Convolution(nn.Module):
    """A convolution that keeps the image's size.

    Attributes:
      features: channels of the output.
      size: rows and columns of the square kernel.
      edges: values outside the image: "zero", or "replicate" to repeat its outermost pixels.
      bias: whether the layer adds a bias. In training, the batch norm that follows subtracts it
        again, so that its true gradient is zero (`Operations.bias_gradient`).
      operations: the platform's functions.
    """

    features: int
    size: int
    edges: str = "zero"
    bias: bool = False
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.operations.dtype)
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

    The running statistics (decay 0.9) store the unbiased variance, as the published models do.
    Flax's own layer stores the biased one, which differs visibly if a batch has few images.

    Attributes:
      slope: the leaky ReLU's slope below 0; 0 makes it a ReLU, 1 makes it the identity.
      operations: the platform's functions.
    """

    slope: float
    operations: Operations = NATIVE

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch c"],
        *,
        train: bool,
        only: Float[Array, "*some c"] | None = None,
    ) -> Float[Array, "*normalized c"]:
        """Normalises x, or only the vectors `only` of x; the statistics are always those of x."""
        features = x.shape[-1]
        # Statistics, scale and bias are float32 at least, whatever the compute type.
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (features,), dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,), dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), dtype)
        var = self.variable("batch_stats", "var", jnp.ones, (features,), dtype)
        affine = {"scale": scale, "bias": bias, "slope": self.slope}
        chosen = x if only is None else only
        axis_name = self.operations.axis_name
        if not train or self.is_initializing():
            return activate(chosen, Moments(mean.value, var.value), **affine)
        if only is None:
            normalize = self.operations.normalize
            y, batch = normalize(x, scale, bias, mean.value, self.slope, axis_name)
        else:
            batch = moments(x, shift=mean.value, axis_name=axis_name)
            y = activate(only, batch, **affine)
        devices = jax.lax.axis_size(axis_name) if axis_name else 1
        count = devices * x.size // features
        unbiased = batch.var * (count / max(count - 1, 1))
        mean.value = DECAY * mean.value + (1 - DECAY) * batch.mean
        var.value = DECAY * var.value + (1 - DECAY) * unbiased
        return y


class Logits(nn.Module):
    """A linear layer for each pixel: x `[B,H,W,C]` -> logits `[B,H,W,K]`, in float32 at least.

    In bfloat16 many classes would have equal logits, and the first of them would be chosen. So the
    kernel is rounded to x's type, but the products are added up in float32.

    Attributes:
      features: K, the number of classes.
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
