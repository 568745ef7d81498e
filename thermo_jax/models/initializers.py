"""Initial values of the published models: uniform in +-1/sqrt(fan_in), weights and biases alike."""

import math

import jax
from flax.linen import initializers

kernel_init = initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_init(*, fan_in: int) -> initializers.Initializer:
    """Uniform in +-1/sqrt(fan_in); the layer's fan-in is not visible in the bias' own shape."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
