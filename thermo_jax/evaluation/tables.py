"""A table of results as text and CSV; report.py writes it as HTML and Markdown."""

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from thermo_jax.evaluation.wording import line
from thermo_jax.files import csv_text, write_whole

UNDEFINED = "-"
# A number with an optional % and an optional interval: "12", "<1 %", "0.91 [0.88, 0.94]".
_NUMBER = re.compile(r"([<>+-]?[\d.,]*\d(?:[eE][+-]?\d+)?(?: ?%)?)(?: +([\[(±].*))?")
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class Estimate(NamedTuple):
    """A measure with the bounds of its interval, which are NaN if they are not known."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def text(self, digits: int = 3) -> str:
        """Text such as "0.912 [0.871, 0.950]", or "0.912" if the bounds are not known."""
        known = math.isfinite(self.value + self.low + self.high)
        value, low, high = (shown(number, f".{digits}f") for number in self)
        return f"{value} [{low}, {high}]" if known else value


Cell = str | float | int | None | Estimate


@dataclass(frozen=True)
class PrintedTable:
    """Rows of cells under headings; the first cell of a row is its name.

    Args:
        rows: each has as many cells as columns; None and NaN are undefined and shown as "-".
        note: small text below the table.
        ours: indexes of the rows that are emphasised.
        float_format: the format of floats; the CSV contains all digits.
        leads_to: for each row, the number of the section to which its first cell links.
        gray: indexes of the columns that are gray, such as published figures, which are not
            comparable with the others: also in the rows of `ours`, they are not emphasised. In
            Markdown they are italic.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    ours: Collection[int] = ()
    float_format: str = ".3f"
    leads_to: Sequence[int] = ()
    gray: Collection[int] = ()

    @classmethod
    def of_records(cls, records: Sequence[Mapping[str, Any]]) -> "PrintedTable":
        """One row per mapping; the columns are in the order in which their names first occur."""
        columns = list(dict.fromkeys(key for record in records for key in record))
        return cls("", columns, [[record.get(key) for key in columns] for record in records])

    @classmethod
    def of_columns(cls, columns: Mapping[str, Sequence[Cell]]) -> "PrintedTable":
        """The columns, by heading, side by side."""
        return cls("", list(columns), list(zip(*columns.values(), strict=True)))

    def shown_rows(self) -> list[list[str]]:
        """The cells as text."""
        return [[shown(cell, self.float_format) for cell in row] for row in self.rows]

    def number_columns(self) -> list[bool]:
        """Whether each column contains only numbers, and at least one number."""
        rows = self.shown_rows()
        columns = [[row[k] for row in rows] for k in range(len(self.columns))]
        filled = [[cell for cell in column if cell not in ("", UNDEFINED)] for column in columns]
        return [bool(cells) and all(map(_NUMBER.fullmatch, cells)) for cells in filled]

    def text(self, *, label_widths: Sequence[int] = (18,), least_width: int = 6) -> str:
        """The table with columns of fixed width; the bounds of estimates are in rows of their own.

        Below a title, rows are indented.

        Args:
            label_widths: the smallest widths of the first columns, which name the row.
            least_width: the smallest width of the other columns; long cells make them wider.
        """
        labels, indent = len(label_widths), "  " if self.title else ""
        lines = [list(self.columns)]
        for row in self.rows:
            values = [cell.value if isinstance(cell, Estimate) else cell for cell in row]
            lines.append([shown(value, self.float_format) for value in values])
            if any(isinstance(cell, Estimate) for cell in row):
                for k, name in enumerate(("95 % from", "95 % to"), start=1):
                    limits = (
                        shown(cell[k], self.float_format) if isinstance(cell, Estimate) else ""
                        for cell in row[labels:]
                    )
                    lines.append([*[""] * (labels - 1), indent + name, *limits])
        forms = [
            f"<{max(width, *(len(cells[k]) for cells in lines))}"
            for k, width in enumerate(label_widths)
        ]
        widths = [max(len(cells[k]) for cells in lines) for k in range(len(self.columns))]
        forms += [f">{max(width, least_width) + 2}" for width in widths[labels:]]
        rows = (indent + "".join(map(format, cells, forms)) for cells in lines)
        return "\n".join([self.title, *rows] if self.title else rows)

    def csv(self) -> str:
        """One line per row; NaN and None become empty cells.

        A spreadsheet would run a text that starts with = + - @ (and is not a number) as a formula.
        Such a cell gets a leading apostrophe, because file names may come from untrusted people.
        """
        header, *rows = ([_csv_cell(cell) for cell in row] for row in [self.columns, *self.rows])
        return csv_text(header, rows)

    def write_csv(self, path: str | os.PathLike) -> epath.Path:
        """Writes `csv` to a file; makes its folder if it is missing."""
        path = epath.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(path, self.csv())


def shown(value: Any, float_format: str = ".4g") -> str:
    """A value as one line of text; "-" if it is None, NaN or infinite."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return format(float(value), float_format) if math.isfinite(value) else UNDEFINED
    if isinstance(value, Estimate):
        return value.text()
    return UNDEFINED if value is None else line(value)


def split_interval(cell: str) -> tuple[str, str]:
    """A number and its interval: ("0.91", "[0.88, 0.94]"); (cell, "") if there is no interval."""
    number = _NUMBER.fullmatch(cell)
    return (number[1], number[2]) if number and number[2] else (cell, "")


def _csv_cell(value):
    if isinstance(value, Estimate):
        value = value.text()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")  # for any file name
        start = value.lstrip()[:1]
        return f"'{value}" if start in {*"=+-@"} and not _PLAIN_NUMBER.fullmatch(value) else value
    undefined = value is None or isinstance(value, float) and not math.isfinite(value)
    return "" if undefined else value
