"""Program "encoder": thermograms -> a pretrained CUTS encoder in a workdir."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.dataset import (
    PAPER,
    PHANTOM,
    TRANSDUCTIVE,
    Dataset,
    check_not_empty,
    open_dataset,
)
from thermo_jax.data.examples import Examples, image_shape
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.evaluation import figures
from thermo_jax.models import precision
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.frozen import FrozenEncoder, encode
from thermo_jax.programs import reports, settings
from thermo_jax.programs.workdir import PICTURES, begin_training, check_workdir, to_json
from thermo_jax.training import loop, processes, timeline, train_encoder
from thermo_jax.training.checkpoints import FOLDER, keep_best_model
from thermo_jax.training.metrics_log import METRICS
from thermo_jax.training.state import initialise

PICTURED = 4  # thermograms in the latents' picture
_encode = jax.jit(encode, static_argnames="encoder")


def run(
    config: ConfigDict, workdir: str | Path, *, open_dataset: Callable[..., Dataset] = open_dataset
) -> dict:
    """Trains, or continues; returns the results, which it also writes to the workdir.

    Of several processes only the first writes and returns results; the others return {}.

    Args:
      open_dataset: opens the data set; the stages of a study share one that caches it.
    """
    # --------------------------------------------------------------------------------------- checks
    config = settings.resolve(config)
    check_patches(config)
    placement = settings.placement(config)
    parallel = placement.parallel
    parallel.check_batch_size(config.train.batch_size)
    workdir = check_workdir(workdir, config)
    # -------------------------------------------------------------------- images and sets of images
    with timeline.part("data"):
        dataset = open_dataset(settings.data_settings(config))
        examples = dataset.load("pretrain")
    split = dataset.split(settings.split_settings(config))
    sets = deal_images(examples, split, config)
    check_not_empty(sets, of=len(examples))
    plan = settings.training_plan(config, num_images=len(sets["train"]))
    examples_id = begin_training(
        workdir, config, dataset=dataset, split=split, examples=examples, sets=sets
    )
    # The epoch is chosen on validation patients, so they count as seen, too.
    seen = set(examples.patients[np.concatenate([*sets.values()])].tolist())
    logging.info(
        "%d images train, %d validate; %d patients are kept for testing decoders.",
        len(sets["train"]),
        len(sets.get("validation", ())),
        len(split.test - seen),
    )
    # ------------------------------------------------------------------------------ model and steps
    operations = settings.operations(config, placement)
    model = train_encoder.make_model(
        data_type=config.data.type,
        patch_size=config.model.patch_size,
        num_kernels=config.model.num_kernels,
        dtype=config.model.dtype,
        operations=operations,
    )
    tx = settings.optimizer(config, num_images=len(sets["train"]))
    loss = train_encoder.LossSettings(**config.loss)
    images = examples.columns["images"]
    shape = images.shape[1:]
    create_state = partial(
        train_encoder.create_state, model, tx=tx, image_shape=shape, ema=config.train.ema
    )
    state = initialise(create_state, rng=jax.random.key(config.seed))
    placed, resident = placement.place({"images": images}, sets)
    map_step = partial(placement.map_step, resident=resident)
    draw = partial(train_encoder.draw, image_size=shape[:2], model=model, loss=loss)
    train_step = partial(
        train_encoder.train_step,
        model=model,
        tx=tx,
        loss=loss,
        augmentation=settings.augment_settings(config),
    )
    eval_step = partial(train_encoder.eval_step, model=model, loss=loss)
    facts = {  # what a decoder's run must know about its encoder
        "data_type": config.data.type,
        "channels": CHANNELS[config.data.type],
        "num_kernels": config.model.num_kernels,
        "downscale": config.data.downscale,
        "loss": config.loss.to_dict(),
        "data_fingerprint": dataset.fingerprint,
        "synthetic": config.data.root == PHANTOM,
        "seen_patients": sorted(seen),
    }
    # ------------------------------------------------------------------------------------- training
    trained = loop.fit(
        parallel.replicate(state),
        train_step=map_step(train_step, role="train", draw=draw),
        eval_step=map_step(eval_step, role="eval"),
        train=placed["train"],
        validation=placed.get("validation"),
        names=examples.names[sets["train"]].tolist(),
        plan=plan,
        parallel=parallel,
        workdir=workdir,
        encoder_of=lambda state: encoder_variables(state.variables),
        meta={"config": to_json(config), "encoder": facts, "examples": examples_id},
    )
    # -------------------------------------------------------------------------------------- results
    outcome = {}
    if processes.is_writer():
        counts = {name: len(rows) for name, rows in sets.items()}
        pictured = examples.take(sets.get("validation", sets["train"])[:PICTURED])
        encoder = FrozenEncoder.abstract(facts, operations=operations).with_variables(
            jax.device_get(encoder_variables(trained.state.variables))
        )
        outcome = _finish(
            config,
            workdir,
            trained,
            pictured,
            encoder=encoder,
            counts=counts,
            cautions=dataset.cautions,
        )
    processes.wait("the results are written")
    keep_best_model(workdir)
    return outcome


def check_patches(config: ConfigDict) -> None:
    """Raises UserError if the images are too small to sample patches from."""
    patch, factor = config.model.patch_size, config.data.downscale
    height, width, _ = image_shape(config.data.type, downscale=factor)
    if patch >= min(height, width):  # the sampler needs a second position near an anchor
        raise UserError(
            f"config.model.patch_size={patch} is too large for {config.data.type} images of "
            f"{height}x{width} pixels (config.data.downscale={factor}): they need at least one row "
            "and one column more than a patch; choose a smaller patch_size or downscale"
        )


def deal_images(examples: Examples, split: Split, config: ConfigDict) -> dict[str, np.ndarray]:
    """The rows for training and for validation, which depend on `config.split.protocol`.

    There are none for validation if `config.split.val_fraction` is 0.

    An image of an unknown patient may show a test patient. The protocol "honest" does not use it;
    the others, whose encoders see test patients anyway, train on it.
    """
    if config.split.protocol == PAPER:  # divides images, not patients
        order = np.random.default_rng((config.split.seed, 2)).permutation(len(examples))
        count = round(config.split.val_fraction * len(examples))
        sets = {"train": np.sort(order[count:]), "validation": np.sort(order[:count])}
        return _validated(sets, config)
    patients = split.train
    known = split.train | split.val | split.test
    unknown = [patient for patient in examples.patients if patient not in known]
    if config.split.protocol == TRANSDUCTIVE:
        patients |= split.test | set(unknown)
    elif unknown:
        logging.info(
            "%d images of unknown patients are not used: they may show test patients.",
            len(unknown),
        )
    sets = {
        "train": examples.rows_of_patients(patients),
        "validation": examples.rows_of_patients(split.val),
    }
    return _validated(sets, config)


def _validated(sets: dict[str, np.ndarray], config: ConfigDict) -> dict[str, np.ndarray]:
    return sets if config.split.val_fraction else {"train": sets["train"]}


def encoder_variables(variables: dict) -> dict:
    """The encoder's part of the pretrained model's variables."""
    return {collection: tree["encoder"] for collection, tree in variables.items()}


def _finish(
    config: ConfigDict,
    workdir: Path,
    trained: loop.TrainingRun,
    pictured: Examples,
    *,
    encoder: FrozenEncoder,
    counts: dict[str, int],
    cautions: list[str],
) -> dict:
    epochs = trained.history
    best = next(row for row in epochs if row["epoch"] == trained.best_epoch)
    validated = "validation" in counts
    measured, name = ("val/", "validation ") if validated else ("train/", "training ")
    chosen = f"{epochs[-1]['epoch']}, the best is {trained.best_epoch}"
    unchosen = f"{trained.best_epoch}, none chosen: the last one is used"
    outcome = {
        "run": {
            "task": f"pretrain a CUTS encoder on {config.data.type} images",
            "data": config.data.root,
            "images": ", ".join(f"{count} {role}" for role, count in counts.items()),
            "epochs": chosen if validated else unchosen,
        },
        "encoder": {
            key.replace(measured, name): value
            for key, value in best.items()
            if key.startswith(measured)
        },
        "cautions": cautions,
    }
    pictures = workdir / PICTURES
    images = pictured.columns["images"][:]
    with precision.matmul_precision("float32", platform=jax.default_backend()):
        latents = _encode(images, encoder=encoder.module, variables=encoder.variables)
    drawn = [
        figures.latents_figure(
            pictures / "latents.png",
            images,
            np.asarray(latents)[:, 0],
            names=pictured.names,
        ),
        figures.curves_figure(
            pictures / "curves.png",
            epochs,
            best_epoch=trained.best_epoch if validated else None,
            title="Encoder pretraining",
        ),
    ]
    sections = [*reports.result_sections(outcome), reports.picture_section(drawn)]
    files = [*drawn, workdir / METRICS, workdir / FOLDER]
    reports.write_run(workdir, outcome, config=config, sections=sections, files=files)
    return outcome
