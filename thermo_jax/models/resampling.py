"""Max pooling, up-sampling and resizing: one form for CPUs and TPUs, one for GPUs.

A GPU spends most time on writing arrays. So the form for GPUs interpolates by gathering pixels,
which XLA fuses into the passes before and after. The other form multiplies by a small matrix.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns 2x2 maxima; the last row or column of an odd size is ignored.

    It compares arrays element by element, because the gradient of `nn.max_pool` took ten times as
    long on the CPU. Equal values share the gradient.
    """
    return _largest(_windows(x))


def max_pool_by_index(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns the same as `max_pool`, and stores for the gradient which pixel was the largest.

    Of equal values the first gets the whole gradient, as in cuDNN and PyTorch.
    """
    return _largest_by_index(_windows(x))


def _windows(x: Array) -> Array:
    """[B,H,W,C] -> [B,H/2,2,W/2,2,C]."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _largest(windows: Array) -> Array:
    rows = jnp.maximum(windows[:, :, 0], windows[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


_largest_by_index = jax.custom_vjp(_largest)


def _pool_forward(windows: Array):
    y = _largest(windows)
    index = jnp.full(y.shape, 3, jnp.uint8)
    for number in (2, 1, 0):  # the numbers of a window's pixels
        is_largest = windows[:, :, number // 2, :, number % 2] == y
        index = jnp.where(is_largest, number, index).astype(jnp.uint8)
    return y, index


def _pool_backward(index: Array, gradient: Array):
    numbers = jnp.arange(4, dtype=jnp.uint8).reshape(2, 1, 2, 1)
    return (jnp.where(index[:, :, None, :, None] == numbers, gradient[:, :, None, :, None], 0),)


_largest_by_index.defvjp(_pool_forward, _pool_backward)


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Doubles height and width by bilinear interpolation with aligned corners.

    `jax.image.resize` aligns pixel edges, not corners. So this function multiplies by two matrices.
    """
    precision = jax.lax.Precision.HIGHEST
    rows = jnp.asarray(_aligned_weights(x.shape[1]), x.dtype)
    columns = jnp.asarray(_aligned_weights(x.shape[2]), x.dtype)
    x = jnp.einsum("ph,bhwc->bpwc", rows, x, precision=precision)
    return jnp.einsum("qw,bpwc->bpqc", columns, x, precision=precision)


def _aligned_weights(size: int) -> np.ndarray:
    """Interpolation matrix [2*size, size]: output i reads input i * (size-1) / (2*size-1)."""
    return _between(np.arange(2 * size) * (size - 1) / (2 * size - 1), size)


@jax.custom_vjp
def upsample_by_gathers(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns the same as `upsample`, by gathering the two inputs around each output."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis in (1, 2):
        wide = _combine(wide, _aligned_weights(x.shape[axis]), axis=axis)
    return wide.astype(x.dtype)


def _upsample_backward(_, gradient: Array):
    wide = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
    for axis in (1, 2):
        wide = _combine(wide, _aligned_weights(gradient.shape[axis] // 2).T, axis=axis)
    return (wide.astype(gradient.dtype),)


upsample_by_gathers.defvjp(lambda x: (upsample_by_gathers(x), None), _upsample_backward)


def resize(x: Float[Array, "b h w c"], *, height: int, width: int) -> Float[Array, "b h2 w2 c"]:
    """Bilinear interpolation of logits to the thermogram's own size; pixel edges are aligned."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "bilinear")


def resize_by_gathers(
    x: Float[Array, "b h w c"], *, height: int, width: int
) -> Float[Array, "b h2 w2 c"]:
    """Returns the same as `resize`, for an output that is not smaller than x.

    XLA fuses it into the operation that reads its result, so the full-size array is never stored.
    """
    for axis, size in ((1, height), (2, width)):
        x = _combine(x, _resizing_weights(x.shape[axis], size), axis=axis)
    return x


def _resizing_weights(size: int, larger: int) -> np.ndarray:
    """Interpolation matrix [larger, size]: output i reads input (i + .5) * size / larger - .5."""
    source = np.clip((np.arange(larger) + 0.5) * size / larger - 0.5, 0, size - 1)
    return _between(source, size)


def _between(source: np.ndarray, size: int) -> np.ndarray:
    """Returns the interpolation matrix [n, size] for n positions from 0 to size - 1."""
    low = np.minimum(np.floor(source).astype(int), max(size - 2, 0))
    fraction = source - low
    weights = np.zeros((len(source), size))
    outputs = np.arange(len(source))
    weights[outputs, low] += 1 - fraction
    weights[outputs, np.minimum(low + 1, size - 1)] += fraction
    return weights


def _combine(x: Array, weights: np.ndarray, *, axis: int) -> Array:
    """Multiplies an axis of x by a sparse matrix: one gather for each non-zero number of a row."""
    terms = int((weights != 0).sum(1).max())
    # For each row, the columns of its non-zero numbers. If a row has fewer than `terms` of them,
    # columns where it is zero fill the rest.
    columns = np.argsort(weights == 0, axis=1, kind="stable")[:, :terms]
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    return sum(
        jnp.take(x, column, axis=axis, mode="clip")
        * jnp.asarray(np.take_along_axis(weights, column[:, None], 1).reshape(shape), x.dtype)
        for column in columns.T
    )
