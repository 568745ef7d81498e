"""The report: page, Markdown and CSV have the same content, and no text in them is executed."""

import base64
import csv
import html.parser
import re

import jinja2
import numpy as np
import pytest
from PIL import Image

from thermo_jax.evaluation import canvas
from thermo_jax.evaluation.report import Facts, Figure, Fold, Section, Text, write_report
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER

HOSTILE = '"><img src=x onerror=alert(1)>|`<script>&amp;'


def _write(folder, *parts, sections=1, title="A run", summary="What it shows."):
    first = Section("Result", parts)
    others = [Section(f"More {number}", ()) for number in range(1, sections)]
    paths = write_report(folder, title=title, summary=summary, sections=[first, *others])
    return paths[0].read_text(encoding="utf-8"), paths[1].read_text(encoding="utf-8")


class _Page(html.parser.HTMLParser):
    """Every tag with its attributes, and the text of the page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)
        self.text = "".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def _table(**changes):
    fields = {
        "title": "Classification per patient",
        "columns": ["", "AUROC", "n"],
        "rows": [["model", 0.91234, 12], ["majority", float("nan"), None]],
    }
    return PrintedTable(**(fields | changes))


def _picture(folder, name="one.png", size=(40, 30), dpi=canvas.DPI):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", size, "white").save(folder / name, dpi=(dpi, dpi))
    return folder / name


def test_a_report_is_a_page_a_markdown_and_a_csv_per_table(tmp_path):
    section = Section("Result", [_table(), Text("words"), _table()])
    paths = write_report(tmp_path / "new", title="T", summary="S", sections=[section])
    assert [str(path.relative_to(tmp_path / "new")) for path in paths] == [
        "report.html",
        "report.md",
        "tables/classification_per_patient.csv",
        "tables/classification_per_patient_2.csv",
    ]
    files = {path for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert files == set(paths)  # no partial file is left


def test_the_page_forbids_scripts_and_the_network(tmp_path):
    page = _Page(_write(tmp_path, _table(), Figure(_picture(tmp_path), "c"))[0])
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not page.all("script")
    loaded = [tag.get("src", tag.get("href")) for _, tag in page.tags if {"src", "href"} & {*tag}]
    assert loaded and all(address.startswith("data:") for address in loaded)


def test_page_and_markdown_begin_and_end_with_the_disclaimer(tmp_path):
    page, markdown = _write(tmp_path, Text("words"))
    for text in (_Page(page).text, markdown):
        assert text.count(DISCLAIMER) == 2
        assert text.index(DISCLAIMER) < text.index("words") < text.rindex(DISCLAIMER)


@pytest.mark.parametrize(("sections", "expected"), [(3, 0), (4, 4)])
def test_contents_are_listed_from_the_fourth_section_on(tmp_path, sections, expected):
    page, markdown = _write(tmp_path, sections=sections)
    links = [link["href"] for link in _Page(page).all("a")]
    assert links == [f"#section-{number}" for number in range(1, expected + 1)]
    assert {heading["id"] for heading in _Page(page).all("h2")} >= {link[1:] for link in links}
    assert len(re.findall(r"\]\(#section-\d\)", markdown)) == expected


def test_undefined_values_are_shown_as_a_dash_and_left_empty_in_the_csv(tmp_path):
    page, markdown = _write(tmp_path, _table())
    assert '<td class="number">-</td><td class="number">-</td>' in page
    assert "| majority | - | - |" in markdown
    text = (tmp_path / "tables" / "classification_per_patient.csv").read_text(encoding="utf-8")
    assert text.splitlines()[1:] == ["model,0.91234,12", "majority,,"]


def test_a_table_names_its_rows_and_columns_for_screen_readers(tmp_path):
    heads = _Page(_write(tmp_path, _table())[0]).all("th")
    assert [head["scope"] for head in heads] == ["col"] * 3 + ["row"] * 2


def test_only_columns_of_numbers_are_aligned_right(tmp_path):
    columns = ["name", "count", "interval", "share", "file"]
    rows = [
        ["a", 12, "0.91 [0.88, 0.94]", "<1 %", "0001/T0001.jpg"],
        ["b", np.int64(3), None, "5 %", "x"],
    ]
    page, markdown = _write(tmp_path, _table(columns=columns, rows=rows))
    assert "| --- | ---: | ---: | ---: | --- |" in markdown
    assert [head.get("class") for head in _Page(page).all("th")[:5]] == [
        None, "number", "number", "number", None
    ]  # fmt: skip
    assert '0.91 <span class="interval">[0.88, 0.94]</span>' in page


def test_our_rows_stand_out(tmp_path):
    page, markdown = _write(tmp_path, _table(ours=[0]))
    assert [row.get("class") for row in _Page(page).all("tr")] == [None, "ours", None]
    assert "| **model** | **0.912** | **12** |\n| majority |" in markdown


def test_gray_columns_are_gray_in_the_page_and_italic_in_the_markdown_also_in_our_rows(tmp_path):
    columns = ["", "AUROC", "published", "protocol"]
    rows = [["model", 0.9, 0.99, "by image"], ["other", 0.8, None, ""]]
    table = _table(columns=columns, rows=rows, gray=[2, 3], ours=[0])
    page, markdown = _write(tmp_path, table)
    tags = _Page(page)
    assert [head.get("class") for head in tags.all("th")] == [
        None, "number", "number gray", "gray", None, None
    ]  # fmt: skip
    assert [cell.get("class") for cell in tags.all("td")] == ["number", "number gray", "gray"] * 2
    assert "|  | AUROC | *published* | *protocol* |" in markdown
    assert "| **model** | **0.900** | *0.990* | *by image* |" in markdown
    assert "| other | 0.800 | *-* |  |" in markdown


def test_a_gray_column_changes_neither_text_nor_csv():
    plain, gray = _table(), _table(gray=[1])
    assert (plain.text(), plain.csv()) == (gray.text(), gray.csv())


def test_the_gray_of_the_page_is_a_colour_of_both_its_themes(tmp_path):
    page, _ = _write(tmp_path, _table(gray=[1]))
    assert re.search(r"\.gray, [^{]*\{ color: var\(--soft\)", page)
    light, dark = re.findall(r"--soft: (#\w+)", page)
    assert light != dark


def test_a_picture_is_inside_the_page_and_beside_the_markdown(tmp_path):
    path = _picture(tmp_path / "figures", "a (1).png")
    page, markdown = _write(tmp_path, Figure(path, "What it shows"))
    image = _Page(page).all("img")[0]
    assert (
        base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == path.read_bytes()
    )
    assert (image["alt"], image["width"], image["height"]) == ("What it shows", "40", "30")
    assert "![What it shows](figures/a%20%281%29.png)" in markdown


def test_a_finer_picture_is_shown_sharper_not_larger(tmp_path):
    path = _picture(tmp_path, size=(400, 300), dpi=240)
    image = _Page(_write(tmp_path, Figure(path, "c"))[0]).all("img")[0]
    assert (image["width"], image["height"]) == ("200", "150")


def test_facts_and_paragraphs_are_the_same_in_page_and_markdown(tmp_path):
    facts = Facts({"val loss": 0.123456, "best epoch": 12, "resumed": False, "commit": None})
    page, markdown = _write(tmp_path, facts, Text("one\n\ntwo"), Text("mind this", important=True))
    for name, value in {
        "val loss": "0.1235",
        "best epoch": 12,
        "resumed": "no",
        "commit": "-",
    }.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
        assert f"- {name}: {value}" in markdown
    assert (
        '<p class="text">one</p>\n<p class="text">two</p>' in page
        and "\n\none\n\ntwo\n" in markdown
    )
    assert '<p class="important">mind this</p>' in page and "\n> mind this\n" in markdown


def test_a_folded_text_keeps_its_lines_and_cannot_end_its_fence(tmp_path):
    page, markdown = _write(tmp_path, Fold("Config", "{\n  'a': <1>\n}\n```\n# out"))
    assert "<pre>{\n  &#39;a&#39;: &lt;1&gt;\n}\n```\n# out</pre>" in page
    assert "````text\n{\n  'a': <1>\n}\n```\n# out\n````\n" in markdown


def test_hostile_text_stays_text_in_the_page(tmp_path):
    parts = [
        _table(title=HOSTILE, columns=[HOSTILE, "b"], rows=[[HOSTILE, HOSTILE]], note=HOSTILE),
        Figure(_picture(tmp_path), HOSTILE),
        Facts({HOSTILE: HOSTILE}),
        Text(HOSTILE),
        Fold(HOSTILE, HOSTILE),
    ]
    page = _Page(_write(tmp_path, *parts, title=HOSTILE, summary=HOSTILE)[0])
    assert len(page.all("img")) == 1 and page.all("img")[0]["alt"] == HOSTILE
    assert not page.all("script")
    assert page.text.count(HOSTILE) == 14


def test_hostile_text_stays_text_in_the_markdown(tmp_path):
    parts = [_table(columns=["a", "b"], rows=[[HOSTILE, "two\nlines"]], note=HOSTILE), Text("- x")]
    markdown = _write(tmp_path, *parts, summary="1. one")[1]
    row = r'| "&gt;&lt;img src=x onerror=alert(1)&gt;\|\`&lt;script&gt;&amp;amp; | two lines |'
    assert row in markdown.splitlines()
    assert "<img" not in markdown and "<script" not in markdown
    assert "\n\\- x\n" in markdown and "\n1\\. one\n" in markdown


def test_a_formula_in_a_cell_is_not_run_by_a_spreadsheet(tmp_path):
    _write(tmp_path, _table(rows=[["=1+1", -0.5, "@x"]], title="../../Worst cases!"))
    with (tmp_path / "tables" / "worst_cases.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == ["'=1+1", "-0.5", "'@x"]


def test_a_name_that_is_not_valid_text_can_be_written(tmp_path):
    page, markdown = _write(tmp_path, _table(rows=[["a\udc80\x00b", 1, 2]]), Text("\x1b[2J"))
    assert all(
        "a\\udc80\N{REPLACEMENT CHARACTER}b" in text.replace("\\\\", "\\")
        for text in (page, markdown)
    )
    assert "\x1b" not in page + markdown


def test_a_part_of_another_kind_is_refused(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="'str'"):
        _write(tmp_path, "words")
