"""Convolutions that repeat an image's edges instead of padding with zeros, for each platform.

Padding the array itself is simple, and on a GPU free: the pass that computes the array writes it
padded (`convolve_padded`). A TPU and a CPU write the padded array apart, which costs more memory
traffic than the convolution. There (`convolve_edges_apart`) the array is padded with zeros, which
costs nothing, and the share of what lies outside is added: it is an image's outermost lines again,
so that four one-dimensional convolutions give it, in a frame as wide as the padding.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from thermo_jax.models.convolution import convolve, convolve_on_cpu, same_padding


def convolve_padded(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h w d"]:
    """The convolution of a padded array, for GPUs."""
    margin = _margin(kernel)
    return convolve(pad_edges(x, margin), kernel, ((0, 0), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def pad_edges(x: Float[Array, "b h w c"], margin: int) -> Float[Array, "b h2 w2 c"]:
    """Repeats the outermost pixels `margin` times.

    As a gather, which XLA fuses into the pass that computes x; the gradient folds the margins back.
    """
    rows, columns = (
        np.clip(np.arange(-margin, size + margin), 0, size - 1) for size in x.shape[1:3]
    )
    return x[:, rows][:, :, columns]


def _pad_forward(x: Array, margin: int):
    return pad_edges(x, margin), None


def _pad_backward(margin: int, _, gradient: Array):
    return (_fold(_fold(gradient, axis=2, margin=margin), axis=1, margin=margin),)


pad_edges.defvjp(_pad_forward, _pad_backward)


def _fold(padded: Array, *, axis: int, margin: int) -> Array:
    """Adds the margins of an axis to its outermost lines, and cuts them off."""
    if margin == 0:
        return padded
    size = padded.shape[axis] - 2 * margin
    cut = partial(lax.slice_in_dim, padded, axis=axis)
    first = sum(cut(line, line + 1) for line in range(margin))
    last = sum(cut(margin + size + line, margin + size + line + 1) for line in range(margin))
    lines = [_Lines(first, axis=axis, before=True), _Lines(last, axis=axis, before=False)]
    return _add_placed(cut(margin, margin + size), lines)


def convolve_edges_apart(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h w d"]:
    """The edges' share as arrays of full size, for TPUs.

    XLA fuses them into what reads the sum, and never writes them (v5e: 8 % fewer bytes a
    pretraining step). In bfloat16 the sum is rounded again: 1.6 times one convolution's error.
    """
    inside = convolve(x, kernel, same_padding(kernel))
    return _add_placed(inside, _outside(x, kernel))


def convolve_edges_apart_on_cpu(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h w d"]:
    """The edges' share added in place, for CPUs, which would write arrays of full size."""
    inside = convolve_on_cpu(x, kernel, same_padding(kernel))
    return _add_in_place(inside, _outside(x, kernel))


def _margin(kernel: Array) -> int:
    rows, columns = kernel.shape[:2]
    if rows != columns or rows % 2 == 0:
        raise ValueError(f"edges are replicated for odd, square kernels only, not {kernel.shape}")
    return rows // 2


class _Lines(NamedTuple):
    """What is to be added to an array's first or last rows (axis 1) or columns (axis 2)."""

    values: Array
    axis: int
    before: bool  # the first ones


def _outside(x: Array, kernel: Array) -> Iterator[_Lines]:
    """The output's share of what lies outside the image x; its corners belong to rows."""
    margin = _margin(kernel)

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
