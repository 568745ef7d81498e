"""Curvelet coefficients by scale and direction, with plain statistics of the levels.

After Karthiga 2021: curvelet features and statistics, for a support vector machine with a cubic
kernel. Different: the transform is the uniform discrete curvelet transform of Nguyen and Chauris
(2010) in the package `curvelets`, the 16 features of its bands are our choice, and coefficients
outside the predicted regions do not count.
"""

import functools
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from thermo_jax.errors import MissingPackageError
from thermo_jax.rivals.temperature_statistics import level_statistics
from thermo_jax.rivals.texture import block_means, filled

REDUCTION = 2  # 480x640 becomes 240x320; finer detail is mostly noise
DETAIL_SCALES = 4


def features(images: UInt8[np.ndarray, "n h w 1"]) -> Float[np.ndarray, "n k"]:
    """16 means of absolute curvelet coefficients, then 10 `level_statistics`, of each image.

    The image is first reduced to half its sides, and its pixels of level 0 are replaced by the
    nearest level above 0. The means are by scale, from coarse (waves of some 30 to 60 pixels of the
    original image) to fine (some 4 to 8), and within a scale by the direction in which the levels
    change: from top to bottom, from left to right, to the lower right, to the lower left. A
    coefficient counts by the share of pixels above 0 where it lies. All features are 0 for an
    image without a pixel above 0.

    The transform continues an image periodically, so that a difference between opposite edges of
    the frame counts as detail.

    Raises:
        MissingPackageError: the package `curvelets` is not installed.
        ValueError: a side of the images is odd, or too short for four scales.
    """
    transform = _transform(images.shape[1] // REDUCTION, images.shape[2] // REDUCTION)
    return np.stack([_features_of_image(image[..., 0], transform) for image in images])


@functools.lru_cache(maxsize=4)  # its windows take longer to compute than an image's features
def _transform(height: int, width: int):
    try:
        from curvelets.numpy import UDCT
    except ImportError as error:
        raise MissingPackageError(
            "Curvelet features need the package curvelets. Run: pip install 'thermo_jax[rivals]'"
        ) from error
    return UDCT(shape=(height, width), num_scales=1 + DETAIL_SCALES, wedges_per_direction=3)


def _features_of_image(image: np.ndarray, transform) -> np.ndarray:
    reduced = block_means(image, REDUCTION)
    kept = (reduced > 0).astype(np.float64)
    means = [
        _mean_coefficient(bands, kept)
        for scale in transform.forward(filled(reduced))[1:]  # the first has no direction
        for bands in _by_direction(scale)
    ]
    return np.concatenate([means, level_statistics(image)])


def _by_direction(scale: list[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """Yields the bands of a scale in four groups; the number of bands is a multiple of 3 in each.

    The package returns two lists per scale, each over 90 degrees: changes that are rather
    vertical, and rather horizontal. Both go from the diagonal to the lower right over the axis to
    the diagonal to the lower left.
    """
    third = len(scale[0]) // 3
    vertical, horizontal = scale
    yield vertical[third:-third]
    yield horizontal[third:-third]
    yield vertical[:third] + horizontal[:third]
    yield vertical[-third:] + horizontal[-third:]


def _mean_coefficient(bands: list[np.ndarray], kept: np.ndarray) -> float:
    total = weight = 0.0
    for band in bands:
        height, width = band.shape
        shares = cv2.resize(kept, (width, height), interpolation=cv2.INTER_AREA)
        total += (shares * np.abs(band)).sum()
        weight += shares.sum()
    return total / max(weight, 1e-12)
