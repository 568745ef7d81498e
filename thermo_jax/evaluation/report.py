"""The report of a run: one HTML page, the same as Markdown, and every table as CSV.

A report is a list of sections, and a section is a list of parts. `Panels` and `SortableTable` are
for HTML pages only, which `page_text` makes. All texts, such as names of files,
are escaped, so that they cannot become markup.
"""

import base64
import hashlib
import html
import io
import itertools
import os
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from etils import epath
from PIL import Image

from thermo_jax.evaluation import canvas, tables
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER, line, paragraphs, printable
from thermo_jax.files import write_whole


class Figure(NamedTuple):
    """A PNG of `canvas.write`. The caption is also shown to readers who cannot see the picture."""

    path: str | os.PathLike
    caption: str


class Facts(NamedTuple):
    """Names and their values, one per line."""

    facts: Mapping[str, Any]


class Text(NamedTuple):
    """Paragraphs, separated by blank lines; important ones are emphasised."""

    text: str
    important: bool = False


class Fold(NamedTuple):
    """A long plain text, such as a config. A click on the title shows it on screen."""

    title: str
    text: str


class PanelPicture(NamedTuple):
    """One of several pictures of the same scene.

    Attributes:
        file: the bytes of a WebP file.
        width, height: pixels.
        box: left, top, right and bottom of the scene within the picture, from 0 to 1.
    """

    title: str
    file: bytes
    width: int
    height: int
    box: tuple[float, float, float, float]


class Panels(NamedTuple):
    """Pictures of the same scene, side by side where there is room, with a legend that prints.

    Where the mouse points, the page shows the value of the scene.

    Attributes:
        legend: (colour, title) of each area.
        values: three planes of bytes, compressed by zlib: high and low bytes of 100 x the value,
            index of the area; b"" for none.
        size: width and height of the planes.
        unit: of the values.
        areas: the titles of all areas by index; "" for one that is not named.
    """

    pictures: Sequence[PanelPicture]
    caption: str
    legend: Sequence[tuple[str, str]] = ()
    values: bytes = b""
    size: tuple[int, int] = (0, 0)
    unit: str = ""
    areas: Sequence[str] = ()


class Entry(NamedTuple):
    """A row of a `SortableTable`.

    Attributes:
        link: where the title leads to; "" for nowhere.
        thumbnail: the bytes of a WebP file, b"" if there is none.
        cells: (text, number to sort by; None sorts last) of each column.
    """

    title: str
    link: str
    thumbnail: bytes
    cells: Sequence[tuple[str, float | str | None]]


class SortableTable(NamedTuple):
    """A table with thumbnails, which a click on a heading sorts; the first column is the title."""

    title: str
    columns: Sequence[str]
    entries: Sequence[Entry]
    note: str = ""


Part = PrintedTable | Figure | Facts | Text | Fold | Panels | SortableTable


class Section(NamedTuple):
    """A heading and the parts below it."""

    title: str
    parts: Sequence[Part]


def write_report(
    folder: str | os.PathLike, *, title: str, summary: str, sections: Sequence[Section]
) -> list[epath.Path]:
    """Writes report.html, report.md and tables/*.csv; returns their paths in this order.

    The HTML page contains its pictures; the Markdown links to them.

    Args:
        summary: paragraphs below the title, separated by blank lines.
    """
    folder = epath.Path(folder)
    contents = len(sections) > 3
    texts = {
        "report.html": page_text(title, summary, sections, contents=contents),
        "report.md": _markdown(title, summary, sections, folder=folder, contents=contents),
    }
    for part in (part for section in sections for part in section.parts):
        if isinstance(part, PrintedTable):
            stem = re.sub(r"[^a-z0-9]+", "_", part.title.lower()).strip("_")[:60] or "table"
            numbered = (f"_{number}" * (number > 1) for number in itertools.count(1))
            names = (f"tables/{stem}{number}.csv" for number in numbered)
            columns, *rows = (
                [line(cell) if isinstance(cell, str) else cell for cell in row]
                for row in [part.columns, *part.rows]
            )
            name = next(name for name in names if name not in texts)
            texts[name] = PrintedTable(part.title, columns, rows).csv()
    for name in texts:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return [write_whole(folder / name, text) for name, text in texts.items()]


# --------------------------------------------------------------------------------------------------
# HTML
# --------------------------------------------------------------------------------------------------


def page_text(
    title: str,
    summary: str,
    sections: Sequence[Section],
    *,
    contents: bool = False,
    overview: bool = False,
) -> str:
    """The text of an HTML page, which contains its pictures.

    Args:
        contents: whether the page begins with links to its sections.
        overview: whether the first section is an overview of the others. In print, each of these
            then begins a new page.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("thermo_jax.evaluation"),
        autoescape=True,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        _base64,
        _data_uri,
        _data_uri_and_size,
        paragraphs,
        tables.shown,
        tables.split_interval,
    )
    environment.filters |= {function.__name__.lstrip("_"): function for function in filters}
    parts = [part for section in sections for part in section.parts]
    script = ""
    if any(isinstance(part, Panels | SortableTable) for part in parts):
        script = environment.loader.get_source(environment, "page.js")[0]
    return environment.get_template("report.html").render(
        script=script,
        # The browser runs no other script than the one with this digest.
        script_digest=_base64(hashlib.sha256(script.encode()).digest()),
        title=title,
        summary=summary,
        sections=sections,
        contents=contents,
        overview=overview,
        disclaimer=DISCLAIMER,
    )


def _data_uri(data, kind):
    """A picture's bytes as a data URI; `kind` is such as "png"."""
    return f"data:image/{kind};base64,{_base64(data)}"


def _base64(data):
    return base64.b64encode(data).decode("ascii")


def _data_uri_and_size(path):
    """A picture as a data URI, and its width and height on the page in CSS pixels."""
    data = epath.Path(path).read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        # At canvas.DPI, small text in figures is as large as small text on the page.
        scale = canvas.DPI / image.info.get("dpi", (canvas.DPI,))[0]
        width, height = (round(length * scale) for length in image.size)
    return _data_uri(data, "png"), width, height


# --------------------------------------------------------------------------------------------------
# Markdown
# --------------------------------------------------------------------------------------------------


def _markdown(title, summary, sections, *, folder, contents):
    """The text of report.md; paths of pictures are relative to `folder`."""
    disclaimer = f"*{_escaped(DISCLAIMER)}*"
    blocks = [disclaimer, f"# {_escaped(title)}", *_markdown_paragraphs(summary)]
    headings = [_escaped(section.title) for section in sections]
    if contents:
        links = (f"{k}. [{heading}](#section-{k})" for k, heading in enumerate(headings, start=1))
        blocks.append("\n".join(links))
    for number, (section, heading) in enumerate(zip(sections, headings, strict=True), start=1):
        blocks += [f'<a id="section-{number}"></a>', f"## {heading}"]
        for part in section.parts:
            blocks += _markdown_part(part, folder)
    return "\n\n".join([*blocks, "---", disclaimer]) + "\n"


def _markdown_part(part, folder):
    match part:
        case PrintedTable():
            rows = [
                [_marked(cell, _sign(part, index, k)) for k, cell in enumerate(row)]
                for index, row in enumerate(part.shown_rows())
            ]
            rules = ["---:" if number else "---" for number in part.number_columns()]
            columns = [_marked(name, "*" * (k in part.gray)) for k, name in enumerate(part.columns)]
            lines = [columns, rules, *rows]
            text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
            note = [f"*{_escaped(part.note)}*"] if part.note else []
            return [f"### {_escaped(part.title)}", text, *note]
        case Figure():
            address = pathlib.Path(os.path.relpath(part.path, folder)).as_posix()
            caption = _escaped(part.caption)
            return [f"![{caption}]({urllib.parse.quote(address)})", f"*{caption}*"]
        case Facts():
            facts = part.facts.items()
            return ["\n".join(f"- {_escaped(k)}: {_escaped(tables.shown(v))}" for k, v in facts)]
        case Text():
            return ["> " * part.important + text for text in _markdown_paragraphs(part.text)]
        case Fold():
            text = printable(part.text).rstrip()
            longest = max(map(len, re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)  # longer than any in the text
            heading = f"<details><summary>{html.escape(line(part.title))}</summary>"
            return [heading, f"{fence}text\n{text}\n{fence}", "</details>"]


def _sign(table, row, column):
    """The sign of Markdown around a cell: italic if it is gray, bold in our rows, or none."""
    return "*" if column in table.gray else "**" * (row in table.ours)


def _marked(cell, sign):
    return f"{sign}{_escaped(cell)}{sign}" if cell else ""


def _markdown_paragraphs(text):
    """Paragraphs that Markdown does not read as items of a list."""
    return [re.sub(r"^(\d*)([-+.)])", r"\1\\\2", _escaped(part)) for part in paragraphs(text)]


def _escaped(text):
    return html.escape(re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", line(text)), quote=False)
