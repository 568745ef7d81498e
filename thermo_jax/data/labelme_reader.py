"""Reads LabelMe's annotation files: one JSON file for each image.

LabelMe (https://github.com/wkentaro/labelme) counts x, y in pixels from the top left corner.
"""

import base64
import binascii
import math
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from thermo_jax.data import run_lengths
from thermo_jax.data.annotated_image import (
    AnnotatedImage,
    Shape,
    by,
    coordinates,
    count_region,
    image_shape,
    noted_class,
    ring,
)
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.reader import open_image
from thermo_jax.data.thermogram import Annotation, DataError

_CIRCLE_POINTS = 64


def is_labelme(document: object) -> bool:
    """Whether a JSON document is LabelMe's: an object with a list of "shapes"."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list)


def image_path(document: dict) -> PurePosixPath | None:
    """The path of the annotated image, which may be of another machine; None if there is none."""
    text = document.get("imagePath")
    path = PurePosixPath(text.replace("\\", "/") if isinstance(text, str) else "")
    return None if path.name in ("", "..") else path


def read_labelme(document: dict, source: str) -> Reading[AnnotatedImage]:
    """Reads LabelMe's shapes, in file order: polygons, rectangles, circles and masks.

    Other shapes, which are not regions, are left out with a note. If a region cannot be drawn, the
    image is not usable. The picture inside the file ("imageData") is ignored.

    Args:
      source: the file, for messages.
    """
    try:
        shape = image_shape(document.get("imageHeight"), document.get("imageWidth"))
    except ValueError as error:
        yield Oddity("annotation-size", source, str(error))
        return AnnotatedImage(usable=False)
    regions: list[Annotation] = []
    numbers: Counter[str] = Counter()
    classes: dict[str, int | None] = {}
    for number, item in enumerate(document["shapes"], start=1):
        item = item if isinstance(item, dict) else {}
        label = item.get("label")
        label = str(label) if isinstance(label, str | int) else ""
        if label not in classes:
            classes[label] = yield from noted_class(label, source)
        if classes[label] is None:
            continue
        kind = item.get("shape_type") or "polygon"  # old versions draw polygons only
        title = f"shape {number} ({label.strip()[:100]!r})"
        if not isinstance(kind, str) or kind not in _SHAPES:
            detail = f"{title} is a {reprlib.repr(kind)}; known: {', '.join(_SHAPES)}"
            yield Oddity("unused-shape", source, detail)
            continue
        try:
            region = _SHAPES[kind](item, _points(item.get("points")), shape)
            regions.append(Annotation(class_index=classes[label], **region))
            count_region(numbers, regions[-1])
        except ValueError as error:
            yield Oddity("unusable-polygon", source, f"{title}: {error}")
            return AnnotatedImage(shape=shape, usable=False)
    return AnnotatedImage(tuple(regions), shape)


def _points(points: object) -> list[Sequence]:
    if not isinstance(points, list):
        raise ValueError("it has no list of points")
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError("a point is not [x, y]")
    return points


def _polygon(item: dict, points: list[Sequence], shape: Shape | None) -> dict:
    return {"rings": (ring(points),)}


def _rectangle(item: dict, points: list[Sequence], shape: Shape | None) -> dict:
    if len(points) == 2:
        (left, top), (right, bottom) = points
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return {"rings": (ring(points),)}


def _circle(item: dict, points: list[Sequence], shape: Shape | None) -> dict:
    if len(points) != 2:
        raise ValueError("a circle needs its centre and a point of its edge")
    (x, y), edge = (coordinates(point) for point in points)
    radius = math.dist((x, y), edge)
    angles = [2 * math.pi * step / _CIRCLE_POINTS for step in range(_CIRCLE_POINTS)]
    ring = tuple((x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles)
    return {"rings": (ring,)}


def _mask(item: dict, points: list[Sequence], shape: Shape | None) -> dict:
    """LabelMe's "mask": a PNG in base64 of the pixels from the first point on."""
    if shape is None or not points or not isinstance(item.get("mask"), str):
        raise ValueError("a mask needs imageHeight, imageWidth, a first point and its pixels")
    left, top = map(int, coordinates(points[0]))
    try:
        data = base64.b64decode(item["mask"], validate=True)
        pixels = np.asarray(open_image("mask", data, formats=("PNG",)).convert("L")) > 0
    except (DataError, binascii.Error) as error:
        raise ValueError(f"its pixels are not a PNG in base64 ({error})") from error
    height, width = pixels.shape
    if min(left, top) < 0 or top + height > shape[0] or left + width > shape[1]:
        raise ValueError(f"a mask of {by(pixels.shape)} pixels leaves the image")
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = pixels
    return {"runs": run_lengths.runs_of(mask)}


_SHAPES = {"polygon": _polygon, "rectangle": _rectangle, "circle": _circle, "mask": _mask}
