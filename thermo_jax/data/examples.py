"""Selects the thermograms that a run uses, and makes a table of them, with their pixels.

`select` applies the configured selection (SPEC section 4, "Which images a run uses");
`load_examples` reads the selected thermograms into NumPy arrays, whose first axis is the example,
or makes columns that are streamed. DMR-IR is 0.4 GB of heatmaps or 2 GB of gray images. Nothing
here needs TensorFlow.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import logging

from thermo_jax.data import annotations
from thermo_jax.data.picture import load_pixels
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings
from thermo_jax.data.streamed import Column, StreamedColumn, subset
from thermo_jax.data.table import Table
from thermo_jax.data.thermogram import (
    GRAY_SHAPE,
    HEAT_SHAPE,
    PROTOCOL_NAMES,
    UNLABELLED,
    VIEW_NAMES,
    Thermogram,
)
from thermo_jax.data.workers import ordered_map
from thermo_jax.errors import UserError

# (thermogram, kind) -> uint8 [H, W, C] of kind "gray" or "heat", or [480, 640] of "label_map".
# Several threads may call it.
ReadPixels = Callable[[Thermogram, str], np.ndarray]
IMAGE_SHAPES = {"gray": (*GRAY_SHAPE, 1), "heat": (*HEAT_SHAPE, 3)}  # data type -> [H, W, C]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which thermograms a run uses.

    Attributes:
      views: keys of `VIEW_NAMES`; 1 is frontal. Pretraining also uses thermograms without a known
        view.
      protocols: "S" static, "D" dynamic. Thermograms without a known protocol are used in
        pretraining, and elsewhere only if both protocols are selected.
      frames: "first" keeps the first frame of each patient, visit, view and protocol (the 20 frames
        of a dynamic visit are near-copies) and thermograms without a known frame; "all" keeps all.
      mirrored: whether to keep mirrored copies.
    """

    views: tuple[int, ...] = (1,)
    protocols: tuple[str, ...] = ("S", "D")
    frames: str = "first"
    mirrored: bool = False

    def __post_init__(self):
        object.__setattr__(self, "views", tuple(self.views))
        object.__setattr__(self, "protocols", tuple(self.protocols))
        if self.frames not in ("first", "all"):
            raise UserError(f"frames={self.frames!r}: choose one of 'first', 'all'")
        for name, chosen, known in (
            ("views", self.views, VIEW_NAMES),
            ("protocols", self.protocols, PROTOCOL_NAMES),
        ):
            unknown = [value for value in chosen if value not in known]
            if unknown or not chosen:
                raise UserError(f"{name}={chosen!r}: choose one or more of {list(known)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples(Table):
    """Images of one data type, for training and evaluation.

    Columns:
      images             uint8 [N, H, W, C], 0..255
      labels             int32 [N], 0 healthy, 1 sick, -1 unlabelled
      label_maps         uint8 [N, 480, 640], class index (task "segment" only)
      scored_label_maps  uint8 [N, H, W], the true classes for scores (task "segment" only)

    All but the labels may be streamed (`streamed.py`).
    """

    columns: dict[str, Column]

    data_type: str
    mean_temperatures: np.ndarray  # float64 [N], degrees C; NaN if there is no matrix

    _of_rows = staticmethod(subset)  # `take` copies no images


def select(
    records: Sequence[Thermogram],
    selection: Selection,
    *,
    task: str,
    data_type: str | None = None,
) -> list[Thermogram]:
    """The thermograms that a task uses, in the order given; logs how many each filter removes.

    Classification needs a diagnosis and a known patient, segmentation an annotation and a known
    patient; pretraining also uses unknown patients and views. The choice of first frames follows
    all other filters: if the first frame of a visit is not usable, the next frame is used.

    Args:
      task: "pretrain", "classify" or "segment".
      data_type: "gray" or "heat" removes thermograms without pixels of this type.
    Raises:
      UserError: no thermogram is left; the message says how many each filter removed.
    """
    kept, removed = list(records), {}
    for reason, keep in _filters(selection, task, data_type):
        before, kept = kept, [record for record in kept if keep(record)]
        removed[reason] = len(before) - len(kept)
    if selection.frames == "first":
        before, kept = kept, _first_frames(kept)
        removed["not the first frame"] = len(before) - len(kept)
    reasons = ", ".join(f"{count} {reason}" for reason, count in removed.items() if count) or "none"
    logging.info(
        "task %s: %d of %d thermograms; removed: %s", task, len(kept), len(records), reasons
    )
    if not kept:
        remedy = "Widen the selection (config.data) or choose other data"
        if removed.get("without heat pixels") == len(records):
            remedy = (
                "In a copy of DMR-IR, heatmaps are read from _snap.jpg files or rendered from "
                "temperatures: set config.data.render=any to render them from gray images, or "
                "choose gray presets (such as encoder.py:gray and classify.py:G/G)"
            )
        raise UserError(
            f"task {task!r} can use none of the {len(records)} thermograms: removed {reasons}. "
            f"{remedy}"
        )
    return kept


def read_pixels(
    record: Thermogram,
    kind: str,
    *,
    colormap: str = "jet",
    settings: ReaderSettings = AS_RECOGNISED,
) -> np.ndarray:
    """Reads the files of a thermogram, see `ReadPixels`; `colormap` is of rendered heatmaps."""
    if kind == "label_map":
        return annotations.label_map_480x640(record)
    return getattr(load_pixels(record, settings, colormap=colormap, wanted=(kind,)), kind)


def load_examples(
    records: Sequence[Thermogram],
    *,
    data_type: str,
    task: str,
    downscale: int = 1,
    read_pixels: ReadPixels = read_pixels,
    stream: bool = False,
) -> Examples:
    """A table of the thermograms that `select` returned for this data type and task.

    Args:
      downscale: factor by which images become smaller; block means are rounded to 8 bits.
      read_pixels: reads the thermograms' files, or a prepared set (`dmr_ir.pixel_reader`).
      stream: whether pixels are read when they are used; if not, they are read now.
    Raises:
      UserError: `downscale` does not divide the image.
      ValueError: a record is not annotated (task "segment").
    """
    shapes = column_shapes(data_type, task, downscale=downscale)
    if task == "segment" and (bare := [r.name for r in records if not r.regions]):
        raise ValueError(f"{bare[0]} is not annotated: use select(task='segment')")

    def read(row: int, name: str) -> np.ndarray:
        record = records[row]
        if name == "images":
            return block_mean(read_pixels(record, data_type), factor=downscale)
        if name == "label_maps":
            return read_pixels(record, "label_map")
        label_map = read_pixels(record, "label_map") if stream else columns["label_maps"][row]
        factor = GRAY_SHAPE[0] // shapes[name][0]
        return annotations.scored_label_map(label_map, record.regions, factor=factor)

    count = len(records)
    columns: dict[str, Column] = {}
    for name, shape in shapes.items():
        read_row = functools.partial(read, name=name)
        if stream:
            columns[name] = StreamedColumn(read_row, (count, *shape))
            continue
        columns[name] = np.empty((count, *shape), np.uint8)
        description = f"reading {data_type} {name.replace('_', ' ')}"
        values = ordered_map(read_row, range(count), description=description)
        for row, value in enumerate(values):
            columns[name][row] = value
    return Examples(
        data_type=data_type,
        names=[record.name for record in records],
        patients=[record.patient for record in records],
        views=np.array([record.view for record in records], np.int32),
        protocols=[record.protocol for record in records],
        dates=[record.date for record in records],
        # NumPy converts None to NaN.
        mean_temperatures=np.array([record.mean_temperature for record in records], np.float64),
        columns=columns | {"labels": np.array([record.label for record in records], np.int32)},
    )


def column_shapes(data_type: str, task: str, *, downscale: int) -> dict[str, tuple[int, ...]]:
    """The shape of one row of each column of uint8, by name.

    Raises:
      UserError: `downscale` does not divide the image.
    """
    image = image_shape(data_type, downscale=downscale)
    if task != "segment":
        return {"images": image}
    return {"images": image, "label_maps": GRAY_SHAPE, "scored_label_maps": image[:2]}


def block_mean(image: np.ndarray, *, factor: int) -> np.ndarray:
    """uint8 [H, W, C] -> uint8 [H/factor, W/factor, C]: block mean, rounded half to even."""
    if factor == 1:
        return image
    height, width, channels = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor, channels)
    return np.rint(blocks.mean(axis=(1, 3), dtype=np.float64)).astype(np.uint8)


def _filters(
    selection: Selection, task: str, data_type: str | None
) -> Iterator[tuple[str, Callable[[Thermogram], bool]]]:
    """Yields (reason to remove a thermogram, function that says whether to keep it), in order."""
    if data_type is not None:
        sources = {data_type, "temperatures"}
        yield f"without {data_type} pixels", lambda record: bool(sources & record.paths.keys())
    if task == "classify":
        yield "without a diagnosis", lambda record: record.label != UNLABELLED
    if task == "segment":
        yield "not annotated", lambda record: bool(record.regions)
    if task != "pretrain":
        yield "of an unknown patient", lambda record: record.patient_known
    views, protocols = set(selection.views), set(selection.protocols)
    if task == "pretrain":
        views.add(0)
    if task == "pretrain" or protocols >= {"S", "D"}:
        protocols.add("")
    yield f"of a view not in {selection.views}", lambda record: record.view in views
    yield f"of a protocol not in {selection.protocols}", lambda record: record.protocol in protocols
    if not selection.mirrored:
        yield "mirrored", lambda record: not record.mirrored


def _first_frames(records: list[Thermogram]) -> list[Thermogram]:
    first: dict[tuple, Thermogram] = {}
    for record in records:
        # The frames of one recording have the same key. Old file names have a date, but no visit.
        visit = record.visit or record.date
        recording = (visit, record.view, record.protocol, record.mirrored, record.stack)
        series = (record.patient, *recording)
        key = series if record.frame >= 0 else (record.name,)  # an unknown frame is kept
        if key not in first or record.frame < first[key].frame:
            first[key] = record
    chosen = {record.name for record in first.values()}
    return [record for record in records if record.name in chosen]


def image_shape(data_type: str, *, downscale: int) -> tuple[int, int, int]:
    """The (height, width, channels) of images that are reduced by a factor.

    Raises:
      UserError: the factor does not divide the image.
    """
    height, width, channels = IMAGE_SHAPES[data_type]
    common = math.gcd(height, width)
    if downscale < 1 or common % downscale:
        fitting = [str(value) for value in range(1, common + 1) if common % value == 0]
        raise UserError(
            f"downscale={downscale} does not divide an image of {height}x{width} pixels: "
            f"choose one of {', '.join(fitting)}"
        )
    return height // downscale, width // downscale, channels
