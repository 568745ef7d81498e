"""`thermograms.csv`: the user's own table of which files are thermograms, of whom, and of what.

It lies in the root of a data set. Its header names the columns `file` (path relative to the root)
and any of patient, label, view, protocol, date, visit, frame, annotation, notes; notes are ignored.
Only the files that it lists are used. An empty cell falls back to the rules of `identity`.
"""

import collections
import csv
import dataclasses
import difflib
import io
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thermo_jax.data import table_cells
from thermo_jax.data.class_folders import plain
from thermo_jax.data.data_report import Oddity, Reading, safe_cell
from thermo_jax.data.file_listing import IMAGES, MATRICES, THERMOGRAM_TABLE, FileListing
from thermo_jax.data.identity import CLASS_AND_FOLDER, ONE_PER_FILE, identify
from thermo_jax.data.name_guess import stem_of
from thermo_jax.data.table_cells import AbsentFileError, CellError, PathCells, unquoted
from thermo_jax.data.thermogram import (
    LABEL_NAMES,
    UNLABELLED,
    VIEW_NAMES,
    DataError,
    Thermogram,
    frame_name,
)
from thermo_jax.files import csv_text

COLUMNS = (
    *("file", "patient", "label", "view", "protocol", "date", "visit", "frame"),
    *("annotation", "notes"),
)
_MEANT = {  # names that people write -> the column
    **dict.fromkeys(
        ("filename", "file_name", "path", "image", "name", "arquivo", "archivo"), "file"
    ),
    **dict.fromkeys(("id", "patient_id", "subject", "subject_id", "paciente"), "patient"),
    **dict.fromkeys(("diagnosis", "class", "diagnostico", "target"), "label"),
    **dict.fromkeys(("mask", "masks", "annotations", "segmentation"), "annotation"),
}
_MAX_BYTES = 2**24
_MAX_ROWS = 100_000  # a mirror of DMR-IR has 7,000 images


@dataclasses.dataclass(frozen=True)
class ListedThermograms:
    """What `thermograms.csv` lists.

    Attributes:
      records: the thermograms, in the order of their names.
      annotations: name of a thermogram -> its annotation file (absolute path).
      frames: name of a thermogram -> its number in the column `frame`, which chooses one frame if
        the file turns out to be a stack.
    """

    records: list[Thermogram]
    annotations: dict[str, pathlib.Path]
    frames: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    path: pathlib.Path
    values: dict[str, Any]  # fields of `Thermogram`, of the cells that are not empty
    annotation: pathlib.Path | None = None


def identify_listed(
    files: FileListing, *, for_prediction: bool = False
) -> Reading[ListedThermograms]:
    """Reads `thermograms.csv`, and what it does not say from the names of files and folders.

    A row that cannot be used is reported and left out. Nothing else is opened.

    Args:
      for_prediction: whether to pass over annotations, and to keep thermograms whose file names
        and folders contain different patients (see `identity.identify`).
    Raises:
      DataError: the table cannot be read, or its header is not usable.
    """
    rows = yield from _read_rows(files, annotated=not for_prediction)
    groups = yield from _grouped(rows, files)
    given, annotations, frames = [], {}, {}
    for group in groups:
        values = {key: value for row in group for key, value in row.values.items()}
        name = values.get("name") or _name(group[0].path, files)
        if "frame" in values:
            frames[name] = values["frame"]
        if annotation := next((row.annotation for row in group if row.annotation), None):
            annotations[name] = annotation
        given.append(values)
    paths = [[row.path for row in group] for group in groups]
    records = yield from identify(paths, files, given=given, keep_mismatched=for_prediction)
    patients = [values["patient"] for values in given if "patient" in values]
    return ListedThermograms(_with_written_names(records, given=patients), annotations, frames)


def _name(path: pathlib.Path, files: FileListing) -> str:
    return pathlib.PurePosixPath(files.relative(path)).with_name(stem_of(path)).as_posix()


def _with_written_names(records: Sequence[Thermogram], *, given: Sequence[str]) -> list[Thermogram]:
    """Calls a patient whom names of files call "p-1" as the table does, such as "P001"."""
    written: dict[str, str] = {}
    for patient in given:
        written.setdefault(_same_patient(patient), patient)
    names = [written.get(_same_patient(record.patient), record.patient) for record in records]
    return [
        dataclasses.replace(record, patient=name) if record.patient_known else record
        for record, name in zip(records, names, strict=True)
    ]


def _same_patient(patient: str) -> str:
    """A text that is the same for P001, p-1 and "P 1"."""
    match = re.fullmatch(r"([a-z]+)[ ._#-]*0*([0-9]+)", plain(patient.strip()))
    return f"{match[1]}-{match[2]}" if match else plain(patient)


# ---------------------------------------------------------------- the file


def _read_text(table: pathlib.Path) -> str:
    """The table's text: UTF-8 with or without a mark, UTF-16 with a mark, or cp1252.

    Raises:
      DataError: the file cannot be read, or is too large.
    """
    try:
        with table.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError("bad-table-row", THERMOGRAM_TABLE, f"cannot be read: {error}") from error
    if len(data) > _MAX_BYTES:
        raise DataError("too-large", THERMOGRAM_TABLE, f"larger than {_MAX_BYTES >> 20} MiB")
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16" if is_utf16 else "utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _cells(text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(the header's column names, (line number, cells) of each row that is not empty).

    Raises:
      DataError: the header is not usable.
    """
    first, _, rest = text.partition("\n")
    skipped = 0
    if re.fullmatch(r"sep=.\r?", first):  # a line that Excel writes
        text, skipped, first = rest, 1, rest.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = []
        for row in reader:
            if any(cells := [cell.strip() for cell in row]):
                rows.append((reader.line_num + skipped, cells))
            if len(rows) > _MAX_ROWS:
                detail = f"more than {_MAX_ROWS} rows; expected one for each file"
                raise DataError("too-large", THERMOGRAM_TABLE, detail)
    except csv.Error as error:
        raise DataError("bad-table-row", THERMOGRAM_TABLE, f"not a table: {error}") from error
    header = [plain(cell) for cell in rows[0][1]] if rows else []
    while header and not header[-1]:  # a separator at the end of the line
        header.pop()
    for column in header:
        if column not in COLUMNS:
            near = difflib.get_close_matches(column, [*COLUMNS, *_MEANT], n=1, cutoff=0.8)
            advice = f"did you mean {_MEANT.get(near[0], near[0])!r}?" if near else "remove it."
            raise DataError(
                "bad-table-row",
                THERMOGRAM_TABLE,
                f"unknown column {column[:40]!r}: {advice} Known columns: {', '.join(COLUMNS)}",
            )
    repeated = [column for column, count in collections.Counter(header).items() if count > 1]
    if "file" not in header or repeated:
        problem = f"column {repeated[0]!r} twice" if repeated else "no column 'file'"
        detail = f"the first line has {problem}: it names the columns, such as file,patient,label"
        raise DataError("bad-table-row", THERMOGRAM_TABLE, detail)
    return header, rows[1:]


def _read_rows(files: FileListing, *, annotated: bool) -> Reading[list[_Row]]:
    """Reads the rows; those that cannot be used are reported and left out."""
    if files.thermogram_table is None:
        return []
    header, lines = _cells(_read_text(files.thermogram_table))
    table = [(line, dict(zip(header, cells, strict=False))) for line, cells in lines]
    paths = PathCells(files)
    readers = table_cells.readers(
        day_first=table_cells.is_day_first(row.get("date", "") for _, row in table)
    )
    rows: list[_Row] = []
    lines_of: dict[tuple[pathlib.Path, int], int] = {}
    for (line, row), (_, cells) in zip(table, lines, strict=True):
        file, where = row.get("file") or THERMOGRAM_TABLE, f"line {line} of {THERMOGRAM_TABLE}"
        try:
            if any(cells[len(header) :]):
                raise CellError(f"expected {len(header)} cells; quote a cell with separators")
            path = paths.find(row.get("file", ""), suffixes=MATRICES + IMAGES)
            values = _values(row, readers)
        except CellError as error:
            yield Oddity("bad-table-row", file, f"{where}: {error}")
            continue
        except AbsentFileError as error:
            yield Oddity("absent-file", file, f"{where}: {error}")
            continue
        key = path, values.get("frame", -1)
        if key in lines_of:
            detail = f"{where}: listed in line {lines_of[key]} already"
            yield Oddity("duplicate", files.relative(path), detail)
            continue
        lines_of[key] = line
        annotation = yield from _annotation(
            row.get("annotation", "") if annotated else "", paths, where=where
        )
        rows.append(_Row(line, path, values, annotation))
    return rows


def _values(row: Mapping[str, str], readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Reads the cells that are not empty.

    Raises:
      CellError: a value is not usable; the message names the column, the value and what is.
    """
    values = {}
    for column, read in readers.items():
        if text := unquoted(row.get(column, "")):
            try:
                values[column] = read(text)
            except CellError as error:
                raise CellError(f"{column} {text[:60]!r}: expected {error}") from None
    return values


def _annotation(text: str, paths: PathCells, *, where: str) -> Reading[pathlib.Path | None]:
    """The annotation file that a cell names; a thermogram is also used without it."""
    if not text:
        return None
    try:
        return paths.find(text)
    except (AbsentFileError, CellError) as error:
        yield Oddity("absent-file", text, f"{where}: annotation: {error}; used without it")
    return None


def _grouped(rows: Sequence[_Row], files: FileListing) -> Reading[list[list[_Row]]]:
    """Groups the rows of one thermogram: files of one name in a folder, or one frame of a stack.

    A row that contradicts an earlier one of its group is reported and left out.
    """
    times = collections.Counter(row.path for row in rows)
    stems = {(row.path.parent, stem_of(row.path).lower()) for row in rows if times[row.path] > 1}
    groups: dict[tuple, list[_Row]] = {}
    for row in sorted(rows, key=lambda row: (row.path.parent.parts, row.path.name, row.line)):
        stem = row.path.parent, stem_of(row.path).lower()
        is_frame = stem in stems and "frame" in row.values
        if is_frame:
            frame = row.values["frame"]
            name = frame_name(_name(row.path, files), frame)
            row.values.update({"name": name, "frame_in_file": frame})
        group = groups.setdefault((*stem, row.values["frame"] if is_frame else -1), [])
        for other, column in itertools.product(group, COLUMNS):
            values = [r.values[column] for r in (other, row) if column in r.values]
            if len(set(values)) == 2:
                detail = (
                    f"line {row.line} of {THERMOGRAM_TABLE}: another {column} than line "
                    f"{other.line}, which is of the same thermogram"
                )
                yield Oddity("bad-table-row", files.relative(row.path), detail)
                break
        else:
            group.append(row)
    by_name = lambda group: (group[0].path.parent.parts, stem_of(group[0].path))  # noqa: E731
    return sorted(groups.values(), key=by_name)


# ---------------------------------------------------------------- the proposal


def propose_table(
    records: Sequence[Thermogram], left_out: Mapping[str, str], *, root: str | os.PathLike
) -> str:
    """The text of a `thermograms.csv` that lists what was read, for the user to correct.

    Read without changes, it gives the same thermograms. The cells of what is not known are empty;
    so is the patient where one per file was assumed, since only the user knows better.

    Args:
      records: the thermograms.
      left_out: relative path of a file -> why it was left out.
      root: the folder to which the paths of the table are relative.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        for path in record.files or record.paths.values():
            file = path.relative_to(root).as_posix()
            rows[file, record.frame_in_file] = {"file": file, **_proposed(record)}
    for file, reason in left_out.items():
        row = rows.setdefault((file, 0), {"file": file})
        row["notes"] = "; ".join(filter(None, (row.get("notes"), f"left out: {reason}")))
    cells = [[safe_cell(row.get(c, "")) for c in COLUMNS] for _, row in sorted(rows.items())]
    return csv_text(COLUMNS, cells)


def _proposed(record: Thermogram) -> dict[str, Any]:
    assumed = ONE_PER_FILE in record.notes
    notes = [note for note in record.notes if note in (ONE_PER_FILE, CLASS_AND_FOLDER)]
    if not record.patient_known:
        notes.append("patient unknown: used for pretraining only")
    return {
        "patient": record.patient if record.patient_known and not assumed else "",
        "label": LABEL_NAMES[record.label] if record.label != UNLABELLED else "",
        "view": VIEW_NAMES[record.view] if record.view else "",
        "protocol": record.protocol,
        "date": record.date,
        "visit": record.visit or "",
        "frame": record.frame if record.frame >= 0 else "",
        "notes": "; ".join(notes),
    }
