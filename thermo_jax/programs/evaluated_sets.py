"""What trained decoders are evaluated on: thermograms of patients who trained none of them."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.data.dataset import Dataset, DataSettings, open_dataset
from thermo_jax.data.examples import Examples
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.files import folder_path
from thermo_jax.inference.find_models import DECODERS
from thermo_jax.inference.trained_models import Model
from thermo_jax.programs.initial_decoder import seen_in_training
from thermo_jax.training.known_images import trained_with


class Reading(NamedTuple):
    """How a model reads images: fields of `config.data` that come from its own run."""

    type: str
    downscale: int
    colormap: str

    @classmethod
    def of(cls, model: Model) -> "Reading":
        """That of a model."""
        return cls(model.data_type, model.downscale, model.colormap)


class Tested(NamedTuple):
    """The models of one task, and the thermograms on which they are evaluated.

    Attributes:
      task: "classify" or "segment".
      models: an ensemble if there are several.
      datasets: the data set as each of the models reads it.
      examples: the same thermograms, in the same order, as each of the models reads them.
      everyone: also the thermograms of other patients, as the first model reads them.
      left_out: the number of patients who are left out because they trained one of the models.
      doubtful: the models of which it is not known whether they saw these patients.
    """

    task: str
    models: list[Model]
    datasets: list[Dataset]
    examples: list[Examples]
    everyone: Examples
    left_out: int
    doubtful: list[Model]

    @property
    def patients(self) -> set[str]:
        """The patients of the thermograms."""
        return set(self.examples[0].patients.tolist())


def open_datasets(config: ConfigDict, models: Sequence[Model]) -> dict[Reading, Dataset]:
    """The data set, in each way in which a model reads it."""

    datasets: dict[Reading, Dataset] = {}
    opened: dict[str, Dataset] = {}  # by colour map: types and sizes share one
    for reading in dict.fromkeys(map(Reading.of, models)):
        settings = DataSettings(
            **config.data, **reading._asdict(), emissivity=config.flir.emissivity
        )
        if reading.colormap not in opened:
            opened[reading.colormap] = open_dataset(settings)
        datasets[reading] = dataclasses.replace(opened[reading.colormap], settings=settings)
    return datasets


def tested_sets(
    config: ConfigDict, models: Sequence[Model], datasets: dict[Reading, Dataset]
) -> list[Tested]:
    """The models and the thermograms of each task.

    Raises:
      UserError: there is no thermogram for a task, or all patients trained one of its models.
    """
    by_task = {task: [model for model in models if model.task == task] for task in DECODERS}
    return [
        _tested(task, members, datasets, config=config)
        for task, members in by_task.items()
        if members
    ]


def _tested(
    task: str, models: list[Model], datasets: dict[Reading, Dataset], *, config: ConfigDict
) -> Tested:
    names = ", ".join(model.name for model in models)
    readings = [Reading.of(model) for model in models]
    loaded = {reading: datasets[reading].load(task) for reading in dict.fromkeys(readings)}
    everyone = loaded[readings[0]]
    loaded = _shared(loaded, names=names)
    if config.split_file:
        loaded = _of_patients(loaded, Split.load(folder_path(config.split_file)).test)
        if not len(loaded[readings[0]]):
            raise UserError(
                f"config.split_file={config.split_file}: none of its test patients has a "
                f"thermogram that can be used to {task}: give the split.json of a run on this "
                "data, or leave the field empty"
            )
    trained: set[str] = set()
    doubtful = []
    for model, reading in zip(models, readings, strict=True):
        found, is_unknown = _who_trained(model, datasets[reading], loaded[reading])
        trained |= found
        doubtful += [model] * is_unknown
    patients = set(loaded[readings[0]].patients.tolist())
    if trained >= patients:
        raise UserError(
            f"all {len(patients)} patients who could be used to {task} trained {names}, so that "
            "scores on them would show nothing: give thermograms of other patients "
            "(config.data.root), or other models (config.models)"
        )
    if trained:
        logging.info("%d patients are left out, because they trained %s.", len(trained), names)
    loaded = _of_patients(loaded, patients - trained)
    return Tested(
        task=task,
        models=models,
        datasets=[datasets[reading] for reading in readings],
        examples=[loaded[reading] for reading in readings],
        everyone=everyone,
        left_out=len(trained),
        doubtful=doubtful,
    )


def _shared(loaded: dict[Reading, Examples], *, names: str) -> dict[Reading, Examples]:
    """The thermograms that are in all of the tables, in the order of the first one."""
    first, *others = loaded.values()
    shared = set(first.names.tolist()).intersection(*(other.names.tolist() for other in others))
    every = set(first.names.tolist()).union(*(other.names.tolist() for other in others))
    if not shared:
        raise UserError(
            f"no thermogram can be read by all of the models {names}: evaluate each of them alone"
        )
    if shared != every:
        logging.info(
            "%d thermograms are left out, because not all models read them.", len(every - shared)
        )
    ordered = [name for name in first.names.tolist() if name in shared]
    return {reading: table.take(table.rows_of(ordered)) for reading, table in loaded.items()}


def _of_patients(
    loaded: dict[Reading, Examples], patients: Collection[str]
) -> dict[Reading, Examples]:
    return {
        reading: table.take(table.rows_of_patients(patients)) for reading, table in loaded.items()
    }


def _who_trained(model: Model, dataset: Dataset, examples: Examples) -> tuple[set[str], bool]:
    """The patients who trained a model, as far as they are recognised; whether others may have."""
    patients = examples.patients
    found, is_unknown = seen_in_training(
        model.meta.get("trained_on"), dataset=dataset, patients=set(patients.tolist())
    )
    known = np.array(trained_with(model.meta, examples.columns["images"]))
    return found | set(patients[known].tolist()), is_unknown
