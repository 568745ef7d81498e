"""Segmentation without training: Otsu's threshold finds the body, its outline the regions.

After the classical segmenters of breast thermograms: the same idea, a threshold (Otsu 1979) and
rules of anatomy for the outline. Different: the rules are our own, and simple. Their numbers were
chosen on phantoms (8 of version 1, 16 of version 2: mean IoU of a breast .77 and .67); no
annotation of a real thermogram was looked at.

    gray levels -> body -> for each row, the part of the body at the middle of the trunk
    neck:    the rows at the top where this part is narrow
    armpits: where the trunk begins, below the arms, on both sides
    breasts: two ellipses below, as wide as half of the trunk; nipples: a point of each
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, GRAY_SHAPE

# Lengths below are in units of half the width of the trunk.
BREAST_X, BREAST_Y = 0.5, 0.55  # the centre: from the middle of the trunk, and below the armpits
BREAST_RADII = (0.46, 0.65)
NIPPLE_X, NIPPLE_Y = 0.65, 0.85
NIPPLE_RADIUS = 0.08
ARMPIT_ABOVE = 0.25
ARMPIT_RADII = (0.25, 0.4)
NARROW = 0.65  # a row whose width is less than this share of the trunk's is of the neck
NEARLY = 1.15  # a row of the trunk is at most this many times as wide as the narrowest one
UPPER = (0.2, 0.65)  # the shares of the height between which the armpits are


class _Trunk(NamedTuple):
    middle: float  # column
    half: float  # half of its width
    shoulders: int  # the first row below the neck
    armpits: int  # row
    left: np.ndarray  # of each row, the first column; -1 where there is no body
    right: np.ndarray  # of each row, the last column


def segment(
    images: UInt8[np.ndarray, "n h w 1"], *, shape: tuple[int, int] = GRAY_SHAPE
) -> UInt8[np.ndarray, "n mh mw"]:
    """The label map (indexes of CLASS_NAMES) of each image; only background if it shows no body.

    Args:
      images: gray levels, warm is bright.
      shape: rows, columns of the label maps.
    """
    label_maps = np.full((len(images), *shape), BACKGROUND, np.uint8)
    for label_map, image in zip(label_maps, images, strict=True):
        enlarged = cv2.resize(image[..., 0], GRAY_SHAPE[::-1], interpolation=cv2.INTER_LINEAR)
        regions = _regions(_body(enlarged))
        label_map[:] = cv2.resize(regions, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return label_maps


def _body(image: np.ndarray) -> np.ndarray:
    """bool [h, w]: the largest area above Otsu's threshold, without holes (such as a marker)."""
    if image.min() == image.max():
        return np.zeros(image.shape, bool)
    smooth = cv2.GaussianBlur(image, (0, 0), sigmaX=3)
    _, warm = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(warm, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    body = np.zeros(image.shape, np.uint8)
    if outlines:
        cv2.drawContours(body, [max(outlines, key=cv2.contourArea)], -1, 1, thickness=cv2.FILLED)
    return body.astype(bool)


def _regions(body: np.ndarray) -> np.ndarray:
    """uint8 [h, w]: the classes; later ones are drawn over earlier ones, and only on the body."""
    label_map = np.full(body.shape, BACKGROUND, np.uint8)
    trunk = _trunk(body)
    if trunk is None:
        return label_map
    for row in range(trunk.shoulders):
        if trunk.left[row] >= 0:
            columns = slice(trunk.left[row], trunk.right[row] + 1)
            label_map[row, columns] = CLASS_NAMES.index("neck")
    for side, sign, outline in (("left", -1, trunk.left), ("right", 1, trunk.right)):
        for part, column, below, radii in (
            ("armpit", outline[trunk.armpits], -ARMPIT_ABOVE, ARMPIT_RADII),
            ("breast", trunk.middle + sign * BREAST_X * trunk.half, BREAST_Y, BREAST_RADII),
            ("nipple", trunk.middle + sign * NIPPLE_X * trunk.half, NIPPLE_Y, (NIPPLE_RADIUS,) * 2),
        ):
            centre = (round(column), round(trunk.armpits + below * trunk.half))
            axes = tuple(round(radius * trunk.half) for radius in radii)
            color = CLASS_NAMES.index(f"{side}_{part}")
            cv2.ellipse(label_map, centre, axes, 0, 0, 360, color, thickness=cv2.FILLED)
    label_map[~body] = BACKGROUND
    return label_map


def _trunk(body: np.ndarray) -> _Trunk | None:
    """The trunk's place; None if the lower half of the image shows no body at the middle of it."""
    height = len(body)
    lower = np.nonzero(body[height // 2 :])[1]
    if not len(lower):
        return None
    middle = float(np.median(lower))
    left, right = _middle_runs(body, column=round(middle))
    widths = np.where(left >= 0, right - left + 1, 0)
    half = float(np.median(widths[height // 2 :])) / 2
    if half < 1:
        return None
    upper = slice(round(UPPER[0] * height), round(UPPER[1] * height))
    wide = np.nonzero(widths >= NARROW * 2 * half)[0]
    # The arms and the trunk are one part in each row above the armpits, so that it is wide there.
    # Below them, a slender trunk stays almost as narrow, so the first such row is taken.
    narrowest = NEARLY * widths[upper].min()
    armpits = upper.start + int((widths[upper] <= narrowest).argmax())
    return _Trunk(middle, half, min(int(wide[0]), armpits), armpits, left, right)


def _middle_runs(body: np.ndarray, *, column: int) -> tuple[np.ndarray, np.ndarray]:
    """(first, last) column, by row, of the body's pixels that touch each other and this column."""
    lasts = np.full(len(body), -1)
    firsts = np.full(len(body), -1)
    for row, inside in enumerate(body):
        if inside[column]:
            before, after = np.nonzero(~inside[:column])[0], np.nonzero(~inside[column:])[0]
            firsts[row] = before[-1] + 1 if len(before) else 0
            lasts[row] = column + after[0] - 1 if len(after) else len(inside) - 1
    return firsts, lasts
