"""The text at the end of a run, and the files with its results.

The measures of Table 1 of Shor et al. 2024 (arXiv 2404.06589) come first, in the table's order.
"""

import json
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation.tables import UNDEFINED, Estimate, PrintedTable, shown
from thermo_jax.evaluation.wording import (
    DISCLAIMER,
    OPTIMISTIC,
    PERFECT,
    SIDES_NOTE,
    class_title,
)
from thermo_jax.files import write_whole

CLASSIFICATION_COLUMNS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "recall": "recall",
    "specificity": "specif.",
    "brier": "Brier",
    "ece": "ECE",
}
SEGMENTATION_COLUMNS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "miou": "mIoU",
}
CLASS_COLUMNS = {"iou": "IoU", "dice": "Dice", "hd95": "HD95 px"}
DIGITS = {"iou": 3, "dice": 3, "hd95": 1}

WIDTH = 98  # characters in the widest line, which is in the classification table


def results_text(results: Mapping[str, Any]) -> str:
    """The results of a run as text of fixed width (WIDTH, unless a name of a row is long).

    Args:
        results: any of these keys; other keys are ignored:
            "run": facts of the run;
            "encoder": the encoder's scalars, such as {"best_epoch": 12, "val_loss": 0.1};
            "classification": {"image" | "patient": {row name: measures}} of
                `assess_classification`, first the row of the model;
            "segmentation": {resolution such as "120x160": `segmentation_measures`}, each with an
                optional "hd95" [classes] and "interval";
            "note": a sentence about the classification;
            "cautions": sentences.
    """
    facts = [name for name in ("run", "encoder") if results.get(name)]
    units = results.get("classification", {})
    sections = [facts_text(name.capitalize(), results[name]) for name in facts]
    sections += [_classification(unit, rows) for unit, rows in units.items()]
    sections += _segmentation(results.get("segmentation", {}))
    sentences = [*results.get("cautions", ()), *filter(None, [results.get("note")])]
    notes = [textwrap.fill(sentence, WIDTH) for sentence in sentences]
    if any(re.search(rf"\s{UNDEFINED}(\s|$)", section) for section in sections):
        notes.append(
            f"{UNDEFINED} = undefined (nothing to measure: a class or diagnosis is absent)"
        )
    if any(measures.get("perfect") for rows in units.values() for measures in rows.values()):
        notes.append(textwrap.fill(PERFECT, WIDTH))
    if results.get("segmentation"):
        notes.append(textwrap.fill(SIDES_NOTE, WIDTH))
    return "\n\n".join([*sections, *notes, DISCLAIMER]) + "\n"


def write_results(
    workdir: str | os.PathLike, results: Mapping[str, Any], *, text: str
) -> list[epath.Path]:
    """Writes results.json (NaN and infinity as null) and results.txt; returns both paths."""
    workdir = epath.Path(workdir)
    text_of_json = json.dumps(results, default=lambda array: array.tolist())
    plain = json.loads(text_of_json, parse_constant=lambda _: None)
    contents = {
        "results.json": json.dumps(plain, indent=2, ensure_ascii=False) + "\n",
        "results.txt": text,
    }
    workdir.mkdir(parents=True, exist_ok=True)
    return [write_whole(workdir / name, content) for name, content in contents.items()]


def thresholds_text(measures: Mapping[str, Any]) -> str:
    """The threshold of a row: "0.500", or "0.250..0.700" if folds have different ones."""
    values = measures.get("thresholds", {"": measures["threshold"]}).values()
    return "..".join(dict.fromkeys(f"{value:.3f}" for value in (min(values), max(values))))


def facts_text(title: str, facts: Mapping[str, Any]) -> str:
    """Names and values, one per line; the paper's protocol is marked as optimistic."""
    width = max(len(str(key)) for key in facts) + 2
    lines = [title]
    for key, value in facts.items():
        text = shown(value)
        if key == "protocol" and value == "paper":
            text += f" ({OPTIMISTIC})"
        lines.append(f"  {str(key).replace('_', ' '):<{width}}{text}")
    return "\n".join(lines)


def estimates(measures: Mapping[str, Any], names: Iterable[str]) -> list[Estimate]:
    """Estimates of these measures, with the bounds in `measures["interval"]`."""
    return [Estimate(measures[name], *measures["interval"][name]) for name in names]


def _classification(unit, rows):
    facts = ["{n}: {healthy} healthy, {sick} sick".format(**next(iter(rows.values()))["counts"])]
    thresholds = {name: thresholds_text(measures) for name, measures in rows.items()}
    if len(set(thresholds.values())) == 1:
        facts.append(f"sick above {next(iter(thresholds.values()))}")
    else:
        rows = {f"{name} >{thresholds[name]}": row for name, row in rows.items()}
    title = f"Classification per {unit} ({'; '.join(facts)})"
    return _measures_text(title, rows, CLASSIFICATION_COLUMNS, intervals=1)


def _segmentation(by_resolution):
    if by_resolution:
        rows = by_resolution
        yield _measures_text("Segmentation", rows, SEGMENTATION_COLUMNS, intervals=len(rows))
    for resolution, measures in by_resolution.items():
        columns = {key: head for key, head in CLASS_COLUMNS.items() if key in measures}
        rows = [
            [class_title(name), *(Estimate(measures[key][k]).text(DIGITS[key]) for key in columns)]
            for k, name in enumerate(CLASS_NAMES)
        ]
        title = f"Segmentation by class at {resolution}"
        yield PrintedTable(title, ["", *columns.values()], rows).text()


def _measures_text(title, rows, columns, *, intervals):
    """A table of rows; the first `intervals` of them are shown with intervals, if they have any."""
    cells = []
    for index, (name, row) in enumerate(rows.items()):
        has_interval = index < intervals and row.get("interval")
        cells.append([name, *(estimates(row, columns) if has_interval else map(row.get, columns))])
    return PrintedTable(title, ["", *columns.values()], cells).text()
