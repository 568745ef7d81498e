"""The HTML page of one patient: the probability with its meaning, and for each thermogram the
pictures, the notes, and temperatures by region; at the end, where the models come from.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from thermo_jax.data.thermogram import (
    BACKGROUND,
    CLASS_NAMES,
    PROTOCOL_NAMES,
    VIEW_NAMES,
    parse_name,
)
from thermo_jax.evaluation.figures import CLASS_COLORS
from thermo_jax.evaluation.report import (
    Facts,
    PanelPicture,
    Panels,
    Part,
    Section,
    Text,
    page_text,
)
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import SIDES_NOTE, class_title
from thermo_jax.files import write_whole
from thermo_jax.inference.findings import Finding, Overlay
from thermo_jax.inference.patients import Patient
from thermo_jax.inference.provenance import Provenance, note_on
from thermo_jax.inference.regions import MEASURES, PAIRS

MEANING = (
    "The probability shows how much a thermogram resembles those of sick patients in the models' "
    "training data. It says nothing about other patients or cameras."
)
LIMIT = "It must not decide a treatment."
OF_SEVERAL = (
    "Thermograms of one visit are near-copies, so their agreement proves little. The mean is over "
    "all visits, and over the views that the models were trained on."
)
ALONE = "The patient is not known, so this page is of one thermogram."
WEBP_QUALITY = 90


class PageSettings(NamedTuple):
    """What all pages of a run have in common.

    Attributes:
      models: those that made the predictions.
      scale: a sentence about the colours of temperatures.
    """

    models: Sequence[Provenance] = ()
    scale: str = ""


def write_page(path: str | os.PathLike, patient: Patient, settings: PageSettings) -> Path:
    """Writes the page of a patient with at least one finding; returns its path.

    Every finding must have an overlay. For several thermograms, the page begins with an overview
    whose rows link to them, and each thermogram is printed on its own page.
    """
    several = len(patient.findings) > 1
    sections_of = _sections_of_several if several else _sections_of_one
    sections = sections_of(patient, settings)
    if settings.models:
        sections.append(Section("Models", [models_table(settings.models)]))
    title = f"Patient {patient.name}" if patient.known else patient.name
    summary = _sentence(patient)
    if any(finding.measurements for finding in patient.findings):
        summary = f"{summary} {note_on(settings.models, task='segment')}"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page_text(title, summary, sections, overview=several))
    return path


def models_table(models: Sequence[Provenance]) -> PrintedTable:
    """Where the models come from, how good they were, and their thresholds."""
    rows = [
        [
            model.name,
            model.task,
            model.trained_on,
            model.made,
            model.score,
            model.threshold,
        ]
        for model in models
    ]
    columns = ["", "task", "trained on", "made", "score on test patients", "sick above"]
    return PrintedTable("What made these predictions", columns, rows)


def _sections_of_one(patient: Patient, settings: PageSettings) -> list[Section]:
    (finding,) = patient.findings
    title = finding.name if patient.known else "Thermogram"
    probability = _probability_parts(patient, settings)
    if not probability and finding.probabilities:  # of a thermogram that does not count
        probability = [Facts({"probability of sick": _with_models(finding)}), *_meaning(settings)]
    sections = [
        Section(title, [*_picture_parts(finding, settings), *_left_out(patient)]),
        Section("Probability of sick", probability),
        Section("Regions", _region_parts(finding)),
    ]
    return [section for section in sections if section.parts]


def _sections_of_several(patient: Patient, settings: PageSettings) -> list[Section]:
    overview = [*_probability_parts(patient, settings), *_left_out(patient)]
    overview.append(_overview(patient.findings))
    sections = [Section("Probability of sick" if patient.by_image else "Overview", overview)]
    for finding in patient.findings:
        values, parts = list(finding.probabilities.values()), _picture_parts(finding, settings)
        if values:
            shown = chance(finding.probability) + _left_out_of_mean(finding)
            parts.append(Facts({"probability of sick": shown} | _spread(values, "models")))
        sections.append(Section(finding.name, parts + _region_parts(finding)))
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
        text += f" Mean probability of sick: {chance(patient.probability)}."
    return text if patient.known else f"{text} {ALONE}"


def chance(value: float) -> str:
    """A probability with three digits, but not 0.000 or 1.000, because no model is certain."""
    if value < 0.0005:
        return "<0.001"
    return ">0.999" if value > 0.9995 else f"{value:.3f}"


def _left_out(patient: Patient) -> list[Part]:
    return [Text(f"Left out: {item.reason}", important=True) for item in patient.unreadable]


def _probability_parts(patient: Patient, settings: PageSettings) -> list[Part]:
    images, models = patient.by_image, patient.by_model
    if not images:
        return []
    spread = _spread(images, "thermograms") | _spread(list(models.values()), "models")
    facts = {"mean": chance(patient.probability)} if spread else {}
    facts |= spread | {f"model {name}": chance(value) for name, value in models.items()}
    return [Facts(facts), *_meaning(settings, of_several=len(images) > 1)]


def _meaning(settings: PageSettings, *, of_several: bool = False) -> list[Part]:
    """What the probability says, and what it does not say."""
    about = note_on(settings.models, task="classify") or MEANING
    sentences = [about, LIMIT, OF_SEVERAL * of_several]
    return [Text(" ".join(filter(None, sentences)), important=True)]


def _spread(values: Sequence[float], of: str) -> dict[str, str]:
    """The lowest and the highest value as one fact; {} if there are fewer than two values."""
    if len(values) < 2:
        return {}
    extremes = f"{chance(min(values))} to {chance(max(values))}"
    return {f"of {len(values)} {of}, lowest to highest": extremes}


def _overview(findings: Sequence[Finding]) -> PrintedTable:
    """One row per thermogram; empty columns are left out."""
    columns = {
        "probability of sick": [_with_models(finding) for finding in findings],
        "hottest": [_hottest(finding) for finding in findings],
        "breasts, left minus right": [_breasts(finding) for finding in findings],
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
    text = chance(finding.probability)
    if len(values) > 1:
        text += f" [{chance(min(values))}, {chance(max(values))}]"
    return text + _left_out_of_mean(finding)


def _left_out_of_mean(finding: Finding) -> str:
    return "" if finding.counts else ", in doubt" * bool(finding.doubts) + ", not in the mean"


def _hottest(finding: Finding) -> str | None:
    maxima = [region.max for region in finding.measurements if region.hottest]
    return f"{max(maxima):.2f}" if maxima else None


def _breasts(finding: Finding) -> str | None:
    difference = finding.differences.get("breasts, mean")
    return None if difference is None else f"{difference:+.2f}"


def _picture_parts(finding: Finding, settings: PageSettings) -> list[Part]:
    taken = _taken(finding.name)
    parts: list[Part] = [Text(f"{taken[0].upper()}{taken[1:]}.")] if taken else []
    if finding.notes:
        parts.append(Text(f"Note: {'; '.join(finding.notes)}.", important=True))
    parts.append(_panels(finding, scale=settings.scale if finding.celsius else ""))
    return parts


def _panels(finding: Finding, *, scale: str) -> Panels:
    overlay = finding.overlay
    unit = "degrees C" if finding.celsius else "gray level"
    caption = "The thermogram, and the results of the models."
    caption += f" {scale}" if scale else ""
    if overlay.values:
        caption += " Point at a picture to read its values."
    return Panels(
        pictures=_cropped(overlay),
        caption=caption,
        legend=[(CLASS_COLORS[k], class_title(CLASS_NAMES[k])) for k in overlay.classes],
        values=overlay.values.data if overlay.values else b"",
        size=(overlay.values.width, overlay.values.height) if overlay.values else (0, 0),
        unit=unit,
        areas=[class_title(n) * (k != BACKGROUND) for k, n in enumerate(CLASS_NAMES)],
    )


def _cropped(overlay: Overlay) -> list[PanelPicture]:
    """The panels of the file as pictures of their own."""
    pictures = []
    with Image.open(overlay.path) as image:
        for panel in overlay.panels:
            part, file = image.crop(panel.box).convert("RGB"), io.BytesIO()
            part.save(file, "WEBP", quality=WEBP_QUALITY)
            pictures.append(PanelPicture(panel.title, file.getvalue(), *part.size, panel.picture))
    return pictures


def _region_parts(finding: Finding) -> list[Part]:
    regions = finding.measurements
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
    by_pair = finding.differences
    if by_pair:
        title = "Image left minus image right, degrees C"
        pairs = [pair for pair in PAIRS if f"{pair}, mean" in by_pair]
        rows = [[pair, by_pair[f"{pair}, mean"], by_pair[f"{pair}, max"]] for pair in pairs]
        parts.append(
            PrintedTable(title, ["", "of the mean", "of the maximum"], rows, float_format="+.2f")
        )
    return parts
