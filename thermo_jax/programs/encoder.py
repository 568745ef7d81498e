"""Program "encoder": thermograms -> a pretrained CUTS encoder in a workdir."""

from functools import partial

import jax
import numpy as np
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict, FrozenConfigDict

from thermo_jax.data.examples import IMAGE_SHAPES, Examples, downscaled_size
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.evaluation import figures, results
from thermo_jax.models import precision
from thermo_jax.models.decoders import CHANNELS
from thermo_jax.models.operations import choose_operations
from thermo_jax.programs import reports, runs, sources
from thermo_jax.programs.workdir import PICTURES, check_workdir, to_json
from thermo_jax.training import loop, processes, train_decoder, train_encoder
from thermo_jax.training.checkpoints import FOLDER, keep_best_model
from thermo_jax.training.metrics_log import METRICS, read_jsonl
from thermo_jax.training.state import initialise

PICTURED = 4  # thermograms in the latents' picture
_encode = jax.jit(train_decoder.encode, static_argnames=("encoder", "channels"))


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains, or continues; returns the results that it also writes to the workdir.

    Of several processes the first one does; the others return {}.
    """
    config = runs.resolve(config)
    check_patches(config)
    parallel = runs.data_parallel(config)
    parallel.check_batch_size(config.train.batch_size)
    workdir = check_workdir(workdir, config)
    source = sources.open_source(config.data, seed=config.seed)
    examples = source.load("pretrain")
    split = sources.split_of(config.split, source)
    train, validation = sets(examples, split, config)
    runs.check_not_empty({"training": train, "validation": validation}, of=len(examples))
    fingerprint = runs.fingerprint({"train": train, "validation": validation})
    runs.check_examples(workdir, fingerprint)
    runs.begin(workdir, config, source=source, split=split)
    unseen = split.test - {*train.patients, *validation.patients}
    logging.info(
        "%d images train, %d validate; %d patients are kept for testing decoders.",
        len(train),
        len(validation),
        len(unseen),
    )

    operations = choose_operations(config.model.conv, platform=parallel.devices[0].platform)
    model = train_encoder.make_model(config, operations=operations)
    tx = train_encoder.make_optimizer(config)
    shape = runs.image_shape(examples)
    create_state = partial(train_encoder.create_state, model, tx=tx, image_shape=shape)
    state = initialise(create_state, rng=jax.random.key(config.seed))
    loss = FrozenConfigDict(config.loss)
    parts = {"train": train, "validation": validation}
    tables, resident = runs.place_images(examples, parts, config, parallel=parallel)
    wrap = partial(runs.wrap, parallel, config=config, resident=resident)
    train_step = partial(train_encoder.train_step, model=model, tx=tx, loss=loss)
    draw = partial(train_encoder.draw, image_size=shape[:2], model=model, loss=loss)
    eval_step = wrap(partial(train_encoder.eval_step, model=model, loss=loss), role="eval")
    plan = runs.plan(config)
    state = loop.fit(
        parallel.replicate(state),
        train_step=wrap(train_step, role="train", draw=draw),
        eval_step=eval_step,
        train=tables["train"],
        validation=tables["validation"],
        names=train.names,
        plan=plan,
        parallel=parallel,
        workdir=workdir,
        encoder_of=lambda state: encoder_variables(state.variables),
        meta={
            "config": to_json(config),
            "encoder": describe(
                config,
                source=source,
                # Validation patients chose the epoch: they were seen, too.
                patients=sorted({*train.patients, *validation.patients}),
            ),
            "examples": fingerprint,
        },
    )
    losses = loop.evaluate(state, eval_step, tables["validation"], plan=plan, parallel=parallel)
    outcome = {}
    if processes.is_writer():
        outcome = _finish(
            config,
            workdir,
            state,
            validation,
            losses=losses,
            operations=operations,
            train=len(train),
        )
    processes.wait("the results are written")
    keep_best_model(workdir)
    return outcome


def check_patches(config: ConfigDict) -> None:
    """Raises UserError where the images are too small to sample patches from."""
    patch, factor = config.model.patch_size, config.data.downscale
    height, width = downscaled_size(*IMAGE_SHAPES[config.data.type][:2], factor)
    if patch >= min(height, width):  # an anchor needs a neighbour
        raise UserError(
            f"config.model.patch_size={patch} is too large for {config.data.type} images of "
            f"{height}x{width} pixels (config.data.downscale={factor}): they need at least one row "
            "and one column more than a patch; choose a smaller patch_size or downscale"
        )


def sets(examples: Examples, split: Split, config: ConfigDict) -> tuple[Examples, Examples]:
    """Training and validation images, by `config.split.protocol`.

    An image of an unknown patient may show a test patient: "honest" leaves it out, the other
    protocols, whose encoders see test patients anyway, train on it.
    """
    if config.split.protocol == sources.PAPER:  # by image, whoever's it is
        order = np.random.default_rng((config.split.seed, 2)).permutation(len(examples))
        count = round(config.split.val_fraction * len(examples))
        return examples.take(np.sort(order[count:])), examples.take(np.sort(order[:count]))
    trained = split.train
    known = split.train | split.val | split.test
    unknown = [patient for patient in examples.patients if patient not in known]
    if config.split.protocol == sources.TRANSDUCTIVE:
        trained |= split.test | set(unknown)
    elif unknown:
        logging.info(
            "%d images of unknown patients are left out: they may show test patients.",
            len(unknown),
        )
    return examples.of_patients(trained), examples.of_patients(split.val)


def encoder_variables(variables: dict) -> dict:
    """The encoder's part of the pretrained model's variables."""
    return {collection: tree["encoder"] for collection, tree in variables.items()}


def describe(config: ConfigDict, *, source: sources.Source, patients: list[str]) -> dict:
    """What a decoder must know of its encoder (JSON)."""
    return {
        "data_type": config.data.type,
        "channels": CHANNELS[config.data.type],
        "num_kernels": config.model.num_kernels,
        "downscale": config.data.downscale,
        "loss": config.loss.to_dict(),
        "data_fingerprint": source.fingerprint,
        "seen_patients": patients,
    }


def _finish(config, workdir: Path, state, validation, *, losses, operations, train: int) -> dict:
    epochs = read_jsonl(workdir / METRICS)
    steps = epochs[-1]["step"] // epochs[-1]["epoch"]
    outcome = {
        "run": {
            "task": f"pretrain a CUTS encoder on {config.data.type} images",
            "data": config.data.root,
            "images": f"{train} train, {len(validation)} validation",
            "epochs": f"{epochs[-1]['epoch']}, the best is {int(state.step) // steps}",
        },
        "encoder": {f"validation {name}": value for name, value in losses.items()},
    }
    pictures = workdir / PICTURES
    shown = validation.take(range(min(PICTURED, len(validation))))
    encoder = train_decoder.make_encoder(
        num_kernels=config.model.num_kernels, operations=operations
    )
    variables = jax.device_get(encoder_variables(state.variables))
    with precision.matmul_precision("float32", platform=jax.default_backend()):
        latents = _encode(
            shown.columns["images"],
            encoder=encoder,
            variables=variables,
            channels=CHANNELS[config.data.type],
        )
    drawn = [
        figures.latents_figure(
            pictures / "latents.png",
            shown.columns["images"],
            np.asarray(latents)[:, 0],
            names=shown.names,
        ),
        figures.curves_figure(pictures / "curves.png", epochs, title="Encoder pretraining"),
    ]
    files = [*results.write_results(workdir, outcome), *drawn]
    files += reports.write_run(workdir, outcome, config=config, pictures=drawn)
    files += [workdir / METRICS, workdir / FOLDER]
    runs.report(results.results_table(outcome), files=files, workdir=workdir)
    return outcome
