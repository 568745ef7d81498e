"""A report as one HTML page with its pictures inside: no script, no network, and a policy that
forbids both."""

import base64
import html
import io

from etils import epath
from PIL import Image, UnidentifiedImageError

from thermo_jax.evaluation import canvas, report_parts
from thermo_jax.evaluation.report_parts import Facts, Fold, Picture, Table, Text, line, shown
from thermo_jax.evaluation.wording import DISCLAIMER, printable

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
WIDE = 8  # columns; a table of more is set smaller on paper

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2329; --soft: #5c6670; --line: #d5dae0; --ground: #ffffff; --tint: #eaf3fa;
  --accent: #005a94;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e3e7eb; --soft: #9ba6b1; --line: #3a434c; --ground: #15191d; --tint: #1c3142;
    --accent: #7cc0ee;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem clamp(1rem, 3vw, 2rem) 3rem; max-width: 74rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1, h2 { line-height: 1.2; letter-spacing: -0.012em; font-weight: 650; text-wrap: balance; }
h1 { font-size: clamp(1.6rem, 1.2rem + 1.6vw, 2.2rem); margin: 0.4rem 0 0.8rem; }
h2 {
  font-size: 1.35rem; margin: 3rem 0 1rem; padding-top: 1rem; border-top: 1px solid var(--line);
}
p { margin: 0 0 1rem; max-width: 42rem; }
a { color: var(--accent); text-underline-offset: 0.15em; }
.summary { font-size: 1.1rem; }
.disclaimer, .note, figcaption { color: var(--soft); font-size: 0.85rem; line-height: 1.45; }
.disclaimer { margin: 0; }
.disclaimer::first-letter { text-transform: uppercase; }
.important {
  padding: 0.7rem 1rem; border-left: 3px solid var(--accent); background: var(--tint);
}
nav { margin: 1.5rem 0 0; }
nav ol { margin: 0; padding-left: 1.4rem; columns: 16rem 3; }
nav li { break-inside: avoid; padding: 0.1rem 0; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); }
figure { margin: 1.5rem 0; }
img {
  display: block; max-width: 100%; height: auto; padding: 0.5rem; background: #fff;
  border: 1px solid var(--line); border-radius: 4px;
}
figcaption { margin-top: 0.5rem; max-width: 42rem; }
.table { margin: 1.5rem 0; }
.scroll { overflow-x: auto; }
.note { margin: 0.5rem 0 0; }
table {
  border-collapse: collapse; font-size: 0.92rem; line-height: 1.35;
  font-variant-numeric: tabular-nums lining-nums;
}
caption { padding-bottom: 0.5rem; text-align: left; font-weight: 600; }
caption span {
  position: sticky; left: 0; display: inline-block; max-width: min(calc(100vw - 2rem), 42rem);
}
th, td { padding: 0.4rem 0.6rem; text-align: left; vertical-align: top; }
thead th { vertical-align: bottom; font-weight: 600; border-bottom: 1px solid var(--ink); }
thead { border-top: 2px solid var(--ink); }
tbody tr + tr { border-top: 1px solid var(--line); }
tbody { border-bottom: 2px solid var(--ink); }
tbody th { font-weight: 400; }
tr > :first-child {
  position: sticky; left: 0; padding-left: 0.3rem; min-width: 7rem; max-width: 16rem;
  background: var(--ground);
}
.number { text-align: right; white-space: nowrap; }
.ours > *, .ours > :first-child { background: var(--tint); font-weight: 650; }
.interval { display: block; color: var(--soft); font-size: 0.82em; font-weight: 400; }
dl {
  display: grid; grid-template-columns: fit-content(40%) 1fr; gap: 0.25rem 1.5rem; margin: 1rem 0;
}
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
details { margin: 1rem 0; border: 1px solid var(--line); border-radius: 4px; }
summary { padding: 0.6rem 0.9rem; cursor: pointer; font-weight: 600; }
pre {
  margin: 0; padding: 0.8rem 0.9rem; overflow-x: auto; border-top: 1px solid var(--line);
  font: 0.8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
@media (max-width: 34rem) {
  body { padding-top: 1.2rem; }
  th, td { padding: 0.35rem 0.5rem; }
  tr > :first-child { max-width: 9rem; }
}
@page { size: A4; margin: 16mm 15mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, caption { break-after: avoid; }
  h2 { margin-top: 1.6rem; }
  figure, tr, dt, dd, .important { break-inside: avoid; }
  .table { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td { padding: 0.25rem 0.45rem; }
  .wide { font-size: 7pt; }
  .wide th, .wide td { padding: 0.2rem 0.25rem; }
  .number { white-space: normal; }
  tr > :first-child { position: static; min-width: 4rem; overflow-wrap: anywhere; }
  img {
    zoom: 0.8; max-height: 235mm; object-fit: contain; object-position: left;
    padding: 0; border: 0; border-radius: 0;
  }
  details { border: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { padding: 0; list-style: none; }
  pre { padding: 0.3rem 0; border: 0; white-space: pre-wrap; font-size: 7.5pt; }
  .ours > *, .important { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def render(title, summary, sections, *, contents, style="") -> str:
    """The text of report.html; `style` is CSS of this page's own.

    Raises:
        FileNotFoundError: a picture does not exist.
        ValueError: a picture is neither PNG nor JPEG.
    """
    disclaimer = f'<p class="disclaimer">{_escape(DISCLAIMER)}</p>'
    links, blocks = [], []
    for number, section in enumerate(sections, start=1):
        heading = _escape(section.title)
        links.append(f'<li><a href="#section-{number}">{heading}</a></li>')
        parts = (_part(part) for part in section.parts)
        blocks += ["<section>", f'<h2 id="section-{number}">{heading}</h2>', *parts, "</section>"]
    nav = ['<nav aria-label="Contents"><ol>', *links, "</ol></nav>"] if contents else []
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',  # else browsers ask the server for one
        f"<title>{_escape(title)}</title>",
        f"<style>{STYLE}{style}</style>",
        "</head>",
        "<body>",
        f"<header>{disclaimer}<h1>{_escape(title)}</h1>",
        _paragraphs(summary, "summary"),
        "</header>",
        *nav,
        "<main>",
        *blocks,
        "</main>",
        f"<footer>{disclaimer}</footer>",
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _part(part):
    match part:
        case Table():
            return _table(part)
        case Picture():
            caption = _escape(part.caption)
            image = f'<img {_embedded(part.path)} alt="{caption}">'
            return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
        case Facts():
            facts = part.facts.items()
            rows = (
                f"<dt>{_escape(name)}</dt><dd>{_escape(shown(fact))}</dd>" for name, fact in facts
            )
            return "\n".join(["<dl>", *rows, "</dl>"])
        case Text():
            return _paragraphs(part.text, "important" if part.important else "text")
        case Fold():
            text = html.escape(printable(part.text))
            return f"<details><summary>{_escape(part.title)}</summary><pre>{text}</pre></details>"


def _table(table):
    rows = report_parts.shown_rows(table)
    kinds = [' class="number"' * number for number in report_parts.number_columns(table, rows)]
    heads = (
        f'<th scope="col"{kind}>{_escape(column)}</th>'
        for kind, column in zip(kinds, table.columns, strict=True)
    )
    lines = []
    for index, row in enumerate(rows):
        name, *cells = map(_cell, row)
        if table.leads_to:
            name = f'<a href="#section-{table.leads_to[index]}">{name}</a>'
        name = f'<th scope="row"{kinds[0]}>{name}</th>'
        data = (f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], cells, strict=True))
        ours = ' class="ours"' * (index in table.ours)
        lines.append(f"<tr{ours}>{name}{''.join(data)}</tr>")
    wide = ' class="wide"' * (len(table.columns) > WIDE)
    note = [f'<p class="note">{_escape(table.note)}</p>'] * bool(table.note)
    return "\n".join(
        [
            f'<div class="table"><div class="scroll"><table{wide}>',
            f"<caption><span>{_escape(table.title)}</span></caption>",
            f"<thead><tr>{''.join(heads)}</tr></thead>",
            "<tbody>",
            *lines,
            "</tbody></table></div>",
            *note,
            "</div>",
        ]
    )


def _cell(text):
    """A number's interval goes below it, small: a table of intervals stays narrow."""
    number = report_parts.NUMBER.fullmatch(text)
    if not (number and number[2]):
        return _escape(text)
    return f'{_escape(number[1])} <span class="interval">{_escape(number[2])}</span>'


def _paragraphs(text, kind):
    lines = report_parts.paragraphs(text)
    return "\n".join(f'<p class="{kind}">{_escape(paragraph)}</p>' for paragraph in lines)


def _embedded(path):
    """A picture as a data URI, with its size on the page in CSS pixels."""
    data = epath.Path(path).read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            kind, size, dpi = image.format.lower(), image.size, image.info.get("dpi", (0, 0))[0]
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a PNG or JPEG picture: save it as one of these") from error
    # canvas.DPI shows a figure's small print as large as the page's; a finer one is only sharper.
    scale = canvas.DPI / dpi if dpi > 1 else 1
    width, height = (max(1, round(length * scale)) for length in size)
    source = base64.b64encode(data).decode("ascii")
    return f'src="data:image/{kind};base64,{source}" width="{width}" height="{height}"'


def _escape(text):
    return html.escape(line(text))
