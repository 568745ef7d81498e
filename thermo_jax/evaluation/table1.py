"""Table 1 of Shor et al. 2024 (arXiv 2404.06589) with our results in the same columns."""

import math
from collections.abc import Mapping
from typing import Any

from thermo_jax.evaluation.results import estimates
from thermo_jax.evaluation.tables import Estimate, PrintedTable

COLUMNS = {  # heading -> (task, measure)
    "cls acc": ("classification", "accuracy"),
    "cls prec": ("classification", "precision"),
    "cls F1": ("classification", "f1"),
    "seg acc": ("segmentation", "accuracy"),
    "seg prec": ("segmentation", "precision"),
    "seg F1": ("segmentation", "f1"),
    "seg mIoU": ("segmentation", "miou"),
}
PAPER = {  # encoder/decoder -> values in the order of COLUMNS
    "G/G": (0.978, 0.989, 0.987, 0.878, 0.851, 0.791, 0.662),
    "G/H": (0.998, 0.999, 0.999, 0.891, 0.768, 0.787, 0.669),
    "H/G": (0.927, 0.997, 0.957, 0.882, 0.787, 0.791, 0.665),
    "H/H": (0.983, 1.0, 0.991, 0.888, 0.772, 0.789, 0.668),
}
Row = Mapping[str, Mapping[str, Any] | None]  # task -> measures, each with "interval"


def measured(row: Row) -> dict[str, Estimate]:
    """Heading -> our estimate; NaN if the task did not run.

    Args:
      row: {"classification": measures per image, "segmentation": measures at the images' size}.
    """
    return {
        heading: estimates(row[task], [measure])[0] if row.get(task) else Estimate(math.nan)
        for heading, (task, measure) in COLUMNS.items()
    }


def printed(rows: Mapping[str, Row], *, note: str = "") -> PrintedTable:
    """The table: for each row, a line of the paper's values, if there are any, and one of ours."""
    lines = []
    for name, row in rows.items():
        if name in PAPER:
            lines.append([name, "paper", *(Estimate(value).text() for value in PAPER[name])])
        lines.append([name, "ours", *measured(row).values()])
    ours = [index for index, line in enumerate(lines) if line[1] == "ours"]
    return PrintedTable("Table 1", ["enc/dec", "whose", *COLUMNS], lines, note=note, ours=ours)


def text(table: PrintedTable) -> str:
    """The table in fixed width; the bounds of intervals have lines of their own.

    A row's name is left out where it is the same as in the row above.
    """
    names = [row[0] for row in table.rows]
    width = max(map(len, [table.columns[0], *names])) + 2
    rows = [
        ["" if row[0] == above else row[0], *row[1:]]
        for above, row in zip(["", *names], table.rows, strict=False)
    ]
    columns = [table.columns[0], "", *table.columns[2:]]
    return PrintedTable("", columns, rows).text(label_widths=(width, 11), least_width=8)
