"""COCO polygons -> label maps, and the smaller label maps that scores use.

OpenCV's `fillPoly` fills polygons in file order, later ones over earlier ones, with vertices
truncated to integers; the rest is background (SPEC section 2). Other libraries draw borders
differently: with Pillow hundreds of pixels of a label map differ, with pycocotools 2,000.
"""

import json
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.reader import read_bytes
from thermo_jax.data.thermogram import (
    BACKGROUND,
    CLASS_NAMES,
    GRAY_SHAPE,
    Annotation,
    DataError,
    split_name,
)

# The annotation file of DMR-IR calls the background "ROI", and draws no polygon for it.
COCO_CATEGORIES = [
    {"id": index + 1, "name": "ROI" if index == BACKGROUND else name, "supercategory": ""}
    for index, name in enumerate(CLASS_NAMES)
]
_CLASS_OF_CATEGORY = {name: index for index, name in enumerate(CLASS_NAMES)} | {"roi": BACKGROUND}
_MAX_COORDINATE = 10_000  # pixels; larger values are errors, smaller ones are clipped to the image


def read_coco(
    path: str | os.PathLike,
) -> Reading[dict[pathlib.PurePosixPath, tuple[Annotation, ...]]]:
    """Reads a COCO instance file: `file_name` without suffix -> its annotations in file order.

    If a polygon of an image cannot be drawn, the image has no annotations. Ids of images and
    categories may be any integers or strings, but must be unique.
    """
    path = pathlib.Path(path)
    try:
        document = json.loads(read_bytes(path).decode("utf-8-sig"))
        images, categories, annotations = _sections(document)
    except (DataError, ValueError, RecursionError) as error:
        detail = error.detail if isinstance(error, DataError) else f"not COCO JSON: {error}"
        yield Oddity("unreadable-annotations", path.name, detail)
        return {}
    names = yield from _image_names(images, path.name)
    classes = yield from _category_classes(categories, path.name)
    drawn: dict[str, list[Annotation]] = {name: [] for name in names.values() if name is not None}
    unusable: set[str] = set()
    for annotation in annotations:
        title = f"annotation {annotation.get('id')} in {path.name}"
        image_id = _key(annotation.get("image_id"))
        category_id = _key(annotation.get("category_id"))
        name = names.get(image_id)
        if image_id not in names:
            detail = f"{title}: image_id {image_id} is not listed"
            yield Oddity("unknown-image-id", path.name, detail)
        if name is None:
            continue  # reported above, or by `_image_names`
        if classes.get(category_id) is None:
            yield Oddity("unknown-category", name, f"{title}: category_id {category_id}")
            continue
        try:
            rings = _rings(annotation.get("segmentation"))
        except ValueError as error:
            yield Oddity("unusable-polygon", name, f"{title}: {error}")
            unusable.add(name)
            continue
        if len(rings) > 1:
            yield Oddity("several-rings", name, f"{title}: {len(rings)} polygons")
        drawn[name].append(Annotation(class_index=classes[category_id], rings=rings))
    return {_image(name): () if name in unusable else tuple(drawn[name]) for name in drawn}


def _image(file_name: str) -> pathlib.PurePosixPath:
    path = pathlib.PurePosixPath(file_name)
    return path.parent / split_name(path.name)[0]


def _sections(document: object) -> tuple[list[dict], list[dict], list[dict]]:
    if not isinstance(document, dict):
        raise ValueError("the file is not a JSON object")
    sections = []
    for name in ("images", "categories", "annotations"):
        section = document.get(name)
        if not isinstance(section, list) or not all(isinstance(item, dict) for item in section):
            raise ValueError(f"no list of objects called {name!r}")
        sections.append(section)
    # With a shared id, it would be unclear which of two images or categories an annotation means.
    for items, field in ((sections[0], "file_name"), (sections[1], "name")):
        values: dict[object, object] = {}
        for item in items:
            identity, value = _key(item.get("id")), item.get(field)
            if identity is not None and values.setdefault(identity, value) != value:
                raise ValueError(f"id {identity} is used for {values[identity]!r} and {value!r}")
    return sections[0], sections[1], sections[2]


def _image_names(images: list[dict], source: str) -> Reading[dict[object, str | None]]:
    """Returns image id -> file name; None for an image whose annotations must not be used."""
    names: dict[object, str | None] = {}
    seen: set[pathlib.PurePosixPath] = set()
    for image in images:
        identity, file_name = _key(image.get("id")), image.get("file_name")
        if identity is None or not isinstance(file_name, str):
            detail = f"image without id or file_name: {image}"
            yield Oddity("unreadable-annotations", source, detail)
            continue
        file_name = pathlib.PurePosixPath(file_name.replace("\\", "/")).as_posix()
        if file_name in ("/", ".", ".."):
            yield Oddity("unreadable-annotations", source, f"image without a file name: {image}")
            continue
        names[identity] = None
        size = (image.get("height", GRAY_SHAPE[0]), image.get("width", GRAY_SHAPE[1]))
        if size != GRAY_SHAPE:
            detail = f"{source} gives {size[1]}x{size[0]} pixels; expected 640x480"
            yield Oddity("annotation-size", file_name, detail)
        elif _image(file_name) in seen:
            yield Oddity("repeated-image", file_name, f"listed again in {source}, id {identity}")
        else:
            names[identity] = file_name
            seen.add(_image(file_name))
    return names


def _category_classes(categories: list[dict], source: str) -> Reading[dict[object, int | None]]:
    """Returns category id -> class index; None for an unknown category."""
    classes: dict[object, int | None] = {}
    for category in categories:
        name = str(category.get("name", "")).strip()
        index = _CLASS_OF_CATEGORY.get(re.sub(r"[\s-]+", "_", name.lower()))
        classes[_key(category.get("id"))] = index
        if index is None:
            detail = f"category {name!r}; known: {', '.join(CLASS_NAMES)}, ROI"
            yield Oddity("unknown-category", source, detail)
    return classes


def _rings(segmentation: object) -> tuple[tuple[tuple[float, float], ...], ...]:
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("no list of polygons (run-length masks are not read)")
    rings = []
    for ring in segmentation:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
            raise ValueError("a polygon needs x, y of at least three points")
        for value in ring:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not abs(value) <= _MAX_COORDINATE:  # also true for NaN
                raise ValueError(f"{value!r} is no pixel coordinate")
        rings.append(tuple(zip(map(float, ring[::2]), map(float, ring[1::2]), strict=True)))
    return tuple(rings)


def _key(identity: object) -> int | str | None:
    return identity if isinstance(identity, int | str) else None


def label_map(regions: Sequence[Annotation]) -> UInt8[np.ndarray, "480 640"]:
    """Fills regions in order, later ones over earlier ones; the rest is background.

    The rings of a region are filled one by one: the region is their union. "ROI" is never drawn.
    """
    import cv2  # here, because the import is slow

    labels = np.full(GRAY_SHAPE, BACKGROUND, dtype=np.uint8)
    for region in regions:
        if region.class_index == BACKGROUND:
            continue
        for ring in region.rings:
            vertices = np.trunc(np.asarray(ring, dtype=np.float64)).astype(np.int32)
            cv2.fillPoly(labels, [vertices], int(region.class_index))
    return labels


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
