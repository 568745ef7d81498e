"""Applies an ensemble of trained decoders to a user's thermograms.

    workdirs -> the best model of each, with its frozen encoder
    pictures -> images for each model -> batches of one size -> predictions at the pictures' sizes
             -> does the picture show two breasts? (plausibility.py)

    from thermo_jax.inference.predictor import Predictor
    predictor = Predictor(["runs/classify", "runs/segment"])  # without: the model of the package
    for prediction in predictor.predict("my_thermograms"):
        print(prediction.name, prediction.probability)

Nothing here needs TensorFlow.
"""

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from thermo_jax.data import grids
from thermo_jax.data.examples import block_mean, image_shape
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings
from thermo_jax.data.thermogram import VIEW_NAMES, DataError, Thermogram
from thermo_jax.data.workers import ordered_map
from thermo_jax.errors import UserError
from thermo_jax.inference import inputs
from thermo_jax.inference.findings import Prediction
from thermo_jax.inference.in_memory import is_path, of_array
from thermo_jax.inference.inputs import Paths, ReadThermogram, Unreadable
from thermo_jax.inference.plausibility import PlausibilityCheck, implausible_places
from thermo_jax.inference.provenance import describe, note_on
from thermo_jax.inference.regions import measure_regions
from thermo_jax.inference.trained_models import SHIPPED, Model, load_model, load_models
from thermo_jax.models.precision import matmul_precision
from thermo_jax.training.known_images import trained_with

TASKS = ("segment", "classify")
NOT_NEW = "its result is better than one for a new patient would be"
NO_DIFFERENCES = "no differences between left and right are given"


class Predictor:
    """An ensemble of trained decoders."""

    def __init__(
        self,
        workdirs: Paths = SHIPPED,
        *,
        batch_size: int = 8,
        dtype: str = "auto",
        check: bool = True,
    ):
        """Loads the models (see `load_models`); a batch has `batch_size` thermograms.

        Without workdirs, the model that comes with the package finds regions. There are no
        probabilities then.

        Args:
          check: whether to check that each thermogram shows two breasts from the front.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        self.batch_size = batch_size
        self.models = load_models(workdirs, dtype=dtype)
        self.provenances = [describe(model) for model in self.models]
        self._check = None
        if check:
            exact = (m for m in self.models if m.is_shipped and m.dtype == "float32")
            shipped = next(exact, None) or load_model(SHIPPED, dtype="float32")
            self._check = PlausibilityCheck(shipped)
        for note in filter(None, map(self.note_on, TASKS)):
            logging.warning("%s", note)

    def note_on(self, task: str) -> str:
        """What readers must know about the models of a task, see `provenance.note_on`."""
        return note_on(self.provenances, task=task)

    def predict(
        self, thermograms: Any, *, reader: ReaderSettings = AS_RECOGNISED
    ) -> list[Prediction | Unreadable]:
        """Predicts arrays, files or folders; always returns a list, in their order.

        Args:
          thermograms: an array, a path, or a list of arrays and paths. An array [H,W] of uint8
            contains gray levels, [H,W,3] of uint8 colours, and [H,W] of any other numbers
            temperatures in degrees C (or in another unit that `reader` recognises, as in files).
            [T,H,W] are T thermograms. A path is a file, a folder, a zip, or a pattern such as
            "clinic/*.csv", see `predict_files`.
        Raises:
          UserError: neither an array nor a path, or an array that cannot be used.
          FileNotFoundError: there is no such file or folder.
        """
        if is_path(thermograms):
            return list(self.predict_files(thermograms, reader=reader))
        given = thermograms if isinstance(thermograms, list | tuple) else [thermograms]
        names = [f"array {k}" if len(given) > 1 else "array" for k in range(len(given))]
        # All arrays are read first, so that a wrong one is named before any work.
        read = [
            None if is_path(item) else of_array(item, name=name, settings=reader)
            for item, name in zip(given, names, strict=True)
        ]
        arrays = [one for items in read if items is not None for one in items]
        predicted = self.predict_read(arrays, count=len(arrays))
        results: list[Prediction | Unreadable] = []
        for item, items in zip(given, read, strict=True):
            if items is None:
                results += self.predict_files(item, reader=reader)
            else:
                results += itertools.islice(predicted, len(items))
        return results

    def predict_files(
        self,
        paths: Paths,
        *,
        leave_out: str | os.PathLike | None = None,
        reader: ReaderSettings = AS_RECOGNISED,
    ) -> Iterator[Prediction | Unreadable]:
        """Reads and predicts files, folders, zips or patterns, one patient after the other.

        Arguments and errors are those of `inputs.find_thermograms`.
        """
        unpacked = tempfile.TemporaryDirectory(prefix="thermo_jax_", ignore_cleanup_errors=True)
        try:
            found = inputs.find_thermograms(
                paths, unpack_dir=Path(unpacked.name), leave_out=leave_out
            )
        except BaseException:
            unpacked.cleanup()
            raise

        def read(item: Thermogram | Unreadable) -> ReadThermogram | Unreadable:
            if isinstance(item, Unreadable):
                return item
            return inputs.read_thermogram(item, reader, notes=found.notes[item.name])

        def predictions() -> Iterator[Prediction | Unreadable]:
            with unpacked:
                yield  # to `next` below
                items = ordered_map(read, found.items, description="predicting")
                yield from self.predict_read(items, count=len(found.items))

        started = predictions()
        next(started)  # Closing a generator that has not started would not leave the `with` block.
        return started

    def predict_read(
        self, items: Iterable[ReadThermogram | Unreadable], *, count: int | None = None
    ) -> Iterator[Prediction | Unreadable]:
        """Predictions in the order of the items; an unreadable item is returned as it is.

        Args:
          count: the number of items, if known; it limits the size of a batch.
        """
        size = min(self.batch_size, count or self.batch_size)
        items = iter(items)
        while chunk := list(itertools.islice(items, size)):
            readable = [item for item in chunk if isinstance(item, ReadThermogram)]
            predicted = iter(self._predict_batch(readable, size=size) if readable else ())
            for item in chunk:
                yield next(predicted) if isinstance(item, ReadThermogram) else item

    def _predict_batch(self, batch: list[ReadThermogram], *, size: int) -> list[Prediction]:
        probabilities: list[dict] = [{} for _ in batch]
        evidence: list[dict] = [{} for _ in batch]
        classes: list[list] = [[] for _ in batch]
        notes: list[list[str]] = [list(item.notes) for item in batch]
        inputs: dict[tuple, tuple] = {}
        for model in self.models:
            kind = (model.data_type, model.colormap, model.downscale)
            if kind not in inputs:
                inputs[kind] = _inputs(batch, *kind, size=size)
            images, reasons = inputs[kind]
            with matmul_precision(model.dtype, platform=jax.default_backend()):
                outputs = jax.device_get(model(images))
            known = trained_with(model.meta, images)
            for row, reason in enumerate(reasons):
                if reason is not None:
                    notes[row].append(f"{model.name}: {reason}")
                    continue
                if known[row]:
                    notes[row].append(f"{model.name} was trained with this image: {NOT_NEW}")
                if model.task == "classify":
                    probabilities[row][model.name] = float(outputs["probabilities"][row])
                    evidence[row][model.name] = outputs["evidence"][row]
                else:
                    classes[row].append(outputs["classes"][row])
        doubts = self._doubts(batch, size=size)
        of_pictures = zip(batch, probabilities, evidence, classes, doubts, notes, strict=True)
        return [self._prediction(*results) for results in of_pictures]

    def _doubts(self, batch: Sequence[ReadThermogram], *, size: int) -> list[list[str]]:
        """The reasons why each may not show two breasts; other views are not checked."""
        frontal = [row for row, item in enumerate(batch) if _is_frontal(item.record)]
        doubts: list[list[str]] = [[] for _ in batch]
        if self._check is not None and frontal:
            found = self._check([batch[row].picture for row in frontal], size=size)
            for row, reasons in zip(frontal, found, strict=True):
                doubts[row] = reasons
        return doubts

    def _prediction(self, item, probabilities, evidence, classes, doubts, notes) -> Prediction:
        record, picture = item.record, item.picture
        view_notes, counts = _unseen(record, self.models)
        label_map, regions, region_doubts = None, [], []
        if classes:
            mean = grids.from_model(np.mean(classes, axis=0), picture.grid)
            label_map = mean.argmax(-1).astype(np.uint8)
            regions = measure_regions(label_map, picture.temperatures, good=picture.good)
            if self._check is not None and _is_frontal(record):
                region_doubts = [] if doubts else implausible_places(label_map)
        if doubts:
            view_notes = [_doubtful(doubts, with_probability=bool(probabilities)), *view_notes]
        if region_doubts:
            reasons = ", ".join(region_doubts)
            text = f"the regions cannot be right ({reasons}): {NO_DIFFERENCES}"
            view_notes = [text, *view_notes]
        results = {"segment": classes, "classify": probabilities}
        models_notes = [self.note_on(task) for task in TASKS if results[task]]
        return Prediction(
            name=record.name,
            patient=record.known_patient,
            shape=picture.shape,
            celsius=picture.temperatures is not None,
            probabilities=probabilities,
            measurements=regions,
            doubts=tuple(doubts),
            region_doubts=tuple(region_doubts),
            notes=(*notes, *view_notes),
            is_frontal=_is_frontal(record),
            mirrored=record.mirrored,
            counts=counts and not doubts,
            picture=picture,
            file=item.file,
            evidence=evidence,
            label_map=label_map,
            models_note=" ".join(filter(None, models_notes)),
        )


def _is_frontal(record: Thermogram) -> bool:
    """Whether it may be a frontal view; only these are checked."""
    return record.view in (0, 1)


def _doubtful(doubts: Sequence[str], *, with_probability: bool) -> str:
    left_out = ", and its probability is not part of the patient's mean" * with_probability
    return (
        f"this may not be a frontal view of two breasts ({', '.join(doubts)}): {NO_DIFFERENCES}"
        f"{left_out}"
    )


def _unseen(record: Thermogram, models: Sequence[Model]) -> tuple[list[str], bool]:
    """(notes, counts) of a thermogram, from its view."""
    untrained = [
        model
        for model in models
        if record.view not in (0, *model.views) or (record.mirrored and not model.mirrored)
    ]
    if not untrained:
        return [], True
    view = f"{VIEW_NAMES[record.view]} view"
    if record.mirrored:
        view = f"mirrored copy of {view}" if record.view else "mirrored copy"
    names = "the models" if len(untrained) == len(models) else ", ".join(m.name for m in untrained)
    counts = not any(model.task == "classify" for model in untrained)
    left_out = "" if counts else ": left out of the patient's mean"
    return [f"{view}, of which {names} saw none in training{left_out}"], counts


def _inputs(batch, data_type, colormap, downscale, *, size) -> tuple[np.ndarray, list]:
    """(images, padded to `size`; the reason why a picture cannot be read, or None)."""
    images = np.zeros((size, *image_shape(data_type, downscale=downscale)), np.uint8)
    reasons: list[str | None] = []
    for row, item in enumerate(batch):
        try:
            image = item.picture.model_image(data_type, colormap=colormap)
            images[row] = block_mean(image, factor=downscale)
            reasons.append(None)
        except DataError as error:
            reasons.append(error.detail)
    return images, reasons
