"""Resamples a picture to the size of the models' images, and maps back to the picture's size.

picture [h, w] -> edges repeated until the aspect is 4:3 -> resampled to [480, 640]
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from thermo_jax.data.thermogram import GRAY_SHAPE

ASPECT = GRAY_SHAPE[1] / GRAY_SHAPE[0]
TOLERANCE = 0.01  # relative, of the aspect ratio, because cameras crop a line or two


class Grid(NamedTuple):
    """The position of a picture of height x width pixels in a frame of 4:3 around it."""

    height: int
    width: int
    top: int
    left: int
    frame_height: int
    frame_width: int

    @property
    def letterboxed(self) -> bool:
        """Whether the frame is larger than the picture."""
        return (self.frame_height, self.frame_width) != (self.height, self.width)


def grid_of(height: int, width: int) -> Grid:
    """The grid of a picture, which is in the centre of its frame."""
    if abs(width / height / ASPECT - 1) <= TOLERANCE:
        return Grid(height, width, 0, 0, height, width)
    frame_height = max(height, math.ceil(width / ASPECT))
    frame_width = max(width, math.ceil(height * ASPECT))
    top, left = (frame_height - height) // 2, (frame_width - width) // 2
    return Grid(height, width, top, left, frame_height, frame_width)


def to_model(
    picture: Shaped[np.ndarray, "h w *c"], grid: Grid, *, shape: tuple[int, int] = GRAY_SHAPE
) -> Shaped[np.ndarray, "mh mw *c"]:
    """Resamples a picture to `shape`; the frame around it repeats the picture's edge pixels.

    A smaller result contains means of pixels; a larger one is interpolated (bilinear).
    """
    below = grid.frame_height - grid.height - grid.top
    right = grid.frame_width - grid.width - grid.left
    padding = ((grid.top, below), (grid.left, right), *[(0, 0)] * (picture.ndim - 2))
    return _resample(np.pad(picture, padding, mode="edge"), shape)


def from_model(maps: Float[np.ndarray, "mh mw k"], grid: Grid) -> Float[np.ndarray, "h w k"]:
    """Resamples maps of the models' size to the picture's size."""
    framed = _resample(maps, (grid.frame_height, grid.frame_width))
    rows = slice(grid.top, grid.top + grid.height)
    return framed[rows, grid.left : grid.left + grid.width]


def _resample(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values.shape[:2] == tuple(shape):
        return values
    smaller = shape[0] <= values.shape[0] and shape[1] <= values.shape[1]
    method = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    planes = values.reshape(*values.shape[:2], -1)
    resampled = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(shape[::-1], method))
        for plane in np.moveaxis(planes, -1, 0)
    ]
    return np.stack(resampled, axis=-1).reshape(*shape, *values.shape[2:])


def nearest(
    label_map: UInt8[np.ndarray, "lh lw"], grid: Grid, *, shape: tuple[int, int] = GRAY_SHAPE
) -> UInt8[np.ndarray, "mh mw"]:
    """Resamples a label map as `to_model` does a picture, but each result is the nearest pixel.

    The label map shows the whole picture, but may have more or fewer pixels than it.
    """
    lengths = (grid.height, grid.width)
    frame = ((grid.top, grid.frame_height), (grid.left, grid.frame_width))
    indexes = []
    for side, (before, framed), length in zip(range(2), frame, lengths, strict=True):
        centres = (np.arange(shape[side]) + 0.5) * framed / shape[side] - before
        size = label_map.shape[side]
        indexes.append(np.clip(np.floor(centres * size / length), 0, size - 1).astype(np.intp))
    return label_map[np.ix_(*indexes)]
