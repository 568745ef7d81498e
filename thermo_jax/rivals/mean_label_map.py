"""Segmentation without looking: every image gets the mean label map of the training patients.

After nobody in particular: the reference that SPEC section 12 asks for. Its score shows how much of
a segmenter's score is the position of the body in the frame, which DMR-IR's protocol fixes.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8

from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, GRAY_SHAPE
from thermo_jax.errors import UserError


def fit(label_maps: Iterable[UInt8[np.ndarray, "480 640"]]) -> Float[np.ndarray, "480 640 k"]:
    """The share of each class (CLASS_NAMES) at each pixel.

    Args:
      label_maps: of the training images, [n,480,640]; they are read once, and may be streamed.
    Raises:
      UserError: there are no label maps.
    """
    counts = np.zeros((*GRAY_SHAPE, len(CLASS_NAMES)), np.int64)
    total = 0
    for label_map in label_maps:
        counts += label_map[..., np.newaxis] == np.arange(len(CLASS_NAMES))
        total += 1
    if not total:
        raise UserError(
            "no training image is annotated, so there is no mean label map: choose other "
            "config.split.folds or fold, or add annotations"
        )
    return counts / total


def predict(
    shares: Float[np.ndarray, "480 640 k"], *, count: int, shape: tuple[int, int] = GRAY_SHAPE
) -> UInt8[np.ndarray, "n h w"]:
    """The class with the largest share at each pixel, the same for all images.

    In a tie, background loses; of two other classes, the first of CLASS_NAMES wins.

    Args:
      shares: of `fit`.
      count: the number of images.
      shape: rows, columns; factors of 480 and 640. The shares of a block of pixels are averaged.
    """
    (height, width), (rows, columns) = GRAY_SHAPE, shape
    blocks = shares.reshape(rows, height // rows, columns, width // columns, -1)
    # Rounded, because the mean of equal shares may differ in its last bit.
    means = blocks.mean(axis=(1, 3)).round(12)
    means[..., BACKGROUND] -= 1e-9
    label_map = means.argmax(axis=-1).astype(np.uint8)
    return np.repeat(label_map[np.newaxis], count, axis=0)
