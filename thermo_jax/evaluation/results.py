"""The text at the end of a run, and the files that contain its results.

Measures come in the order of Table 1 of Shor et al. 2024 (arXiv 2404.06589), the others after them.
"""

import json
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation.tables import UNDEFINED, Estimate, PrintedTable
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

WIDTH = 98  # characters of the widest line: the classification table


def results_text(results: Mapping[str, Any]) -> str:
    """A fixed-width text of a run's results, WIDTH columns wide unless a row name is long.

    Args:
        results: any of these keys; others are ignored here and kept in results.json:
            "run": facts of the run, printed one a line; `protocol` "paper" is marked optimistic;
            "encoder": the encoder's scalars, e.g. {"best_epoch": 12, "val_loss": 0.1};
            "classification": {"image" | "patient": {row name: `classification_measures`}}, the
                model's row first and then the baselines'; an "interval" {measure: (low, high)}
                of the first is shown;
            "segmentation": {resolution such as "120x160": `segmentation_measures`}, each with an
                optional "hd95" [classes] and "interval";
            "cautions": sentences.
    """
    facts = [name for name in ("run", "encoder") if results.get(name)]
    units = results.get("classification", {})
    sections = [facts_text(name.capitalize(), results[name]) for name in facts]
    sections += [_classification(unit, rows) for unit, rows in units.items()]
    sections += _segmentation(results.get("segmentation", {}))
    notes = [textwrap.fill(sentence, WIDTH) for sentence in results.get("cautions", ())]
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
    workdir: str | os.PathLike, results: Mapping[str, Any], *, text: str | None = None
) -> list[epath.Path]:
    """Writes results.json (NaN and infinity as null) and results.txt; returns both paths.

    Args:
        text: of results.txt, `results_text` by default.
    """
    workdir = epath.Path(workdir)
    plain = json.loads(json.dumps(results, default=_plain), parse_constant=lambda _: None)
    contents = {
        "results.json": json.dumps(plain, indent=2, ensure_ascii=False) + "\n",
        "results.txt": results_text(results) if text is None else text,
    }
    workdir.mkdir(parents=True, exist_ok=True)
    return [write_whole(workdir / name, content) for name, content in contents.items()]


def thresholds_text(measures: Mapping[str, Any]) -> str:
    """Above which probability a row calls sick: "0.500", or "0.250..0.700" by fold."""
    values = measures.get("thresholds", {"": measures["threshold"]}).values()
    return "..".join(dict.fromkeys(f"{value:.3f}" for value in (min(values), max(values))))


def facts_text(title: str, facts: Mapping[str, Any]) -> str:
    """Names and values, one a line; the paper's protocol is marked."""
    width = max(len(str(key)) for key in facts) + 2
    lines = [title]
    for key, value in facts.items():
        text = f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
        if key == "protocol" and value == "paper":
            text += f" ({OPTIMISTIC})"
        lines.append(f"  {str(key).replace('_', ' '):<{width}}{text}")
    return "\n".join(lines)


def estimates(measures: Mapping[str, Any], names: Iterable[str]) -> list[Estimate]:
    """These measures, with the bounds in `measures["interval"]`."""
    return [Estimate(measures[name], *measures["interval"][name]) for name in names]


def _classification(unit, rows):
    facts = []
    counts = next(iter(rows.values())).get("counts")
    if counts:
        facts.append(f"{counts['n']}: {counts['healthy']} healthy, {counts['sick']} sick")
    thresholds = {name: thresholds_text(measures) for name, measures in rows.items()}
    if len(set(thresholds.values())) == 1:
        facts.append(f"sick above {next(iter(thresholds.values()))}")
    else:
        rows = {f"{name} >{thresholds[name]}": row for name, row in rows.items()}
    title = f"Classification per {unit}" + (f" ({'; '.join(facts)})" if facts else "")
    # Intervals are shown of the first row alone, which is ours.
    rows = {
        name: row if not index else {**row, "interval": None}
        for index, (name, row) in enumerate(rows.items())
    }
    return _measures_text(title, rows, CLASSIFICATION_COLUMNS)


def _segmentation(by_resolution):
    if by_resolution:
        yield _measures_text("Segmentation", by_resolution, SEGMENTATION_COLUMNS)
    for resolution, measures in by_resolution.items():
        columns = {key: head for key, head in CLASS_COLUMNS.items() if key in measures}
        rows = [
            [class_title(name), *(Estimate(measures[key][k]).text(DIGITS[key]) for key in columns)]
            for k, name in enumerate(CLASS_NAMES)
        ]
        title = f"Segmentation by class at {resolution}"
        yield PrintedTable(title, ["", *columns.values()], rows).text()


def _measures_text(title, rows, columns):
    """One row per name; below it, its intervals, if it has some."""
    cells = [
        [name, *(estimates(row, columns) if row.get("interval") else map(row.get, columns))]
        for name, row in rows.items()
    ]
    return PrintedTable(title, ["", *columns.values()], cells).text()


def _plain(value):
    """A value that JSON does not know, as one that it knows."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ValueError(f"results contain {value!r} ({type(value).__name__}), unknown to JSON")
