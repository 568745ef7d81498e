"""Annotated regions -> label maps, and the smaller label maps that scores use.

OpenCV's `fillPoly` fills polygons in file order, later ones over earlier ones, with vertices
truncated to integers; the rest is background (SPEC section 2). Other libraries draw borders
differently: with Pillow hundreds of pixels of a label map differ, with pycocotools 2,000.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from thermo_jax.data import grids, run_lengths
from thermo_jax.data.thermogram import (
    BACKGROUND,
    CLASS_NAMES,
    GRAY_SHAPE,
    Annotation,
    Thermogram,
)

# The annotation file of DMR-IR calls the background "ROI", and draws no polygon for it.
COCO_CATEGORIES = [
    {"id": index + 1, "name": "ROI" if index == BACKGROUND else name, "supercategory": ""}
    for index, name in enumerate(CLASS_NAMES)
]
NOT_DRAWN = ("ROI", "background", "none", "0")  # regions of these names are background
_CLASS_OF_NAME = {name: index for index, name in enumerate(CLASS_NAMES)} | {
    name.lower(): BACKGROUND for name in NOT_DRAWN
}


def class_of(name: str) -> int | None:
    """Returns the index of the class with this name; None for a name of no class.

    Upper case, and spaces or hyphens for underscores, make no difference.
    """
    return _CLASS_OF_NAME.get(re.sub(r"[\s-]+", "_", name.strip().lower()).strip("_"))


def label_map(
    regions: Sequence[Annotation], shape: tuple[int, int] = GRAY_SHAPE
) -> UInt8[np.ndarray, "h w"]:
    """Fills regions in order, later ones over earlier ones; the rest is background.

    The rings of a region are filled one by one: the region is their union. "ROI" is never drawn.

    Args:
      shape: rows, columns of the image that was annotated.
    """
    import cv2  # here, because the import is slow

    labels = np.full(shape, BACKGROUND, dtype=np.uint8)
    for region in regions:
        if region.class_index == BACKGROUND:
            continue
        for ring in region.rings:
            vertices = np.trunc(np.asarray(ring, dtype=np.float64)).astype(np.int32)
            cv2.fillPoly(labels, [vertices], int(region.class_index))
        if region.runs:
            labels[run_lengths.mask_of(region.runs, shape)] = region.class_index
    return labels


def label_map_480x640(record: Thermogram) -> UInt8[np.ndarray, "480 640"]:
    """Returns the label map of a thermogram's pixels as models see them, of 480x640.

    The regions are drawn at the size of the annotated image; then each pixel gets the class of the
    nearest one. Where the aspect is not 4:3, edges are repeated like those of the picture.
    """
    drawn = label_map(record.regions, record.regions_shape)
    return grids.nearest(drawn, grids.grid_of(*record.shape))


def draw_order(regions: Sequence[Annotation]) -> tuple[int, ...]:
    """Returns a rank for each class: 0 if it was never drawn, larger if it was drawn later.

    Background always has rank 0, so that it loses every tie.
    """
    last_drawn = {region.class_index: position for position, region in enumerate(regions)}
    last_drawn.pop(BACKGROUND, None)
    order = sorted(last_drawn, key=last_drawn.get)
    return tuple(order.index(c) + 1 if c in order else 0 for c in range(len(CLASS_NAMES)))


def scored_label_map(
    label_map: UInt8[np.ndarray, "480 640"], regions: Sequence[Annotation], *, factor: int
) -> UInt8[np.ndarray, "h w"]:
    """Returns the most frequent class of each factor x factor cell (SPEC section 5).

    In a tie, the class that was drawn last wins, and background loses.

    Args:
      factor: must divide the height and the width.
    """
    height, width = label_map.shape
    one_hot = label_map[..., np.newaxis] == np.arange(len(CLASS_NAMES))
    cells = one_hot.reshape(height // factor, factor, width // factor, factor, len(CLASS_NAMES))
    counts = cells.sum(axis=(1, 3), dtype=np.int64)
    ranks = np.array(draw_order(regions), np.int64)
    return (counts * (ranks.max() + 1) + ranks).argmax(axis=-1).astype(np.uint8)
