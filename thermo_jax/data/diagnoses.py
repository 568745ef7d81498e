"""Reads who is healthy and who is sick: pages of the site, a table, or the names of folders."""

import csv
import html
import io
import pathlib
import re
from collections.abc import Iterable, Iterator

from thermo_jax.data.data_report import DataReport
from thermo_jax.data.file_listing import FileListing
from thermo_jax.data.radiometry import read_bytes
from thermo_jax.data.thermogram import HEALTHY, SICK, UNLABELLED, DataError, patient_of_folder

_LABELS = {"healthy": HEALTHY, "sick": SICK}
CLASS_FOLDERS = _LABELS | {
    "normal": HEALTHY,
    "abnormal": SICK,
    "saudavel": HEALTHY,
    "saudável": HEALTHY,
    "doente": SICK,
    "benign": HEALTHY,
    "malignant": SICK,
}
_DIAGNOSIS = re.compile(r"Diagnosis\*?\s*:\s*<span[^>]*>(.*?)<(?:br|/span)\b", re.I | re.S)
_MAX_PAGE = 2**20  # characters
_TAG = re.compile(r"<[^>]*>")


def label_of_text(text: str) -> int:
    """Returns HEALTHY or SICK for that very word in any case, else UNLABELLED."""
    return _LABELS.get(text.strip().lower(), UNLABELLED)


def label_of_folder(folder: pathlib.PurePosixPath) -> int | None:
    """Returns the label that the innermost class folder of a path gives, or None."""
    below = below_class_folder(folder)
    above = folder.parts[: len(folder.parts) - len(below)]
    return CLASS_FOLDERS[above[-1].lower()] if above else None


def below_class_folder(folder: pathlib.PurePosixPath) -> tuple[str, ...]:
    """Returns the parts of a path below its innermost class folder; all without one."""
    for depth in range(len(folder.parts), 0, -1):
        if folder.parts[depth - 1].lower() in CLASS_FOLDERS:
            return folder.parts[depth:]
    return folder.parts


def diagnosis_texts(page: str) -> list[str]:
    """Returns the text between each `Diagnosis*: <span>` and its `<br>`."""
    found = _DIAGNOSIS.findall(page)
    return [html.unescape(_TAG.sub("", text)).strip() for text in found]


def read_pages(files: FileListing, report: DataReport) -> dict[pathlib.PurePosixPath, set[int]]:
    """Reads every description.html: folder -> the labels it gives (two of them: a conflict)."""
    labels: dict[pathlib.PurePosixPath, set[int]] = {}
    for page in files.pages:
        name = pathlib.PurePosixPath(files.relative(page))
        texts: list[str] = []
        try:
            texts = diagnosis_texts(_text(read_bytes(page))[:_MAX_PAGE])
            if not texts:
                report.add("unknown-diagnosis", str(name), "no line 'Diagnosis*: <span>...<br>'")
        except DataError as error:
            report.add("unreadable-diagnosis", str(name), error.detail)
        for text in texts:
            if label_of_text(text) == UNLABELLED:
                report.add("unknown-diagnosis", str(name), f"diagnosis {text[:80]!r}")
        known = {label_of_text(text) for text in texts} - {UNLABELLED}
        labels.setdefault(name.parent, set()).update(known)
    return labels


def note_missing_pages(
    folders: Iterable[pathlib.PurePosixPath], labels: dict, report: DataReport
) -> None:
    """Reports folders that neither hold a description.html nor lie below one."""
    for folder in sorted(set(folders)):
        if nearest(folder, labels) is None:
            name = (folder / "description.html").as_posix()
            report.add("missing-diagnosis", name, "no such file")


def nearest(folder: pathlib.PurePosixPath, labels: dict) -> pathlib.PurePosixPath | None:
    """Returns the folder itself, or the nearest above it, that has an entry."""
    return next((place for place in (folder, *folder.parents) if place in labels), None)


def read_table(
    files: FileListing, patients: Iterable[str], report: DataReport
) -> dict[str, set[int]]:
    """Reads `ID,Diagnosis` tables: patient -> labels; two of them are a conflict.

    Ids may be padded with zeros or not. Patients with a row but no thermogram are reported.
    """
    labels: dict[str, set[int]] = {}
    for table in files.tables:
        source = files.relative(table)
        for line, patient, text in _rows(table, source, report):
            label = label_of_text(text)
            if label == UNLABELLED:
                detail = f"line {line}: patient {patient}, diagnosis {text[:80]!r}"
                report.add("unknown-diagnosis", source, detail)
            if patient in labels and (label in labels[patient] or label == UNLABELLED):
                report.add("duplicate-row", source, f"line {line}: patient {patient} again")
            labels.setdefault(patient, set()).update({label} - {UNLABELLED})
    present = set(patients)
    for patient in sorted(set(labels) - present):
        report.add("missing-file", files.relative(files.tables[0]), f"patient {patient}")
    return labels


def _rows(table: pathlib.Path, source: str, report: DataReport) -> Iterator[tuple[int, str, str]]:
    """Yields (line number, patient, diagnosis text) of the usable rows."""
    try:
        text = _text(read_bytes(table))
        separator = ";" if ";" in text.split("\n", 1)[0] else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (DataError, csv.Error) as error:
        detail = error.detail if isinstance(error, DataError) else f"not a table: {error}"
        report.add("unreadable-diagnosis", source, detail)
        return
    rows = [(line, row) for line, row in rows if any(row)]
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    if "id" not in header or "diagnosis" not in header:
        report.add("unreadable-diagnosis", source, "the first line is not 'ID,Diagnosis'")
        return
    id_column, diagnosis_column = header.index("id"), header.index("diagnosis")
    for line, row in rows[1:]:
        whole = len(row) > max(id_column, diagnosis_column)
        patient = patient_of_folder(row[id_column]) if whole else None
        if patient is None:
            report.add("bad-row", source, f"line {line}: {separator.join(row)[:80]!r}")
        else:
            yield line, patient, row[diagnosis_column]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
