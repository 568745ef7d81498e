"""The trained decoder from which a run starts (`config.init_from`), and whom it was trained on."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils.epath import Path
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from thermo_jax.data.dataset import PHANTOM, Dataset
from thermo_jax.data.examples import Examples, image_shape
from thermo_jax.data.streamed import subset
from thermo_jax.data.thermogram import SICK
from thermo_jax.errors import UserError
from thermo_jax.files import digest
from thermo_jax.inference.trained_models import SHIPPED_TITLE, Model, load_model
from thermo_jax.models.frozen import FrozenEncoder
from thermo_jax.models.operations import NATIVE
from thermo_jax.programs.frozen_encoder import open_encoder
from thermo_jax.rivals.networks import architecture_of
from thermo_jax.training import train_decoder
from thermo_jax.training.checkpoints import Checkpoints, has_checkpoint
from thermo_jax.training.known_images import image_digests

# The U-Net's last layer: a classifier that starts from a segmenter has a new one.
_LAST_LAYER = ("params", "unet", "out")


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
      variables: of the trained decoder, which replace random ones; {} if there is none, or if the
        run continues from its own checkpoint.
      title: shown in results; "" if there is no trained decoder.
      trained_on: the `trained_on` of its run, None if that is not known.
    """

    variables: dict
    title: str = ""
    trained_on: list[dict | None] | None = None


def own_start(config: ConfigDict, workdir: Path, *, encoder: FrozenEncoder) -> Start:
    """What `config.init_from` names; for a continued run, what its checkpoint says about it.

    Raises:
      UserError: the decoder does not fit this run.
    """
    if not config.init_from:
        return Start({})
    if has_checkpoint(workdir):
        with Checkpoints(workdir, read_only=True) as checkpoints:
            saved = checkpoints.meta()
        return Start({}, saved["start"], saved["trained_on"][1:])
    model = load_model(config.init_from, dtype="float32")
    variables = fitting_variables(model, config, encoder=encoder)
    title = SHIPPED_TITLE if model.is_shipped else f"{config.init_from} ({model.task})"
    if model.task != config.task:
        title += "; the last layers are new"
    logging.info("Training starts from %s.", title)
    return Start(variables, title, model.meta.get("trained_on"))


def check_start(config: ConfigDict) -> None:
    """Raises UserError if the decoder that `config.init_from` names does not fit raw pixels."""
    if config.init_from:
        encoder = open_encoder(config, workdir="", operations=NATIVE)
        fitting_variables(load_model(config.init_from, dtype="float32"), config, encoder=encoder)


def fitting_variables(model: Model, config: ConfigDict, *, encoder: FrozenEncoder) -> dict:
    """The variables of a trained decoder that replace random ones in this run.

    Raises:
      UserError: its task, images, latents or shapes differ from those of this run.
    """
    given = f"config.init_from={config.init_from}"
    if (model.task, config.task) not in (
        ("segment", "segment"),
        ("classify", "classify"),
        ("segment", "classify"),
    ):
        raise UserError(f"{given} is a model of {model.task}, which cannot start {config.task}")
    if model.data_type != config.data.type:
        raise UserError(
            f"{given} reads {model.data_type} images, this run {config.data.type} images: choose a "
            "preset of the same data type"
        )
    theirs, ours = _latents(model.encoder), _latents(encoder)
    if theirs != ours:
        raise UserError(
            f"{given} reads {theirs}, this run {ours}: set config.encoder as in the run that made "
            'the model (config.encoder.kind="none" for raw pixels)'
        )
    same = jax.tree.map(np.array_equal, model.encoder.variables, encoder.variables)
    if not all(jax.tree.leaves(same)):
        raise UserError(
            f"{given} was trained on the latents of another encoder: give the encoder of that run "
            "(config.encoder.workdir)"
        )
    taken = flatten_dict(jax.device_get(model.variables))
    if model.task != config.task:
        if config.average_with_init:
            raise UserError(
                f"{given} lacks a classifier's last layers, which then are random: set "
                "config.average_with_init=False, so that the average forgets them"
            )
        taken = {name: x for name, x in taken.items() if name[: len(_LAST_LAYER)] != _LAST_LAYER}
    _check_shapes(taken, _wanted(config, encoder), given=given, model=model, config=config)
    if model.downscale != config.data.downscale:
        logging.warning(
            "%s saw images reduced by %d, this run reduces them by %d.",
            given,
            model.downscale,
            config.data.downscale,
        )
    return unflatten_dict(taken)


def _latents(encoder: FrozenEncoder) -> str:
    """What a decoder reads, in words that are equal for latents of equal kind and size."""
    facts, kind = encoder.facts, encoder.facts.get("kind", "pretrained")
    if kind == "none":
        return f"raw {facts['data_type']} pixels"
    width = encoder.module.num_kernels
    return f"latents of a {kind} {facts['data_type']} encoder with {width} kernels"


def _wanted(config: ConfigDict, encoder: FrozenEncoder) -> dict[tuple, Any]:
    """The shapes of this run's decoder, by path."""
    decoder = train_decoder.make_decoder(
        config.task,
        architecture=config.model.architecture,
        width=config.model.unet_width,
        head=config.model.get("head", ""),
    )
    images = image_shape(config.data.type, downscale=config.data.downscale)
    latents = encoder.latents(images).shape
    return flatten_dict(train_decoder.abstract_variables(decoder, latents))


def _check_shapes(
    taken: Mapping[tuple, Any],
    wanted: Mapping[tuple, Any],
    *,
    given: str,
    model: Model,
    config: ConfigDict,
) -> None:
    """Raises UserError at the first array whose shape differs from that of this run's decoder."""
    architecture = architecture_of(model.meta["config"]["model"])
    if architecture != config.model.architecture:
        raise UserError(
            f"{given} is a decoder of architecture {architecture!r}, but config.model.architecture "
            f"is {config.model.architecture!r}: give a decoder of the same one, or "
            "config.init_from='' for random weights"
        )
    width = model.decoder.width
    if width != config.model.unet_width:
        raise UserError(
            f"{given} has a decoder of width {width}, but config.model.unet_width is "
            f"{config.model.unet_width}: set it to {width}"
        )
    same_task = model.task == config.task
    for name in sorted(taken.keys() | wanted.keys() if same_task else taken.keys()):
        theirs, ours = (
            np.shape(tree[name]) if name in tree else "absent" for tree in (taken, wanted)
        )
        if theirs != ours:
            raise UserError(
                f"{given} does not fit this run: {'/'.join(name)} is {theirs} there, {ours} here. "
                "Use the same config.model.head and config.data.downscale as the run that made it"
            )


def trained_on(
    dataset: Dataset,
    examples: Examples,
    sets: Mapping[str, np.ndarray],
    *,
    start: Start,
    task: str,
) -> list[dict | None]:
    """The patients whose labels a decoder has seen, also before this run; saved with checkpoints.

    A file of weights shares them with others. So patients, data and images are digests, which can
    be recognised by those who have the same data, but from which nobody else can find out the
    names. None stands for a decoder that was trained on patients who are not known.

    Args:
      sets: the rows of each set; all but "test" have trained or validated the decoder.
      task: for "classify", the number of sick patients among them is "sick".
    """
    rows = np.concatenate([rows for name, rows in sets.items() if name != "test"])
    patients, images = examples.patients[rows], examples.columns["images"]
    own = {
        "data": digest(_data_key(dataset)),
        "synthetic": _is_phantom(dataset),
        "patients": sorted(patient_digests(patients.tolist(), dataset=dataset)),
        "images": sorted(set(image_digests(subset(images, rows)))),
    }
    if task == "classify":
        is_sick = examples.columns["labels"][rows] == SICK
        own["sick"] = len(set(patients[is_sick].tolist()))
    if not start.title:
        return [own]
    return [own, *([None] if start.trained_on is None else start.trained_on)]


def patient_digests(patients: Iterable[str], *, dataset: Dataset) -> set[str]:
    """Digests of patients' names, which differ for each data set."""
    return {digest([_data_key(dataset), patient]) for patient in patients}


def _data_key(dataset: Dataset) -> str:
    """The same for data sets with the same patients; not to be guessed without the data."""
    # The phantom's patients are the same in every size of the data set.
    return PHANTOM if _is_phantom(dataset) else dataset.fingerprint


def _is_phantom(dataset: Dataset) -> bool:
    return dataset.settings.root == PHANTOM


def start_text(start: Start, *, dataset: Dataset, test_patients: set[str]) -> str:
    """Where the run started, for its results, with a caveat if test patients trained that model."""
    if not start.title:
        return ""
    caveat = start_caveat(start.trained_on, dataset=dataset, test_patients=test_patients)
    if not caveat:
        return start.title
    logging.warning(
        "config.init_from: %s. To avoid this, give both runs the same data and config.split.",
        caveat,
    )
    return f"{start.title}; {caveat}"


def start_caveat(
    trained: list[dict | None] | None, *, dataset: Dataset, test_patients: set[str]
) -> str:
    """What readers must know if test patients may have trained the model at the start, or ""."""
    tested, is_unknown = seen_in_training(trained, dataset=dataset, patients=test_patients)
    caveats = []
    if tested:
        caveats.append(f"trained on {len(tested)} of these test patients, with their labels")
    if is_unknown:
        caveats.append("trained on other data: whether it saw test patients is not known")
    return "; ".join(caveats)


def seen_in_training(
    trained: list[dict | None] | None, *, dataset: Dataset, patients: Iterable[str]
) -> tuple[set[str], bool]:
    """Which of these patients of a data set trained a model, and whether others may have, too.

    Args:
      trained: the model's `trained_on`; None for a model of earlier versions or an imported one.
    """
    by_digest = {
        one_digest: patient
        for patient in patients
        for one_digest in patient_digests([patient], dataset=dataset)
    }
    found: set[str] = set()
    is_unknown = False
    for run in [None] if trained is None else trained:
        if run is not None and run["data"] == digest(_data_key(dataset)):
            found |= {by_digest[seen] for seen in by_digest.keys() & set(run["patients"])}
        elif not _is_phantom(dataset) and (run is None or not run["synthetic"]):
            is_unknown = True
    return found, is_unknown
