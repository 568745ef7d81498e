"""The area of each thermogram that rivals look at: the same data set with other gray pixels.

    area      absolute  gray pixels
    full      no        levels between the image's own minimum and maximum: the data set itself
    full      yes       degrees C on one scale for all images, so that a warm body stays warm
    breasts   either    the two breasts that a segmenter predicts, each enlarged to half a frame

The area "breasts" is after Mahoro 2024 (SPEC section 12): the same idea, segmented breasts instead
of the whole image. Different: our segmenter, and a frame of 480x640 with the breasts side by side.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from absl import logging
from jaxtyping import Bool, Float32, Integer, UInt8

from thermo_jax.data import layouts
from thermo_jax.data.dataset import Dataset
from thermo_jax.data.examples import ReadPixels
from thermo_jax.data.picture import load_pixels
from thermo_jax.data.thermogram import CLASS_NAMES, Thermogram
from thermo_jax.errors import UserError
from thermo_jax.rivals.registry import AREAS

COLDEST, WARMEST = 18.0, 38.0  # degrees C of the levels 1 and 255; skin has about 25 to 37
SMALLEST = 0.01  # share of the frame; a smaller region is not taken for a breast
SIDES = ("left", "right")  # of the image

Segment = Callable[[UInt8[np.ndarray, "480 640 1"]], Integer[np.ndarray, "h w"]]


def of_area(
    dataset: Dataset, *, area: str = "full", absolute: bool = False, segment: Segment | None = None
) -> Dataset:
    """The same data set, whose gray pixels are changed whenever they are read.

    Other kinds of pixels stay as they are. So do label maps: they do not fit the area "breasts",
    which is for classification.

    With `absolute`, the matrices of temperatures are read from the source files, because prepared
    data contain none; if the data set was opened as prepared data, its folder is scanned for them.

    Args:
      dataset: the changed one keeps its records, settings and reports.
      area: one of registry.AREAS.
      absolute: show temperatures on one scale (`temperature_levels`), see the module's docstring.
        Reading raises UserError for a record without a matrix; `has_temperatures` says it before.
      segment: for the area "breasts": a gray image with its usual levels, also if `absolute` ->
        indexes of CLASS_NAMES at any size. Several threads may read images, but it is called by one
        at a time.
    Raises:
      UserError: an unknown area, "breasts" without a segmenter, or prepared data whose source files
        are missing.
    """
    if area not in AREAS:
        raise UserError(f"area={area!r}: choose one of {', '.join(AREAS)}")
    if area == "breasts" and segment is None:
        raise UserError("area='breasts' needs a segmenter: give a trained one, or use area='full'")
    if area == "full" and not absolute:
        return dataset

    sources = _source_records(dataset) if absolute else {}
    find_breasts = _BreastFinder(segment) if area == "breasts" else None

    def read_image(record: Thermogram, read_usual: ReadPixels) -> np.ndarray:
        if absolute:
            image = _absolute_image(record, sources, dataset)
        else:
            image = read_usual(record, "gray")
        if find_breasts is None:
            return image
        usual = read_usual(record, "gray") if absolute else image
        return show_breasts(image, find_breasts(record, usual))

    def changed(read_usual: ReadPixels) -> ReadPixels:
        def read(record: Thermogram, kind: str) -> np.ndarray:
            return read_image(record, read_usual) if kind == "gray" else read_usual(record, kind)

        return read

    stream_pixels = dataset.stream_pixels
    if stream_pixels is not None:
        original = stream_pixels
        stream_pixels = functools.cache(lambda: changed(original()))
    return dataclasses.replace(
        dataset, read_pixels=changed(dataset.read_pixels), stream_pixels=stream_pixels
    )


def has_temperatures(dataset: Dataset, task: str) -> bool:
    """Whether all thermograms of the task's gray images have a matrix of temperatures."""
    return all(record.temperature_path is not None for record in dataset.select(task, "gray"))


def temperature_levels(temperatures: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 1"]:
    """COLDEST to WARMEST degrees C as levels 1 to 255 (12.7 for each degree); others are clipped.

    Level 0 stays free for what an area leaves out.
    """
    shares = (temperatures.astype(np.float64) - COLDEST) / (WARMEST - COLDEST)
    return np.rint(1 + 254 * shares.clip(0, 1)).astype(np.uint8)[..., np.newaxis]


def breast_masks(label_map: Integer[np.ndarray, "h w"]) -> dict[str, Bool[np.ndarray, "h w"]]:
    """By side of the image, the largest connected area of a breast and its nipple.

    A side whose area is less than SMALLEST of the frame has no mask.
    """
    masks = {}
    for side in SIDES:
        classes = [CLASS_NAMES.index(f"{side}_{part}") for part in ("breast", "nipple")]
        inside = np.isin(label_map, classes).astype(np.uint8)
        _, areas, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        sizes = stats[1:, cv2.CC_STAT_AREA]  # without the rest, which has number 0
        if len(sizes) and sizes.max() >= SMALLEST * inside.size:
            masks[side] = areas == 1 + sizes.argmax()
    return masks


def show_breasts(
    image: UInt8[np.ndarray, "h w 1"], masks: Mapping[str, Bool[np.ndarray, "mh mw"]]
) -> UInt8[np.ndarray, "h w 1"]:
    """Each breast, enlarged to its own half of the frame, the left one in the left half.

    A breast is cropped to its bounding box, and keeps its aspect ratio. Pixels outside it are 0,
    those inside are at least 1. A side without a mask shows its half of the image.

    Args:
      masks: by side of the image, of any size that has the aspect ratio of the image.
    """
    height, width, _ = image.shape
    half = width // 2
    frame = np.zeros_like(image)
    for side, left in zip(SIDES, (0, half), strict=True):
        columns = slice(left, left + half)
        if side in masks:
            mask = cv2.resize(
                masks[side].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
            )
            frame[:, columns, 0] = _fitted(image[..., 0], mask, shape=(height, half))
        else:
            frame[:, columns] = np.maximum(image[:, columns], 1)
    return frame


def _fitted(image: np.ndarray, mask: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    """The pixels inside a mask, cropped to its bounding box, as large as fit in the shape."""
    x, y, width, height = cv2.boundingRect(mask)
    scale = min(shape[0] / height, shape[1] / width)
    rows = min(max(round(scale * height), 1), shape[0])
    columns = min(max(round(scale * width), 1), shape[1])
    box, size = np.s_[y : y + height, x : x + width], (columns, rows)
    method = cv2.INTER_LINEAR if scale >= 1 else cv2.INTER_AREA
    # The pixels are enlarged before they are masked, so that a breast has no dark border.
    pixels = np.maximum(cv2.resize(image[box], size, interpolation=method), 1)
    inside = cv2.resize(mask[box], size, interpolation=cv2.INTER_NEAREST_EXACT)
    fitted = np.zeros(shape, np.uint8)
    top, left = (shape[0] - rows) // 2, (shape[1] - columns) // 2
    fitted[top : top + rows, left : left + columns] = np.where(inside, pixels, 0)
    return fitted


class _BreastFinder:
    """Finds the breasts of a record; warns once for each record if there is none on a side."""

    def __init__(self, segment: Segment):
        self._segment = segment
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, record: Thermogram, image: np.ndarray) -> dict[str, np.ndarray]:
        with self._lock:
            masks = breast_masks(np.asarray(self._segment(image)))
            missing = [side for side in SIDES if side not in masks]
            if missing and record.name not in self._warned:
                self._warned.add(record.name)
                logging.warning(
                    "%s: no %s breast was found: the half of the frame is shown of the whole image",
                    record.name,
                    " and no ".join(missing),
                )
        return masks


def _absolute_image(
    record: Thermogram, sources: Mapping[str, Thermogram], dataset: Dataset
) -> np.ndarray:
    source = sources.get(record.name, record)
    if source.temperature_path is None:
        raise UserError(
            f"{record.name} has no matrix of temperatures, which absolute images need: use "
            "absolute=False, or leave this thermogram out"
        )
    pixels = load_pixels(source, dataset.settings.reader, wanted=("temperatures",))
    return temperature_levels(pixels.temperatures)


def _source_records(dataset: Dataset) -> dict[str, Thermogram]:
    """By name, records with the paths of source files, if those of the data set do not have them.

    Raises:
      UserError: a prepared record that has a matrix is not in the folder.
    """
    if not any(_is_prepared(record) for record in dataset.records):
        return {}
    settings = dataset.settings
    root = settings.find_root()
    logging.info("%s is scanned for temperatures, which prepared data do not contain", root)
    scanned, _ = layouts.scan(
        root, layout=settings.layout, render=settings.render, reader=settings.reader
    )
    sources = {record.name: record for record in scanned}
    for record in dataset.records:
        if record.temperature_path is not None and record.name not in sources:
            raise UserError(f"{root} no longer contains {record.name}: prepare the data again")
    return sources


def _is_prepared(record: Thermogram) -> bool:
    return record.temperature_path is not None and record.temperature_path.is_dir()
