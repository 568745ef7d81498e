"""The report of a run: one page that opens anywhere, the same as Markdown, every table as CSV.

A report is a list of sections, a section a list of parts: Table, Picture, Facts, Text and Fold.
Whatever text comes in, from names of files too, comes out as text.
"""

import os
import re
from collections.abc import Sequence

from etils import epath

from thermo_jax.evaluation import report_html, report_markdown, results
from thermo_jax.evaluation.report_parts import Part, Section, Table, line

LONGEST_WITHOUT_CONTENTS = 3  # sections


def write_report(
    folder: str | os.PathLike, *, title: str, summary: str, sections: Sequence[Section]
) -> list[epath.Path]:
    """Writes report.html, report.md and tables/*.csv; returns their paths in this order.

    The page holds its pictures. The Markdown names them where they are: keep them in the folder.

    Args:
        summary: paragraphs below the title, parted by blank lines.

    Raises:
        FileNotFoundError: a picture does not exist.
        ValueError: a picture is neither PNG nor JPEG, or a section holds something else.
    """
    folder = epath.Path(folder)
    tables = _named_tables(sections)
    contents = len(sections) > LONGEST_WITHOUT_CONTENTS
    texts = {
        "report.html": report_html.render(title, summary, sections, contents=contents),
        "report.md": report_markdown.render(
            title, summary, sections, folder=folder, contents=contents
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        paths.append(partial.replace(folder / name))
    for name, table in tables.items():
        columns = [line(column) for column in table.columns]
        cells = (
            [line(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows
        )
        rows = [dict(zip(columns, row, strict=True)) for row in cells]
        partial = folder / "tables" / f"{name}.partial"
        results.write_predictions_csv(partial, rows, columns=columns)
        paths.append(partial.replace(folder / "tables" / name))
    return paths


def _named_tables(sections):
    """{file name: table}; a name that is taken gets a number."""
    tables = {}
    for part in (part for section in sections for part in section.parts):
        if not isinstance(part, Part):
            raise ValueError(
                f"a section holds {part!r}: expected Table, Picture, Facts, Text or Fold"
            )
        if isinstance(part, Table):
            words = re.sub(r"[^a-z0-9]+", "_", (part.name or part.title).lower()).strip("_")
            stem = words[:60] or "table"
            name, number = f"{stem}.csv", 1
            while name in tables:
                number += 1
                name = f"{stem}_{number}.csv"
            tables[name] = part
    return tables
