"""Several runs as one: the stages of Table 1 and of the few-shot curve.

A stage is a run of its own in a subfolder. A finished stage is not repeated: its best model and its
predictions are used. All possible checks are made before the first stage runs.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.data.dataset import Dataset
from thermo_jax.data.examples import image_shape
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.programs import cost, decoder, decoder_results, encoder, settings
from thermo_jax.programs.frozen_encoder import check_raw_pixels
from thermo_jax.programs.initial_decoder import check_start
from thermo_jax.programs.lock import only_run_in
from thermo_jax.programs.workdir import check_workdir
from thermo_jax.training import timeline, train_decoder
from thermo_jax.training.checkpoints import FOLDER

FINISHED = "finished"
PROGRAMS = {"encoder": encoder, "classify": decoder, "segment": decoder}


class Stage(NamedTuple):
    """One run: its task, its folder below the workdir, its row of the table, its configuration."""

    task: str
    folder: str
    row: str
    config: ConfigDict


def stage_config(config: ConfigDict, task: str, *, data_type: str, split: dict) -> ConfigDict:
    """`config.stages[task]`, with the fields that all stages share."""
    stage = config.stages[task].copy_and_resolve_references()
    with stage.unlocked():
        stage.seed = config.seed
        for name in ("data", "flir", "split", "parallel", "report"):
            stage[name] = config[name].copy_and_resolve_references().unlock()
        stage.data.update({"type": data_type, "downscale": config.downscale[data_type]})
        stage.split.update({"fold": 0, "file": "", "max_train_patients": 0} | split)
        stage.train.batch_size = config.batch_size[data_type]
        if task == "encoder":
            stage.split.val_fraction = config.encoder_val_fraction
            del stage.report
        else:
            stage.encoder.update({"type": data_type, "workdir": ""})
    return stage


def check_fractions(config: ConfigDict) -> None:
    """Raises UserError if encoders would train on the validation patients of their decoders."""
    if config.split.val_fraction and not config.encoder_val_fraction:
        raise UserError(
            f"config.encoder_val_fraction=0 with config.split.val_fraction="
            f"{config.split.val_fraction}: the encoders would train on the patients who validate "
            "the decoders; set both to 0, or neither"
        )


def check_stages(stages: Sequence[Stage], workdir: Path) -> None:
    """Checks fields, image sizes, devices, folders and the disk before the first stage runs.

    Raises:
      UserError: a field has a wrong value, a stage's folder contains a run of another
        configuration, or the disk is too small.
    """
    started = set()
    for stage in stages:
        try:
            config = settings.resolve(stage.config)
        except UserError as error:
            raise UserError(f"in config.stages.{stage.task}: {error}") from error
        settings.placement(config).parallel.check_batch_size(
            config.train.batch_size, field=f"config.batch_size.{config.data.type}"
        )
        settings.data_settings(config).find_root()
        image_shape(config.data.type, downscale=config.data.downscale)
        if stage.task == "encoder":
            encoder.check_patches(config)
        elif config.encoder.kind == "none":
            check_raw_pixels(config)
            start = config.init_from, config.task, config.data.type
            if start not in started:  # a study's decoders with equal ones start alike
                check_start(config)
            started.add(start)
        try:
            check_workdir(workdir / stage.folder, config)
        except UserError as error:
            if stage.task == "encoder" and "split.val_fraction" in str(error):
                note = "an encoder's split.val_fraction is config.encoder_val_fraction here"
                raise UserError(f"{error}; {note}") from error
            raise
    _check_disk(stages, workdir)


def check_split(path: Path, split: Split, stages: Sequence[Stage], workdir: Path) -> None:
    """Raises UserError if a stage has begun and the saved split differs from the given one."""
    begun = any((workdir / stage.folder / FOLDER).exists() for stage in stages)
    begun = begun or any(workdir.glob(f"*/*/{FINISHED}"))  # also stages that train no network
    if begun and path.exists() and Split.load(path) != split:
        raise UserError(
            f"{path} divides the patients differently than this data and configuration: restore "
            "them as they were when the run began, or choose another --workdir"
        )


def run_stages(
    stages: Sequence[Stage], workdir: Path, *, open_dataset: Callable[..., Dataset]
) -> None:
    """Runs the stages that are not finished."""
    for number, stage in enumerate(stages, start=1):
        folder = workdir / stage.folder
        if _is_finished(stage, workdir):
            logging.info("Stage %d of %d: %s is finished.", number, len(stages), stage.folder)
            continue
        logging.info("Stage %d of %d: %s", number, len(stages), stage.folder)
        with only_run_in(folder), timeline.record(), cost.measured(folder):
            PROGRAMS[stage.task].run(stage.config, folder, open_dataset=open_dataset)
        (folder / FINISHED).touch()


def _is_finished(stage: Stage, workdir: Path) -> bool:
    folder = workdir / stage.folder
    complete = stage.task == "encoder" or (folder / decoder_results.PREDICTIONS).is_file()
    return complete and (folder / FINISHED).is_file()


def _check_disk(stages: Sequence[Stage], workdir: Path) -> None:
    """Logs how much disk the run needs. Raises UserError if the disk has less."""
    unfinished = [stage for stage in stages if not _is_finished(stage, workdir)]
    # In a study the task and the data type determine a model's size.
    examples = {(stage.task, stage.config.data.type): stage for stage in unfinished}
    sizes = {kind: _model_bytes(stage) for kind, stage in examples.items()}
    kept = sum(sizes[stage.task, stage.config.data.type] for stage in unfinished)
    # Three checkpoints: the latest, the best and the one being written. Each contains the
    # parameters and Adam's two moments.
    running = 3 * 3 * max(sizes.values(), default=0)
    free = shutil.disk_usage(workdir).free
    logging.info(
        "%d stages; they need %.2f GB of disk, and up to %.2f GB more while one runs; "
        "%.1f GB are free.",
        len(stages),
        kept / 1e9,
        running / 1e9,
        free / 1e9,
    )
    if kept + running > free:
        raise UserError(
            f"{workdir}: this run needs {(kept + running) / 1e9:.1f} GB of disk, and "
            f"{free / 1e9:.1f} GB are free: delete something, or choose another --workdir"
        )


def _model_bytes(stage: Stage) -> int:
    if stage.task == "encoder":
        # An upper bound: with 16 kernels, the model has 280,000 float32 parameters.
        return 4 * 10**6 * stage.config.model.num_kernels**2 // 16**2
    sizes = stage.config.model
    model = train_decoder.make_decoder(
        stage.task, architecture=sizes.architecture, width=sizes.unet_width
    )
    data = stage.config.data
    height, width, _ = image_shape(data.type, downscale=data.downscale)
    shapes = train_decoder.abstract_variables(model, (1, height, width, 128))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
