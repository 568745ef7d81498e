"""The regions of one image in an annotation file, and the checks of the file's values.

All values come from the user's file: sizes, coordinates and names may be anything.
"""

import json
import os
import reprlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from thermo_jax.data.annotations import NOT_DRAWN, class_of
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.image_limits import LARGEST
from thermo_jax.data.reader import read_bytes
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, Annotation, DataError
from thermo_jax.errors import first_line

KNOWN_NAMES = ", ".join((*CLASS_NAMES[:BACKGROUND], *CLASS_NAMES[BACKGROUND + 1 :], NOT_DRAWN[0]))
# Of one image; more would take minutes to draw.
_MAX_NUMBER = {"polygons": 10_000, "points": 1_000_000, "masks": 100}
_MAX_CONTAINERS = 4_000_000  # lists and objects in a JSON file; more would take GBs of memory
_MAX_COORDINATE = 10_000  # pixels; larger values are errors, smaller ones are clipped to the image

Ring = tuple[tuple[float, float], ...]
Shape = tuple[int, int]


class AnnotatedImage(NamedTuple):
    """The regions of one image in an annotation file.

    Attributes:
      shape: rows, columns of the image that was annotated; None if the file does not say.
      usable: False if the image must count as not annotated, because a region cannot be drawn.
    """

    regions: tuple[Annotation, ...] = ()
    shape: Shape | None = None
    usable: bool = True


def read_json(path: str | os.PathLike) -> object:
    """Returns the content of a JSON file.

    Raises:
      DataError: the file cannot be read, or is not JSON in UTF-8.
    """
    try:
        data = read_bytes(path)
        if data.count(b"[") + data.count(b"{") > _MAX_CONTAINERS:
            raise ValueError(f"it has more than {_MAX_CONTAINERS} lists and objects")
        return json.loads(data.decode("utf-8-sig"))
    except DataError as error:
        raise DataError("unreadable-annotations", path, error.detail) from error
    except FileNotFoundError as error:
        raise DataError("unreadable-annotations", path, "no such file") from error
    except (ValueError, RecursionError) as error:
        detail = f"not usable JSON ({first_line(error)}); export it again"
        raise DataError("unreadable-annotations", path, detail) from error


def noted_class(name: object, source: str) -> Reading[int | None]:
    """Returns the index of the class with this name; yields a note if there is none."""
    text = str(name) if isinstance(name, str | int) else ""
    index = class_of(text)
    if index is None:
        shown = repr(text.strip()[:100]) if text else reprlib.repr(name)
        detail = f"category {shown}; known: {KNOWN_NAMES}"
        yield Oddity("unknown-category", source, detail)
    return index


def count_region(numbers: Counter[str], region: Annotation) -> None:
    """Adds a region to the numbers of polygons, points and masks of one image.

    Raises:
      ValueError: there are more than can be drawn.
    """
    points = sum(map(len, region.rings))
    numbers.update(polygons=len(region.rings), points=points, masks=bool(region.runs))
    for kind, number in numbers.items():
        if number > _MAX_NUMBER[kind]:
            raise ValueError(f"more than {_MAX_NUMBER[kind]} {kind} in one image")


def ring(points: Sequence[Sequence]) -> Ring:
    """Checks the x, y of a polygon's points. Raises ValueError, which says what is wrong."""
    if len(points) < 3:
        raise ValueError("a polygon needs x, y of at least three points")
    return tuple(map(coordinates, points))


def coordinates(point: Sequence) -> tuple[float, float]:
    """Checks x, y. Raises ValueError if they are no pixel coordinates."""
    for value in point:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= _MAX_COORDINATE:  # also true for NaN
            raise ValueError(f"{reprlib.repr(value)} is no pixel coordinate")
    return float(point[0]), float(point[1])


def image_shape(height: object, width: object) -> Shape | None:
    """Returns rows, columns; None if the file does not say them (absent, null or 0).

    Raises:
      ValueError: they are not those of an image.
    """
    if height in (None, 0) or width in (None, 0):
        return None
    for side in (height, width):
        if not isinstance(side, int | float) or not 1 <= side <= LARGEST or side != int(side):
            text = f"{reprlib.repr(height)} x {reprlib.repr(width)} (rows x columns)"
            raise ValueError(f"{text} is no size of an image; expected 1 to {LARGEST} per side")
    return int(height), int(width)


def by(shape: Shape) -> str:
    """The width and height of an image, as messages show them."""
    return f"{shape[1]}x{shape[0]}"
