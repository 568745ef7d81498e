"""Convolutions for the CPU, injected into Flax through `conv_general_dilated`.

On GPU and TPU XLA's own convolution is the one to use. On the CPU its forward form is good at few
channels, but its weight gradient is several times slower than patches times matrix, and with many
channels so is the forward form. Measured on 2 cores, 5x5, 64 -> 128 channels, 16 heatmaps, forward
and both gradients: native 9.3 s, `convolve_on_cpu` 4.2 s.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NAMES = ("auto", "native", "patches")
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Patches times matrix wins from about this many input x output channels on (measured).
_PATCHES_FROM_CHANNELS = 128 * 128
# Patches of a whole batch are built at once up to this size, else image by image.
_MAX_PATCHES_BYTES = 128 * 2**20


def choose_convolution(name: str, *, platform: str) -> Callable | None:
    """What to give Flax as `conv_general_dilated`; None is XLA's own.

    Args:
      name: "auto" (by platform), "native" or "patches".
      platform: "cpu", "gpu" or "tpu".
    Raises:
      ValueError: an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"config.model.conv={name!r} is unknown: choose one of {', '.join(NAMES)}")
    if name == "patches" or (name == "auto" and platform == "cpu"):
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
    return _convolve(jnp.pad(lhs, ((0, 0), *padding, (0, 0))), rhs)


@jax.custom_vjp
def _convolve(x: Array, kernel: Array) -> Array:
    if math.prod(kernel.shape[2:]) < _PATCHES_FROM_CHANNELS:
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_DIMENSIONS)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    size = kernel.shape[:2]
    if _patches_bytes(x, size) <= _MAX_PATCHES_BYTES:
        return _patches(x, size) @ matrix
    return lax.map(lambda image: (_patches(image[None], size) @ matrix)[0], x)


def _forward(x: Array, kernel: Array):
    return _convolve(x, kernel), (x, kernel)


def _backward(residuals, gradient: Array):
    x, kernel = residuals
    rows, columns = (size - 1 for size in kernel.shape[:2])
    padded = jnp.pad(gradient, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    dx = _convolve(padded, kernel[::-1, ::-1].swapaxes(2, 3))
    return dx, _kernel_gradient(x, gradient, kernel.shape)


def _kernel_gradient(x: Array, gradient: Array, shape: tuple[int, ...]) -> Array:
    def correlate(images: Array, gradients: Array) -> Array:
        patches = _patches(images, shape[:2])
        return lax.dot_general(patches, gradients, (((0, 1, 2), (0, 1, 2)), ((), ())))

    if _patches_bytes(x, shape[:2]) <= _MAX_PATCHES_BYTES:
        return correlate(x, gradient).reshape(shape)

    def add_image(total, image_and_gradient):
        image, gradient = image_and_gradient
        return total + correlate(image[None], gradient[None]), None

    start = jnp.zeros((math.prod(shape[:3]), shape[3]), x.dtype)
    return lax.scan(add_image, start, (x, gradient))[0].reshape(shape)


_convolve.defvjp(_forward, _backward)


def _patches(x: Array, size: tuple[int, int]) -> Array:
    """[B,H,W,C] -> [B, H-kh+1, W-kw+1, kh*kw*C]"""
    height, width = x.shape[1] - size[0] + 1, x.shape[2] - size[1] + 1
    shifted = [
        x[:, row : row + height, column : column + width]
        for row in range(size[0])
        for column in range(size[1])
    ]
    return jnp.concatenate(shifted, axis=-1)


def _patches_bytes(x: Array, size: tuple[int, int]) -> int:
    return x.size * math.prod(size) * x.dtype.itemsize
