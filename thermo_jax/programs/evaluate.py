"""Program "evaluate": trained decoders -> measures on labelled or annotated thermograms.

models -> for each task: the thermograms that all of its models read, of patients who trained none
of them -> predictions of each model, and their mean -> the results that end a training run, too
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thermo_jax.data import splits
from thermo_jax.data.dataset import Dataset
from thermo_jax.data.examples import Examples
from thermo_jax.data.thermogram import GRAY_SHAPE, HEALTHY, SICK
from thermo_jax.evaluation import assessment, baselines
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.evaluation.report import Section
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.inference.page import models_table
from thermo_jax.inference.provenance import describe, measured_rows, note_on, scores_of
from thermo_jax.inference.trained_models import SHIPPED_TITLE, Model, load_models
from thermo_jax.programs import decoder_results, reports, settings
from thermo_jax.programs.decoder import gray_images
from thermo_jax.programs.evaluated_sets import Tested, open_datasets, tested_sets
from thermo_jax.programs.frozen_encoder import encoder_caveat
from thermo_jax.programs.workdir import PICTURES, begin, check_workdir
from thermo_jax.training import passes, timeline, train_decoder
from thermo_jax.training.placement import Placement
from thermo_jax.training.state import TrainState

FOLDS = 5  # in which baselines are fitted
FITTED = (
    f"The baselines that see no anatomy were fitted on the other patients of this folder ({FOLDS} "
    "folds by patient): each image is judged by a fit without its patient."
)
NOT_FITTED = (
    f"Baselines that see no anatomy are left out: to fit them, {FOLDS} patients of each diagnosis "
    "are needed, and the folder has {healthy} healthy and {sick} sick ones."
)
UNKNOWN = "trained on other data: whether it saw these patients is not known"
MODELS = {"classify": "classifier", "segment": "segmenter"}  # by task
NOT_USED = {"classify": "not classified", "segment": "not segmented"}
USABLE = {"classify": "with a diagnosis", "segment": "annotated"}
Results = dict[str, np.ndarray]  # of `train_decoder.predict_step`, or what is kept of them


class Evaluated(NamedTuple):
    """The measures of one task, in the form of `decoder_results.assess`, and the written files."""

    measures: dict[str, Any]
    pictures: list[Path]
    files: list[Path]


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Evaluates; returns the results, which it also writes to the workdir.

    Raises:
      UserError: there is no thermogram for a model's task, or all patients trained the models.
    """
    config = settings.resolve(config)
    placement = settings.placement(config)
    placement.parallel.check_batch_size(config.batch_size, field="config.batch_size")
    paths = settings.model_paths(config)
    workdir = check_workdir(workdir, config)
    models = load_models(paths, dtype=config.model.dtype)
    with timeline.part("data"):
        datasets = open_datasets(config, models)
        sets = tested_sets(config, models, datasets)
    begin(workdir, config, dataset=sets[0].datasets[0])
    evaluated = [
        _evaluate(tested, config=config, placement=placement, workdir=workdir, alone=len(sets) == 1)
        for tested in sets
    ]
    cautions = [text for dataset in datasets.values() for text in dataset.cautions]
    cautions += [text for tested in sets for text in _cautions(tested)]
    cautions += [text for one in evaluated for text in one.measures.pop("cautions", ())]
    outcome: dict[str, Any] = {"run": _facts(config, sets)}
    for one in evaluated:
        outcome |= one.measures
    outcome["cautions"] = list(dict.fromkeys(cautions))
    pictures = [picture for one in evaluated for picture in one.pictures]
    files = [file for one in evaluated for file in one.files]
    sections = [*reports.result_sections(outcome), reports.picture_section(pictures)]
    sections.append(Section("Models", [models_table([describe(model) for model in models])]))
    reports.write_run(workdir, outcome, config=config, sections=sections, files=[*files, *pictures])
    return outcome


def _evaluate(
    tested: Tested, *, config: ConfigDict, placement: Placement, workdir: Path, alone: bool
) -> Evaluated:
    """Predicts, scores and writes the files of one task; `alone` if it is the only one."""
    row = _row(tested.models)
    of_models, of_all = predict(tested, config=config, placement=placement)
    pictures, test = workdir / PICTURES, tested.examples[0]
    title = f"{row} on {len(tested.patients)} patients"
    if tested.task == "classify":
        scored, note = _diagnosed(tested, of_models, of_all, row=row)
        measures, columns = decoder_results.assess(scored, task="classify", row=row, config=config)
        measures["note"] = note
        shown = f"{tested.models[0].name} on {len(tested.patients)} patients"
        path = pictures / "evidence.png"
        drawn = [
            decoder_results.evidence_picture(path, test, of_models[0], title=shown),
            *decoder_results.classification_charts(pictures, {row: measures}, title=title),
        ]
    else:
        scored = Predictions.of(test, model=row, columns=of_all)
        measures, columns = decoder_results.assess(scored, task="segment", row=row, config=config)
        measures["segmentation"] |= _members(tested, of_models, config=config)
        path, maps = pictures / "segmentation.png", scored.columns["label_maps"]
        drawn = [
            decoder_results.segmentation_picture(path, test, maps, title=title),
            *decoder_results.segmentation_charts(pictures, {row: measures}, title=title),
        ]
    stem = "predictions" if alone else f"predictions_{tested.task}"
    table = PrintedTable.of_columns(columns).write_csv(workdir / f"{stem}.csv")
    return Evaluated(measures, drawn, [table, scored.save(workdir / f"{stem}.npz")])


def _row(models: Sequence[Model]) -> str:
    return models[0].name if len(models) == 1 else f"mean of {len(models)} models"


# --------------------------------------------------------------------------------------------------
# Predictions
# --------------------------------------------------------------------------------------------------


def predict(
    tested: Tested, *, config: ConfigDict, placement: Placement
) -> tuple[list[Results], Results]:
    """What `decoder_results.keeper` keeps of each model's predictions, and of the ensemble's.

    All predictions of a batch are in memory at once; those of all images are large.
    """
    count, several = len(tested.examples[0]), len(tested.models) > 1
    keepers = [decoder_results.keeper(tested.task, examples) for examples in tested.examples]
    streams = [
        passes.without_padding(
            _batches(model, examples, config=config, placement=placement, several=several),
            count=count,
        )
        for model, examples in zip(tested.models, tested.examples, strict=True)
    ]
    kept: list[list[Results]] = []
    for batch in zip(*streams, strict=True):
        parts = [keep(*of_model) for keep, of_model in zip(keepers, batch, strict=True)]
        if several:
            together = _together([results for results, _ in batch])
            _, rows = batch[0]
            parts.append(keepers[0](together, rows))
        kept.append(parts)
    of_each = [passes.joined(parts) for parts in zip(*kept, strict=True)]
    return of_each[: len(tested.models)], of_each[-1]


def _batches(
    model: Model, examples: Examples, *, config: ConfigDict, placement: Placement, several: bool
):
    step = partial(
        train_decoder.predict_step,
        encoder=model.encoder.module,
        decoder=model.decoder,
        full_shape=GRAY_SHAPE,
        mirror_average=model.mirror_average,
        with_classes=several,
    )
    state = TrainState(
        step=(), opt_state=(), rng=(), frozen=model.encoder.variables, **model.variables
    )
    return passes.predict_batches(
        placement.parallel.replicate(state),
        placement.map_step(step, role="predict", resident=False),
        {"images": examples.columns["images"]},
        batch_size=config.batch_size,
        parallel=placement.parallel,
    )


def _together(results: Sequence[Results]) -> Results:
    """The predictions of an ensemble, from the mean of its models' probabilities."""
    if "probabilities" in results[0]:
        return {"probabilities": np.mean([np.float64(r["probabilities"]) for r in results], axis=0)}
    maps = {"full_label_maps": "full_classes"}
    if len({r["classes"].shape for r in results}) == 1:
        maps |= {"label_maps": "classes"}
    return {
        name: sum(r[classes] for r in results).argmax(-1).astype(np.uint8)
        for name, classes in maps.items()
    }


# --------------------------------------------------------------------------------------------------
# Scores
# --------------------------------------------------------------------------------------------------


def _diagnosed(
    tested: Tested, of_models: Sequence[Results], of_all: Results, *, row: str
) -> tuple[Predictions, str]:
    """The classifiers' predictions, with all that they are compared with; a note on baselines."""
    examples = tested.examples[0]
    scored = decoder_results.with_diagnoses(examples, of_all["probabilities"], model=row)
    columns = dict(scored.columns)
    if len(tested.models) == 1:
        for point, threshold in own_thresholds(tested.models[0]).items():
            columns[f"threshold/{point}"] = np.full(len(examples), threshold)
    else:
        for model, results in zip(tested.models, of_models, strict=True):
            columns[f"member/{model.name} alone"] = np.float64(results["probabilities"])
    scores, note = _baselines(tested.datasets[0], tested.everyone)
    rows = tested.everyone.rows_of(examples.names)
    columns |= {f"baseline/{name}": values[rows] for name, values in scores.items()}
    return dataclasses.replace(scored, columns=columns), note


def own_thresholds(model: Model) -> dict[str, float]:
    """The operating points that the model's run chose on its validation patients, by unit and name.

    They are in the results of the run; without these, there are none.
    """
    points = {}
    for unit, rows in measured_rows(scores_of(model)).items():
        for point in (assessment.TUNED, assessment.SENSITIVE):
            chosen = [m.get("threshold") for n, m in rows.items() if n.endswith(f" at {point}")]
            if chosen and isinstance(chosen[0], float):  # not the NaN of several folds
                points[f"{unit}, {point}"] = chosen[0]
    return points


def _baselines(dataset: Dataset, everyone: Examples) -> tuple[dict[str, np.ndarray], str]:
    """The baselines' scores of all images, and a sentence that says how they were fitted."""
    labels = everyone.columns["labels"]
    diagnosis = dict(zip(everyone.patients.tolist(), labels.tolist(), strict=True))
    counts = Counter(diagnosis.values())
    if min(counts[HEALTHY], counts[SICK]) < FOLDS:
        return {}, NOT_FITTED.format(healthy=counts[HEALTHY], sick=counts[SICK])
    records = [record for record in dataset.records if record.patient in diagnosis]
    fold_of = splits.patient_folds(records, folds=FOLDS, seed=0)
    gray = gray_images(dataset, {"all": everyone})["all"]
    scores = baselines.out_of_fold_scores(
        decoder_results.baseline_features(everyone, gray),
        labels=labels,
        folds=np.array([fold_of[patient] for patient in everyone.patients.tolist()]),
    )
    if np.isnan(everyone.mean_temperatures).all():
        del scores["mean temperature"]
    return scores, FITTED


def _members(
    tested: Tested, of_models: Sequence[Results], *, config: ConfigDict
) -> dict[str, dict[str, Any]]:
    """The measures of each segmenter of an ensemble alone, by size and name."""
    measures: dict[str, dict[str, Any]] = {}
    if len(tested.models) == 1:
        return measures
    for model, examples, results in zip(tested.models, tested.examples, of_models, strict=True):
        scored = Predictions.of(examples, model=model.name, columns=results)
        found, _ = decoder_results.assess(scored, task="segment", row=model.name, config=config)
        for size, values in found["segmentation"].items():
            measures[f"{size}, {model.name} alone"] = values
    return measures


# --------------------------------------------------------------------------------------------------
# What readers must know
# --------------------------------------------------------------------------------------------------


def _cautions(tested: Tested) -> list[str]:
    sentences = [f"{model.name} was {UNKNOWN}." for model in tested.doubtful]
    about_phantoms = note_on([describe(model) for model in tested.models], task="classify")
    return [*sentences, about_phantoms] if about_phantoms else sentences


def _facts(config: ConfigDict, sets: Sequence[Tested]) -> dict[str, str]:
    facts = {
        "task": f"evaluation without training, {' and '.join(tested.task for tested in sets)}",
        "data": config.data.root,
    }
    if config.split_file:
        facts["test"] = f"the test patients of {config.split_file}"
    for tested in sets:
        kind, count = MODELS[tested.task], len(tested.models)
        for number, model in enumerate(tested.models, start=1):
            height, width, _ = model.image_shape
            title = SHIPPED_TITLE if model.is_shipped else model.name
            name = kind if count == 1 else f"{kind} {number} of {count}"
            facts[name] = f"{title}; reads {model.data_type} images of {height}x{width}"
            caveat = encoder_caveat(
                model.encoder.facts,
                dataset=tested.datasets[number - 1],
                test_patients=tested.patients,
            )
            if caveat:
                facts[f"encoder of {name}"] = caveat
        facts[f"images to {tested.task}"] = (
            f"{len(tested.examples[0])} {USABLE[tested.task]} ({len(tested.patients)} patients)"
        )
        if tested.left_out:
            models = f"the {kind}s" if count > 1 else f"the {kind}"
            facts[NOT_USED[tested.task]] = f"{tested.left_out} patients, who trained {models}"
    return facts
