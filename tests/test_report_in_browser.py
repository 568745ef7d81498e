"""The reports in a real browser: no message, no request, all pictures, as wide as the screen.

Needs Chromium; skipped without it, unless THERMO_BROWSER_TEST=required (.ci/run sets it).
"""

import dataclasses
import os
import re
import shutil

import numpy as np
import pytest

from thermo_jax.data.picture import Picture
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation import charts
from thermo_jax.evaluation.report import Facts, Figure, Fold, Section, Text, write_report
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.inference.findings import Prediction
from thermo_jax.inference.index import IndexEntry, thumbnail_of, write_index
from thermo_jax.inference.inputs import Unreadable
from thermo_jax.inference.overlay import write_overlay
from thermo_jax.inference.page import PageSettings, write_page
from thermo_jax.inference.patients import Patient
from thermo_jax.inference.regions import measure_regions

HOSTILE = ('"><img src=x onerror=alert(1)>', "<script>alert(2)</script>", "</pre></style><b>")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
A4 = {"width": 680, "height": 1009}  # CSS pixels inside the margins for print


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        reason = f"none of {', '.join(names)} is installed: apt-get install chromium"
        if os.environ.get("THERMO_BROWSER_TEST") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with every kind of part, a wide table, two pictures and hostile names everywhere."""
    folder = tmp_path_factory.mktemp("report")
    rows = {name: (0.9, 0.8, 0.95) for name in HOSTILE}
    intervals = charts.interval_figure(folder / "a.png", rows, measure="AUROC")
    matrices = {"at 0.5": np.array([[9, 1], [2, 8]])}
    confusion = charts.confusion_figure(folder / "b.png", matrices, class_names=("healthy", "sick"))
    columns = ["", *(f"measure {number}" for number in range(10))]
    cells = [[name, *["0.912 [0.881, 0.943]"] * 10] for name in HOSTILE]
    table = PrintedTable(HOSTILE[0], columns, cells, note=HOSTILE[1], ours=[0])
    parts = [table, Facts({name: name for name in HOSTILE}), Text("x" * 300), Text(HOSTILE[1])]
    pictures = [Figure(intervals, HOSTILE[0]), Figure(confusion, HOSTILE[1])]
    folds = [Fold(name, "y" * 300 + name) for name in HOSTILE]
    sections = [Section(HOSTILE[k], part) for k, part in enumerate((parts, pictures, folds))]
    sections.append(Section("Fourth", []))
    return write_report(folder, title=HOSTILE[0], summary=HOSTILE[1], sections=sections)[0]


class Visit:
    """An open page, with its messages, requests and dialogs."""

    def __init__(self, browser, path, **options):
        self.page = browser.new_context(**options).new_page()
        self.messages, self.requests, self.dialogs = [], [], []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog), dialog.dismiss()))
        self.page.goto(path.as_uri(), wait_until="load")

    def evaluate(self, expression):
        return self.page.evaluate(expression)


@pytest.fixture(scope="module")
def finding(tmp_path_factory):
    """The finding of a thermogram whose name and models' names are hostile."""
    folder = tmp_path_factory.mktemp("finding")
    label_map = np.full((120, 160), CLASS_NAMES.index("background"), np.uint8)
    label_map[40:80, 20:60], label_map[40:80, 100:140] = 0, 1
    temperatures = np.linspace(28, 36, label_map.size, dtype=np.float32).reshape(label_map.shape)
    prediction = Prediction(
        name=HOSTILE[0],
        patient=None,
        file=HOSTILE[0],
        shape=label_map.shape,
        celsius=True,
        picture=Picture(temperatures=temperatures),
        probabilities={HOSTILE[1]: 0.2, HOSTILE[2]: 0.6},
        evidence={HOSTILE[1]: np.ones((30, 40), np.float32)},
        label_map=label_map,
        measurements=measure_regions(label_map, temperatures),
        notes=(HOSTILE[2],),
    )
    return prediction.finding(overlay=write_overlay(folder / "overlay.png", prediction))


@pytest.fixture(scope="module")
def thermogram_page(finding, tmp_path_factory):
    """The page of one thermogram with a hostile name."""
    patient = Patient(HOSTILE[0], known=False, findings=[finding])
    return write_page(tmp_path_factory.mktemp("alone") / "page.html", patient, PageSettings())


@pytest.fixture(scope="module")
def patient_page(finding, tmp_path_factory):
    """The page of a patient with twenty frames and three thermograms of hostile names."""
    frames = [f"0001/T0001.1.1.D.2012-10-08.{frame:02d}" for frame in range(20)]
    findings = [dataclasses.replace(finding, name=name) for name in (*frames, *HOSTILE)]
    patient = Patient("0001", True, findings, [Unreadable(HOSTILE[0], HOSTILE[1])])
    return write_page(tmp_path_factory.mktemp("together") / "page.html", patient, PageSettings())


PAGES = ("visit #1/a.html", "50%41?.html", "S\u00e3o.html")  # of the first three


@pytest.fixture(scope="module")
def index_page(finding, tmp_path_factory):
    """The index of three hostile patients, 34 others, and one without a thermogram.

    The probabilities of the first three are .4, .1 and .9, the differences between their breasts 3,
    -4 and 1 degrees C; those of the others are .5 and .5.
    """
    folder = tmp_path_factory.mktemp("index")
    thumbnail, entries = thumbnail_of(finding.overlay), []
    values = [(0.4, 3), (0.1, -4), (0.9, 1), *[(0.5, 0.5)] * 34]
    for number, (probability, difference) in enumerate(values):
        left, right = finding.measurements
        sides = [left._replace(mean=30.0 + difference), right._replace(mean=30.0)]
        one = dataclasses.replace(finding, probabilities={"A": probability}, measurements=sides)
        name = HOSTILE[number] if number < 3 else f"patient {number}"
        page = PAGES[number] if number < 3 else "other.html"
        (folder / page).parent.mkdir(exist_ok=True)
        (folder / page).write_text(f"<title>{number}</title>")
        entries.append(IndexEntry(Patient(name, True, [one]), page, thumbnail))
    bad = Patient("bad", True, [], [Unreadable("a", "reason")])
    entries.append(IndexEntry(bad, "", b""))
    return write_index(folder / "index.html", entries, PageSettings())


def assert_quiet_self_contained_and_as_wide_as_a_phone(visit, path):
    assert visit.messages == [] and visit.dialogs == []
    assert [url for url in visit.requests if not url.startswith("data:")] == [path.as_uri()]
    assert visit.evaluate("document.scripts.length") == 1  # our own
    assert visit.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_the_page_of_a_thermogram_is_quiet_self_contained_and_drawn_on_a_phone(
    browser, thermogram_page
):
    visit = Visit(browser, thermogram_page, viewport=PHONE, bypass_csp=True)
    assert_quiet_self_contained_and_as_wide_as_a_phone(visit, thermogram_page)
    widths = visit.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 3 and min(widths) > 504
    text = visit.evaluate("document.body.innerText")
    for words in ("0.400", "image-left breast", "Image left minus image right", *HOSTILE):
        assert words in text


def test_the_page_of_a_patient_is_quiet_self_contained_and_drawn_on_a_phone(browser, patient_page):
    visit = Visit(browser, patient_page, viewport=PHONE, bypass_csp=True)
    assert_quiet_self_contained_and_as_wide_as_a_phone(visit, patient_page)
    widths = visit.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 3 * 23 and min(widths) > 504


def test_a_row_of_the_overview_shows_its_probability_on_a_phone(browser, patient_page):
    visit = Visit(browser, patient_page, viewport=PHONE)
    right = visit.evaluate("document.querySelector('tbody td').getBoundingClientRect().right")
    heights = visit.evaluate("[...document.querySelectorAll('tr')].map(row => row.offsetHeight)")
    assert right < PHONE["width"] and max(heights[:21]) < 70


def test_every_row_of_the_overview_links_to_its_thermogram(browser, patient_page):
    visit = Visit(browser, patient_page, viewport=PHONE)
    links = visit.page.locator("table >> nth=0").locator("a")
    assert links.count() == 23
    for link in (links.nth(0), links.nth(12), links.nth(22)):
        link.click()
        heading = visit.page.locator("h2:target")
        assert heading.inner_text() == link.inner_text()
        assert -1 < heading.bounding_box()["y"] < PHONE["height"]


def test_paper_has_a_page_for_each_thermogram_of_a_patient(browser, finding, tmp_path):
    short = dataclasses.replace(finding, measurements=[], notes=())  # two would fit on a page
    findings = [dataclasses.replace(short, name=name) for name in "abcd"]
    path = write_page(tmp_path / "page.html", Patient("0001", True, findings), PageSettings())
    printed = Visit(browser, path, viewport=A4).page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1 + 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_panels_are_wide_on_a_desk_and_show_the_value_below_the_mouse(
    browser, thermogram_page, scheme
):
    visit = Visit(browser, thermogram_page, viewport=DESK, color_scheme=scheme)
    panels = visit.page.locator(".panels img")
    boxes = [panels.nth(k).bounding_box() for k in range(3)]
    assert min(box["width"] for box in boxes) >= 480 and boxes[0]["y"] == boxes[1]["y"]
    regions = panels.nth(1)
    left, top, right, bottom = map(float, regions.get_attribute("data-box").split())
    regions.scroll_into_view_if_needed()
    box, label = regions.bounding_box(), visit.page.locator(".value")
    assert not label.is_visible()
    # Row 60 of 120, column 40 of 160, in the middle of the breast at image left.
    x = box["x"] + box["width"] * (left + (right - left) * 40.5 / 160)
    y = box["y"] + box["height"] * (top + (bottom - top) * 60.5 / 120)
    visit.page.mouse.move(x, y)
    value = 28 + 8 * (60 * 160 + 40) / (120 * 160 - 1)
    assert label.inner_text() == f"{value:.2f} degrees C, image-left breast"
    visit.page.mouse.move(box["x"] + 2, box["y"] + 2)  # the heading
    assert not label.is_visible() and visit.messages == []


def test_the_legend_prints_without_backgrounds(browser, thermogram_page):
    visit = Visit(browser, thermogram_page, viewport=A4)
    visit.page.emulate_media(media="print")
    assert visit.page.locator(".legend rect").count() == 2
    assert visit.page.locator(".legend rect").first.is_visible()
    assert visit.evaluate("document.documentElement.scrollWidth") == A4["width"]


def test_the_index_is_quiet_and_no_wider_than_a_phone(browser, index_page):
    visit = Visit(browser, index_page, viewport=PHONE, bypass_csp=True)
    assert_quiet_self_contained_and_as_wide_as_a_phone(visit, index_page)
    assert visit.evaluate("[...document.images].every(image => image.naturalWidth > 100)")


def test_the_links_of_the_index_lead_to_the_pages_whatever_their_names_are(browser, index_page):
    visit = Visit(browser, index_page, viewport=DESK)
    for number in range(3):
        visit.page.goto(index_page.as_uri())
        visit.page.locator("tbody a").nth(number).click()
        assert visit.page.title() == str(number)


@pytest.mark.parametrize(
    ("heading", "once"), [("probability", (2, 0, 1)), ("asymmetry", (1, 0, 2))]
)
def test_a_click_on_a_heading_sorts_the_patients_and_another_reverses_them(
    browser, index_page, heading, once
):
    visit = Visit(browser, index_page, viewport=DESK)
    button = visit.page.locator("th button", has_text=heading)
    everyone = lambda: visit.page.locator("tbody th span").all_inner_texts()  # noqa: E731
    hostile = lambda: [name for name in everyone() if name in HOSTILE]  # noqa: E731
    assert len(everyone()) == 38 and hostile() == list(HOSTILE)
    button.click()
    assert hostile() == [HOSTILE[k] for k in once]
    assert everyone()[0] == HOSTILE[once[0]] and everyone()[-1] == "bad"  # without a value: last
    button.click()
    assert hostile() == [HOSTILE[k] for k in once[::-1]] and everyone()[-1] == "bad"
    assert visit.page.locator("th[aria-sort=ascending]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK])
def test_text_can_be_read_in_light_and_dark(browser, index_page, thermogram_page, scheme, viewport):
    contrast = """text => {
      const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number)
        .map(c => c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0.05);
      const pair = [getComputedStyle(text).color, getComputedStyle(document.body).backgroundColor];
      const [a, b] = pair.map(light);
      return Math.max(a, b) / Math.min(a, b);
    }"""
    for path, places in (
        (index_page, ("th button", "tbody td", "tbody a", ".note")),
        (thermogram_page, (".legend span", "figcaption", "h1", "td")),
    ):
        visit = Visit(browser, path, viewport=viewport, color_scheme=scheme)
        for place in places:
            text = visit.page.locator(place).first
            assert text.evaluate(contrast) >= 4.5, (path, place)
        assert visit.evaluate("document.documentElement.scrollWidth") == viewport["width"]


@pytest.fixture(scope="module")
def phone(browser, report):
    return Visit(browser, report, viewport=PHONE)


def test_the_console_stays_empty(phone):
    assert phone.messages == []


def test_no_request_leaves_the_page(phone, report):
    assert [url for url in phone.requests if not url.startswith("data:")] == [report.as_uri()]


def test_every_picture_is_drawn(phone):
    drawn = phone.evaluate(
        "[...document.images].map(image => image.complete && image.naturalWidth)"
    )
    assert len(drawn) == 2 and all(drawn)


def test_a_phone_scrolls_a_wide_table_but_never_the_page(phone):
    assert phone.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    box, table = phone.evaluate(
        "['.scroll', '.scroll table'].map(it => document.querySelector(it).offsetWidth)"
    )
    assert box < PHONE["width"] < table


def test_paper_shows_wide_tables_and_folded_texts_in_full(browser, report):
    visit = Visit(browser, report, viewport=A4)
    visit.page.emulate_media(media="print")
    assert visit.evaluate("document.documentElement.scrollWidth") == A4["width"]
    heights = visit.evaluate("[...document.querySelectorAll('pre')].map(it => it.offsetHeight)")
    assert len(heights) == 3 and all(heights)


def test_hostile_names_run_nothing_even_without_the_policy(browser, report):
    """Without the policy, only the escaping of the names can stop them."""
    visit = Visit(browser, report, viewport=PHONE, bypass_csp=True)
    assert visit.dialogs == [] and visit.messages == []
    assert visit.evaluate("document.scripts.length") == 0
    assert visit.evaluate("document.title") == HOSTILE[0]


def test_the_policy_stops_what_would_run_or_load(browser, report, tmp_path):
    page = report.read_text(encoding="utf-8")
    bad = tmp_path / "bad.html"
    attack = "<script>alert(1)</script><img src=x.png onerror=alert(2)>"
    bad.write_text(page.replace("<main>", "<main>" + attack), encoding="utf-8")
    visit = Visit(browser, bad, viewport=PHONE)
    assert visit.dialogs == [] and visit.evaluate("document.images[0].naturalWidth") == 0
    assert any("Content Security Policy" in message for message in visit.messages)
