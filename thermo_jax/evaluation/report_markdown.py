"""A report as Markdown, for GitHub and for reading as it is."""

import html
import os
import pathlib
import re
import urllib.parse

from thermo_jax.evaluation import report_parts
from thermo_jax.evaluation.report_parts import Facts, Fold, Picture, Table, Text, line, shown
from thermo_jax.evaluation.wording import DISCLAIMER, printable

_SIGNS = re.compile(r"([\\`*_\[\]|~$#!])")


def render(title, summary, sections, *, folder, contents) -> str:
    """The text of report.md, to be kept in `folder`: pictures are named relative to it."""
    disclaimer = f"*{_escape(DISCLAIMER)}*"
    blocks = [disclaimer, f"# {_escape(title)}", *_paragraphs(summary)]
    if contents:
        entries = (
            f"{number}. [{_escape(section.title)}](#section-{number})"
            for number, section in enumerate(sections, start=1)
        )
        blocks.append("\n".join(entries))
    for number, section in enumerate(sections, start=1):
        blocks += [f'<a id="section-{number}"></a>', f"## {_escape(section.title)}"]
        for part in section.parts:
            blocks.extend(_part(part, folder))
    return "\n\n".join([*blocks, "---", disclaimer]) + "\n"


def _part(part, folder):
    match part:
        case Table():
            return _table(part)
        case Picture():
            where = pathlib.Path(os.path.relpath(part.path, folder)).as_posix()
            caption = _escape(part.caption)
            return [f"![{caption}]({urllib.parse.quote(where)})", f"*{caption}*"]
        case Facts():
            facts = part.facts.items()
            return ["\n".join(f"- {_escape(name)}: {_escape(shown(fact))}" for name, fact in facts)]
        case Text():
            quote = "> " if part.important else ""
            return [quote + paragraph for paragraph in _paragraphs(part.text)]
        case Fold():
            text = printable(part.text).rstrip()
            longest = max(map(len, re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)  # no fence inside ends it
            heading = f"<details><summary>{html.escape(line(part.title))}</summary>"
            return [heading, f"{fence}text\n{text}\n{fence}", "</details>"]


def _table(table):
    rows = report_parts.shown_rows(table)
    numbers = report_parts.number_columns(table, rows)
    lines = [map(_escape, table.columns), ["---:" if number else "---" for number in numbers]]
    for index, row in enumerate(rows):
        bold = "**" if index in table.ours else ""
        lines.append([f"{bold}{_escape(cell)}{bold}" if cell else "" for cell in row])
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    note = [f"*{_escape(table.note)}*"] if table.note else []
    return [f"### {_escape(table.title)}", text, *note]


def _paragraphs(text):
    """Paragraphs whose first characters begin no list."""
    return [
        re.sub(r"^(\d*)([-+.)])", r"\1\\\2", _escape(paragraph))
        for paragraph in report_parts.paragraphs(text)
    ]


def _escape(text):
    return html.escape(_SIGNS.sub(r"\\\1", line(text)), quote=False)
