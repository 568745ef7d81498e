"""The features that rivals read, computed once for all folds: they depend on single images only.

data set -> an area of it (frame or breasts, gray levels or temperatures) -> features of each image
-> workdir/features/<features>_<area>_<temperatures>/features.npz
"""

import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.data.dataset import Dataset
from thermo_jax.data.streamed import Column
from thermo_jax.data.thermogram import Thermogram
from thermo_jax.errors import MissingPackageError, UserError
from thermo_jax.files import digest, write_whole
from thermo_jax.models.precision import matmul_precision
from thermo_jax.programs import cost, looks
from thermo_jax.rivals import (
    areas,
    curvelet,
    efficientnet,
    pretrained,
    rank_pooling,
    temperature_statistics,
    texture,
)
from thermo_jax.rivals.registry import Rival
from thermo_jax.training import timeline
from thermo_jax.training.known_images import image_digests

FOLDER, FILE = "features", "features.npz"
NEEDS_MATRICES = "needs temperature matrices of all images"
NEEDS_RECORDINGS = (
    "needs recordings of at least {least} frames; {short} of {of} images have none (static images "
    "are left out by config.data.protocols=('D',))"
)
NOT_FINITE = "the features of {count} images are not finite: look at {name}, for example"
_BLOCK = 16  # images in memory at once
_NETWORKS = ("imagenet", "random")
# Settings of a data set that do not change its pixels.
_FREE = ("root", "strict", "loader", "prepared_dir", "memory_gb", "streamed", "seed")


class Look(NamedTuple):
    """What a rival looks at."""

    features: str
    area: str
    temperatures: str

    @property
    def key(self) -> str:
        """The name of its folder."""
        return "_".join(self)


class Computed(NamedTuple):
    """The features of all images, or the reason why there are none."""

    values: np.ndarray | None  # float64 [N, k], in the order of the classifiers' examples
    missing: str = ""


def check_weights(config: ConfigDict) -> None:
    """Raises UserError if `config.weights` names a file that cannot be used."""
    source, file = config.weights.source, config.weights.file
    if (source == "file") != bool(file):
        raise UserError(
            f"config.weights.source={source!r} with config.weights.file={file!r}: the source "
            "'file' needs a file, and the others none"
        )
    if file:
        pretrained.load_weights(source, file, seed=config.seed)


def content_digest(dataset: Dataset, task: str) -> str:
    """A digest of the images of a task and of how they are read, for the settings of stages."""
    settings = dataclasses.asdict(dataset.settings)
    same = {name: value for name, value in settings.items() if name not in _FREE}
    examples = dataset.load(task)
    digests = [image_digests(examples.columns["images"])]
    if "label_maps" in examples.columns:
        digests.append(image_digests(examples.columns["label_maps"]))
    return digest([same, examples.names.tolist(), digests])


def compute_all(
    config: ConfigDict, workdir: Path, dataset: Dataset, wanted: Collection[Look]
) -> dict[Look, Computed]:
    """The features of the images to be classified, which are computed if no file has them.

    Looks at the same area follow each other, so that its images are read once.
    """
    content = [content_digest(dataset, "classify"), looks.shipped_id()]
    at_full_size = dataclasses.replace(dataset.settings, downscale=1)
    dataset = dataclasses.replace(dataset, settings=at_full_size)
    load_weights = functools.cache(pretrained.load_weights)  # shared by the looks
    found: dict[Look, Computed] = {}
    by_area = sorted(wanted, key=lambda look: (look.temperatures, look.area, look.features))
    for (temperatures, area), group in itertools.groupby(
        by_area, key=lambda look: (look.temperatures, look.area)
    ):
        if temperatures == "kept" and not areas.has_temperatures(dataset, "classify"):
            found |= dict.fromkeys(group, Computed(None, NEEDS_MATRICES))
            continue
        seen = looks.of_area(dataset, area=area, temperatures=temperatures)
        for look in group:
            try:
                found[look] = Computed(
                    _compute(workdir, seen, look, content, _extractor(config, look, load_weights))
                )
            except (MissingPackageError, _Unusable) as error:
                found[look] = Computed(None, str(error))
    return found


class _Unusable(Exception):
    """Images from which these features cannot be computed."""


def _compute(
    workdir: Path,
    seen: Dataset,
    look: Look,
    content: list[str],
    extractor: tuple[Callable, dict[str, Any]],
) -> np.ndarray:
    """The features [N, k] of one look, from its file or new.

    Raises:
      MissingPackageError, _Unusable: they cannot be computed.
    """
    extract, facts = extractor
    made_for = digest([content, look, facts])
    folder = workdir / FOLDER / look.key
    file = folder / FILE
    if file.is_file():
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
            if str(saved["made_for"]) == made_for:
                return saved["values"]
    logging.info("Features: %s", look.key)
    recordings = _recordings(seen) if look.features == "rank_pooling" else []
    # Reading is shared by the looks at this area. Recordings are read one at a time.
    images = None if recordings else seen.load("classify").columns["images"]
    folder.mkdir(parents=True, exist_ok=True)
    with timeline.record(), cost.measured(folder) as measured:
        measured |= facts
        if recordings:
            values = np.concatenate(
                [
                    extract([np.stack([seen.read_pixels(frame, "gray") for frame in recording])])
                    for recording in recordings
                ]
            )
        else:
            # Only the network runs on the device; other features are computed by the host.
            with timeline.part("evaluation" if look.features in _NETWORKS else "rest"):
                values = _by_blocks(extract, images)
        timeline.save(folder)
    if not (finite := np.isfinite(values).all(1)).all():
        name = seen.select("classify")[int(np.argmin(finite))].name
        raise _Unusable(NOT_FINITE.format(count=np.count_nonzero(~finite), name=name))
    content_of_file = io.BytesIO()
    np.savez_compressed(content_of_file, values=values, made_for=np.array(made_for))
    write_whole(file, content_of_file.getvalue())
    return values


def _extractor(
    config: ConfigDict, look: Look, load_weights: Callable
) -> tuple[Callable, dict[str, Any]]:
    """A function: images -> features; and facts about its weights, if it has some."""
    simple = {
        "temperatures": temperature_statistics.features,
        "texture": texture.features,
        "curvelets": curvelet.features,
        "rank_pooling": rank_pooling.features,
    }
    if look.features in simple:
        return simple[look.features], {}
    source = "random" if look.features == "random" else config.weights.source
    file = config.weights.file if source == "file" else ""
    variables, about = load_weights(source, file, seed=config.seed)
    about = about | ({"seed": config.seed} if source == "random" else {})

    def extract(images: np.ndarray) -> np.ndarray:
        with matmul_precision("float32", platform=jax.default_backend()):
            return np.asarray(efficientnet.image_features(variables, images))

    return extract, {"weights": about}


def _by_blocks(extract: Callable, images: Column) -> np.ndarray:
    blocks = [
        np.asarray(extract(images[start : start + _BLOCK]), np.float64)
        for start in range(0, len(images), _BLOCK)
    ]
    return np.concatenate(blocks)


def _recordings(dataset: Dataset) -> list[list[Thermogram]]:
    """The frames of the recording of each image to be classified, in order.

    Raises:
      _Unusable: a recording has too few frames.
    """
    every = dataclasses.replace(dataset.settings, frames="all")
    frames: dict[tuple, list[Thermogram]] = {}
    for record in dataclasses.replace(dataset, settings=every).select("classify"):
        frames.setdefault(_recording_of(record), []).append(record)
    records = dataset.select("classify")
    recordings = [
        sorted(frames[_recording_of(record)], key=lambda frame: frame.frame) for record in records
    ]
    least = rank_pooling.MIN_FRAMES
    if short := sum(len(recording) < least for recording in recordings):
        raise _Unusable(NEEDS_RECORDINGS.format(least=least, short=short, of=len(recordings)))
    return recordings


def _recording_of(record: Thermogram) -> tuple:
    """The same for all frames of one recording."""
    visit = record.visit or record.date
    return record.patient, visit, record.view, record.protocol, record.mirrored, record.stack


def row_name(rival: Rival, area: str, temperatures: str) -> str:
    """The name of a row's folders."""
    return f"{rival.name}_{area}" + "_kept" * (temperatures == "kept")
