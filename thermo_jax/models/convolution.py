"""Convolutions padded with zeros (U-Net), or with the image's edges repeated (encoder).

To repeat the edges, one can pad the array itself. On a GPU this costs nothing: the pass that
computes the array writes it padded (`convolve_padded`). A TPU and a CPU write the padded array
separately, which costs more memory traffic than the convolution. For them (`convolve_edges_apart`)
the array is padded with zeros, which costs nothing, and the contribution of the pixels outside the
image is added. These pixels repeat the image's outermost lines, so four one-dimensional
convolutions compute their contribution. It is zero except in a frame as wide as the padding.

`cpu_convolution.py` replaces these functions on the CPU; `operations.py` chooses.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]  # before and after: rows, columns
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def same_padding(kernel: Float[Array, "kh kw c d"]) -> Padding:
    """Returns the padding with which a kernel of odd size keeps the image's size."""
    rows, columns = kernel.shape[:2]
    return (rows // 2, rows // 2), (columns // 2, columns // 2)


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], padding: Padding
) -> Float[Array, "b h2 w2 d"]:
    """Returns XLA's own convolution of x, padded with zeros."""
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS)


def convolve_padded(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h w d"]:
    """Returns the convolution of the padded array, for GPUs."""
    margin = _margin(kernel)
    return convolve(pad_edges(x, margin), kernel, ((0, 0), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def pad_edges(x: Float[Array, "b h w c"], margin: int) -> Float[Array, "b h2 w2 c"]:
    """Repeats the outermost pixels `margin` times.

    This is a gather, which XLA fuses into the pass that computes x. Its gradient adds the margins
    to the outermost pixels.
    """
    rows, columns = (
        np.clip(np.arange(-margin, size + margin), 0, size - 1) for size in x.shape[1:3]
    )
    return x[:, rows][:, :, columns]


def _pad_backward(margin: int, _, gradient: Array):
    return (_fold(_fold(gradient, axis=2, margin=margin), axis=1, margin=margin),)


pad_edges.defvjp(lambda x, margin: (pad_edges(x, margin), None), _pad_backward)


def _fold(padded: Array, *, axis: int, margin: int) -> Array:
    """Adds the margins of an axis to its outermost lines, and removes the margins."""
    if margin == 0:
        return padded
    size = padded.shape[axis] - 2 * margin
    cut = partial(lax.slice_in_dim, padded, axis=axis)
    first = sum(cut(line, line + 1) for line in range(margin))
    last = sum(cut(margin + size + line, margin + size + line + 1) for line in range(margin))
    lines = [Lines(first, axis=axis, before=True), Lines(last, axis=axis, before=False)]
    return _add_placed(cut(margin, margin + size), lines)


def convolve_edges_apart(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h w d"]:
    """Returns the zero-padded convolution plus the contribution of the edges, for TPUs.

    The contribution is a sum of arrays of full size. XLA fuses them into the operation that reads
    the result, and never writes them (on a TPU v5e, a pretraining step moves 8 % fewer bytes). In
    bfloat16 the sum is rounded once more: the error is 1.6 times that of one convolution.
    """
    inside = convolve(x, kernel, same_padding(kernel))
    return _add_placed(inside, outside_lines(x, kernel))


def _margin(kernel: Array) -> int:
    rows, columns = kernel.shape[:2]
    if rows != columns or rows % 2 == 0:
        raise ValueError(f"edges are replicated for odd, square kernels only, not {kernel.shape}")
    return rows // 2


class Lines(NamedTuple):
    """Values to be added to the first or last rows (axis 1) or columns (axis 2) of an array."""

    values: Array
    axis: int
    before: bool  # True: to the first rows or columns; False: to the last ones


def outside_lines(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]) -> Iterator[Lines]:
    """Yields what the pixels outside the image x contribute to the outermost lines of the output.

    The pixels diagonally outside a corner are counted with the rows, not with the columns.
    """
    margin = _margin(kernel)

    def share(line: Array, kernel: Array, *, before: bool, pad: int) -> Array:
        """Returns what a line `[B,N,C]`, repeated outside, contributes: `[B,N,margin,D]`."""
        # For the outermost line of the output, `margin` lines of the kernel are outside the image.
        # For each line further inside, one line fewer is outside.
        sums = [
            kernel[: margin - i].sum(0) if before else kernel[-1 - i :].sum(0)
            for i in range(margin)
        ]
        y = lax.conv_general_dilated(
            line,
            jnp.concatenate(sums, axis=-1),
            window_strides=(1,),
            padding=[(pad, pad)],
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return y.reshape(*y.shape[:2], margin, -1)

    for before in (True, False):
        edge = 0 if before else -1
        # jnp.pad(mode="edge") does the same, but has empty parts, which jax2onnx converts wrongly.
        row = x[:, edge]
        ends = [jnp.repeat(end, margin, axis=1) for end in (row[:, :1], row[:, -1:])]
        row = jnp.concatenate([ends[0], row, ends[1]], axis=1)
        rows = share(row, kernel, before=before, pad=0).swapaxes(1, 2)
        columns = share(x[:, :, edge], kernel.swapaxes(0, 1), before=before, pad=margin)
        yield Lines(rows, axis=1, before=before)
        yield Lines(columns, axis=2, before=before)


def _add_placed(y: Array, outside: Iterable[Lines]) -> Array:
    """Adds lines to the outermost lines of y, after padding them with zeros to y's size.

    If y has fewer lines than are added, the padding is negative and removes the surplus.
    """
    total = 0.0
    for values, axis, before in outside:
        missing = y.shape[axis] - values.shape[axis]
        pads = [(0, 0, 0)] * y.ndim
        pads[axis] = (0, missing, 0) if before else (missing, 0, 0)
        total += lax.pad(values, jnp.zeros((), values.dtype), pads)
    return y + total
