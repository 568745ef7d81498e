"""Program "table1": cross-validated encoders and decoders -> the paper's Table 1 and ours.

splits of patients, the same for all rows -> encoders and then decoders of each fold
-> out-of-fold predictions, pooled -> measures with intervals -> table, report
"""

import dataclasses
import functools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thermo_jax.configs.common import ROW_TYPES
from thermo_jax.data.dataset import TRANSDUCTIVE, open_dataset
from thermo_jax.errors import UserError
from thermo_jax.evaluation import charts, results, table1
from thermo_jax.evaluation.predictions import Predictions, pool
from thermo_jax.evaluation.report import Figure, Section
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER, OPTIMISTIC
from thermo_jax.programs import decoder_results, reports, settings
from thermo_jax.programs.folds import ENCODER, FOLDS, check_num_folds, make_folds, write_folds
from thermo_jax.programs.frozen_encoder import UNTRAINED
from thermo_jax.programs.stages import (
    Stage,
    check_fractions,
    check_stages,
    run_stages,
    stage_config,
)
from thermo_jax.programs.workdir import PICTURES, check_workdir


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs the stages that are not finished; returns the results, which it also writes."""
    _check_fields(config)
    workdir = check_workdir(workdir, config)
    stages = list(plan(config, workdir))
    check_stages(stages, workdir)
    open_once = functools.cache(open_dataset)
    dataset, splits = make_folds(config, stages=stages, open_dataset=open_once)
    cautions = write_folds(config, workdir, stages=stages, dataset=dataset, splits=splits)
    run_stages(stages, workdir, open_dataset=open_once)
    return _finish(config, workdir, stages, cautions=cautions)


def _check_fields(config: ConfigDict) -> None:
    settings.check_fields(config)
    check_fractions(config)
    check_num_folds(config)
    if config.transductive and config.split.protocol != "honest":
        raise UserError(
            "config.transductive=True adds rows to the protocol 'honest'; in "
            f"{config.split.protocol!r} every encoder sees the test patients anyway"
        )
    for task in config.tasks:
        kind = config.stages[task].encoder.kind
        if config.transductive and kind != "pretrained":
            raise UserError(
                "config.transductive=True adds rows of encoders that saw the test patients, but "
                f"config.stages.{task}.encoder.kind={kind!r} is not pretrained: set it to "
                "'pretrained', or config.transductive to False"
            )


def plan(config: ConfigDict, workdir: Path) -> Iterator[Stage]:
    """All stages, each after the stages that it needs."""
    for repeat in range(config.repeats):
        for fold in range(config.num_folds or config.split.folds):
            name = f"repeat{repeat}_fold{fold}"
            split = {"fold": fold, "seed": config.split.seed + repeat}
            split["protocol"] = config.split.protocol
            for variant in [""] + [TRANSDUCTIVE] * config.transductive:
                yield from _fold(config, workdir, name=name, split=split, variant=variant)


def _fold(config, workdir: Path, *, name: str, split: dict, variant: str) -> Iterator[Stage]:
    suffix = f"_{variant}" if variant else ""
    # Encoders have a split of their own, with more validation patients.
    file = workdir / FOLDS / f"{name}.json"
    encoder_split = split | {"file": str(file.with_stem(name + ENCODER))}
    if variant:
        encoder_split["protocol"] = variant
    kinds = {task: config.stages[task].encoder.kind for task in config.tasks}
    letters = {row[0] for row in config.rows} if "pretrained" in kinds.values() else ()
    for letter in sorted(letters):
        data_type = ROW_TYPES[letter]
        stage = stage_config(config, "encoder", data_type=data_type, split=encoder_split)
        yield Stage("encoder", f"{name}/encoder_{data_type}{suffix}", "", stage)
    split = split | {"file": str(file)}
    for task in config.tasks:
        for row in config.rows:
            types = [ROW_TYPES[letter] for letter in row.split("/")]
            stage = stage_config(config, task, data_type=types[1], split=split)
            stage.encoder.type = types[0]
            if kinds[task] == "pretrained":
                folder = workdir / f"{name}/encoder_{types[0]}{suffix}"
                stage.encoder.workdir = str(folder)
            title = f"{row} {variant}".strip()
            yield Stage(task, f"{name}/{task}_{row.replace('/', '')}{suffix}", title, stage)


# --------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------


def _finish(config: ConfigDict, workdir: Path, stages: list[Stage], *, cautions: list[str]) -> dict:
    by_row: dict[str, dict[str, Any]] = {}
    files = []
    folders: dict[tuple[str, str], list[Path]] = {}
    for stage in stages:
        if stage.task != "encoder":
            folders.setdefault((stage.task, stage.row), []).append(workdir / stage.folder)
    # The order of the stages, but with all rows of a task together.
    for task, row in sorted(folders, key=lambda pair: config.tasks.index(pair[0])):
        pooled = pool([_predictions(folder) for folder in folders[task, row]])
        name = f"predictions_{task}_{row.replace('/', '').replace(' ', '_')}.csv"
        measures, columns = decoder_results.assess(pooled, task=task, row=row, config=config)
        files.append(PrintedTable.of_columns(columns).write_csv(workdir / name))
        by_row.setdefault(row, {}).update(measures)
    outcome = {
        "run": _facts(config, stages),
        "cautions": cautions
        + [s for measures in by_row.values() for s in measures.get("cautions", ())],
        "rows": by_row,
        "paper": {
            name: dict(zip(table1.COLUMNS, row, strict=True)) for name, row in table1.PAPER.items()
        },
    }
    summaries = {row: _summary(measures) for row, measures in by_row.items()}
    note = reports.INTERVALS
    if config.split.protocol == "paper":
        note += f" {OPTIMISTIC.capitalize()}."
    table = table1.printed(summaries, note=note)
    facts = results.facts_text("Run", outcome["run"])
    cautions = [textwrap.fill(caution, results.WIDTH) for caution in outcome["cautions"]]
    text = "\n\n".join([facts, table1.text(table), *cautions, DISCLAIMER]) + "\n"
    pictures = _pictures(workdir / PICTURES, by_row, summaries)
    sections = [Section("Table 1", [table]), reports.picture_section(pictures)]
    for row, measures in by_row.items():
        for section in reports.result_sections(measures):
            sections.append(Section(f"{row}: {section.title.lower()}", section.parts))
    sections.append(_stage_pictures(workdir))
    files += pictures
    reports.write_run(workdir, outcome, config=config, sections=sections, files=files, text=text)
    return outcome


def _predictions(folder: Path) -> Predictions:
    """A stage's predictions; the name of its model consists of the repeat and the fold."""
    predictions, name = Predictions.load(folder / decoder_results.PREDICTIONS), folder.parent.name
    repeat, count = int(re.findall(r"\d+", name)[0]), len(predictions)
    return dataclasses.replace(
        predictions, models=np.full(count, name), repeats=np.full(count, repeat, np.int32)
    )


def _summary(measures: dict[str, Any]) -> dict[str, Any]:
    """The measures of a row that Table 1 shows: per image, and at the images' own size."""
    per_image = measures.get("classification", {}).get("image")
    tables = {"classification": per_image, "segmentation": measures.get("segmentation")}
    return {task: next(iter(table.values())) for task, table in tables.items() if table}


def _facts(config: ConfigDict, stages: list[Stage]) -> dict[str, Any]:
    folds = config.num_folds or config.split.folds
    honest = config.split.protocol == "honest"
    facts = {
        "task": "Table 1",
        "protocol": config.split.protocol,
        "data": config.data.root,
        "folds": f"{folds} of {config.split.folds} by patient, "
        + ("out-of-fold predictions pooled" if honest else "test patients pooled"),
        "stages": len(stages),
        "classification": "per image, sick above 0.5",
        "segmentation": "at the images' own size",
    }
    if config.repeats > 1:
        facts["repeats"] = f"{config.repeats}; every measure is the mean over the repeats"
    if config.data.shuffle_labels:
        facts["diagnoses"] = decoder_results.SHUFFLED.format(seed=config.seed)
    for task in config.tasks:
        if (kind := config.stages[task].encoder.kind) != "pretrained":
            facts[f"encoder to {task}"] = UNTRAINED[kind]
    used = {ROW_TYPES[letter] for row in config.rows for letter in row.split("/")}
    for name, factor in config.downscale.items():
        if factor > 1 and name in used:
            facts[f"{name} resolution"] = f"reduced by {factor}: not the paper's"
    return facts


def _pictures(folder: Path, by_row: dict[str, dict], summaries: dict) -> list[Path]:
    pictures = []
    classified = {row: values for row, values in by_row.items() if "classification" in values}
    segmented = {row: values for row, values in by_row.items() if "segmentation" in values}
    if classified:
        pictures += decoder_results.classification_charts(folder, classified, title="Table 1")
        aurocs = {
            row: results.estimates(values["classification"]["patient"][row], ["auroc"])[0]
            for row, values in classified.items()
        }
        pictures.append(charts.interval_figure(folder / "auroc.png", aurocs, measure="AUROC"))
    if segmented:
        pictures += decoder_results.segmentation_charts(folder, segmented, title="Table 1")
        mious = {row: table1.measured(summaries[row])["seg mIoU"] for row in segmented}
        paper = {row: table1.PAPER[row][-1] for row in segmented if row in table1.PAPER}
        pictures.append(
            charts.interval_figure(folder / "miou.png", mious, reference=paper, measure="mean IoU")
        )
    return pictures


def _stage_pictures(workdir: Path) -> Section:
    parts = []
    for name in ("segmentation", "evidence", "latents"):
        for path in sorted(workdir.glob(f"repeat0_fold0/*/{PICTURES}/{name}.png")):
            caption = f"{path.parent.parent.name}: {reports.CAPTIONS[name]}"
            parts.append(Figure(path, caption))
    return Section("The first fold's pictures", parts)
