"""Reads who is healthy and who is sick: from pages of the site or from a table.

Each layout has a function that returns a set of labels for each thermogram. An empty set means that
it is unlabelled; a set of two labels is a contradiction.
"""

import csv
import html
import io
import pathlib
import re
from collections.abc import Collection, Iterator, Sequence

from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.file_listing import DIAGNOSIS_TABLE, FileListing
from thermo_jax.data.reader import read_bytes
from thermo_jax.data.thermogram import (
    HEALTHY,
    SICK,
    UNLABELLED,
    DataError,
    Thermogram,
    patient_of_folder,
)
from thermo_jax.files import decoded

_LABELS = {"healthy": HEALTHY, "sick": SICK}
_DIAGNOSIS = re.compile(r"Diagnosis\*?\s*:\s*<span[^>]*>(.*?)<(?:br|/span)\b", re.I | re.S)
_MAX_PAGE = 2**20  # characters
_TAG = re.compile(r"<[^>]*>")


def label_of_text(text: str) -> int:
    """Returns HEALTHY for "healthy", SICK for "sick" (in any case), else UNLABELLED."""
    return _LABELS.get(text.strip().lower(), UNLABELLED)


def labels_of_site(records: Sequence[Thermogram], files: FileListing) -> Reading[list[set[int]]]:
    """Reads diagnoses from the page in each thermogram's folder, or in the nearest folder above."""
    pages = yield from read_pages(files)
    folders = [_folder(record) for record in records]
    labels = {}
    for folder in sorted(set(folders)):
        page_folder = next((path for path in (folder, *folder.parents) if path in pages), None)
        labels[folder] = pages.get(page_folder, set())
        if page_folder is None:
            name = (folder / "description.html").as_posix()
            yield Oddity("missing-diagnosis", name, "no such file")
    return [labels[folder] for folder in folders]


def labels_of_matrices(
    records: Sequence[Thermogram], files: FileListing
) -> Reading[list[set[int]]]:
    """Reads diagnoses from the row of each thermogram's patient in `id_diagnosis.csv`."""
    table = yield from read_table(files, {record.patient for record in records})
    if not files.tables:
        detail = "no such file; every patient unlabelled"
        yield Oddity("missing-diagnosis", DIAGNOSIS_TABLE, detail)
    for record in records:
        if files.tables and record.patient not in table:
            detail = f"no row for patient {record.patient} in {DIAGNOSIS_TABLE}"
            yield Oddity("missing-diagnosis", files.names(record)[0], detail)
    return [table.get(record.patient, set()) for record in records]


def _folder(record: Thermogram) -> pathlib.PurePosixPath:
    return pathlib.PurePosixPath(record.name).parent


def read_pages(files: FileListing) -> Reading[dict[pathlib.PurePosixPath, set[int]]]:
    """Reads every description.html: folder -> the labels on the page."""
    labels: dict[pathlib.PurePosixPath, set[int]] = {}
    for page in files.pages:
        name = files.relative(page)
        of_page = labels.setdefault(pathlib.PurePosixPath(name).parent, set())
        try:
            matches = _DIAGNOSIS.findall(decoded(read_bytes(page))[:_MAX_PAGE])
        except DataError as error:
            yield Oddity("unreadable-diagnosis", name, error.detail)
            continue
        if not matches:
            yield Oddity("unknown-diagnosis", name, "no line 'Diagnosis*: <span>...<br>'")
        for match in matches:
            text = html.unescape(_TAG.sub("", match)).strip()
            if label_of_text(text) == UNLABELLED:
                yield Oddity("unknown-diagnosis", name, f"diagnosis {text[:80]!r}")
            else:
                of_page.add(label_of_text(text))
    return labels


def read_table(files: FileListing, patients: Collection[str]) -> Reading[dict[str, set[int]]]:
    """Reads `ID,Diagnosis` tables: patient -> labels.

    Ids may have leading zeros. Patients with a row but without a thermogram are reported.
    """
    labels: dict[str, set[int]] = {}
    for table in files.tables:
        source = files.relative(table)
        try:
            rows = list(_rows(table))
        except DataError as error:
            yield Oddity("unreadable-diagnosis", source, error.detail)
            continue
        for line, identity, text, row in rows:
            patient, label = patient_of_folder(identity), label_of_text(text)
            if patient is None:
                yield Oddity("bad-row", source, f"line {line}: {row[:80]!r}")
                continue
            if label == UNLABELLED:
                detail = f"line {line}: patient {patient}, diagnosis {text[:80]!r}"
                yield Oddity("unknown-diagnosis", source, detail)
            if patient in labels and (label in labels[patient] or label == UNLABELLED):
                yield Oddity("duplicate-row", source, f"line {line}: patient {patient} again")
            labels.setdefault(patient, set()).update({label} - {UNLABELLED})
    for patient in sorted(labels.keys() - patients):
        yield Oddity("missing-file", files.relative(files.tables[0]), f"patient {patient}")
    return labels


def _rows(table: pathlib.Path) -> Iterator[tuple[int, str, str, str]]:
    """Yields (line number, id, diagnosis, row); id and diagnosis are "" if the row is too short.

    Raises:
      DataError: the file is not a table, or its first line is not a header.
    """
    text = decoded(read_bytes(table))
    separator = ";" if ";" in text.split("\n", 1)[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError("unreadable-diagnosis", table, f"not a table: {error}") from error
    rows = [(line, row) for line, row in rows if any(row)]
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    if "id" not in header or "diagnosis" not in header:
        detail = "the first line is not 'ID,Diagnosis'"
        raise DataError("unreadable-diagnosis", table, detail)
    columns = header.index("id"), header.index("diagnosis")
    for line, row in rows[1:]:
        identity, diagnosis = (row[c] for c in columns) if len(row) > max(columns) else ("", "")
        yield line, identity, diagnosis, separator.join(row)
