"""Convolutions for the CPU, injected into Flax through `conv_general_dilated`.

On GPU and TPU XLA's own convolution is the one to use. On the CPU (JAX 0.10) a padded one is fast,
an unpadded one three times slower for the same work, and the weight gradient slower still: on 2
cores, 5x5, 64 -> 128 channels, 4 heatmaps, 190 GFLOP/s padded, 55 unpadded, 21 for the weight
gradient (launch/BENCHMARKS.md).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from thermo_jax.errors import UserError

NAMES = ("auto", "native", "cpu")
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_FEW_CHANNELS = 8
_STRIP_PIXELS = 19_200  # a heatmap; strips of a gray image are twice as fast as all of it at once


def choose_convolution(name: str, *, platform: str) -> Callable | None:
    """What to give Flax as `conv_general_dilated`; None is XLA's own.

    Args:
      name: "auto" (by platform), "native" (XLA's own) or "cpu" (`convolve_on_cpu`).
      platform: "cpu", "gpu" or "tpu".
    Raises:
      UserError: an unknown name.
    """
    if name not in NAMES:
        raise UserError(f"config.model.conv={name!r} is unknown: choose one of {', '.join(NAMES)}")
    if name == "cpu" or (name == "auto" and platform == "cpu"):
        return convolve_on_cpu
    return None


def convolve_on_cpu(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "kh kw c d"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "b h2 w2 d"]:
    """`lax.conv_general_dilated` for stride 1, no dilation, one group, NHWC.

    Raises:
      ValueError: another stride, dilation or grouping.
    """
    steps = (window_strides, lhs_dilation or (1,), rhs_dilation or (1,))
    if any(step != 1 for each in steps for step in each) or feature_group_count != 1:
        raise ValueError("convolve_on_cpu does stride 1, no dilation and one group only")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], (1, 1), padding)
    return _convolve(lhs, rhs, tuple((int(low), int(high)) for low, high in padding))


def replicate_edges(conv: Callable | None) -> Callable:
    """`conv` (None: `jax.lax`'s own) with the nearest pixel's values instead of padding by zeros.

    Padding the array itself costs more memory traffic than the convolution. But what lies outside
    an image is its outermost lines again, so their share of the output, a frame as wide as the
    padding, comes from four one-dimensional convolutions and is added.

    With `convolve_on_cpu` it is added in place; else as arrays of full size, which XLA fuses into
    what reads the sum and never writes (TPU v5e: 8 % fewer bytes a pretraining step). In bfloat16
    the sum is rounded again: 1.6 times one convolution's error, in place 2.2 times in corners.

    The result raises ValueError for another stride than 1, and for a padding that does not keep
    the size under a square kernel.
    """
    add = _add_in_place if conv is convolve_on_cpu else _add_placed
    conv = conv or lax.conv_general_dilated

    def convolve(lhs: Array, rhs: Array, window_strides, padding, **options) -> Array:
        margin = rhs.shape[0] // 2
        steps = (window_strides, options.get("lhs_dilation"), options.get("rhs_dilation"))
        if any(step != 1 for each in steps for step in each or ()):
            raise ValueError("edges are replicated for stride 1 without dilation only")
        if len(set(rhs.shape[:2])) > 1 or tuple(map(tuple, padding)) != ((margin, margin),) * 2:
            raise ValueError(f"padding {padding} does not keep the size under a kernel {rhs.shape}")
        inside = conv(lhs, rhs, window_strides, padding, **options)
        return add(inside, _outside(lhs, rhs, precision=options.get("precision")))

    return convolve


class _Lines(NamedTuple):
    """What is to be added to an array's first or last rows (axis 1) or columns (axis 2)."""

    values: Array
    axis: int
    before: bool  # the first ones


def _outside(x: Array, kernel: Array, *, precision: lax.PrecisionLike) -> Iterator[_Lines]:
    """The output's share of what lies outside the image x; its corners belong to rows."""
    margin = kernel.shape[0] // 2

    def share(line: Array, kernel: Array, *, before: bool, pad: int) -> Array:
        """What a line `[B,N,C]`, repeated outside, gives the outermost lines: `[B,N,margin,D]`."""
        # The outermost output sees `margin` of the kernel's lines outside, the next one fewer.
        sums = [
            kernel[: margin - i].sum(0) if before else kernel[-1 - i :].sum(0)
            for i in range(margin)
        ]
        found = lax.conv_general_dilated(
            line,
            jnp.concatenate(sums, axis=-1),
            window_strides=(1,),
            padding=[(pad, pad)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            precision=precision,
        )
        return found.reshape(*found.shape[:2], margin, -1)

    for before in (True, False):
        edge = 0 if before else -1
        # As jnp.pad(mode="edge") does, but without its empty parts, which jax2onnx gets wrong.
        row = x[:, edge]
        ends = [jnp.repeat(end, margin, axis=1) for end in (row[:, :1], row[:, -1:])]
        row = jnp.concatenate([ends[0], row, ends[1]], axis=1)
        rows = share(row, kernel, before=before, pad=0).swapaxes(1, 2)
        columns = share(x[:, :, edge], kernel.swapaxes(0, 1), before=before, pad=margin)
        yield _Lines(rows, axis=1, before=before)
        yield _Lines(columns, axis=2, before=before)


def _add_placed(y: Array, outside: Iterable[_Lines]) -> Array:
    """Lines in arrays of zeros of y's size; of a smaller y, what is left of them."""
    total = 0.0
    for values, axis, before in outside:
        missing = y.shape[axis] - values.shape[axis]
        pads = [(0, 0, 0)] * y.ndim
        pads[axis] = (0, missing, 0) if before else (missing, 0, 0)
        total += lax.pad(values, jnp.zeros((), values.dtype), pads)
    return y + total


def _add_in_place(y: Array, outside: Iterable[_Lines]) -> Array:
    """The same, touching the outermost lines only."""
    for values, axis, before in outside:
        size = min(y.shape[axis], values.shape[axis])
        outermost = (slice(None),) * axis + (slice(None, size) if before else slice(-size, None),)
        y = y.at[outermost].add(values[outermost])
    return y


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    if kernel.shape[:2] == (1, 1) and not any(map(any, padding)):
        return x @ kernel[0, 0]
    # Unpadded convolutions take XLA's slow way: one more row and column, to be cut off again, puts
    # them on the fast one. With few channels that does not pay.
    if any(map(any, padding)) or x.shape[-1] < _FEW_CHANNELS:
        return _native(x, kernel, padding)
    return _native(x, kernel, ((0, 1), (0, 1)))[:, :-1, :-1]


def _native(x: Array, kernel: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS)


def _forward(x: Array, kernel: Array, padding):
    return _convolve(x, kernel, padding), (x, kernel)


def _backward(padding, residuals, gradient: Array):
    x, kernel = residuals
    opposite = tuple(
        (size - 1 - low, size - 1 - high)
        for size, (low, high) in zip(kernel.shape, padding, strict=False)
    )
    dx = _convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3), opposite)
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


_convolve.defvjp(_forward, _backward)
