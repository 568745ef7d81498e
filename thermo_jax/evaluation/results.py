"""The readable table at the end of a run, and the files that hold its results and predictions.

Measures come in the order of Table 1 of Shor et al. 2024 (arXiv 2404.06589), the others after them.
"""

import csv
import io
import json
import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation.wording import (
    DISCLAIMER,
    OPTIMISTIC,
    PERFECT,
    SIDES_NOTE,
    class_title,
)

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

UNDEFINED = "-"
WIDTH = 98  # characters of the widest line: the classification table
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def results_table(results: Mapping[str, Any], *, class_names: Sequence[str] = CLASS_NAMES) -> str:
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
    sections = []
    if results.get("run"):
        sections.append(facts_text("Run", results["run"]))
    if results.get("encoder"):
        sections.append(facts_text("Encoder", results["encoder"]))
    for unit, rows in results.get("classification", {}).items():
        sections.append(_classification(unit, rows))
    if results.get("segmentation"):
        sections.extend(_segmentation(results["segmentation"], class_names))
    notes = [textwrap.fill(sentence, WIDTH) for sentence in results.get("cautions", ())]
    if any(re.search(rf"\s{UNDEFINED}(\s|$)", section) for section in sections):
        notes.append(
            f"{UNDEFINED} = undefined (nothing to measure: a class or diagnosis is absent)"
        )
    classified = [
        row for unit in results.get("classification", {}).values() for row in unit.values()
    ]
    if any(row.get("perfect") for row in classified):
        notes.append(textwrap.fill(PERFECT, WIDTH))
    if results.get("segmentation"):
        notes.append(textwrap.fill(SIDES_NOTE, WIDTH))
    return "\n\n".join([*sections, *notes, DISCLAIMER]) + "\n"


def write_results(
    workdir: str | os.PathLike,
    results: Mapping[str, Any],
    *,
    class_names: Sequence[str] = CLASS_NAMES,
    table: str | None = None,
) -> list[epath.Path]:
    """Writes results.json (NaN and infinity as null) and results.txt; returns both paths.

    Args:
        table: the text, `results_table` by default.
    """
    workdir = epath.Path(workdir)
    text = json.dumps(_plain(results), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    table = results_table(results, class_names=class_names) if table is None else table
    workdir.mkdir(parents=True, exist_ok=True)
    paths = [workdir / "results.json", workdir / "results.txt"]
    for path, content in zip(paths, (text, table), strict=True):
        path.write_text(content, encoding="utf-8")
    return paths


def with_interval(value: float, low: float, high: float, *, digits: int = 3) -> str:
    """Such as "0.912 [0.871, 0.950]"; without bounds that are not known."""
    if not math.isfinite(value):
        return UNDEFINED
    known = math.isfinite(low) and math.isfinite(high)
    return f"{value:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if known else "")


def thresholds_text(measures: Mapping[str, Any]) -> str:
    """Above which probability a row calls sick: "0.500", or "0.250..0.700" by fold."""
    values = measures.get("thresholds", {"": measures["threshold"]}).values()
    return "..".join(dict.fromkeys(f"{value:.3f}" for value in (min(values), max(values))))


def write_predictions_csv(
    path: str | os.PathLike,
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
) -> epath.Path:
    """Writes one line per row; NaN and None become empty cells.

    A text cell that a spreadsheet would run as a formula (it starts with = + - @ and is not a
    number) gets a leading apostrophe: names come from files that anyone may have named.

    Args:
        columns: their order; by default the rows' keys in order of first appearance.
    """
    path = epath.Path(path)
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(column) for column in columns])
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    path.write_bytes(text.getvalue().encode())  # line ends as they are
    return path


# --------------------------------------------------------------------------------------------------
# Sections of the table
# --------------------------------------------------------------------------------------------------


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
    return _table(title, rows, CLASSIFICATION_COLUMNS)


def _segmentation(by_resolution, class_names):
    yield _table("Segmentation", by_resolution, SEGMENTATION_COLUMNS)
    for resolution, measures in by_resolution.items():
        columns = {key: head for key, head in CLASS_COLUMNS.items() if key in measures}
        if not columns:
            continue
        rows = {
            class_title(name): {key: measures[key][index] for key in columns}
            for index, name in enumerate(class_names)
        }
        yield _table(f"Segmentation by class at {resolution}", rows, columns)


def _table(title, rows, columns):
    """Title, headings and one line per row; a column is as wide as its heading needs."""
    label_width = max(18, *(len(str(name)) for name in rows))
    widths = {key: max(len(head), 6) + 2 for key, head in columns.items()}
    heading = "".join(f"{head:>{widths[key]}}" for key, head in columns.items())
    lines = [title, f"  {'':<{label_width}}{heading}"]
    for name, measures in _with_intervals(rows, columns):
        cells = "".join(f"{_measure(key, measures.get(key)):>{widths[key]}}" for key in columns)
        lines.append(f"  {name:<{label_width}}{cells}")
    return "\n".join(lines)


def _with_intervals(rows, columns):
    """The rows; below one of ours (the first, and any resolution), the bounds of its intervals."""
    ours = rows if columns is SEGMENTATION_COLUMNS else list(rows)[:1]
    for name, measures in rows.items():
        yield name, measures
        interval = measures.get("interval", {}) if name in ours else {}
        for bound, end in enumerate(("from", "to")):
            if interval:
                yield f"  95 % {end}", {key: interval[key][bound] for key in columns}


def _measure(key, value):
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{value:.1f}" if key == "hd95" else f"{value:.3f}"


# --------------------------------------------------------------------------------------------------
# Values on disk
# --------------------------------------------------------------------------------------------------


def _plain(value):
    """Python values that JSON knows; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ValueError(f"results hold {value!r} ({type(value).__name__}), which JSON cannot store")


def _cell(value):
    value = _plain(value)
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")  # any file name will do
        start = value.lstrip()[:1]
        return f"'{value}" if start in {*"=+-@"} and not _NUMBER.fullmatch(value) else value
    return "" if value is None else value
