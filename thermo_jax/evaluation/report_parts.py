"""What a report is made of, and how its values read: shared by the page and the Markdown."""

import dataclasses
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from thermo_jax.evaluation.results import UNDEFINED
from thermo_jax.evaluation.wording import printable

Cell = str | float | int | None

# A number, maybe with its unit %, maybe with its interval: "12", "<1 %", "0.91 [0.88, 0.94]".
NUMBER = re.compile(r"([<>+-]?[\d.,]*\d(?:[eE][+-]?\d+)?(?: ?%)?)(?: +([\[(±].*))?")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells under headings; the first cell of a row names it.

    Args:
        rows: as many cells a row as columns; None and NaN are undefined and shown as "-".
        note: small, below the table.
        name: of its CSV file; made from the title by default.
        ours: indexes of the rows that stand out.
        float_format: of the cells that are floats; the CSV keeps every digit.
        leads_to: for each row, the number of the page's section that its first cell leads to.

    Raises:
        ValueError: a row is too short or too long, or two columns have one name.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    name: str = ""
    ours: Collection[int] = ()
    float_format: str = ".3f"
    leads_to: Sequence[int] = ()

    def __post_init__(self):
        if not self.columns or len({line(name) for name in self.columns}) < len(self.columns):
            raise ValueError(
                f"table {self.title!r} has columns {list(self.columns)}: give at least one, and "
                "each its own name"
            )
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} has a row {list(row)!r} of {len(row)} cells, expected "
                    f"{len(self.columns)}: {list(self.columns)}"
                )


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG or JPEG on disk. The caption also stands in for it where it cannot be seen."""

    path: str | os.PathLike
    caption: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and their values, one a line."""

    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Text:
    """Paragraphs, parted by blank lines; an important one stands out."""

    text: str
    important: bool = False


@dataclasses.dataclass(frozen=True)
class Fold:
    """A long plain text, such as a config: folded under its title on screen, in full on paper."""

    title: str
    text: str


Part = Table | Picture | Facts | Text | Fold


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in order."""

    title: str
    parts: Sequence[Part]


# --------------------------------------------------------------------------------------------------
# How values read
# --------------------------------------------------------------------------------------------------


def shown_rows(table: Table) -> list[list[str]]:
    """The table's cells as a reader sees them."""
    return [[shown(cell, table.float_format) for cell in row] for row in table.rows]


def number_columns(table: Table, rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns of `shown_rows` hold nothing but numbers, at least one."""
    columns = [[row[k] for row in rows] for k in range(len(table.columns))]
    filled = [[cell for cell in column if cell not in ("", UNDEFINED)] for column in columns]
    return [bool(cells) and all(map(NUMBER.fullmatch, cells)) for cells in filled]


def shown(value: Any, float_format: str = ".4g") -> str:
    """One line of text; "-" where the value is None, NaN or infinite."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return format(float(value), float_format) if math.isfinite(value) else UNDEFINED
    return UNDEFINED if value is None else line(value)


def paragraphs(text: str) -> list[str]:
    """Parts of a text between blank lines, each on one line."""
    return [line(part) for part in re.split(r"\n\s*\n", text) if part.strip()]


def line(text: Any) -> str:
    """Printable text on one line."""
    return " ".join(printable(text).split())
