"""Reads COCO instance files: polygons and run-length masks of many images in one JSON file."""

import pathlib
import reprlib
from collections import Counter
from typing import NamedTuple

from thermo_jax.data import run_lengths
from thermo_jax.data.annotated_image import (
    AnnotatedImage,
    Ring,
    Shape,
    by,
    count_region,
    image_shape,
    noted_class,
    ring,
)
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.thermogram import Annotation, without_suffix


def is_coco(document: object) -> bool:
    """Whether a JSON document has at least two of the three sections of a COCO instance file."""
    sections = {"images", "annotations", "categories"}
    return isinstance(document, dict) and len(document.keys() & sections) >= 2


def read_coco(
    document: object, source: str
) -> Reading[dict[pathlib.PurePosixPath, AnnotatedImage]]:
    """Reads a COCO instance document: `file_name` without suffix -> its regions in file order.

    If a region of an image cannot be drawn, the image is not usable. Ids of images and categories
    may be any integers or strings, but must be unique.

    Args:
      source: the file, for messages.
    """
    try:
        images, categories, annotations = _sections(document)
    except ValueError as error:
        yield Oddity("unreadable-annotations", source, f"not COCO JSON: {error}")
        return {}
    found = yield from _listed_images(images, source)
    classes = yield from _category_classes(categories, source)
    regions: dict[str, list[Annotation]] = {image.name: [] for image in found.values() if image}
    shapes = {image.name: image.shape for image in found.values() if image}
    numbers: dict[str, Counter[str]] = {name: Counter() for name in regions}
    unusable: set[str] = set()
    for annotation in annotations:
        title = f"annotation {reprlib.repr(annotation.get('id'))} in {source}"
        image_id = _key(annotation.get("image_id"))
        category_id = _key(annotation.get("category_id"))
        if image_id not in found:
            detail = f"{title}: image_id {image_id!r} is not listed"
            yield Oddity("unknown-image-id", source, detail)
        if found.get(image_id) is None:
            continue  # reported above, or by `_listed_images`
        name = found[image_id].name
        if classes.get(category_id) is None:
            yield Oddity("unknown-category", name, f"{title}: category_id {category_id!r}")
            continue
        try:
            segmentation, index = annotation.get("segmentation"), classes[category_id]
            if isinstance(segmentation, dict):
                runs, shapes[name] = _runs(segmentation, shapes[name])
                region = Annotation(class_index=index, runs=runs)
            else:
                region = Annotation(class_index=index, rings=_rings(segmentation))
            count_region(numbers[name], region)
        except ValueError as error:
            yield Oddity("unusable-polygon", name, f"{title}: {error}")
            unusable.add(name)
            continue
        if len(region.rings) > 1:
            yield Oddity("several-rings", name, f"{title}: {len(region.rings)} polygons")
        regions[name].append(region)
    return {
        _without_suffix(name): AnnotatedImage((), shapes[name], usable=False)
        if name in unusable
        else AnnotatedImage(tuple(regions[name]), shapes[name])
        for name in regions
    }


def _without_suffix(file_name: str) -> pathlib.PurePosixPath:
    return without_suffix(pathlib.PurePosixPath(file_name))


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
                first, second = reprlib.repr(values[identity]), reprlib.repr(value)
                raise ValueError(f"id {identity!r} is used for {first} and {second}")
    return sections[0], sections[1], sections[2]


class _ListedImage(NamedTuple):
    name: str
    shape: Shape | None


def _listed_images(images: list[dict], source: str) -> Reading[dict[object, _ListedImage | None]]:
    """Returns image id -> image; None for an image whose annotations must not be used."""
    found: dict[object, _ListedImage | None] = {}
    seen: set[pathlib.PurePosixPath] = set()
    for image in images:
        identity, file_name = _key(image.get("id")), image.get("file_name")
        if identity is None or not isinstance(file_name, str):
            detail = f"image without id or file_name: {reprlib.repr(image)}"
            yield Oddity("unreadable-annotations", source, detail)
            continue
        name = pathlib.PurePosixPath(file_name.replace("\\", "/")).as_posix()
        if name in ("/", ".", ".."):
            detail = f"image without a file name: {reprlib.repr(image)}"
            yield Oddity("unreadable-annotations", source, detail)
            continue
        found[identity] = None
        try:
            shape = image_shape(image.get("height"), image.get("width"))
        except ValueError as error:
            yield Oddity("annotation-size", name, f"{source}: {error}")
            continue
        if _without_suffix(name) in seen:
            yield Oddity("repeated-image", name, f"listed again in {source}, id {identity!r}")
        else:
            found[identity] = _ListedImage(name, shape)
            seen.add(_without_suffix(name))
    return found


def _category_classes(categories: list[dict], source: str) -> Reading[dict[object, int | None]]:
    """Returns category id -> class index; None for an unknown category."""
    classes: dict[object, int | None] = {}
    for category in categories:
        identity = _key(category.get("id"))
        classes[identity] = yield from noted_class(category.get("name", ""), source)
    return classes


def _key(identity: object) -> int | str | None:
    return identity if isinstance(identity, int | str) else None


def _runs(segmentation: dict, shape: Shape | None) -> tuple[tuple[int, ...], Shape]:
    """Returns the run lengths of a mask, and its rows and columns."""
    size = segmentation.get("size")
    of_mask = image_shape(*size) if isinstance(size, list) and len(size) == 2 else None
    if of_mask is None:
        raise ValueError("a run-length mask needs its size: [rows, columns]")
    if shape not in (None, of_mask):
        raise ValueError(f"a run-length mask of {by(of_mask)} pixels for {by(shape)}")
    return run_lengths.read_counts(segmentation.get("counts"), of_mask), of_mask


def _rings(segmentation: object) -> tuple[Ring, ...]:
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("neither a list of polygons nor a run-length mask")
    rings = []
    for values in segmentation:
        if not isinstance(values, list) or len(values) % 2:
            raise ValueError("a polygon needs x, y of at least three points")
        rings.append(ring(list(zip(values[::2], values[1::2], strict=True))))
    return tuple(rings)
