"""Programs "classify" and "segment": a frozen encoder -> a trained decoder and its measures.

encoder's workdir (or, to continue, this run's own checkpoint, which carries its encoder)
-> checks -> latents, once (where they fit) -> training -> best epoch by validation loss
-> test patients, once -> results, predictions, pictures
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.examples import Examples
from thermo_jax.data.splits import Split
from thermo_jax.data.thermogram import GRAY_SHAPE
from thermo_jax.errors import UserError
from thermo_jax.models.cuts import CutsEncoder, RawPixels
from thermo_jax.models.decoders import CHANNELS
from thermo_jax.models.operations import choose_operations
from thermo_jax.models.precision import array_dtype
from thermo_jax.programs import decoder_results, runs, sources
from thermo_jax.programs.workdir import check_workdir, saved_config, to_json
from thermo_jax.training import loop, processes, timeline, train_decoder
from thermo_jax.training.checkpoints import has_checkpoint, keep_best_model, load_encoder
from thermo_jax.training.parallel import DataParallel, gather
from thermo_jax.training.resident import Table, padded_rows, place_sets, table_bytes
from thermo_jax.training.state import initialise

TARGETS = {"classify": "labels", "segment": "label_maps"}


class Sets(NamedTuple):
    """The run's examples by role."""

    train: Examples
    validation: Examples
    test: Examples


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains, or continues; returns the results that it also writes to the workdir.

    Of several processes the first one does; the others return {}.
    """
    config = runs.resolve(config)
    parallel = runs.data_parallel(config)
    parallel.check_batch_size(config.train.batch_size)
    operations = choose_operations(config.model.conv, platform=parallel.devices[0].platform)
    workdir = check_workdir(workdir, config)
    encoder, variables, encoder_meta = _own_encoder(config, workdir, operations=operations)
    source = sources.open_source(config.data, seed=config.seed)
    split = sources.split_of(config.split, source)
    examples = source.load(config.task)
    sets = split_examples(examples, split, protocol=config.split.protocol)
    fewer = fewer_patients(sets.train, config.split, seed=config.seed)
    sets = sets._replace(train=fewer)
    caveat = _check_encoder_data(encoder_meta, source=source, sets=sets)
    fingerprint = runs.fingerprint(sets._asdict())
    runs.check_examples(workdir, fingerprint)
    runs.begin(workdir, config, source=source, split=split)
    tables, resident = place(
        examples, sets, config, encoder=encoder, variables=variables, parallel=parallel
    )

    decoder = train_decoder.make_decoder(config, operations=operations)
    tx = train_decoder.make_optimizer(config)
    shape = _latents_shape(sets.train, encoder=encoder, config=config)
    create_state = partial(train_decoder.create_state, decoder, tx=tx, latents_shape=shape)
    state = initialise(create_state, rng=jax.random.key(config.seed), frozen=variables)
    models = {"encoder": encoder, "encoder_type": config.encoder.type, "decoder": decoder}
    plan = runs.plan(config)
    wrap = partial(runs.wrap, parallel, config=config, resident=resident)
    state = loop.fit(
        parallel.replicate(state),
        train_step=wrap(partial(train_decoder.train_step, tx=tx, **models), role="train"),
        eval_step=wrap(partial(train_decoder.eval_step, **models), role="eval"),
        train=tables["train"],
        validation=tables["validation"],
        names=sets.train.names,
        plan=plan,
        parallel=parallel,
        workdir=workdir,
        encoder_of=lambda state: state.frozen,
        meta={
            "config": to_json(config),
            "encoder": encoder_meta,
            "examples": fingerprint,
        },
    )
    predict_step = wrap(
        partial(train_decoder.predict_step, full_shape=GRAY_SHAPE, **models), role="predict"
    )
    predictions = {
        role: loop.predict(state, predict_step, table, plan=plan, parallel=parallel)
        for role, table in tables.items()
        # Validation chooses the classifier's threshold; a segmenter has none.
        if role == "test" or (role == "validation" and config.task == "classify")
    }
    outcome = {}
    if processes.is_writer():
        outcome = decoder_results.finish(
            config,
            workdir=workdir,
            sets=sets._asdict(),
            gray=_gray(source, sets, config),
            predictions=predictions,
            best_step=int(state.step),
            encoder_caveat=caveat,
        )
    processes.wait("the results are written")
    keep_best_model(workdir)
    return outcome


def _own_encoder(config: ConfigDict, workdir: Path, *, operations) -> tuple[Any, dict, dict]:
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


def split_examples(examples: Examples, split: Split, *, protocol: str) -> Sets:
    """The rows of each set of patients; in the paper's protocol, test patients validate.

    Raises:
      UserError: a set has no image.
    """
    validation = split.test if protocol == sources.PAPER else split.val
    roles = [examples.of_patients(patients) for patients in (split.train, validation, split.test)]
    sets = dict(zip(("training", "validation", "test"), roles, strict=True))
    runs.check_not_empty(sets, of=len(examples))
    return Sets(*roles)


def _check_encoder_data(meta: dict, *, source: sources.Source, sets: Sets) -> str:
    """What a reader of the results must know of the encoder's patients; "" in an honest run."""
    if "kind" in meta:
        return {"random": "random weights, frozen", "none": "none: raw pixels"}[meta["kind"]]
    seen = seen_by_encoder(meta, source=source, patients=set(sets.test.patients))
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
    if saw_unknown_patients(meta, source=source):
        logging.warning(
            "The encoder was pretrained on images of unknown patients, too (without labels), who "
            "may be this run's test patients: pretrain it anew with config.split.protocol='honest'."
        )
        caveats.append("it saw images of unknown patients, who may be test patients")
    return "; ".join(caveats)


def seen_by_encoder(meta: dict, *, source: sources.Source, patients: set[str]) -> set[str] | None:
    """Those of the patients that pretrained the encoder; None if it knows other data."""
    if meta["data_fingerprint"] != source.fingerprint:
        return None
    return patients & set(meta["seen_patients"])


def saw_unknown_patients(meta: dict, *, source: sources.Source) -> bool:
    """Whether the encoder was pretrained on images of unknown patients."""
    known = {record.patient for record in source.records if record.patient_known}
    return not known.issuperset(meta["seen_patients"])


def fewer_patients(train: Examples, split: ConfigDict, *, seed: int) -> Examples:
    """The images of the first `split.max_train_patients` in the seed's order; 0 = of all."""
    patients = sorted(set(train.patients))
    if not 0 < split.max_train_patients < len(patients):
        return train
    order = np.random.default_rng((split.seed, 3, split.fold, seed)).permutation(len(patients))
    chosen = {patients[i] for i in order[: split.max_train_patients]}
    return train.of_patients(chosen)


def _gray(source: sources.Source, sets: Sets, config: ConfigDict) -> dict[str, np.ndarray] | None:
    """The gray images of a classifier's sets, for baselines: colours have no order. By role."""
    if config.task != "classify":
        return None
    images = {name: part.columns["images"] for name, part in sets._asdict().items()}
    have_gray = {r.name for r in source.records if r.gray_path or r.temperature_path}
    if config.data.type == "gray" or any(not have_gray.issuperset(part.names) for part in sets):
        return images
    gray = source.load(config.task, "gray")
    return {
        role: gray.columns["images"][gray.rows_of(part.names)]
        for role, part in sets._asdict().items()
    }


def place(
    examples: Examples,
    sets: Sets,
    config: ConfigDict,
    *,
    encoder,
    variables: dict,
    parallel: DataParallel,
) -> tuple[dict[str, Table], bool]:
    """What the decoder trains on, by role: inputs and targets; whether on the devices.

    The first of these that fits: latents on the devices (encoded once: "latents" [M,V,H,W,L] in
    the compute type), images on the devices, images in host memory.

    Args:
      examples: all, of which the sets are parts. The devices hold all of them, also those of no set
        (few labelled patients), so that every run of a study has a table of the same size.
    """
    target = TARGETS[config.task]
    shape = _latents_shape(examples, encoder=encoder, config=config)
    targets = runs.columns(examples, target)
    latents = padded_rows(len(examples)) * int(np.prod(shape)) * encoder.dtype.itemsize
    if not runs.fits(latents + table_bytes(targets), "The latents", config, parallel=parallel):
        placed = runs.place_images(examples, sets._asdict(), config, target, parallel=parallel)
        logging.info(
            "The encoder runs in every step."
            if placed[1]
            else "Images are streamed, and the encoder runs in every step."
        )
        return placed
    logging.info("Encoding %d images once (%.2f GB).", len(examples), latents / 1e9)
    encode = partial(_encode_step, encoder=encoder, channels=CHANNELS[config.encoder.type])
    with timeline.part("data"):
        column = loop.fill(
            parallel.zeros((padded_rows(len(examples)), *shape), encoder.dtype),
            runs.wrap(parallel, encode, config, role="fill", resident=True),
            parallel.replicate(variables),
            runs.columns(examples, "images"),
            plan=runs.plan(config),
            parallel=parallel,
        )
        rows = runs.rows_by_role(examples, sets._asdict())
        return place_sets(targets | {"latents": column}, rows, parallel=parallel), True


def _encode_step(variables, batch, *, encoder, channels: int):
    images = batch["images"]
    return gather(
        train_decoder.encode(images, encoder=encoder, variables=variables, channels=channels)
    )


def _latents_shape(examples: Examples, *, encoder, config: ConfigDict) -> tuple[int, ...]:
    """(V, H, W, L)"""
    height, width, channels = runs.image_shape(examples)
    views = 3 if (config.encoder.type, channels) == ("gray", 3) else 1
    return views, height, width, encoder.num_latents
