"""The report of a comparison: tables by family, forest plots, control, cost, what was not run."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thermo_jax.evaluation import assessment, results
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.evaluation.report import Section, Text
from thermo_jax.evaluation.tables import Cell, PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER
from thermo_jax.files import saved_config
from thermo_jax.programs import decoder_results, reports, rival_measures, rival_tables
from thermo_jax.programs.rival_rows import Classifiers, Row, Study

CONTROL_NOTE = (
    "Permutations of the diagnoses: {shuffles}. Each time, what trains no network was fitted anew, "
    "with new folds. Nothing can be learned then, so that the mean should lie within 2 standard "
    "errors of .5; by chance, about one row in 20 lies outside."
)
NOT_RUN = "Not run"
COST_NOTE = (
    "Seconds are those of all folds together; CPU seconds those of all threads. For a head, they "
    "are the computation of its features and its fit, without reading images and finding breasts, "
    "which heads share. For a network, they are its whole run, from reading images to its report; "
    "an encoder's are counted in each row that uses it. If a stage was interrupted, only the "
    "session that finished it counts. The memory is the largest of the whole process. The "
    "parameters are those of the first fold: of a head its coefficients, of an SVM with a kernel "
    "one for each support vector. Settings are chosen on validation patients; those of networks "
    "are epochs."
)


def write(
    study: Study, rows: Sequence[Row], fitted: Classifiers, *, cautions: Sequence[str]
) -> dict[str, Any]:
    """Scores all rows, writes the report; returns the results.

    Args:
      fitted: the rows that read features, with these, and the control.
    """
    config = study.config
    outcome: dict[str, Any] = {"run": _facts(study, rows), "cautions": list(cautions)}
    sections, drawn, files = [], [], []
    for task in config.tasks:
        groups = rival_tables.by_family(
            [row for row in rows if row.task == task and not row.missing]
        )
        predictions = {
            row.title: rival_measures.pooled(study, row)
            for group in groups.values()
            for row in group
        }
        if task == "classify":
            compared = rival_tables.classifiers(study, groups, predictions, fitted.features)
        else:
            compared = rival_tables.segmenters(study, groups, predictions)
        outcome[task] = compared.outcome
        sections.append(compared.section)
        drawn.append(compared.picture)
        file = study.workdir / f"predictions_{task}.csv"
        files.append(_all_predictions(predictions, task).write_csv(file))
    if fitted.control:
        outcome["control"] = fitted.control
        title = "Control: shuffled diagnoses"
        sections.append(Section(title, [_control_table(fitted.control, title=title)]))
    sections.append(Section("Cost", [_cost_table(study, rows, outcome)]))
    if missing := [row for row in rows if row.missing]:
        outcome["missing"] = {row.title: row.missing for row in missing}
        sections.append(Section(NOT_RUN, [Text("\n\n".join(_reasons(missing)))]))
    sections.insert(0, reports.picture_section(drawn))
    text = _text(outcome, sections, reasons=_reasons(missing))
    files += drawn
    reports.write_run(
        study.workdir, outcome, config=config, sections=sections, files=files, text=text
    )
    return outcome


def _reasons(missing: Sequence[Row]) -> list[str]:
    """A paragraph for each reason why rows were not run."""
    by_reason: dict[str, list[str]] = {}
    for row in missing:
        by_reason.setdefault(row.missing, []).append(row.title)
    return [
        f"{reason[0].upper()}{reason[1:]}: {'; '.join(titles)}."
        for reason, titles in by_reason.items()
    ]


def _control_table(
    control: Mapping[str, Mapping[str, Sequence[float]]], *, title: str
) -> PrintedTable:
    """The mean AUROC of each row with shuffled diagnoses."""
    lines: list[list[Cell]] = []
    for row, measures in control.items():
        values = np.array(measures["auroc"])
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
        away = float((values.mean() - assessment.CHANCE) / error) if error > 0 else np.nan
        within = float(np.nanmean(measures["auroc_within"]))
        lines.append([row, float(values.mean()), error, away, within])
    shuffles = len(next(iter(control.values()))["auroc"])
    columns = ["", "mean AUROC", "standard error", "errors from .5", "mean AUROC within folds"]
    return PrintedTable(title, columns, lines, note=CONTROL_NOTE.format(shuffles=shuffles))


def _cost_table(study: Study, rows: Sequence[Row], outcome: dict[str, Any]) -> PrintedTable:
    found = {row: rival_measures.costs(study, row) for row in rows if not row.missing}
    outcome["cost"] = {f"{row.task}, {row.title}": value for row, value in found.items()}
    names = ("tried", "parameters", "cpu_seconds", "device_seconds", "seconds", "peak_gb")
    headings = ["settings tried", "parameters", "CPU s", "device s", "clock s", "memory GB"]
    headings.append("chosen in each fold")
    lines: list[list[Cell]] = []
    for task in study.config.tasks:
        groups = rival_tables.by_family([row for row in found if row.task == task])
        for row in (row for group in groups.values() for row in group):
            costs = [found[row].get(name) for name in names]
            lines.append([row.title, task, *costs, _chosen(found[row].get("chosen", []))])
    return PrintedTable("Cost", ["", "task", *headings], lines, note=COST_NOTE, float_format=".1f")


def _chosen(settings: Sequence[str | None]) -> str:
    """The settings of the folds, such as "C = 0.1, 1", with the name of the first only."""
    if None in settings or not settings:
        return ""
    # "C = 0.1" or "epoch 3" -> its name and its value; "constant" has no value.
    name = settings[0][: settings[0].rfind(" ") + 1]
    return name + ", ".join(setting.removeprefix(name) for setting in settings)


def _all_predictions(predictions: Mapping[str, Predictions], task: str) -> PrintedTable:
    """One line for each row and image."""
    columns_of = (
        decoder_results.classification_columns
        if task == "classify"
        else decoder_results.segmentation_columns
    )
    parts = {title: columns_of(scored) for title, scored in predictions.items()}
    names = list(next(iter(parts.values())))
    together = {"row": np.concatenate([[t] * len(p["name"]) for t, p in parts.items()])}
    together |= {name: np.concatenate([p[name] for p in parts.values()]) for name in names}
    return PrintedTable.of_columns(together)


def _facts(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    config = study.config
    folds = len(study.splits)
    facts = {
        "task": "rivals and ours on the same patients",
        "protocol": config.split.protocol,
        "data": config.data.root,
        "folds": f"{folds} of {config.split.folds} by patient, out-of-fold predictions pooled",
        "tuning": f"{config.candidates} settings of each classifier: regularisation of a head, "
        "chosen by AUROC, or epochs of a network, chosen by loss, both on validation images. "
        "Networks share the recipe of configs/small.py (learning rate, augmentation, average of "
        "weights), which was made for ours. Baselines are not tuned",
        "images": f"gray; reduced by {config.downscale.gray} for networks, baselines and simple "
        "segmenters, full size for features",
    }
    if config.table1:
        facts["ours"] = _other_run(study, rows)
    if config.data.shuffle_labels:
        facts["diagnoses"] = decoder_results.SHUFFLED.format(seed=config.seed)
    if any(row.look and row.look.features == "imagenet" for row in rows):
        facts["ImageNet weights"] = rival_measures.weights_text(study)
    return facts


def _other_run(study: Study, rows: Sequence[Row]) -> str:
    """How the run in `config.table1` trained ours, whose budget may be another one."""
    words = []
    for row in rows:
        if row.folders:
            run = saved_config(row.folders[0]) or {}
            epochs = rival_measures.costs(study, row).get("tried")
            words.append(
                f"{row.task}: {row.title}, images reduced by {run['data']['downscale']}, U-Net of "
                f"width {run['model']['unet_width']}, the best of {epochs or 'unknown'} epochs"
            )
    return "; ".join(words)


def _text(
    outcome: Mapping[str, Any], sections: Sequence[Section], *, reasons: Sequence[str]
) -> str:
    """The text of results.txt; `reasons` are paragraphs about what was not run."""
    tables = [
        _without_gray(part)
        for section in sections
        for part in section.parts
        if isinstance(part, PrintedTable)
    ]
    widest = max(len(row[0]) for table in tables for row in table.rows) + 2
    blocks = [results.facts_text("Run", outcome["run"])]
    for table in tables:
        blocks.append(table.text(label_widths=(widest,)))
        if table.note:
            blocks.append(textwrap.fill(table.note, results.WIDTH))
    blocks += [NOT_RUN] * bool(reasons)
    blocks += [textwrap.fill(text, results.WIDTH) for text in (*reasons, *outcome["cautions"])]
    return "\n\n".join([*blocks, DISCLAIMER]) + "\n"


def _without_gray(table: PrintedTable) -> PrintedTable:
    """The table without its gray columns, whose sentences are too wide for plain text."""
    shown = [k for k in range(len(table.columns)) if k not in table.gray]
    columns = [table.columns[k] for k in shown]
    rows = [[row[k] for k in shown] for row in table.rows]
    return dataclasses.replace(table, columns=columns, rows=rows, gray=())
