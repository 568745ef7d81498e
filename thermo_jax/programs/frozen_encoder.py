"""The frozen encoder of a decoder: loaded from a workdir, or untrained; and what it has seen."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.dataset import Dataset
from thermo_jax.errors import UserError
from thermo_jax.models.cuts import CutsEncoder, RawPixels
from thermo_jax.models.decoders import CHANNELS
from thermo_jax.models.precision import array_dtype
from thermo_jax.programs.workdir import saved_config
from thermo_jax.training import train_decoder
from thermo_jax.training.checkpoints import has_checkpoint, load_encoder
from thermo_jax.training.state import initialise


def own_encoder(config: ConfigDict, workdir: Path, *, operations) -> tuple[Any, dict, dict]:
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
    _, found, _ = _load_pretrained(config, given, operations=operations)
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, found, carried[1]))):
        raise UserError(
            f"config.encoder.workdir={given} holds another encoder than the run in {workdir} "
            f"carries, which began with the one then in {began_with}: give that one, or a copy of "
            "it, or choose another --workdir"
        )
    return carried


def open_encoder(config: ConfigDict, *, workdir: str | Path, operations) -> tuple[Any, dict, dict]:
    """The frozen encoder of a workdir: (model, variables, what its run said of it).

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

    encoder, variables, meta = _load_pretrained(config, workdir, operations=operations)
    found = meta["encoder"]
    if not meta["finished"] and meta["config"]["task"] == "encoder":
        logging.warning(
            "The encoder in %s has not finished its training (epoch %d): its best so far is used.",
            workdir,
            meta["epoch"],
        )
    if found["data_type"] != config.encoder.type:
        raise UserError(
            f"{workdir} holds a {found['data_type']} encoder, but this run asks for "
            f"a {row}: choose a preset with that encoder (such as "
            f"{_row(found['data_type'], config.data.type)}), or another encoder's workdir"
        )
    if found["downscale"] != config.data.downscale:
        logging.warning(
            "The encoder saw images reduced by %d, this run reduces them by %d.",
            found["downscale"],
            config.data.downscale,
        )
    return encoder, variables, found


def _load_pretrained(
    config: ConfigDict, workdir: str | Path, *, operations
) -> tuple[CutsEncoder, dict, dict]:
    """(model, variables, the checkpoint's meta) of a workdir's encoder."""

    def make(meta: dict) -> CutsEncoder:
        return train_decoder.make_encoder(
            num_kernels=meta["encoder"]["num_kernels"],
            dtype=config.model.dtype,
            operations=operations,
        )

    def like(meta: dict) -> dict:
        init = partial(_init, make(meta), channels=meta["encoder"]["channels"])
        return jax.eval_shape(init, rng=jax.random.key(0))

    variables, meta = load_encoder(workdir, like=like)
    return make(meta), variables, meta


def _untrained(kind: str, config: ConfigDict, *, operations) -> tuple[Any, dict, dict]:
    """What a pretrained encoder is compared with: as `open_encoder`."""
    channels = CHANNELS[config.encoder.type]
    if kind == "random":
        encoder = train_decoder.make_encoder(
            num_kernels=config.encoder.num_kernels, dtype=config.model.dtype, operations=operations
        )
    else:
        check_raw_pixels(config)
        encoder = RawPixels(channels=channels, dtype=array_dtype(config.model.dtype))
    variables = jax.device_get(
        initialise(partial(_init, encoder, channels=channels), rng=jax.random.key(config.seed))
    )
    facts = {"data_type": config.encoder.type, "channels": channels, "kind": kind}
    return encoder, variables, facts | {"data_fingerprint": None, "seen_patients": []}


def _init(encoder, *, rng: jax.Array, channels: int) -> dict:
    return encoder.init(rng, jnp.zeros((1, 8, 8, channels)), train=False)


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
