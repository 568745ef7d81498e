"""The frozen encoder of a decoder: loaded from a workdir, or untrained; and what it has seen."""

from functools import partial

import jax
import numpy as np
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.dataset import Dataset
from thermo_jax.errors import UserError
from thermo_jax.models import frozen
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.frozen import FrozenEncoder
from thermo_jax.programs.workdir import saved_config
from thermo_jax.training.checkpoints import has_checkpoint, load_encoder
from thermo_jax.training.state import initialise


def own_encoder(config: ConfigDict, workdir: Path, *, operations) -> FrozenEncoder:
    """As `open_encoder`: the configured one, or, to continue, the one that the run carries.

    The workdir of the latter may be gone since; `config.encoder.workdir` then becomes again what it
    was when the run began.

    Raises:
      UserError: the configured workdir holds another encoder than the run carries.
    """
    given = config.encoder.workdir
    if not has_checkpoint(workdir):
        return open_encoder(config, workdir=given, operations=operations)
    carried = open_encoder(config, workdir=workdir, operations=operations)
    if config.encoder.kind != "pretrained":
        return carried
    began_with = saved_config(workdir)["encoder"]["workdir"]
    if not given or not has_checkpoint(given):
        logging.warning(
            "config.encoder.workdir=%s holds no encoder: the run goes on with the one that it "
            "carries, from %s.",
            given,
            began_with,
        )
        config.encoder.workdir = began_with
        return carried
    other, _ = _load_pretrained(config, given, operations=operations)
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, other.variables, carried.variables))):
        raise UserError(
            f"config.encoder.workdir={given} holds another encoder than the run in {workdir} "
            f"carries, which began with the one then in {began_with}: give that one, or a copy of "
            "it, or choose another --workdir"
        )
    return carried


def open_encoder(config: ConfigDict, *, workdir: str | Path, operations) -> FrozenEncoder:
    """The encoder of a workdir, or the untrained one that `config.encoder.kind` asks for.

    Raises:
      UserError: no encoder is configured, or it is of another kind than `config.encoder.type`.
      FileNotFoundError: there is no checkpoint.
    """
    row = f"{config.encoder.type} encoder"
    kind = config.encoder.get("kind", "pretrained")
    if kind != "pretrained":
        return _untrained(kind, config, operations=operations)
    if not str(workdir):
        raise UserError(
            "config.encoder.workdir is empty: pretrain an encoder with "
            f"--config=configs/encoder.py:{config.encoder.type} and give its --workdir here"
        )
    encoder, meta = _load_pretrained(config, workdir, operations=operations)
    facts = encoder.facts
    if not meta["finished"] and meta["config"]["task"] == "encoder":
        logging.warning(
            "The encoder in %s has not finished its training (epoch %d): its best so far is used.",
            workdir,
            meta["epoch"],
        )
    if facts["data_type"] != config.encoder.type:
        raise UserError(
            f"{workdir} holds a {facts['data_type']} encoder, but this run asks for "
            f"a {row}: choose a preset with that encoder (such as "
            f"{_row(facts['data_type'], config.data.type)}), or another encoder's workdir"
        )
    if facts["downscale"] != config.data.downscale:
        logging.warning(
            "The encoder saw images reduced by %d, this run reduces them by %d.",
            facts["downscale"],
            config.data.downscale,
        )
    return encoder


def _load_pretrained(
    config: ConfigDict, workdir: str | Path, *, operations
) -> tuple[FrozenEncoder, dict]:
    """A workdir's encoder, and the meta of its checkpoint."""

    def abstract(meta: dict) -> FrozenEncoder:
        return FrozenEncoder.abstract(
            meta["encoder"], dtype=config.model.dtype, operations=operations
        )

    variables, meta = load_encoder(workdir, like=lambda meta: abstract(meta).variables)
    return abstract(meta).with_variables(variables), meta


def _untrained(kind: str, config: ConfigDict, *, operations) -> FrozenEncoder:
    """The encoder that a pretrained one is compared with: random weights, or raw pixels."""
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
    """Raises UserError where raw pixels would be those of another data type."""
    if config.encoder.type != config.data.type:
        raise UserError(
            f"config.encoder.kind='none' takes the pixels as they are: config.encoder.type "
            f"{config.encoder.type!r} must be config.data.type {config.data.type!r}"
        )


def _row(encoder_type: str, data_type: str) -> str:
    return f"{encoder_type[0]}/{data_type[0]}".upper()


def encoder_caveat(meta: dict, *, dataset: Dataset, test_patients: set[str]) -> str:
    """What a reader of the results must know of the encoder's patients; "" in an honest run."""
    if "kind" in meta:
        return {"random": "random weights, frozen", "none": "none: raw pixels"}[meta["kind"]]
    seen = seen_by_encoder(meta, dataset=dataset, patients=test_patients)
    caveats = []
    if seen is None:
        logging.warning(
            "The encoder was pretrained on other data (or the same files were changed since): "
            "whether it saw this run's test patients is not known."
        )
        return "pretrained on other data: whether it saw test patients is not known"
    if seen:
        logging.warning(
            "The encoder was pretrained on %d of this run's test patients (without labels): the "
            "results are transductive. Give both runs the same config.split to avoid it.",
            len(seen),
        )
        caveats.append(f"transductive: it saw {len(seen)} test patients unlabelled")
    if saw_unknown_patients(meta, dataset=dataset):
        logging.warning(
            "The encoder was pretrained on images of unknown patients, too (without labels), who "
            "may be this run's test patients: pretrain it anew with config.split.protocol='honest'."
        )
        caveats.append("it saw images of unknown patients, who may be test patients")
    return "; ".join(caveats)


def seen_by_encoder(meta: dict, *, dataset: Dataset, patients: set[str]) -> set[str] | None:
    """Those of the patients that pretrained the encoder; None if it knows other data."""
    if meta["data_fingerprint"] != dataset.fingerprint:
        return None
    return patients & set(meta["seen_patients"])


def saw_unknown_patients(meta: dict, *, dataset: Dataset) -> bool:
    """Whether the encoder was pretrained on images of unknown patients."""
    return not dataset.known_patients.issuperset(meta["seen_patients"])
