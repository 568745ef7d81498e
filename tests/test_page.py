"""The page of a patient with one or many thermograms (see also test_report_in_browser)."""

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.inference.findings import Finding, Overlay, Panel
from thermo_jax.inference.inputs import Unreadable
from thermo_jax.inference.page import MEANING, PageSettings, write_page
from thermo_jax.inference.patients import Patient
from thermo_jax.inference.probe import Values
from thermo_jax.inference.provenance import ABOUT_PHANTOMS, NOT_RECORDED, Provenance
from thermo_jax.inference.regions import measure_regions

FRAME = "T0001.1.1.D.2012-10-08.{:02d}"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes the page of a patient and returns its text."""

    def page(*findings, name="0001", known=True, unreadable=(), models=(), scale=""):
        patient = Patient(name, known, list(findings), list(unreadable))
        path = write_page(tmp_path / "page.html", patient, PageSettings(models, scale))
        return path.read_text(encoding="utf-8")

    return page


@pytest.fixture
def finding(tmp_path):
    """Return a function that makes a finding: breasts of 30 and 32 degrees C if `celsius`."""
    file = tmp_path / "overlay.png"
    Image.new("RGB", (8, 6)).save(file)
    panel = Panel("thermogram", (0, 0, 8, 6), (0.1, 0.2, 0.9, 0.8))
    values = Values(2, 1, b"planes")
    overlay = Overlay(file, (panel, panel._replace(title="regions")), values, (0, 1))
    label_map = np.full((120, 160), CLASS_NAMES.index("background"), np.uint8)
    label_map[40:80, 20:60], label_map[40:80, 100:140] = 0, 1

    def make(name="T0001", *, celsius=True, probabilities=None, **fields):
        temperatures = np.where(label_map == 1, 32, 30).astype(np.float32) if celsius else None
        regions = measure_regions(label_map, temperatures)
        given = {"A": 0.25, "B": 0.5} if probabilities is None else probabilities
        return Finding(
            name=name,
            patient="0001",
            shape=(120, 160),
            celsius=celsius,
            probabilities=given,
            measurements=regions,
            overlay=overlay,
            **fields,
        )

    return make


def rows_of(page):
    """The cells of the page's first table, headings first."""
    table = page[page.index("<table") : page.index("</table>")]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("</tr>")]
    return [[re.sub("<.*?>", "", cell) for cell in row] for row in rows if row]


def test_one_thermogram_needs_no_overview(write, finding):
    page = write(finding(notes=("aspect not 4:3",)))
    headings = re.findall(r"<h\d.*?>(.*?)</h", page)
    assert headings == ["Patient 0001", "T0001", "Probability of sick", "Regions"]
    assert "A thermogram of 160 x 120 pixels with temperatures" in page
    assert "Note: aspect not 4:3." in page and "#section" not in page


def test_the_page_of_an_unknown_patient_says_so(write, finding):
    page = write(finding("clinic/a"), name="clinic/a", known=False)
    assert "<h1>clinic/a</h1>" in page and "The patient is not known" in page


def test_the_patients_mean_is_shown_with_both_spreads_and_their_meaning(write, finding):
    page = write(
        finding(FRAME.format(0), probabilities={"A": 0.2, "B": 0.6}),
        finding(FRAME.format(1), probabilities={"A": 0.1, "B": 0.3}),
    )
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page[: page.index("<table")]))
    assert facts == {
        "mean": "0.300",
        "of 2 thermograms, lowest to highest": "0.200 to 0.400",
        "of 2 models, lowest to highest": "0.150 to 0.450",
        "model A": "0.150",
        "model B": "0.450",
    }
    for words in ("must not decide a treatment", "near-copies", "not a diagnostic device"):
        assert words in page


def test_the_overview_has_a_row_per_thermogram(write, finding):
    page = write(finding(FRAME.format(0)), finding(FRAME.format(11), celsius=False))
    assert rows_of(page) == [
        ["", "probability of sick", "hottest", "breasts, left minus right", "taken"],
        [
            FRAME.format(0),
            "0.375 [0.250, 0.500]",
            "32.00",
            "-2.00",
            "frontal view, visit 1, 2012-10-08, dynamic, frame 0",
        ],
        [
            FRAME.format(11),
            "0.375 [0.250, 0.500]",
            "-",
            "-",
            "frontal view, visit 1, 2012-10-08, dynamic, frame 11",
        ],
    ]


def test_a_view_that_does_not_count_is_marked_in_the_overview(write, finding):
    side = finding("T0001.1.2.S.2012-10-08.00", probabilities={"A": 0.9}, counts=False)
    page = write(finding(FRAME.format(0), probabilities={"A": 0.5}), side)
    assert [row[1] for row in rows_of(page)[1:]] == ["0.500", "0.900, not in the mean"]
    assert "Mean probability of sick: 0.500" in page


def test_the_overview_leaves_out_columns_without_values(write, finding):
    one, two = (finding(f"0001/{k}", celsius=False, probabilities={"A": 0.5}) for k in "ab")
    assert rows_of(write(one, two))[0] == ["", "probability of sick"]


def test_the_overviews_rows_link_to_the_thermograms(write, finding):
    page = write(*(finding(FRAME.format(frame)) for frame in range(3)))
    links = dict(re.findall('<a href="#(.*?)">(.*?)</a>', page))
    assert links == dict(re.findall('<h2 id="(.*?)">(T.*?)</h2>', page)) and len(links) == 3


def test_unreadable_files_are_listed(write, finding):
    page = write(finding(), unreadable=[Unreadable("0001/b", "b.txt: no matrix")])
    assert "Left out: b.txt: no matrix" in page


@pytest.mark.parametrize(("value", "shown"), [(1e-9, "&lt;0.001"), (1 - 1e-9, "&gt;0.999")])
def test_no_model_is_shown_as_certain(write, finding, value, shown):
    assert f"<dd>{shown}</dd>" in write(finding(probabilities={"A": value}))


def test_a_page_without_classifiers_has_no_probability(write, finding):
    one, two = (finding(f"0001/{k}", probabilities={}) for k in "ab")
    assert "robability" not in write(one) + write(one, two)


def test_a_region_without_measured_pixels_has_no_temperatures(write, finding):
    one = finding()
    first, *others = one.measurements
    regions = [first._replace(mean=float("nan"), hottest=None), *others]
    page = write(dataclasses.replace(one, measurements=regions))
    assert "hottest at x, y" in page and "100, 40" in page


def test_a_thermogram_in_doubt_has_no_differences_and_its_probability_is_marked(write, finding):
    doubtful = {"doubts": ("no breasts were found",), "counts": False}
    alone = write(finding(probabilities={"A": 0.9}, **doubtful))
    assert "0.900, in doubt, not in the mean" in alone and "Mean probability" not in alone
    assert "Image left minus image right" not in alone
    page = write(
        finding(FRAME.format(0), probabilities={"A": 0.5}),
        finding(FRAME.format(1), probabilities={"A": 0.9}, **doubtful),
    )
    assert "Mean probability of sick: 0.500" in page
    assert [row[1] for row in rows_of(page)[1:]] == ["0.500", "0.900, in doubt, not in the mean"]
    assert [row[3] for row in rows_of(page)[1:]] == ["-2.00", "-"]


def test_the_panels_have_a_legend_and_values_with_their_unit(write, finding):
    page = write(finding(), scale="All thermograms of the patient have the same scale.")
    assert page.count('data-box="0.1 0.2 0.9 0.8"') == 2
    assert 'data-unit="degrees C"' in page and "Point at a picture" in page
    assert "All thermograms of the patient have the same scale." in page
    legend = page[page.index('class="legend"') : page.index("<figcaption>")]
    assert re.findall("</svg> (.*?)</span>", legend) == ["image-left breast", "image-right breast"]
    assert 'data-unit="gray level"' in write(finding(celsius=False), scale="Each has its own.")


def test_a_picture_of_colours_has_no_values(write, finding):
    one = finding(celsius=False)
    page = write(dataclasses.replace(one, overlay=one.overlay._replace(values=None)))
    assert "data-values=" not in page and "Point at" not in page


def model(*, learned_phantoms=False):
    return Provenance(
        name="A",
        title="A",
        task="classify",
        trained_on="54 patients, 27 sick",
        trained=NOT_RECORDED,
        version="0.1.0",
        score="AUROC .883 (95 % interval .792 to .959)",
        threshold=0.41,
        learned_phantoms=learned_phantoms,
    )


def test_the_models_are_named_with_their_training_score_and_threshold(write, finding):
    page = write(finding(), models=[model()])
    for text in ("54 patients, 27 sick", "AUROC .883", "0.410", "thermo_jax 0.1.0"):
        assert text in page[page.index("What made these predictions") :]
    assert MEANING.split(".")[0].replace("'", "&#39;") in page


def test_a_classifier_that_saw_only_phantoms_says_what_its_probability_is_about(write, finding):
    page = write(finding(), models=[model(learned_phantoms=True)])
    assert ABOUT_PHANTOMS in page and MEANING[:40] not in page
