"""Outlines of the parts of a region, as polygons that connect the centres of its pixels.

`annotations.label_map` fills such a polygon to exactly the pixels of the part and of its holes. So
it restores a label map from all outlines, if those of larger parts are drawn first, except for
holes of background.
"""

import numpy as np
from jaxtyping import Bool, Int


def outlines(mask: Bool[np.ndarray, "h w"]) -> list[Int[np.ndarray, "n 2"]]:
    """Returns x, y of the outer outline of each connected part, of at least three points.

    Pixels that touch in a corner are connected. The last point of a shorter outline is repeated.
    """
    import cv2  # here, because the import is slow

    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [_at_least_three(outline.reshape(-1, 2)) for outline in found]


def outlines_of_parts(mask: Bool[np.ndarray, "h w"]) -> list[Int[np.ndarray, "n 2"]]:
    """Like `outlines`, but pixels that only touch in a corner are parts of their own.

    Then no two parts of a label map can enclose pixels of each other.
    """
    import cv2

    _, numbers, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    found = []
    for number, (left, top, width, height, _) in enumerate(boxes[1:].tolist(), start=1):
        part = numbers[top : top + height, left : left + width] == number
        found += [outline + (left, top) for outline in outlines(part)]
    return found


def enclosed_area(outline: Int[np.ndarray, "n 2"]) -> float:
    """The area inside an outline, in pixels: larger than that of any outline within it."""
    x, y = outline.T.astype(np.float64)
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _at_least_three(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.repeat(points[-1:], max(0, 3 - len(points)), axis=0)])
