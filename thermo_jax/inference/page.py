"""The page of one thermogram: picture, probability with its meaning, temperatures by region.

One HTML file that needs no network; whatever text comes in, file names too, comes out as text.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thermo_jax.evaluation import report_html
from thermo_jax.evaluation.report_parts import Facts, Part, Picture, Section, Table, Text
from thermo_jax.evaluation.wording import SIDES_NOTE, class_title
from thermo_jax.inference.predictor import Prediction
from thermo_jax.inference.regions import PAIRS, Region, differences

MEANING = (
    "The probability is what the models learned to call sick on their training data. It says "
    "nothing of patients or cameras unlike those, and no treatment should follow from it."
)


def write_page(
    path: str | os.PathLike,
    found: Prediction,
    regions: Sequence[Region],
    *,
    overlay: str | os.PathLike,
) -> Path:
    """Writes the page of one thermogram; returns its path.

    Args:
      regions: of `regions.measure_regions`.
      overlay: the picture of `overlay.overlay_figure`, on disk.
    """
    picture = Picture(overlay, "Thermogram and what the models find in it.")
    sections = [Section("Thermogram", [picture, *_notes(found)])]
    if found.probabilities:
        sections.append(Section("Probability of sick", _probability_parts(found)))
    if regions:
        sections.append(Section("Regions", _region_parts(regions)))
    path = Path(path)
    page = report_html.render(found.name, _sentence(found), sections, contents=False)
    path.write_text(page, encoding="utf-8")
    return path


def _sentence(found: Prediction) -> str:
    """What the page is about."""
    height, width = found.picture.pixels.shape[:2]
    kind = "temperatures" if found.picture.temperatures is not None else "no temperatures"
    text = f"A thermogram of {width} x {height} pixels with {kind}, read by trained models."
    if found.probability is None:
        return text
    return f"{text} Mean probability of sick: {found.probability:.2f}."


def _notes(found: Prediction) -> list[Part]:
    return [Text(f"Note: {'; '.join(found.notes)}.", important=True)] if found.notes else []


def _probability_parts(found: Prediction) -> list[Part]:
    values = found.probabilities
    facts = {"mean of the models": f"{found.probability:.3f}"}
    if len(values) > 1:
        facts["from, to"] = f"{min(values.values()):.3f}, {max(values.values()):.3f}"
    facts |= {name: f"{value:.3f}" for name, value in values.items() if len(values) > 1}
    return [Facts(facts), Text(MEANING, important=True)]


def _region_parts(regions: list[Region]) -> list[Part]:
    known = np.isfinite(regions[0].mean)
    columns = ["", "area, pixels", "share of image, %"]
    if known:
        columns += ["mean", "median", "min", "max", "sd", "hottest at x, y"]
    rows = [_table_row(region, known=known) for region in regions]
    note = "Temperatures in degrees C. " if known else "No temperatures: areas only. "
    parts: list[Part] = [Table("By region", columns, rows, note=note + SIDES_NOTE)]
    found = differences(regions)
    if found:
        title = "Image left minus image right, degrees C"
        pairs = [pair for pair in PAIRS if f"{pair}, mean" in found]
        rows = [[pair, found[f"{pair}, mean"], found[f"{pair}, max"]] for pair in pairs]
        parts.append(Table(title, ["", "of the mean", "of the maximum"], rows, float_format="+.2f"))
    return parts


def _table_row(region: Region, *, known: bool) -> list:
    row = [class_title(region.class_name), region.area, f"{100 * region.share:.1f}"]
    if known:
        values = (region.mean, region.median, region.min, region.max, region.sd)
        row += [f"{value:.2f}" for value in values]
        row.append("{}, {}".format(*region.hottest))
    return row
