"""Chooses, for each platform, the fastest functions for the operations that the models consist of.

All platforms compute the same, up to rounding. There is one exception: if the largest values of a
max pool are equal, platforms may pass the gradient to different ones of them. The models receive
an `Operations`, and contain no code for single platforms.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float

from thermo_jax.models import convolution, cpu_convolution, normalization, resampling

Image = Float[Array, "b h w c"]
Kernel = Float[Array, "k k c d"]


@dataclasses.dataclass(frozen=True)
class Operations:
    """How the layers of a model compute: a platform's functions, the compute type, the devices.

    Attributes:
      convolve: `(x, kernel, padding)`, zeros outside the image (`convolution.convolve`).
      convolve_edges: `(x, kernel)`, the image's edges repeated.
      normalize: batch norm of a training batch and leaky ReLU (`normalization.normalize`).
      max_pool: of 2x2 pixels.
      upsample: bilinear, to twice the size, corners aligned.
      resize: bilinear, to any larger size, edges aligned (`resampling.resize`).
      bias_gradient: whether a bias before batch norm gets its gradient, which is zero apart from
        rounding. On a GPU the gradient costs an additional pass over the activations. On a CPU, a
        step takes 8 % longer *without* it.
      dtype: the compute type, None for that of the input; parameters stay float32.
      axis_name: the mapped axis over which devices share batch statistics, None for one device.
    """

    convolve: Callable[..., Image]
    convolve_edges: Callable[[Image, Kernel], Image]
    normalize: Callable[..., tuple[Image, normalization.Moments]]
    max_pool: Callable[[Image], Image]
    upsample: Callable[[Image], Image]
    resize: Callable[..., Image]
    bias_gradient: bool
    dtype: np.dtype | None = None
    axis_name: str | None = None


NATIVE = Operations(  # XLA's standard operations, used on TPUs and in exported models
    convolve=convolution.convolve,
    convolve_edges=convolution.convolve_edges_apart,
    normalize=normalization.normalize,
    max_pool=resampling.max_pool,
    upsample=resampling.upsample,
    resize=resampling.resize,
    bias_gradient=True,
)
CPU = dataclasses.replace(
    NATIVE,
    convolve=cpu_convolution.convolve_on_cpu,
    convolve_edges=cpu_convolution.convolve_edges_on_cpu,
)
GPU = dataclasses.replace(
    NATIVE,
    convolve_edges=convolution.convolve_padded,
    normalize=normalization.normalize_in_two_passes,
    max_pool=resampling.max_pool_by_index,
    upsample=resampling.upsample_by_gathers,
    resize=resampling.resize_by_gathers,
    bias_gradient=False,
)
_BY_NAME = {"native": NATIVE, "cpu": CPU, "gpu": GPU}
NAMES = ("auto", *_BY_NAME)


def choose_operations(name: str, *, platform: str) -> Operations:
    """Returns the operations of this name, or the fastest ones for a platform.

    Args:
      name: "auto" (by platform), "native", "cpu" or "gpu".
      platform: "cpu", "gpu" or "tpu".
    """
    return _BY_NAME.get(platform, NATIVE) if name == "auto" else _BY_NAME[name]
