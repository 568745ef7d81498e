"""Applies an ensemble of trained decoders to a user's thermograms.

    workdirs -> the best model of each, with its frozen encoder
    pictures -> images for each model -> batches of one size -> predictions at the pictures' sizes

    from thermo_jax.inference.predictor import Predictor
    predictor = Predictor(["runs/classify", "runs/segment"])  # without: the model of the package
    for prediction in predictor.predict_files("my_thermograms"):
        print(prediction.name, prediction.probability)

Nothing here needs TensorFlow.
"""

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, UInt8

from thermo_jax.data import grids
from thermo_jax.data.examples import block_mean, image_shape
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings, ordered_map
from thermo_jax.data.thermogram import (
    GRAY_SHAPE,
    MIRRORED_CLASSES,
    VIEW_NAMES,
    DataError,
    Thermogram,
)
from thermo_jax.errors import UserError
from thermo_jax.inference import inputs
from thermo_jax.inference.find_models import DECODERS, find_models
from thermo_jax.inference.findings import Prediction
from thermo_jax.inference.inputs import Paths, ReadThermogram, Unreadable
from thermo_jax.inference.regions import measure_regions
from thermo_jax.models.decoders import HEADS
from thermo_jax.models.frozen import FrozenEncoder, encode
from thermo_jax.models.mirror import mirror_averaged
from thermo_jax.models.operations import choose_operations
from thermo_jax.models.precision import choose_dtype, matmul_precision
from thermo_jax.training import train_decoder, weights_file
from thermo_jax.training.checkpoints import check_validated

SHIPPED = weights_file.SHIPPED
SHIPPED_TITLE = "the model that comes with thermo_jax, trained on synthetic images only"


class Model(NamedTuple):
    """A trained decoder, ready to run."""

    name: str  # the part of its workdir that differs from the other models
    task: str  # "classify" or "segment"
    data_type: str  # of its images
    colormap: str  # renders heatmaps from temperatures
    downscale: int
    views: tuple[int, ...]  # in its training data, keys of VIEW_NAMES
    mirrored: bool  # whether mirrored copies were in its training data
    dtype: str  # compute type, of models/precision.py
    encoder: FrozenEncoder
    decoder: Any
    variables: dict  # of the decoder
    meta: dict  # of its checkpoint or file: "config", "encoder", "trained_on", ...
    source: Path  # its workdir or file
    mirror_average: bool = False  # see models/mirror.py

    @property
    def is_shipped(self) -> bool:
        """Whether it comes with the package."""
        return self.source == weights_file.SHIPPED_FILE

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of its images."""
        return image_shape(self.data_type, downscale=self.downscale)

    def __call__(
        self,
        images: UInt8[Array | np.ndarray, "b h w c"],
        *,
        shape: tuple[int, int] = GRAY_SHAPE,
    ) -> dict[str, jax.Array]:
        """The outputs for a batch of images: see `forward`."""
        return forward(
            self.variables,
            self.encoder.variables,
            images,
            encoder=self.encoder.module,
            decoder=self.decoder,
            shape=shape,
            mirror_average=self.mirror_average,
        )


def load_model(workdir: str | os.PathLike, *, name: str = "", dtype: str = "auto") -> Model:
    """The best model of the run of a decoder.

    Args:
      workdir: of the run, or a file of weights (`training/weights_file.py`), or "shipped".
      dtype: compute type, of models/precision.py.
    Raises:
      FileNotFoundError: there is no checkpoint.
      UserError: the run trained something else, or was stopped in its first epoch.
    """
    platform = jax.default_backend()
    with weights_file.open_decoder(workdir) as (meta, read_variables):
        config = meta["config"]
        task, data, model = config["task"], config["data"], config["model"]
        if not meta.get("finished", True):  # files of weights lack this field
            logging.warning(
                "%s has not finished its training (epoch %d): its best model so far is used.",
                workdir,
                meta["epoch"],
            )
        if task not in DECODERS:
            raise UserError(
                f"{workdir} contains a run of {task}: expected a classifier or segmenter"
            )
        check_validated(meta, workdir=workdir)
        dtype = choose_dtype(dtype, device=jax.devices()[0])
        operations = choose_operations("auto", platform=platform)
        encoder = FrozenEncoder.abstract(
            meta["encoder"],
            num_kernels=config["encoder"].get("num_kernels"),
            dtype=dtype,
            operations=operations,
        )
        decoder = train_decoder.make_decoder(
            task,
            width=model["unet_width"],
            head=model.get("head", HEADS[0]),
            dtype=dtype,
            operations=operations,
        )
        latents = encoder.latents(image_shape(data["type"], downscale=data["downscale"]))
        like = train_decoder.abstract_variables(decoder, latents.shape)
        variables = read_variables({"model": like, "encoder": encoder.variables})
    return Model(
        name=name or Path(workdir).name,
        task=task,
        data_type=data["type"],
        colormap=data["colormap"],
        downscale=data["downscale"],
        # Imported models lack this field. The published ones were trained on frontal views.
        views=tuple(data.get("views", (1,))),
        mirrored=data.get("mirrored", False),
        dtype=dtype,
        encoder=encoder.with_variables(jax.device_put(variables["encoder"])),
        decoder=decoder,
        variables=jax.device_put(variables["model"]),
        meta=meta,
        source=weights_file.SHIPPED_FILE if str(workdir) == SHIPPED else Path(workdir),
        mirror_average=model.get("mirror_average", False),
    )


def load_models(workdirs: Paths, *, dtype: str = "auto") -> list[Model]:
    """Loads all models of `find_models`; their names are paths without the common part.

    `find_models` and `load_model` explain the arguments and the errors.
    """
    found = find_models(workdirs)
    trained = [path for path in found if path != weights_file.SHIPPED_FILE]
    common = os.path.commonpath([path.parent for path in trained]) if trained else ""
    names = {path: path.relative_to(common).as_posix() for path in trained}
    return [load_model(path, name=names.get(path, SHIPPED), dtype=dtype) for path in found]


class Predictor:
    """An ensemble of trained decoders."""

    def __init__(self, workdirs: Paths = SHIPPED, *, batch_size: int = 8, dtype: str = "auto"):
        """Loads the models (see `load_models`); a batch has `batch_size` thermograms.

        Without workdirs, the model that comes with the package finds regions. There are no
        probabilities then.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        self.batch_size = batch_size
        self.models = load_models(workdirs, dtype=dtype)
        if self.note:
            logging.warning("Thermograms are %s.", self.note)

    @property
    def note(self) -> str:
        """What readers of label maps must know about the segmenters, or ""."""
        segmenters = [model for model in self.models if model.task == "segment"]
        if not any(model.is_shipped for model in segmenters):
            return ""
        names = [SHIPPED_TITLE if model.is_shipped else model.name for model in segmenters]
        return f"segmented by {' and by '.join(names)}"

    def predict_files(
        self,
        paths: Paths,
        *,
        leave_out: str | os.PathLike | None = None,
        reader: ReaderSettings = AS_RECOGNISED,
    ) -> Iterator[Prediction | Unreadable]:
        """Reads and predicts files, folders, zips or patterns, in the order of names.

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
                yield from self.predict(items, count=len(found.items))

        started = predictions()
        next(started)  # Closing a generator that has not started would not leave the `with` block.
        return started

    def predict(
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
            for row, reason in enumerate(reasons):
                if reason is not None:
                    notes[row].append(f"{model.name}: {reason}")
                elif model.task == "classify":
                    probabilities[row][model.name] = float(outputs["probabilities"][row])
                    evidence[row][model.name] = outputs["evidence"][row]
                else:
                    classes[row].append(outputs["classes"][row])
        of_pictures = zip(batch, probabilities, evidence, classes, notes, strict=True)
        return [_prediction(*results, models=self.models) for results in of_pictures]


def _prediction(item, probabilities, evidence, classes, notes, *, models) -> Prediction:
    record, picture = item.record, item.picture
    view_notes, counts = _unseen(record, models)
    label_map, regions = None, []
    if classes:
        mean = grids.from_model(np.mean(classes, axis=0), picture.grid)
        label_map = mean.argmax(-1).astype(np.uint8)
        regions = measure_regions(label_map, picture.temperatures, good=picture.good)
    return Prediction(
        name=record.name,
        patient=record.known_patient,
        shape=picture.shape,
        celsius=picture.temperatures is not None,
        probabilities=probabilities,
        regions=regions,
        notes=(*notes, *view_notes),
        counts=counts,
        picture=picture,
        file=item.file,
        evidence=evidence,
        label_map=label_map,
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


@partial(jax.jit, static_argnames=("encoder", "decoder", "shape", "mirror_average"))
def forward(
    variables, frozen, images, *, encoder, decoder, shape=GRAY_SHAPE, mirror_average=False
) -> dict[str, jax.Array]:
    """ "probabilities" [B] and "evidence" [B,h,w], or "classes" [B,*shape,K] (probabilities)."""

    def decode(images):
        latents = encode(images, encoder=encoder, variables=frozen)
        return decoder.apply(variables, latents, train=False)

    if mirror_average:
        outputs = mirror_averaged(decode, images, swap=MIRRORED_CLASSES)
    else:
        outputs = decode(images)
    if isinstance(outputs, tuple):
        logits, evidence = outputs
        return {"probabilities": jax.nn.sigmoid(logits), "evidence": evidence}
    height, width = shape
    full = decoder.operations.resize(outputs, height=height, width=width)
    return {"classes": jax.nn.softmax(full)}
