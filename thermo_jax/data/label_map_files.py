"""Label maps as pictures: our own files, and masks of other tools.

In a file, 0 is the background, 1..6 are breasts, nipples and armpits (left, right), and 7 is the
neck; a palette makes them visible in every viewer. `classes.json`, beside the file or in a folder
above it, names the values: {"left_breast": 1, ...}. Files without it are accepted only in the
workdir of an older version; their values are indexes of CLASS_NAMES.
"""

import io
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from thermo_jax.data.annotated_image import KNOWN_NAMES, AnnotatedImage, read_json
from thermo_jax.data.annotations import class_of
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.file_listing import MASK_CLASSES, FileListing
from thermo_jax.data.reader import open_image, read_bytes
from thermo_jax.data.run_lengths import runs_of
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, Annotation, DataError
from thermo_jax.files import task_of_run, write_whole

FILE_VALUES = (1, 2, 3, 4, 5, 6, 0, 7)  # of each class, in the order of CLASS_NAMES
# Of each value: the colours of `evaluation.figures`, but the background is black, and the right
# nipple, which is black there, is purple.
PALETTE = ("#000000", "#0072B2", "#E69F00", "#F0E442", "#CC79A7", "#56B4E9", "#D55E00", "#009E73")

_UNNAMED = 255  # in a table of classes: a value that classes.json does not name
_MAX_VALUE = 65_535  # of 16-bit pixels


class MaskClasses(NamedTuple):
    """What the values of masks mean.

    Attributes:
      of_value: the value of a pixel -> index of CLASS_NAMES.
      unknown: names of no class, which are treated as background.
      is_old: whether the masks are label maps of an older version.
    """

    of_value: Mapping[int, int]
    unknown: tuple[str, ...] = ()
    is_old: bool = False


OLD_CLASSES = MaskClasses({index: index for index in range(len(CLASS_NAMES))}, is_old=True)


def write_label_map(path: str | os.PathLike, label_map: UInt8[np.ndarray, "h w"]) -> epath.Path:
    """Writes a label map (indexes of CLASS_NAMES) as a PNG with a palette; returns its path.

    The folder, or one above it, needs the file that `write_classes` writes.
    """
    image = Image.fromarray(np.array(FILE_VALUES, np.uint8)[label_map])
    image.putpalette(bytes.fromhex("".join(color[1:] for color in PALETTE)))  # now of mode "P"
    file = io.BytesIO()
    image.save(file, "PNG")
    return write_whole(path, file.getvalue())


def write_classes(folder: str | os.PathLike) -> epath.Path:
    """Writes the `classes.json` of a folder of label maps; returns its path."""
    named = sorted(zip(FILE_VALUES, CLASS_NAMES, strict=True))
    lines = ",\n".join(f'  "{name}": {value}' for value, name in named)
    return write_whole(epath.Path(folder) / MASK_CLASSES, f"{{\n{lines}\n}}\n")


def read_label_map(path: str | os.PathLike) -> UInt8[np.ndarray, "h w"]:
    """Reads a label map as indexes of CLASS_NAMES.

    Raises:
      DataError: the file, or its classes.json, is absent or cannot be used.
    """
    return read_mask(path, find_classes(pathlib.Path(path).parent))


def find_classes(folder: pathlib.Path, *, root: pathlib.Path | None = None) -> MaskClasses:
    """Reads the classes.json of a folder of masks, or the one in the nearest folder above it.

    Args:
      root: the last folder in which to look; None = look in all folders above.
    Raises:
      DataError: there is none, or it cannot be used.
    """
    folder = folder.absolute()
    for place in (folder, *folder.parents):
        if (place / MASK_CLASSES).exists():
            return _read_classes(place / MASK_CLASSES)
        if task_of_run(place):
            return OLD_CLASSES
        if place == root:
            break
    detail = (
        f"write {MASK_CLASSES} there, with the value of each class's pixels, such as "
        f'{{"{CLASS_NAMES[0]}": 1, "{CLASS_NAMES[1]}": 2}}; 0 is the background'
    )
    raise DataError("masks-without-classes", folder, detail)


def _read_classes(path: pathlib.Path) -> MaskClasses:
    document = read_json(path)
    expected = f'expected {{"{CLASS_NAMES[0]}": 1, ...}}: names, and values of 0 to {_MAX_VALUE}'
    if not isinstance(document, dict) or not document:
        raise DataError("unreadable-annotations", path, f"not an object; {expected}")
    of_value: dict[int, int] = {}
    unknown: list[str] = []
    for name, value in document.items():
        if type(value) is not int or not 0 <= value <= _MAX_VALUE:
            detail = f"the value of {name[:100]!r} is not a whole number; {expected}"
            raise DataError("unreadable-annotations", path, detail)
        index = class_of(name)
        if index is None:
            unknown.append(name)
            index = BACKGROUND
        if of_value.setdefault(value, index) != index:
            detail = f"value {value} is used for two classes; {expected}"
            raise DataError("unreadable-annotations", path, detail)
    return MaskClasses(of_value, tuple(unknown))


def read_mask(path: str | os.PathLike, classes: MaskClasses) -> UInt8[np.ndarray, "h w"]:
    """Reads a mask, a picture of indexed colours or gray levels, as indexes of CLASS_NAMES.

    Raises:
      DataError: the file cannot be used, or contains a value of no class.
    """
    try:
        values = _values(path, classes)
    except DataError as error:
        raise DataError("unusable-mask", path, error.detail) from error
    except FileNotFoundError as error:
        raise DataError("unusable-mask", path, "no such file") from error
    table = np.full(_MAX_VALUE + 1, _UNNAMED, np.uint8)
    table[0] = BACKGROUND
    table[list(classes.of_value)] = list(classes.of_value.values())
    label_map = table[values]
    if (label_map == _UNNAMED).any():
        unnamed = np.unique(values[label_map == _UNNAMED])
        text = ", ".join(map(str, unnamed[:5])) + (", ..." if len(unnamed) > 5 else "")
        named = ", ".join(map(str, sorted(classes.of_value)[:20]))
        detail = f"contains the values {text}, but {MASK_CLASSES} names only {named}; add them"
        raise DataError("unusable-mask", path, detail)
    return label_map


def _values(path: str | os.PathLike, classes: MaskClasses) -> np.ndarray:
    data = read_bytes(path)
    image = open_image(path, data)
    if image.format in ("JPEG", "WEBP"):
        detail = f"{image.format} changes the values of pixels; save it as a PNG"
        raise DataError("unusable-mask", path, detail)
    if classes.is_old and image.mode != "L":
        detail = f"has a palette, but no {MASK_CLASSES}: copy that file too"
        raise DataError("unusable-mask", path, detail)
    if not (image.mode in ("P", "L", "1") or image.mode.startswith("I")):
        detail = (
            f"has colours ({image.mode}), so the class of a pixel is unclear; save it with indexed "
            "colours or as gray levels, and the value of each class in classes.json"
        )
        raise DataError("unusable-mask", path, detail)
    values = np.array(image).astype(np.int64)
    if image.format == "PNG" and image.mode == "L" and data[24] in (2, 4):
        values //= 255 // (2 ** data[24] - 1)  # Pillow scales gray levels of 2 or 4 bits to 255
    if values.min() < 0 or values.max() > _MAX_VALUE:
        raise DataError("unusable-mask", path, f"contains values outside 0..{_MAX_VALUE}")
    return values


class MaskReader:
    """Reads masks as regions; reports each folder without a usable classes.json once."""

    def __init__(self, files: FileListing):
        self._files = files
        self._classes: dict[pathlib.Path, MaskClasses | None] = {}  # of each folder

    def read(self, path: pathlib.Path) -> Reading[AnnotatedImage | None]:
        """Returns the regions of a mask; None if its folder has no usable classes.json."""
        if path.parent not in self._classes:
            self._classes[path.parent] = yield from self._find_classes(path.parent)
        classes = self._classes[path.parent]
        if classes is None:
            return None
        try:
            return regions_of(read_mask(path, classes))
        except DataError as error:
            yield Oddity(error.kind, self._files.relative(path), error.detail)
            return AnnotatedImage(usable=False)

    def _find_classes(self, folder: pathlib.Path) -> Reading[MaskClasses | None]:
        try:
            classes = find_classes(folder, root=self._files.root)
        except DataError as error:
            yield Oddity(error.kind, self._files.relative(pathlib.Path(error.file)), error.detail)
            return None
        for name in classes.unknown:
            detail = f"{MASK_CLASSES} names {name[:100]!r}; known: {KNOWN_NAMES}"
            yield Oddity("unknown-category", self._files.relative(folder), detail)
        return classes


def regions_of(label_map: UInt8[np.ndarray, "h w"]) -> AnnotatedImage:
    """Returns the regions of a label map as masks, the largest first."""
    areas = np.bincount(label_map.ravel(), minlength=len(CLASS_NAMES))
    regions = tuple(
        Annotation(class_index=index, runs=runs_of(label_map == index))
        for index in np.argsort(-areas, kind="stable").tolist()
        if areas[index] and index != BACKGROUND
    )
    return AnnotatedImage(regions, label_map.shape)
