"""A convolution for the CPU, in place of XLA's own.

On the CPU (JAX 0.10) a padded convolution is fast, an unpadded one three times slower for the same
work, and the weight gradient slower still: on 2 cores, 5x5, 64 -> 128 channels, 4 heatmaps, 190
GFLOP/s padded, 55 unpadded, 21 for the weight gradient (launch/BENCHMARKS.md).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]  # before and after: rows, columns
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_FEW_CHANNELS = 8
_STRIP_PIXELS = 19_200  # a heatmap; strips of a gray image are twice as fast as all of it at once


def same_padding(kernel: Float[Array, "kh kw c d"]) -> Padding:
    """The padding under which a kernel of odd size keeps an image's size."""
    rows, columns = kernel.shape[:2]
    return (rows // 2, rows // 2), (columns // 2, columns // 2)


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], padding: Padding
) -> Float[Array, "b h2 w2 d"]:
    """XLA's own convolution, padded with zeros."""
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_on_cpu(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], padding: Padding
) -> Float[Array, "b h2 w2 d"]:
    """The same as `convolve`, made of what is fast on a CPU."""
    if kernel.shape[:2] == (1, 1) and not any(map(any, padding)):
        return x @ kernel[0, 0]
    # Unpadded convolutions take XLA's slow way: one more row and column, to be cut off again, puts
    # them on the fast one. With few channels that does not pay.
    if any(map(any, padding)) or x.shape[-1] < _FEW_CHANNELS:
        return convolve(x, kernel, padding)
    return convolve(x, kernel, ((0, 1), (0, 1)))[:, :-1, :-1]


def _forward(x: Array, kernel: Array, padding):
    return convolve_on_cpu(x, kernel, padding), (x, kernel)


def _backward(padding, residuals, gradient: Array):
    x, kernel = residuals
    opposite = tuple(
        (size - 1 - low, size - 1 - high)
        for size, (low, high) in zip(kernel.shape, padding, strict=False)
    )
    dx = convolve_on_cpu(gradient, kernel[::-1, ::-1].swapaxes(2, 3), opposite)
    return dx, _kernel_gradient(x, gradient, kernel.shape, padding)


def _kernel_gradient(x: Array, gradient: Array, shape: tuple[int, ...], padding) -> Array:
    """As matrix products, a strip of an image at a time, so that its copies stay in the caches.

    Strips are added up in float32 at least: in bfloat16 a sum of many stops growing.
    """
    rows, columns, inputs, outputs = shape
    height, width = gradient.shape[1:3]
    sum_type = jnp.promote_types(x.dtype, jnp.float32)
    fitting = max(_STRIP_PIXELS // width, 1)
    strip = max(lines for lines in range(1, height + 1) if height % lines == 0 and lines <= fitting)

    def add_image(total, image_and_gradient):
        image, gradient = image_and_gradient
        image = jnp.pad(image, (*padding, (0, 0)))

        def add_strip(total, first):
            seen = lax.dynamic_slice_in_dim(image, first, strip + rows - 1)
            own = lax.dynamic_slice_in_dim(gradient, first, strip)
            part = _strip_gradient(seen, own, rows=rows, columns=columns, sum_type=sum_type)
            return total + part, None

        return lax.scan(add_strip, total, jnp.arange(0, height, strip))[0], None

    start = jnp.zeros((rows * inputs, columns * outputs), sum_type)
    total = lax.scan(add_image, start, (x, gradient))[0].astype(x.dtype)
    return total.reshape(rows, inputs, columns, outputs).swapaxes(1, 2)


def _strip_gradient(
    x: Array, gradient: Array, *, rows: int, columns: int, sum_type: jnp.dtype
) -> Array:
    """The kernel's gradient from lines of one image, `[rows * inputs, columns * outputs]`.

    The gradient, shifted by each of the kernel's columns, is one matrix; whole lines of x, for each
    of its rows, are the others, without a copy. If x has the fewer channels, one product of all
    rows together is so much faster that copying them pays.
    """
    (height, _, outputs), inputs, margin = gradient.shape, x.shape[-1], columns - 1
    padded = jnp.pad(gradient, ((0, 0), (margin, margin), (0, 0)))
    shifted = [padded[:, start : start + x.shape[1]] for start in range(margin, -1, -1)]
    matrix = jnp.concatenate(shifted, axis=-1).reshape(-1, columns * outputs)
    product = partial(jnp.matmul, preferred_element_type=sum_type)
    lines = [x[row : row + height].reshape(-1, inputs) for row in range(rows)]
    if inputs < outputs:
        return product(jnp.concatenate(lines, axis=-1).T, matrix)
    return jnp.concatenate([product(line.T, matrix) for line in lines])


convolve_on_cpu.defvjp(_forward, _backward)
