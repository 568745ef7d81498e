"""A decoder's frozen encoder, loaded from a workdir or untrained, and the patients it has seen."""

from functools import partial

import jax
import numpy as np
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.dataset import Dataset
from thermo_jax.errors import UserError
from thermo_jax.files import saved_config
from thermo_jax.models import frozen
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.frozen import FrozenEncoder
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.training.checkpoints import has_checkpoint, load_encoder
from thermo_jax.training.state import initialise

UNTRAINED = {"random": "random weights, frozen", "none": "none: raw pixels"}  # by kind


def own_encoder(config: ConfigDict, workdir: Path, *, operations) -> FrozenEncoder:
    """The encoder of a new run (`open_encoder`), or the copy in the checkpoint of a continued one.

    If the encoder's workdir no longer exists, `config.encoder.workdir` is set to its value in the
    continued run's config.json.

    Raises:
      UserError: the configured workdir contains a different encoder than the checkpoint.
    """
    given = config.encoder.workdir
    if not has_checkpoint(workdir):
        return open_encoder(config, workdir=given, operations=operations)
    own = open_encoder(config, workdir=workdir, operations=operations)
    if config.encoder.kind != "pretrained":
        return own
    began_with = saved_config(workdir)["encoder"]["workdir"]
    if not given or not has_checkpoint(given):
        logging.warning(
            "config.encoder.workdir=%s contains no encoder: the run continues with the copy in its "
            "checkpoint, which came from %s.",
            given,
            began_with,
        )
        config.encoder.workdir = began_with
        return own
    other, _ = load_pretrained(given, dtype=config.model.dtype, operations=operations)
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, other.variables, own.variables))):
        raise UserError(
            f"config.encoder.workdir={given} contains another encoder than the one with which the "
            f"run in {workdir} began, which came from {began_with}: give that encoder or a copy of "
            "it, or choose another --workdir"
        )
    return own


def open_encoder(config: ConfigDict, *, workdir: str | Path, operations) -> FrozenEncoder:
    """The encoder of a workdir, or the untrained one that `config.encoder.kind` specifies.

    Raises:
      UserError: no encoder is configured, or its data type is not `config.encoder.type`.
      FileNotFoundError: there is no checkpoint.
    """
    kind = config.encoder.get("kind", "pretrained")
    if kind != "pretrained":
        return _untrained(kind, config, operations=operations)
    if not str(workdir):
        raise UserError(
            "config.encoder.workdir is empty: pretrain an encoder with "
            f"--config=configs/encoder.py:{config.encoder.type} and give its --workdir here"
        )
    encoder, meta = load_pretrained(workdir, dtype=config.model.dtype, operations=operations)
    facts = encoder.facts
    if not meta["finished"] and meta["config"]["task"] == "encoder":
        logging.warning(
            "The training of the encoder in %s is not finished (epoch %d): its best state is used.",
            workdir,
            meta["epoch"],
        )
    if facts["data_type"] != config.encoder.type:
        raise UserError(
            f"{workdir} contains a {facts['data_type']} encoder, but this run asks for a "
            f"{config.encoder.type} encoder: choose a preset with that encoder (such as "
            f"{row_name(facts['data_type'], config.data.type)}), or another encoder's workdir"
        )
    if facts["downscale"] != config.data.downscale:
        logging.warning(
            "The encoder saw images reduced by %d, this run reduces them by %d.",
            facts["downscale"],
            config.data.downscale,
        )
    return encoder


def load_pretrained(
    workdir: str | Path, *, dtype: str = "float32", operations: Operations = NATIVE
) -> tuple[FrozenEncoder, dict]:
    """A workdir's encoder, and the meta of its checkpoint.

    Raises:
      FileNotFoundError: there is no checkpoint.
    """
    abstract = partial(FrozenEncoder.abstract, dtype=dtype, operations=operations)
    variables, meta = load_encoder(workdir, like=lambda meta: abstract(meta["encoder"]).variables)
    return abstract(meta["encoder"]).with_variables(variables), meta


def _untrained(kind: str, config: ConfigDict, *, operations) -> FrozenEncoder:
    """An encoder for comparison with a pretrained one: random weights, or raw pixels."""
    if kind == "none":
        check_raw_pixels(config)
    data_type = config.encoder.type
    facts = {"data_type": data_type, "channels": CHANNELS[data_type], "kind": kind}
    encoder = FrozenEncoder.abstract(
        facts | {"data_fingerprint": None, "seen_patients": []},
        num_kernels=config.encoder.num_kernels,
        dtype=config.model.dtype,
        operations=operations,
    )
    init = partial(frozen.init, encoder.module)
    return encoder.with_variables(jax.device_get(initialise(init, rng=jax.random.key(config.seed))))


def check_raw_pixels(config: ConfigDict) -> None:
    """Raises UserError if raw pixels are configured with another data type than the images have."""
    if config.encoder.type != config.data.type:
        raise UserError(
            f"config.encoder.kind='none' does not change the pixels: config.encoder.type "
            f"{config.encoder.type!r} must be config.data.type {config.data.type!r}"
        )


def row_name(encoder_type: str, data_type: str) -> str:
    """A row of Table 1 as encoder/decoder, such as "G/H"."""
    return f"{encoder_type[0]}/{data_type[0]}".upper()


def encoder_caveat(meta: dict, *, dataset: Dataset, test_patients: set[str]) -> str:
    """What readers of the results must know, such as test patients that the encoder saw, or ""."""
    if "kind" in meta:
        return UNTRAINED[meta["kind"]]
    seen = seen_patients(meta, dataset=dataset)
    remedies = {}  # caveat -> remedy
    if seen is None:
        caveat = "pretrained on other data: whether it saw test patients is not known"
        remedies[caveat] = "pretrain it on these files (they may have changed since)"
    else:
        if tested := seen & test_patients:
            caveat = f"transductive: it saw {len(tested)} test patients unlabelled"
            remedies[caveat] = "give both runs the same config.split"
        if seen - dataset.known_patients:
            caveat = "it saw images of unknown patients, who may be test patients"
            remedies[caveat] = "pretrain it with config.split.protocol='honest'"
    for caveat, remedy in remedies.items():
        logging.warning("The encoder: %s. To avoid this, %s.", caveat, remedy)
    return "; ".join(remedies)


def seen_patients(meta: dict, *, dataset: Dataset) -> set[str] | None:
    """The patients, known or not, on whom the encoder was pretrained; None if they are not known.

    They are known for the same data set only, and not in a file of weights, which names nobody.
    """
    if meta.get("data_fingerprint") != dataset.fingerprint:
        return None
    return set(meta["seen_patients"])
