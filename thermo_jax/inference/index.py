"""The index page of a run: all patients, with thumbnails and links to their pages; to be sorted."""

import io
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from thermo_jax.evaluation.report import Entry, Section, SortableTable, Text, page_text
from thermo_jax.evaluation.wording import SIDES_NOTE
from thermo_jax.files import write_whole
from thermo_jax.inference.findings import Overlay
from thermo_jax.inference.page import PageSettings, chance, models_table
from thermo_jax.inference.patients import Patient
from thermo_jax.inference.provenance import note_on

THUMBNAIL = 192  # pixels of the longer side
COLUMNS = ("probability of sick", "asymmetry", "hottest", "thermograms", "notes")
NOTES = {
    "asymmetry": "Asymmetry: mean of the breast at image left minus that at image right, degrees "
    "C, averaged over the patient's frontal thermograms without mirrored copies; sorted by its "
    "size, without its sign.",
    "hottest": "Hottest: the hottest spot of any region, degrees C.",
    "notes": "What is in doubt may not be a frontal view of two breasts, and does not count.",
}


class IndexEntry(NamedTuple):
    """One patient on the index page.

    Attributes:
      page: the path of their page, relative to the index; "" if there is none.
      thumbnail: from `thumbnail_of`; b"" if there is none.
    """

    patient: Patient
    page: str
    thumbnail: bytes


def write_index(
    path: str | os.PathLike, entries: Sequence[IndexEntry], settings: PageSettings
) -> Path:
    """Writes the page; returns its path."""
    known = [entry.patient for entry in entries if entry.patient.known]
    images = sum(len(patient.findings) for patient in known)
    summary = f"{_number(len(known), 'patient')} with {_number(images, 'thermogram')}"
    if unknown := len(entries) - len(known):
        summary += f", and {_number(unknown, 'thermogram')} whose patient is not known"
    notes = [note_on(settings.models, task=task) for task in ("segment", "classify")]
    summary = f"{summary}. {' '.join(filter(None, notes))}"
    sections = [Section("Patients", [_table(entries), Text(SIDES_NOTE)])]
    sections.append(Section("Models", [models_table(settings.models)]))
    path = Path(path)
    write_whole(path, page_text("Predictions", summary, sections))
    return path


def thumbnail_of(overlay: Overlay) -> bytes:
    """The thermogram without its scale, or with its regions if there are any, as a WebP file."""
    panel = overlay.panels[min(1, len(overlay.panels) - 1)]
    left, top, right, bottom = panel.box
    size = (right - left, bottom - top) * 2
    inner = [
        start + share * length
        for start, share, length in zip((left, top) * 2, panel.picture, size, strict=True)
    ]
    file = io.BytesIO()
    with Image.open(overlay.path) as image:
        part = image.crop([round(edge) for edge in inner]).convert("RGB")
        part.thumbnail((THUMBNAIL, THUMBNAIL))
        part.save(file, "WEBP", quality=80)
    return file.getvalue()


def _table(entries: Sequence[IndexEntry]) -> SortableTable:
    """The patients; columns without any value are left out."""
    rows = [_entry(entry) for entry in entries]
    used = [k for k in range(len(COLUMNS)) if any(row.cells[k][0] for row in rows)]
    rows = [row._replace(cells=[row.cells[k] for k in used]) for row in rows]
    columns = ["patient", *(COLUMNS[k] for k in used)]
    note = " ".join(text for column, text in NOTES.items() if column in columns)
    return SortableTable("A click on a heading sorts.", columns, rows, note=note)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _entry(entry: IndexEntry) -> Entry:
    patient = entry.patient
    value, asymmetry, hottest = patient.probability, patient.asymmetry, patient.hottest
    doubts = sum(bool(finding.doubts) for finding in patient.findings)
    notes = [f"{doubts} in doubt"] * bool(doubts)
    odd = sum(bool(finding.region_doubts) for finding in patient.findings)
    notes += [f"{odd} with regions in doubt"] * bool(odd)
    notes += [f"{len(patient.unreadable)} unreadable"] * bool(patient.unreadable)
    cells = [
        ("" if value is None else chance(value), value),
        (
            "" if asymmetry is None else f"{asymmetry:+.2f}",
            None if asymmetry is None else abs(asymmetry),
        ),
        ("" if hottest is None else f"{hottest:.2f}", hottest),
        (str(len(patient.findings)), len(patient.findings)),
        (", ".join(notes), ", ".join(notes) or None),
    ]
    # A name may contain "#", "?", "%" or bytes that are no text.
    link = urllib.parse.quote(os.fsencode(entry.page))
    return Entry(patient.name, link, entry.thumbnail, cells)
