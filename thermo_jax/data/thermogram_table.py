"""`thermograms.csv`: the user's own table of thermograms, with their patients and diagnoses.

It lies in the root of a data set. Its header names the columns `file` (path relative to the root)
and any of patient, label, view, protocol, date, visit, frame, annotation, notes; notes are ignored.
Only the files that it lists are used. The rules of `identity` replace empty cells.
"""

import collections
import contextlib
import csv
import dataclasses
import difflib
import io
import itertools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thermo_jax.data import table_cells
from thermo_jax.data.class_folders import plain
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.file_listing import (
    IMAGES,
    MASK_CLASSES,
    MATRICES,
    THERMOGRAM_TABLE,
    FileListing,
)
from thermo_jax.data.identity import identify
from thermo_jax.data.reader import read_bytes
from thermo_jax.data.table_cells import CellError, PathCells, unquoted
from thermo_jax.data.thermogram import (
    DataError,
    Thermogram,
    frame_name,
    stem_of,
    without_suffix,
)
from thermo_jax.files import decoded

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
    """Reads `thermograms.csv`; names of files and folders say what it leaves out.

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
    listed = {row.path for row in rows} | {row.annotation for row in rows}
    if rows and (others := len(set(files.pixels) - listed)):
        detail = f"{others} other files are not listed, or their rows are not usable: not used"
        yield Oddity("ignored-file", THERMOGRAM_TABLE, detail)
    paths = [[row.path for row in group] for group in groups]
    records = yield from identify(paths, files, given=given, keep_mismatched=for_prediction)
    patients = [values["patient"] for values in given if "patient" in values]
    return ListedThermograms(_with_written_names(records, given=patients), annotations, frames)


def other_sources(files: FileListing) -> list[pathlib.Path]:
    """The files that the table names, but that the listing of the folder does not contain.

    They are hidden, or in the workdir of a run, such as a corrected LabelMe file. A mask comes with
    its classes.json.
    """
    if files.thermogram_table is None:
        return []
    try:
        header, lines = _cells(_read_text(files.thermogram_table))
    except DataError:
        return []  # a scan reports it
    paths = PathCells(files)
    found: set[pathlib.Path] = set()
    for _, cells in lines:
        for column, text in zip(header, cells, strict=False):
            if column in ("file", "annotation") and text:
                with contextlib.suppress(CellError):
                    found.add(paths.find(text))
    found -= set(files.sources())
    folders = {folder for path in found for folder in path.parents}
    classes = (folder / MASK_CLASSES for folder in folders if folder.is_relative_to(files.root))
    return sorted(found.union(filter(pathlib.Path.is_file, classes)))


def _name(path: pathlib.Path, files: FileListing) -> str:
    return without_suffix(pathlib.PurePosixPath(files.relative(path))).as_posix()


def _with_written_names(records: Sequence[Thermogram], *, given: Sequence[str]) -> list[Thermogram]:
    """Writes a patient as the table does, such as "P001", where a file name says "p-1"."""
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
    try:
        return decoded(read_bytes(table)) if table.stat().st_size else ""
    except (DataError, OSError) as error:
        detail = f"cannot be read: {getattr(error, 'detail', error)}"
        raise DataError("bad-table-row", THERMOGRAM_TABLE, detail) from error


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
    if not lines:
        detail = "lists no file: expected a line for each, below the names of the columns"
        yield Oddity("bad-table-row", THERMOGRAM_TABLE, detail)
    paths = PathCells(files)
    readers = table_cells.readers(
        day_first=table_cells.is_day_first(row.get("date", "") for _, row in table)
    )
    if not annotated:
        del readers["label"]  # a prediction needs no diagnosis, so it may be anything
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
            yield Oddity(error.kind, file, f"{where}: {error}")
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
    except CellError as error:
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
        if times[row.path] > 1 and not is_frame:
            detail = (
                f"line {row.line} of {THERMOGRAM_TABLE}: no frame, but other lines choose frames"
            )
            yield Oddity("bad-table-row", files.relative(row.path), f"{detail} of this file")
            continue
        if is_frame:
            frame = row.values["frame"]
            name = frame_name(_name(row.path, files), frame)
            row.values.update({"name": name, "frame_in_file": frame})
        group = groups.setdefault((*stem, row.values["frame"] if is_frame else -1), [])
        for other, column in itertools.product(group, COLUMNS):
            values = [r.values[column] for r in (other, row) if column in r.values]
            if column == "patient":
                values = [_same_patient(value) for value in values]
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
