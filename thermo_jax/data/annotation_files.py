"""Finds the annotations of thermograms: COCO and LabelMe files, masks (SPEC section 9).

Each file is read, then matched with the thermograms by the names of its images. If an image is
annotated more than once, the file that thermograms.csv names comes first, then LabelMe, masks and
COCO, so that a user's corrections replace what was there before.
"""

import dataclasses
import pathlib
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from thermo_jax.data import coco_reader, label_map_files, labelme_reader
from thermo_jax.data.annotated_image import AnnotatedImage, by, read_json
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.file_listing import FileListing, has_masks, without_mask_word
from thermo_jax.data.grids import TOLERANCE
from thermo_jax.data.thermogram import (
    BACKGROUND,
    DataError,
    Thermogram,
    parse_name,
    stem_of,
    without_suffix,
)

_FOREIGN = re.compile(r"/|[A-Za-z]:|\.\./")  # the start of a path outside of the data set


def annotate(
    records: Sequence[Thermogram],
    files: FileListing,
    listed: Mapping[str, pathlib.Path] = {},
) -> Reading[list[Thermogram]]:
    """Adds the regions of annotation files to the thermograms.

    Args:
      listed: name of a thermogram -> its mask, LabelMe or COCO file, from thermograms.csv. Such a
        file annotates only the thermograms that name it.
    """
    annotator = _Annotator(list(records), files)
    masks = label_map_files.MaskReader(files)
    yield from _add_listed(annotator, masks, listed)
    others = set(files.annotations + files.masks) - set(listed.values())
    coco_files = []
    for path in filter(others.__contains__, files.annotations):
        found = yield from _read(path, files.relative(path))
        if found.is_labelme:
            for image, annotated in found.images.items():
                row = yield from _row_of_labelme(annotator, image, path)
                yield from annotator.add(row, annotated, image, path)
        else:
            coco_files.append((path, found.images))
    for path in filter(others.__contains__, files.masks):
        if annotated := (yield from masks.read(path)):
            image, folder = _image_of_mask(annotator, path)
            row = yield from annotator.row(image, folder)
            yield from annotator.add(row, annotated, image, path)
    for path, images in coco_files:
        folder = PurePosixPath(files.relative(path)).parent
        for image, annotated in images.items():
            row = yield from annotator.row(image, folder, subset=_subset(path))
            yield from annotator.add(row, annotated, image, path)
    return annotator.records


def _subset(path: pathlib.Path) -> str:
    """The part of a set that CVAT's file annotates: instances_Train.json is of images/Train."""
    return path.stem.removeprefix("instances_")


class _Read(NamedTuple):
    """The images in a JSON file: their paths, without suffix, as the file contains them."""

    images: dict[PurePosixPath, AnnotatedImage]
    is_labelme: bool = False


def _read(path: pathlib.Path, source: str) -> Reading[_Read]:
    """Reads a COCO or LabelMe file; other files contain no images."""
    try:
        document = read_json(path)
    except DataError as error:
        yield Oddity(error.kind, source, error.detail)
        return _Read({})
    if labelme_reader.is_labelme(document):
        image = labelme_reader.image_path(document) or PurePosixPath(path.name)
        annotated = yield from labelme_reader.read_labelme(document, source)
        return _Read({without_suffix(image): annotated}, is_labelme=True)
    # A file with "instances" in its name should be COCO, so the reader says why it is not.
    if coco_reader.is_coco(document) or "instances" in path.name.lower():
        return _Read((yield from coco_reader.read_coco(document, source)))
    yield Oddity("ignored-file", source, "neither COCO nor LabelMe annotations")
    return _Read({})


# --------------------------------------------------------------------------------------------------
# Which thermogram an image is
# --------------------------------------------------------------------------------------------------


class _Annotator:
    """Finds thermograms by the names of annotated images, and adds regions to them."""

    def __init__(self, records: list[Thermogram], files: FileListing):
        self.records, self.files = records, files
        self.row_of_name = {record.name: row for row, record in enumerate(records)}
        self._annotated_by: dict[int, str] = {}  # row -> file
        self._rows_of_stem: dict[str, list[int]] = {}
        # Thousands of patients may have a file of the same name, so folders are looked up, too.
        self._rows_of_folder: dict[tuple[str, str], list[int]] = {}
        for row, record in enumerate(records):
            for stem in _stems(record):
                self._rows_of_stem.setdefault(stem, []).append(row)
                folder = self._folder(PurePosixPath(record.name))
                self._rows_of_folder.setdefault((folder, stem), []).append(row)
        self._names_on_disk: dict[str, list[PurePosixPath]] = {}
        for path in files.pixels:
            name = without_suffix(PurePosixPath(files.relative(path)))
            self._names_on_disk.setdefault(name.name, []).append(name)

    def has(self, stem: str) -> bool:
        """Whether a file with pixels has this name, whether or not it could be used."""
        return stem in self._names_on_disk or stem in self._rows_of_stem

    def row(
        self, image: PurePosixPath, folder: PurePosixPath, *, subset: str = ""
    ) -> Reading[int | None]:
        """Returns the row of the thermogram that is meant; None, with an oddity, if unclear.

        Args:
          image: the path of the image, without suffix, as the annotation file contains it.
          folder: of the annotation file. Of several thermograms, those near it are preferred.
          subset: of several thermograms, those in a folder of this name are meant.
        """
        rows = self._rows(image)
        in_subset = [
            row for row in rows if subset in PurePosixPath(self.records[row].name).parts[:-1]
        ]
        rows = in_subset or rows
        if len(rows) > 1:
            rows = self._nearest(rows, folder)
        if len(rows) == 1:
            return rows[0]
        if rows:
            names = ", ".join(self.records[row].name for row in rows)
            yield Oddity("ambiguous-annotation", str(image), f"fits {names}")
            return None
        left_out = image.name in self._names_on_disk
        detail = "its files were left out, see above" if left_out else "no such file"
        yield Oddity("absent-image", str(image), detail)
        return None

    def _rows(self, image: PurePosixPath) -> list[int]:
        rows = self._rows_of_stem.get(image.name, [])
        folder = image.parent.name
        is_named = folder not in ("", "..") and not folder.endswith(":")  # unlike C:/a.jpg
        near = self._rows_of_folder.get((folder, image.name), []) if is_named else rows
        if fitting := [row for row in near if self.fits(image, self.records[row].name)]:
            return fitting
        parsed = parse_name(image.name)
        if parsed is not None and parsed.patient is not None:
            return rows  # a name without a patient may occur in several patients' folders
        on_disk = self._names_on_disk.get(image.name, [])
        left_out = any(self.fits(image, name.as_posix()) for name in on_disk)
        return rows if _FOREIGN.match(image.as_posix()) and not left_out else []

    def _folder(self, name: PurePosixPath) -> str:
        """The name of the folder of a file, which may be the root."""
        return name.parent.name or self.files.root.name

    def fits(self, image: PurePosixPath, name: str) -> bool:
        """Whether the path of an image and the name of a thermogram end with the same parts.

        The path may begin above the data set's root, or on another machine.
        """
        parts = tuple(part for part in image.parts if part != ".." and part[-1] not in "/:")
        own = (*PurePosixPath(name).parts[:-1], image.name)
        whole = (*self.files.root.parts, *own)
        return whole[-len(parts) :] == parts or (len(own) > 1 and parts[-len(own) :] == own)

    def _nearest(self, rows: list[int], folder: PurePosixPath) -> list[int]:
        """The thermograms in the folder itself; else those below it, or below one above it."""
        above = {row: PurePosixPath(self.records[row].name).parents for row in rows}
        beside = [row for row in rows if above[row][0] == folder]
        below = ([row for row in rows if f in above[row]] for f in (folder, *folder.parents))
        return beside or next(filter(None, below), rows)

    def add(
        self, row: int | None, annotated: AnnotatedImage, image: PurePosixPath, path: pathlib.Path
    ) -> Reading[None]:
        """Adds the regions of an image to its thermogram, unless that is already annotated."""
        drawn = any(region.class_index != BACKGROUND for region in annotated.regions)
        if row is None or (annotated.usable and not drawn):
            return
        record, source = self.records[row], self.files.relative(path)
        if first := self._annotated_by.get(row):
            detail = f"{record.name} is already annotated by {first}, so {source} is not used"
            yield Oddity("repeated-image", str(image), detail)
            return
        self._annotated_by[row] = source
        if not annotated.usable:
            return  # no other file is used instead: the user should correct this one
        shape = annotated.shape or record.shape
        ratio = shape[1] / shape[0] / (record.shape[1] / record.shape[0])
        if abs(ratio - 1) > TOLERANCE:
            detail = f"{source} gives {by(shape)} pixels; the thermogram has {by(record.shape)}"
            yield Oddity("annotation-size", str(image), detail)
            return
        changes = {"regions": annotated.regions, "regions_shape": shape}
        self.records[row] = dataclasses.replace(record, **changes)


def _stems(record: Thermogram) -> set[str]:
    """The file names for which a thermogram is meant; those of a stack mean its first frame."""
    names = [PurePosixPath(record.name).name]
    names += [path.name for path in record.files] if not record.frame_in_file else []
    return {stem_of(PurePosixPath(name)) for name in names}


def _row_of_labelme(
    annotator: _Annotator, image: PurePosixPath, path: pathlib.Path
) -> Reading[int | None]:
    """Finds the thermogram by `imagePath`, or by the name of the LabelMe file."""
    folder = PurePosixPath(annotator.files.relative(path)).parent
    # The path of the image is relative to the LabelMe file, unless that was moved.
    exact = posixpath.normpath((folder / image).as_posix())
    if exact in annotator.row_of_name:
        return annotator.row_of_name[exact]
    if not annotator.has(image.name):
        image = PurePosixPath(stem_of(path.with_suffix("")))
    return (yield from annotator.row(image, folder))


def _image_of_mask(
    annotator: _Annotator, path: pathlib.Path
) -> tuple[PurePosixPath, PurePosixPath]:
    """Returns the path of the image, which is that below the folder of masks, and this folder."""
    root = annotator.files.root
    places = (place for place in path.parents if place.is_relative_to(root) and has_masks(place))
    place = next(places, path.parent)
    below = PurePosixPath(path.relative_to(place).as_posix())
    stem = stem_of(path)
    if not annotator.has(stem):
        stem = without_mask_word(stem)
    return below.with_name(stem), PurePosixPath(annotator.files.relative(place))


def _add_listed(
    annotator: _Annotator, masks: label_map_files.MaskReader, listed: Mapping[str, pathlib.Path]
) -> Reading[None]:
    """Adds the annotations that thermograms.csv names."""
    read: dict[pathlib.Path, _Read] = {}
    for name, path in listed.items():
        if name not in annotator.row_of_name:
            continue  # the thermogram was left out
        row, source = annotator.row_of_name[name], annotator.files.relative(path)
        if path.suffix.lower() == ".json":
            if path not in read:
                read[path] = yield from _read(path, source)
            annotated = _image_of(annotator, read[path], annotator.records[row])
            if annotated is None and read[path].images:
                yield Oddity("absent-image", name, f"{source} does not contain this image")
        else:
            annotated = yield from masks.read(path)
        annotated = annotated or AnnotatedImage(usable=False)
        yield from annotator.add(row, annotated, PurePosixPath(name), path)


def _image_of(annotator: _Annotator, read: _Read, record: Thermogram) -> AnnotatedImage | None:
    """The image of a thermogram in the file that thermograms.csv names; None if it has none."""
    if len(read.images) == 1:
        return next(iter(read.images.values()))
    of_stem = [image for image in read.images if image.name in _stems(record)]
    fitting = [image for image in of_stem if annotator.fits(image, record.name)] or of_stem
    return read.images[fitting[0]] if len(fitting) == 1 else None
