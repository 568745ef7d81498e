"""The convolution of the CPU, made of the operations that XLA computes fast there.

Why it exists. XLA's own convolution (JAX 0.10) wastes most of a CPU. On 2 cores, with a 5x5 kernel,
64 -> 128 channels and 4 heatmaps, it reaches 190 GFLOP/s if the convolution is padded, 55 without
padding, and 21 for the gradient with respect to the kernel (launch/BENCHMARKS.md). The functions
below compute the same as those of `convolution.py`, up to rounding. GPUs and TPUs do not use them,
unless `config.model.conv` asks for it.

What may be changed. Nothing here changes a result, apart from rounding. If XLA becomes fast enough,
delete this file and let `operations.py` choose `NATIVE` on the CPU; configs/benchmark.py measures
the difference. `_FEW_CHANNELS` and `_STRIP_PIXELS` were measured and may be tuned. The sums must
stay in float32 (`sum_type`): a long sum in bfloat16 stops growing, because added values are
rounded away.

What catches a mistake. tests/test_convolution.py compares outputs and both gradients with those of
XLA's convolution in float64, for asymmetric paddings, several strips and few or many channels, and
adds up 512 strips in bfloat16. tests/test_golden.py compares whole training steps with PyTorch.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from thermo_jax.models.convolution import Padding, convolve, outside_lines, same_padding

_FEW_CHANNELS = 8
_STRIP_PIXELS = 19_200  # a whole heatmap; a gray image is computed twice as fast in strips


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_on_cpu(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], padding: Padding
) -> Float[Array, "b h2 w2 d"]:
    """Returns the same as `convolve`, computed by operations that are fast on a CPU."""
    if kernel.shape[:2] == (1, 1) and not any(map(any, padding)):
        return x @ kernel[0, 0]
    # XLA computes unpadded convolutions slowly. So x is padded by one row and one column, and the
    # output's last row and column are removed. For few channels, this costs more than it saves.
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
    """Returns the kernel's gradient, computed by matrix products.

    Each product reads a strip of one image, so that the copies of the strip stay in the caches.
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
            inputs_strip = lax.dynamic_slice_in_dim(image, first, strip + rows - 1)
            gradient_strip = lax.dynamic_slice_in_dim(gradient, first, strip)
            part = _strip_gradient(
                inputs_strip, gradient_strip, rows=rows, columns=columns, sum_type=sum_type
            )
            return total + part, None

        return lax.scan(add_strip, total, jnp.arange(0, height, strip))[0], None

    start = jnp.zeros((rows * inputs, columns * outputs), sum_type)
    total = lax.scan(add_image, start, (x, gradient))[0].astype(x.dtype)
    return total.reshape(rows, inputs, columns, outputs).swapaxes(1, 2)


def _strip_gradient(
    x: Array, gradient: Array, *, rows: int, columns: int, sum_type: jnp.dtype
) -> Array:
    """Returns the kernel's gradient from a strip of an image, `[rows * inputs, columns * outputs]`.

    The right matrix contains the output's gradient, shifted by each of the kernel's columns. For
    each row of the kernel, the left matrix is a range of whole lines of x, which needs no copy. If
    x has fewer channels than the output, it is faster to copy the lines for all rows of the kernel
    into one matrix.
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


def convolve_edges_on_cpu(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h w d"]:
    """Returns the same as `convolve_edges_apart`, but adds to the outermost lines in place.

    XLA's CPU compiler would write an array of full size for each of the four sums.
    """
    y = convolve_on_cpu(x, kernel, same_padding(kernel))
    for values, axis, before in outside_lines(x, kernel):
        size = min(y.shape[axis], values.shape[axis])
        outermost = (slice(None),) * axis + (slice(None, size) if before else slice(-size, None),)
        y = y.at[outermost].add(values[outermost])
    return y
