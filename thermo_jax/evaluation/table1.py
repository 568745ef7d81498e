"""Table 1 of Shor et al. 2024 (arXiv 2404.06589), with ours beside it: same columns, same order."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from thermo_jax.evaluation.results import UNDEFINED, with_interval

COLUMNS = {  # heading -> (task, measure)
    "cls acc": ("classification", "accuracy"),
    "cls prec": ("classification", "precision"),
    "cls F1": ("classification", "f1"),
    "seg acc": ("segmentation", "accuracy"),
    "seg prec": ("segmentation", "precision"),
    "seg F1": ("segmentation", "f1"),
    "seg mIoU": ("segmentation", "miou"),
}
PAPER = {  # encoder/decoder -> in the order of COLUMNS
    "G/G": (0.978, 0.989, 0.987, 0.878, 0.851, 0.791, 0.662),
    "G/H": (0.998, 0.999, 0.999, 0.891, 0.768, 0.787, 0.669),
    "H/G": (0.927, 0.997, 0.957, 0.882, 0.787, 0.791, 0.665),
    "H/H": (0.983, 1.0, 0.991, 0.888, 0.772, 0.789, 0.668),
}


def measured(row: Mapping[str, Mapping[str, Any] | None]) -> dict[str, tuple[float, float, float]]:
    """Heading -> (value, low, high) of one of our rows; NaN where a task did not run.

    Args:
      row: {"classification": measures per image, "segmentation": measures at the images' size},
        each with "interval".
    """
    found = {}
    for heading, (task, measure) in COLUMNS.items():
        measures = row.get(task)
        if measures is None:
            found[heading] = (math.nan,) * 3
        else:
            found[heading] = (measures[measure], *measures["interval"][measure])
    return found


def lines(
    rows: Mapping[str, Mapping[str, Mapping[str, Any] | None]],
) -> list[tuple[str, str, list[str]]]:
    """(row, whose, cells): for each row the paper's line, ours, and the bounds of our intervals."""
    found = []
    for name, row in rows.items():
        ours = measured(row)
        if name in PAPER:
            found.append((name, "paper", [_text(value) for value in PAPER[name]]))
        for place, whose in enumerate(("ours", "95 % from", "95 % to")):
            found.append((name, whose, [_text(values[place]) for values in ours.values()]))
    return found


def text(rows: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> str:
    """The table with fixed width."""
    width = max([len("enc/dec"), *map(len, rows)]) + 2
    out = [f"{'enc/dec':<{width}}{'':<11}" + "".join(f"{head:>10}" for head in COLUMNS)]
    before = None
    for name, whose, cells in lines(rows):
        shown = name if name != before else ""
        before = name
        out.append(f"{shown:<{width}}{whose:<11}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(out)


def report_rows(
    rows: Mapping[str, Mapping[str, Mapping[str, Any] | None]],
) -> tuple[Sequence[Sequence[str]], list[int]]:
    """Cells for a report's table, one line for the paper and one for us; which lines are ours."""
    found, ours = [], []
    for name, row in rows.items():
        if name in PAPER:
            found.append([name, "paper", *map(_text, PAPER[name])])
        cells = [with_interval(*values) for values in measured(row).values()]
        ours.append(len(found))
        found.append([name, "ours", *cells])
    return found, ours


def _text(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"
