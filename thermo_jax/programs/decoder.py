"""Programs "classify" and "segment": a frozen encoder -> a trained decoder and its measures.

The encoder comes from its own run's workdir or, if this run continues, from this run's checkpoint.

encoder -> latents, computed once if they fit on the devices and images are not augmented
-> training -> best or last epoch
-> predictions for the test patients, once -> results, pictures
"""

import datetime
from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax import __version__
from thermo_jax.data.dataset import PAPER, Dataset, SplitSettings, check_not_empty, open_dataset
from thermo_jax.data.examples import Examples
from thermo_jax.data.splits import Split
from thermo_jax.data.streamed import Column, subset
from thermo_jax.data.thermogram import GRAY_SHAPE
from thermo_jax.models.frozen import FrozenEncoder
from thermo_jax.programs import decoder_results, looks, settings
from thermo_jax.programs.frozen_encoder import encoder_caveat, own_encoder
from thermo_jax.programs.initial_decoder import own_start, start_text, trained_on
from thermo_jax.programs.workdir import begin_training, check_workdir, to_json
from thermo_jax.training import loop, passes, processes, timeline, train_decoder
from thermo_jax.training.checkpoints import keep_best_model
from thermo_jax.training.placement import Placement
from thermo_jax.training.resident import ExampleSet, padded_rows, place_sets, table_bytes
from thermo_jax.training.state import initialise

TARGETS = {"classify": "labels", "segment": "label_maps"}


def run(
    config: ConfigDict, workdir: str | Path, *, open_dataset: Callable[..., Dataset] = open_dataset
) -> dict:
    """Trains, or continues; returns the results, which it also writes to the workdir.

    Of several processes only the first writes and returns results; the others return {}.

    Args:
      open_dataset: opens the data set; the stages of a study share one that caches it.
    """
    # ----------------------------------------------------------------------- checks and the encoder
    config = settings.resolve(config)
    placement = settings.placement(config)
    parallel = placement.parallel
    augmentation = settings.augment_settings(config)
    parallel.check_batch_size(config.train.batch_size)
    operations = settings.operations(config, placement)
    workdir = check_workdir(workdir, config)
    encoder = own_encoder(config, workdir, operations=operations)
    start = own_start(config, workdir, encoder=encoder)
    # -------------------------------------------------------------------- images and sets of images
    with timeline.part("data"):
        dataset = open_dataset(settings.data_settings(config))
        seen = looks.seen_by(config, dataset)
        examples = seen.load(config.task)
    split_settings = settings.split_settings(config)
    split = dataset.split(split_settings)
    sets = deal_images(examples, split, split_settings, seed=config.seed)
    plan = settings.training_plan(config, num_images=len(sets["train"]))
    test_patients = set(examples.patients[sets["test"]].tolist())
    caveat = encoder_caveat(encoder.facts, dataset=dataset, test_patients=test_patients)
    examples_id = begin_training(
        workdir, config, dataset=dataset, split=split, examples=examples, sets=sets
    )
    # ---------------------------------------------------------- latents on the devices, if they fit
    placed, resident = place(
        examples,
        sets,
        target=TARGETS[config.task],
        encoder=encoder,
        batch_size=plan.batch_size,
        placement=placement,
        # Of augmented and of mirrored images, there are no latents that could be kept.
        cache_latents=not (
            augmentation.is_on or config.model.mirror_average or config.data.endless
        ),
    )
    # ------------------------------------------------------------------------------ model and steps
    decoder = train_decoder.make_decoder(
        config.task,
        architecture=config.model.architecture,
        width=config.model.unet_width,
        head=config.model.get("head", ""),  # a segmenter has none
        dtype=config.model.dtype,
        operations=operations,
    )
    tx = settings.optimizer(config, num_images=len(sets["train"]))
    shape = encoder.latents(examples.columns["images"].shape[1:]).shape
    create_state = partial(
        train_decoder.create_state,
        decoder,
        tx=tx,
        latents_shape=shape,
        ema=config.train.ema,
        average_with_init=config.average_with_init,
    )
    arrays = {"frozen": encoder.variables, "start": start.variables}
    state = initialise(create_state, rng=jax.random.key(config.seed), **arrays)
    models = {"encoder": encoder.module, "decoder": decoder}
    map_step = partial(placement.map_step, resident=resident)
    loss = train_decoder.LossSettings(**config.get("loss", {}))  # a classifier has none
    train_step = partial(
        train_decoder.train_step,
        tx=tx,
        augmentation=augmentation,
        endless=config.data.endless,
        loss=loss,
        **models,
    )
    eval_step = partial(train_decoder.eval_step, loss=loss, **models)
    predict_step = partial(
        train_decoder.predict_step,
        full_shape=GRAY_SHAPE,
        mirror_average=config.model.mirror_average,
        **models,
    )
    # ------------------------------------------------------------------------------------- training
    trained = loop.fit(
        parallel.replicate(state),
        train_step=map_step(train_step, role="train"),
        eval_step=map_step(eval_step, role="eval"),
        train=placed["train"],
        validation=placed.get("validation"),
        names=examples.names[sets["train"]].tolist(),
        plan=plan,
        parallel=parallel,
        workdir=workdir,
        encoder_of=lambda state: state.frozen,
        meta={
            "config": to_json(config),
            "encoder": encoder.facts,
            "examples": examples_id,
            "start": start.title,
            "version": __version__,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "trained_on": trained_on(dataset, examples, sets, start=start, task=config.task),
        },
    )
    # ----------------------------------------------------------------- predictions and the results
    parts = {role: examples.take(rows) for role, rows in sets.items()}
    predictions = {
        role: passes.predict(
            trained.state,
            map_step(predict_step, role="predict"),
            placed[role],
            batch_size=plan.batch_size,
            loader=plan.loader,
            parallel=parallel,
            keep=decoder_results.keeper(config.task, parts[role]),
        )
        # Validation chooses the classifier's threshold; a segmenter has none.
        for role in (("validation", "test") if config.task == "classify" else ("test",))
        if role in sets
    }
    outcome = {}
    if processes.is_writer():
        outcome = decoder_results.write(
            config,
            workdir=workdir,
            sets=parts,
            gray=gray_images(dataset, parts, changed=seen is not dataset)
            if config.task == "classify"
            else None,
            predictions=predictions,
            trained=trained,
            encoder_caveat=caveat,
            start=start_text(start, dataset=dataset, test_patients=test_patients),
            cautions=dataset.cautions,
        )
    processes.wait("the results are written")
    keep_best_model(workdir)
    return outcome


def deal_images(
    examples: Examples, split: Split, split_settings: SplitSettings, *, seed: int
) -> dict[str, np.ndarray]:
    """The rows of "train", "validation" and "test".

    In the paper's protocol, the test patients are also the validation patients. In the others,
    there is no "validation" if `val_fraction` is 0.

    Raises:
      UserError: a set has no image.
    """
    validation = split.test if split_settings.protocol == PAPER else split.val
    patients = {"train": split.train, "validation": validation, "test": split.test}
    sets = {role: examples.rows_of_patients(chosen) for role, chosen in patients.items()}
    if not split_settings.val_fraction and split_settings.protocol != PAPER:
        del sets["validation"]
    check_not_empty(sets, of=len(examples))
    train = set(examples.patients[sets["train"]].tolist())
    patients = fewer_patients(train, split_settings, seed=seed)
    return sets | {"train": examples.rows_of_patients(patients)}


def fewer_patients(patients: set[str], split_settings: SplitSettings, *, seed: int) -> set[str]:
    """Chooses `max_train_patients` patients at random; 0, or more than there are, means all.

    The choice for a larger number includes the patients chosen for a smaller one.
    """
    count, names = split_settings.max_train_patients, sorted(patients)
    if not 0 < count < len(names):
        return patients
    rng = np.random.default_rng((split_settings.seed, 3, split_settings.fold, seed))
    return {names[i] for i in rng.permutation(len(names))[:count]}


def gray_images(
    dataset: Dataset, parts: Mapping[str, Examples], *, changed: bool = False
) -> dict[str, Column]:
    """The whole gray images of a classifier's sets, by role, for the baselines.

    If an image has no gray version, the run's own images are returned, although the colours of a
    heatmap have no natural order.

    Args:
      changed: the run's own images are not those of the data set.
    """
    have_gray = {r.name for r in dataset.records if r.gray_path or r.temperature_path}
    used = {name for part in parts.values() for name in part.names.tolist()}
    is_gray = dataset.settings.type == "gray" and not changed
    if is_gray or not have_gray.issuperset(used):
        return {role: part.columns["images"] for role, part in parts.items()}
    with timeline.part("data"):
        gray = dataset.load("classify", "gray")
    images = gray.columns["images"]
    return {role: subset(images, gray.rows_of(part.names)) for role, part in parts.items()}


def place(
    examples: Examples,
    sets: Mapping[str, np.ndarray],
    *,
    target: str,
    encoder: FrozenEncoder,
    batch_size: int,
    placement: Placement,
    cache_latents: bool = True,
) -> tuple[dict[str, ExampleSet], bool]:
    """The decoder's inputs and targets by role, and whether they are on the devices.

    The inputs are the first of these that fit: latents on the devices ("latents" [M,V,H,W,L] in the
    compute type, encoded once), images on the devices, images in host memory.

    Args:
      examples: the table to which the rows in `sets` belong. The devices receive the whole table,
        so that all runs of a study compile for the same size, however few patients they train on.
      target: the column that a decoder learns.
      cache_latents: False if steps need the images themselves, not their latents.
    """
    targets = {target: examples.columns[target]}
    images = {"images": examples.columns["images"]}
    latents, count = encoder.latents(images["images"].shape[1:]), padded_rows(len(examples))
    num_bytes = count * int(np.prod(latents.shape)) * latents.dtype.itemsize
    is_raw = encoder.facts.get("kind") == "none"
    if not cache_latents and not is_raw:
        logging.info("Steps change the images, so that their latents are not kept.")
    inputs = "The pixels" if is_raw else "The latents"
    needed = num_bytes + table_bytes(targets)
    if not cache_latents or not placement.fits(needed, inputs, columns=targets | images):
        placed, resident = placement.place(images | targets, sets)
        if not resident:
            logging.info("Images are sent to the devices in every step.")
        if not is_raw:
            logging.info("The encoder runs in every step.")
        return placed, resident
    if not is_raw:
        logging.info("Encoding %d images once (%.2f GB).", len(examples), num_bytes / 1e9)
    parallel = placement.parallel
    encode = partial(train_decoder.encode_step, encoder=encoder.module)
    with timeline.part("data"):
        column = passes.fill(
            parallel.zeros((count, *latents.shape), latents.dtype),
            placement.map_step(encode, role="fill", resident=True),
            parallel.replicate(encoder.variables),
            images,
            batch_size=batch_size,
            parallel=parallel,
        )
        return place_sets(targets | {"latents": column}, sets, parallel=parallel), True
