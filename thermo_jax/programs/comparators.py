"""Program "comparators": rivals and ours on the same patients -> one table.

folds of patients, the same for all -> ours and the rivals' networks, trained (each fold is a stage)
-> features of images -> heads on features, baselines, simple segmenters (each fold is a stage)
-> control with shuffled diagnoses -> out-of-fold predictions, pooled -> comparison, report
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from thermo_jax.configs import small
from thermo_jax.data.dataset import Dataset, open_dataset
from thermo_jax.data.splits import Split
from thermo_jax.errors import MissingFileError, UserError
from thermo_jax.files import saved_config
from thermo_jax.programs import comparators_report, rival_features, rival_rows, settings
from thermo_jax.programs.folds import ENCODER, FOLDS, check_num_folds, make_folds, write_folds
from thermo_jax.programs.rival_rows import OURS_FAMILY, Row, Study, ours_kinds
from thermo_jax.programs.stages import (
    FINISHED,
    Stage,
    check_fractions,
    check_stages,
    run_stages,
    stage_config,
)
from thermo_jax.programs.workdir import check_workdir
from thermo_jax.rivals.areas import has_temperatures
from thermo_jax.rivals.registry import BY_NAME, chosen

ENCODER_KEY = "encoder"  # the folder, in each fold, of the encoder of ours
TITLES = {  # of the models of ours, by config.ours
    "none": "U-Net on raw pixels, small",
    "pretrained": "U-Net on CUTS latents, small",
    "shipped": "the model that ships, trained further",
}


class Planned(NamedTuple):
    """A network to train: its stage in one fold, and its row."""

    stage: Stage
    row: Row


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs the stages that are not finished; returns the results, which it also writes."""
    # --------------------------------------------------------------------------- checks and folds
    _check_fields(config)
    workdir = check_workdir(workdir, config)
    planned = list(plan(config, workdir))
    stages = [network.stage for network in planned]
    check_stages(stages, workdir)
    open_once = functools.cache(open_dataset)
    holders = list(_fold_stages(config, workdir))
    every = [*holders, *stages]
    dataset, splits_of_files = make_folds(config, stages=every, open_dataset=open_once)
    splits = {stage.folder: splits_of_files[Path(stage.config.split.file)] for stage in holders}
    _check_sets(config, dataset, splits)
    rows = _rows_of_table1(config, splits)
    planned, missing = _without_missing(planned, dataset)
    cautions = write_folds(config, workdir, stages=every, dataset=dataset, splits=splits_of_files)
    # -------------------------------------------------------------------------- trained networks
    # Networks that look at the same follow each other, so that its images are read once.
    by_look = sorted(planned, key=lambda network: network.row.reading_order)
    run_stages([network.stage for network in by_look], workdir, open_dataset=open_once)
    rows += dict.fromkeys(n.row for n in planned if n.stage.task != "encoder")
    rows += missing
    # ----------------------------------------------------- what trains no network, and the control
    study = Study(config, workdir, dataset, splits)
    fitted = rival_rows.Classifiers([], {}, {})
    if "classify" in config.tasks:
        fitted = rival_rows.classifiers(study)
    if "segment" in config.tasks:
        rows += rival_rows.segmenters(study)
    return comparators_report.write(study, [*rows, *fitted.rows], fitted, cautions=cautions)


def _check_fields(config: ConfigDict) -> None:
    settings.check_fields(config)
    check_fractions(config)
    if config.split.protocol != "honest":
        raise UserError(
            f"config.split.protocol={config.split.protocol!r}: rivals are compared by the protocol "
            "'honest' only"
        )
    if not config.split.val_fraction:
        raise UserError(
            "config.split.val_fraction=0: rivals are tuned, and thresholds chosen, on validation "
            "patients; set it to 0.2, for example"
        )
    check_num_folds(config)
    segmenters = [name for name in config.rivals if BY_NAME[name].task == "segment"]
    if "segment" in config.tasks and not (segmenters or config.table1 or config.ours):
        raise UserError(
            "config.tasks contains 'segment', but config.rivals and config.ours contain no "
            "segmenter: set config.tasks=('classify',), or name one, such as mean_label_map"
        )
    is_used = "segment" in config.tasks and "shipped" in ours_kinds(config)
    if is_used and config.downscale.gray != small.DOWNSCALE:
        raise UserError(
            f"config.downscale.gray={config.downscale.gray}: the model that ships reads images "
            f"reduced by {small.DOWNSCALE}; leave 'shipped' out of config.ours"
        )
    rival_features.check_weights(config)


def _check_sets(config: ConfigDict, dataset: Dataset, splits: Mapping[str, Split]) -> None:
    """Raises UserError if a set of a fold has no image for one of the tasks."""
    for task in config.tasks:
        try:
            records = dataset.select(task, "gray")
        except UserError as error:
            raise UserError(f"{error}, or leave {task!r} out of config.tasks") from error
        usable = {record.patient for record in records}
        for fold, split in splits.items():
            sets = {"training": split.train, "validation": split.val, "test": split.test}
            empty = [role for role, patients in sets.items() if not usable & patients]
            if empty:
                raise UserError(
                    f"no {empty[0]} patient of {fold} has one of the {len(records)} thermograms "
                    f"that the task {task!r} can use: leave {task!r} out of config.tasks, or set "
                    "fewer config.split.folds or another config.split.seed"
                )


# --------------------------------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------------------------------


def plan(config: ConfigDict, workdir: Path) -> Iterator[Planned]:
    """The networks of all folds, each after the encoder that it needs."""
    kinds = ours_kinds(config)
    for holder in _fold_stages(config, workdir):
        fold, split = holder.folder, dict(holder.config.split)
        if "pretrained" in kinds:
            own = split | {"file": str(Path(split["file"]).with_stem(fold + ENCODER))}
            encoder = stage_config(config, "encoder", data_type="gray", split=own)
            row = Row("encoder", ENCODER_KEY, "", OURS_FAMILY)
            yield Planned(Stage("encoder", f"{fold}/{ENCODER_KEY}", "", encoder), row)
        for task in config.tasks:
            make = functools.partial(stage_config, config, task, data_type="gray", split=split)
            for kind in kinds:
                if (kind, task) != ("shipped", "classify"):
                    stage = _ours(make(), config, kind=kind, encoder=workdir / fold / ENCODER_KEY)
                    row = Row(task, f"ours_{kind}_{task}", TITLES[kind], OURS_FAMILY)
                    yield Planned(Stage(task, f"{fold}/{row.key}", row.title, stage), row)
            for row in _network_rows(config, task):
                stage = make()
                _tune(stage, config)
                stage.encoder.kind = row.rival.encoder
                stage.model.architecture = row.rival.network
                if task == "classify":
                    stage.model.update({"area": row.area, "temperatures": row.temperatures})
                yield Planned(Stage(task, f"{fold}/{row.key}", row.title, stage), row)


def _fold_stages(config: ConfigDict, workdir: Path) -> Iterator[Stage]:
    """One stage for each fold, which is not run: its configuration has the fold's split."""
    task = config.tasks[0]
    for number in range(config.num_folds or config.split.folds):
        fold = f"repeat0_fold{number}"
        split = {"fold": number, "file": str(workdir / FOLDS / f"{fold}.json")}
        yield Stage(task, fold, "", stage_config(config, task, data_type="gray", split=split))


def _network_rows(config: ConfigDict, task: str) -> Iterator[Row]:
    for rival in map(BY_NAME.__getitem__, config.rivals):
        is_ours = rival.name == "raw_pixels" and "none" in ours_kinds(config)
        if rival.task == task and rival.network and not is_ours:
            for temperatures in chosen(rival.temperatures, config.temperatures):
                for area in chosen(rival.areas, config.areas):
                    key = rival_features.row_name(rival, area, temperatures)
                    title = rival_rows.title(rival, area, temperatures)
                    look = {"area": area, "temperatures": temperatures}
                    yield Row(task, key, title, rival.family, rival, **look)


def _without_missing(
    planned: Sequence[Planned], dataset: Dataset
) -> tuple[list[Planned], list[Row]]:
    """The networks that can be trained on these data, and the rows of the others."""
    rows = dict.fromkeys(n.row for n in planned if n.row.temperatures == "kept")
    if not rows or has_temperatures(dataset, "classify"):
        return list(planned), []
    others = [n for n in planned if n.row not in rows]
    return others, [row._replace(missing=rival_features.NEEDS_MATRICES) for row in rows]


def _tune(stage: ConfigDict, config: ConfigDict) -> None:
    """A classifier chooses among as many epochs as other rivals try settings."""
    if stage.task == "classify":
        stage.train.update({"steps": 0, "epochs": config.candidates})


def _ours(stage: ConfigDict, config: ConfigDict, *, kind: str, encoder: Path) -> ConfigDict:
    _tune(stage, config)
    stage.encoder.kind = "pretrained" if kind == "pretrained" else "none"
    if kind == "pretrained":
        stage.encoder.workdir = str(encoder)
    if kind == "shipped":
        stage.update({"init_from": "shipped", "average_with_init": True})
        stage.train.update(small.FINE_TUNE)
    return stage


# --------------------------------------------------------------------------------------------------
# Ours from another run
# --------------------------------------------------------------------------------------------------


def _rows_of_table1(config: ConfigDict, splits: Mapping[str, Split]) -> list[Row]:
    """The rows of `config.table1`, one for each task.

    Raises:
      MissingFileError: there is no such run.
      UserError: that run has other folds, has not finished this row, or has other images.
    """
    if not config.table1:
        return []
    rows, source = [], Path(config.table1).expanduser()
    if not (source / FOLDS).is_dir():
        raise MissingFileError(
            f"config.table1={config.table1} is not the workdir of a run of configs/table1.py: "
            f"there is no folder {source / FOLDS}"
        )
    for fold, split in splits.items():
        file = source / FOLDS / f"{fold}.json"
        if not file.is_file() or Split.load(file) != split:
            raise UserError(
                f"config.table1={config.table1} has other folds of patients ({file}): compare on "
                f"its folds with --config.folds_dir={source / FOLDS}, and give the same "
                "config.split.folds and config.num_folds, in a new --workdir"
            )
    for task in config.tasks:
        key = f"{task}_{config.row.replace('/', '')}"
        folders = tuple(source / fold / key for fold in splits)
        unfinished = [folder for folder in folders if not (folder / FINISHED).is_file()]
        if unfinished:
            raise UserError(
                f"config.table1={config.table1}: {unfinished[0]} is not a finished stage: run "
                f"configs/table1.py there to its end, with the row {config.row} "
                "(config.row names another one)"
            )
        if task == "segment":
            _check_size(config, folders[0])
        rows.append(Row(task, "", f"{config.row} of {source.name}", OURS_FAMILY, folders=folders))
    return rows


def _check_size(config: ConfigDict, folder: Path) -> None:
    """Raises UserError if the segmenters of another run see images of another size."""
    downscale = (saved_config(folder) or {}).get("data", {}).get("downscale")
    if downscale != config.downscale.gray:
        raise UserError(
            f"config.table1={config.table1}: its segmenters see images reduced by {downscale}, "
            f"those of this run by config.downscale.gray={config.downscale.gray}, and mIoU differs "
            f"by size: set config.downscale.gray={downscale}, or config.tasks=('classify',)"
        )
