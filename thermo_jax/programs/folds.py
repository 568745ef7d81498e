"""The folds of a study: which patients train, validate and test the models of each of its stages.

All stages of a fold share its file `folds/*.json`; encoders have files of their own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from thermo_jax.data.dataset import PAPER, Dataset
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.programs import settings
from thermo_jax.programs.stages import Stage, check_split
from thermo_jax.programs.workdir import begin
from thermo_jax.training import timeline

FOLDS, ENCODER = "folds", "_encoder"


def check_num_folds(config: ConfigDict) -> None:
    """Raises UserError if more folds are to be run than there are."""
    if not 0 <= config.num_folds <= config.split.folds:
        raise UserError(
            f"config.num_folds={config.num_folds} must be from 0 (all) to config.split.folds="
            f"{config.split.folds}"
        )


def make_folds(
    config: ConfigDict, *, stages: Sequence[Stage], open_dataset: Callable[..., Dataset]
) -> tuple[Dataset, dict[Path, Split]]:
    """The data set, and the split of each file that the stages name. Nothing is written."""
    with timeline.part("data"):
        dataset = open_dataset(settings.data_settings(stages[0].config))
    splits = _splits(config, stages, dataset)
    _check_splits(config, splits)
    return dataset, splits


def write_folds(
    config: ConfigDict,
    workdir: Path,
    *,
    stages: Sequence[Stage],
    dataset: Dataset,
    splits: Mapping[Path, Split],
) -> list[str]:
    """Writes config.json, the data report and folds/*.json, whose splits all rows share.

    Returns the cautions about the data set, for all types of images.

    Raises:
      UserError: a stage has begun with another split.
    """
    for path, split in splits.items():
        check_split(path, split, stages, workdir)
    begin(workdir, config, dataset=dataset)
    (workdir / FOLDS).mkdir(exist_ok=True)
    for path, split in splits.items():
        split.save(path)
    return list(dataset.all_cautions.values())


def _splits(config: ConfigDict, stages: Sequence[Stage], dataset: Dataset) -> dict[Path, Split]:
    """The splits of decoders and of encoders by file, read from `config.folds_dir` or new.

    A new split of encoders is made from the split of the same fold's decoders.
    """
    splits: dict[Path, Split] = {}
    for stage in sorted(stages, key=lambda stage: stage.task == "encoder"):  # decoders first
        path, is_encoder = Path(stage.config.split.file), stage.task == "encoder"
        given = Path(config.folds_dir).expanduser() / path.name
        is_given = bool(config.folds_dir) and given.is_file()
        if path in splits:
            continue
        if config.folds_dir and not is_given and not is_encoder:
            raise UserError(
                f"config.folds_dir: {given} is missing; give the folder {FOLDS} of another run "
                "with as many folds and repeats, or leave it empty"
            )
        wanted = settings.split_settings(stage.config)
        if is_encoder and not is_given:  # earlier versions wrote no files for encoders
            splits[path] = dataset.with_more_validation(splits[_decoders_file(path)], wanted)
        else:
            file = str(given) if is_given else ""
            splits[path] = dataset.split(dataclasses.replace(wanted, file=file))
    return splits


def _decoders_file(path: Path) -> Path:
    return path.with_stem(path.stem.removesuffix(ENCODER))


def _check_splits(config: ConfigDict, splits: Mapping[Path, Split]) -> None:
    """Raises UserError if a model would train on patients who validate or test it.

    The test sets of a repeat must be disjoint and, if all folds are run, contain every patient.
    """
    for path, split in splits.items():
        decoders = splits[_decoders_file(path)]
        if split.test != decoders.test or not split.val >= decoders.val:
            raise UserError(
                f"config.folds_dir: {path.name} lets an encoder train on patients who validate or "
                f"test its fold's decoders: remove this file, and the run makes it from "
                f"{_decoders_file(path).name}"
            )
    folds = config.num_folds or config.split.folds
    of_decoders = [split for path, split in splits.items() if _decoders_file(path) == path]
    for first in range(0, len(of_decoders), folds):
        repeat = of_decoders[first : first + folds]
        tested = [patient for split in repeat for patient in split.test]
        everybody = repeat[0].train | repeat[0].val | repeat[0].test
        twice = len(tested) > len(set(tested))
        if twice or (folds == config.split.folds and set(tested) != everybody):
            raise UserError(
                f"the {folds} folds test {len(set(tested))} of {len(everybody)} patients"
                f"{', some of them twice' if twice else ''}: they were made for another number of "
                "folds. Set config.split.folds to that number, or leave config.folds_dir empty"
            )
        validated = config.split.val_fraction and config.split.protocol != PAPER
        if validated and not all(split.val for split in repeat):
            raise UserError(
                "config.folds_dir: a fold has no validation patients (that run had "
                "config.split.val_fraction=0, or the protocol 'paper'): leave the field empty to "
                "divide the patients again, or give the folds of a run with validation patients"
            )
