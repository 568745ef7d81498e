"""The HTML page of one patient: the probability with its meaning, and for each thermogram the
picture, the notes, and temperatures by region.
"""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from thermo_jax.data.thermogram import PROTOCOL_NAMES, VIEW_NAMES, parse_name
from thermo_jax.evaluation.report import Facts, Figure, Part, Section, Text, page_text
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import SIDES_NOTE, class_title
from thermo_jax.inference.findings import Finding
from thermo_jax.inference.patients import Patient
from thermo_jax.inference.regions import MEASURES, PAIRS, RegionMeasurement, differences

MEANING = (
    "The probability shows how much a thermogram resembles those of sick patients in the models' "
    "training data. It says nothing about other patients or cameras, and must not decide a "
    "treatment."
)
OF_SEVERAL = (
    "Thermograms of one visit are near-copies, so their agreement proves little. The mean is over "
    "all visits, and over the views that the models were trained on."
)
ALONE = "The patient is not known, so this page is of one thermogram."


def write_page(path: str | os.PathLike, patient: Patient, *, note: str = "") -> Path:
    """Writes the page of a patient with at least one finding; returns its path.

    Every finding must have an overlay. For several thermograms, the page begins with an overview
    whose rows link to them, and each thermogram is printed on its own page.

    Args:
      note: what readers must know about the segmenters, shown if there are regions.
    """
    several = len(patient.findings) > 1
    sections = _sections_of_several(patient) if several else _sections_of_one(patient)
    title = f"Patient {patient.name}" if patient.known else patient.name
    summary = _sentence(patient)
    if note and any(finding.regions for finding in patient.findings):
        summary += f" {note[0].upper()}{note[1:]}."
    text = page_text(title, summary, sections, overview=several)
    path = Path(path)
    path.write_text(text, encoding="utf-8")
    return path


def _sections_of_one(patient: Patient) -> list[Section]:
    (finding,) = patient.findings
    title = finding.name if patient.known else "Thermogram"
    sections = [
        Section(title, [*_picture_parts(finding), *_left_out(patient)]),
        Section("Probability of sick", _probability_parts(patient)),
        Section("Regions", _region_parts(finding.regions)),
    ]
    return [section for section in sections if section.parts]


def _sections_of_several(patient: Patient) -> list[Section]:
    overview = [*_probability_parts(patient), *_left_out(patient), _overview(patient.findings)]
    sections = [Section("Probability of sick" if patient.by_image else "Overview", overview)]
    for finding in patient.findings:
        values, parts = list(finding.probabilities.values()), _picture_parts(finding)
        if values:
            chance = {"probability of sick": _chance(finding.probability)}
            parts.append(Facts(chance | _spread(values, "models")))
        sections.append(Section(finding.name, parts + _region_parts(finding.regions)))
    return sections


def _sentence(patient: Patient) -> str:
    """A summary of the page."""
    findings = patient.findings
    celsius = sum(finding.celsius for finding in findings)
    if len(findings) > 1:
        text = f"{len(findings)} thermograms, {celsius} with temperatures, read by trained models."
    else:
        height, width = findings[0].shape
        kind = "temperatures" if celsius else "no temperatures"
        text = f"A thermogram of {width} x {height} pixels with {kind}, read by trained models."
    if patient.probability is not None:
        text += f" Mean probability of sick: {_chance(patient.probability)}."
    return text if patient.known else f"{text} {ALONE}"


def _chance(value: float) -> str:
    """A probability with three digits, but not 0.000 or 1.000, because no model is certain."""
    if value < 0.0005:
        return "<0.001"
    return ">0.999" if value > 0.9995 else f"{value:.3f}"


def _left_out(patient: Patient) -> list[Part]:
    return [Text(f"Left out: {item.reason}", important=True) for item in patient.unreadable]


def _probability_parts(patient: Patient) -> list[Part]:
    images, models = patient.by_image, patient.by_model
    if not images:
        return []
    spread = _spread(images, "thermograms") | _spread(list(models.values()), "models")
    facts = {"mean": _chance(patient.probability)} if spread else {}
    facts |= spread | {f"model {name}": _chance(value) for name, value in models.items()}
    meaning = f"{MEANING} {OF_SEVERAL}" if len(images) > 1 else MEANING
    return [Facts(facts), Text(meaning, important=True)]


def _spread(values: Sequence[float], of: str) -> dict[str, str]:
    """The lowest and the highest value as one fact; {} if there are fewer than two values."""
    if len(values) < 2:
        return {}
    extremes = f"{_chance(min(values))} to {_chance(max(values))}"
    return {f"of {len(values)} {of}, lowest to highest": extremes}


def _overview(findings: Sequence[Finding]) -> PrintedTable:
    """One row per thermogram; empty columns are left out."""
    columns = {
        "probability of sick": [_with_models(finding) for finding in findings],
        "hottest": [_hottest(finding.regions) for finding in findings],
        "breasts, left minus right": [_breasts(finding.regions) for finding in findings],
        "taken": [_taken(finding.name) for finding in findings],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    note = []
    if any(len(finding.probabilities) > 1 for finding in findings):
        note.append("In brackets, the lowest and the highest of the models.")
    if "hottest" in columns:
        note.append(
            f"Temperatures within regions, of breasts their mean, in degrees C. {SIDES_NOTE}"
        )
    rows = zip([finding.name for finding in findings], *columns.values(), strict=True)
    sections = range(2, 2 + len(findings))  # they come after the overview
    return PrintedTable(
        "Thermograms", ["", *columns], list(rows), note=" ".join(note), leads_to=sections
    )


def _taken(name: str) -> str | None:
    """The facts in a DMR-IR file name: "frontal view, visit 1, 2012-10-08, frame 3"."""
    parsed = parse_name(PurePosixPath(name).name)
    if parsed is None:
        return None
    parts = [
        f"{VIEW_NAMES[parsed.view]} view" * bool(parsed.view),
        f"visit {parsed.visit}" * bool(parsed.visit),
        parsed.date,
        PROTOCOL_NAMES[parsed.protocol] * bool(parsed.protocol),
        f"frame {parsed.frame}" * (parsed.frame >= 0),
        "mirrored copy" * parsed.mirrored,
    ]
    return ", ".join(filter(None, parts)) or None


def _with_models(finding: Finding) -> str | None:
    values = finding.probabilities.values()
    if not values:
        return None
    text = _chance(finding.probability)
    if len(values) > 1:
        text += f" [{_chance(min(values))}, {_chance(max(values))}]"
    return text if finding.counts else f"{text}, not in the mean"


def _hottest(regions: Sequence[RegionMeasurement]) -> str | None:
    maxima = [region.max for region in regions if region.hottest]
    return f"{max(maxima):.2f}" if maxima else None


def _breasts(regions: list[RegionMeasurement]) -> str | None:
    difference = differences(regions).get("breasts, mean")
    return None if difference is None else f"{difference:+.2f}"


def _picture_parts(finding: Finding) -> list[Part]:
    taken = _taken(finding.name)
    caption = "The thermogram, with its own scale, and the results of the models."
    parts: list[Part] = [Text(f"{taken[0].upper()}{taken[1:]}.")] if taken else []
    parts.append(Figure(finding.overlay, caption))
    if finding.notes:
        parts.append(Text(f"Note: {'; '.join(finding.notes)}.", important=True))
    return parts


def _region_parts(regions: list[RegionMeasurement]) -> list[Part]:
    if not regions:
        return []
    has_celsius = any(region.hottest for region in regions)
    measures = MEASURES if has_celsius else ()
    columns = [*measures, "hottest at x, y"] if has_celsius else []
    columns = ["", *columns, "area, pixels", "share of image, %"]
    rows = []
    for region in regions:
        cells = [getattr(region, measure) for measure in measures]
        spot = "{}, {}".format(*region.hottest) if region.hottest else None
        cells += [spot] if has_celsius else []
        cells += [region.area, f"{100 * region.share:.1f}"]
        rows.append([class_title(region.class_name), *cells])
    note = "Temperatures in degrees C. " if has_celsius else "No temperatures: areas only. "
    note += SIDES_NOTE
    parts: list[Part] = [PrintedTable("By region", columns, rows, note=note, float_format=".2f")]
    by_pair = differences(regions)
    if by_pair:
        title = "Image left minus image right, degrees C"
        pairs = [pair for pair in PAIRS if f"{pair}, mean" in by_pair]
        rows = [[pair, by_pair[f"{pair}, mean"], by_pair[f"{pair}, max"]] for pair in pairs]
        parts.append(
            PrintedTable(title, ["", "of the mean", "of the maximum"], rows, float_format="+.2f")
        )
    return parts
