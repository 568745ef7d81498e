"""The data report: what a data set contains, and every oddity in it, by file name.

The functions that read a data set yield an `Oddity` for everything unusual. There are two sorts. A
*bad file* contains something that cannot be trusted, and that is left out; `strict` stops at the
first bad file. A *note* never stops a run.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from etils import epath

from thermo_jax.data.thermogram import (
    HEALTHY,
    LABEL_NAMES,
    PATH_FIELDS,
    PROTOCOL_NAMES,
    SICK,
    UNLABELLED,
    VIEW_NAMES,
    DataError,
    Thermogram,
)
from thermo_jax.files import csv_text

# Kind of oddity: (heading, what was done about it).
BAD_FILES = {
    "unreadable-image": ("image cannot be read", "file left out"),
    "wrong-size": ("image of the wrong size", "file left out"),
    "coloured-gray": ("gray image contains colour", "file left out"),
    "unreadable-matrix": ("temperatures cannot be read", "file left out"),
    "wrong-shape": ("temperature matrix of the wrong shape", "file left out"),
    "unknown-unit": ("temperatures in no known unit", "file left out"),
    "bad-pixels": ("too many pixels outside 10..45 degrees C", "file left out"),
    "constant-temperatures": ("every temperature is the same", "file left out"),
    "unreadable-folder": ("folder cannot be read", "left out"),
    "too-large": ("file implausibly large", "file left out"),
    "duplicate": ("second file for the same thermogram", "the first by name kept, this left out"),
    "patient-mismatch": ("file name and folder contain different patients", "file left out"),
    "conflicting-diagnosis": ("patient with conflicting diagnoses", "whole patient left out"),
    "unreadable-diagnosis": ("diagnosis file cannot be read", "treated as unlabelled"),
    "unreadable-annotations": ("annotation file cannot be read", "its annotations left out"),
    "unusable-polygon": ("polygon that cannot be drawn", "image treated as not annotated"),
    "annotation-size": ("annotated at another aspect than the image's", "annotation left out"),
    "masks-without-classes": ("masks without a classes.json", "the folder's masks left out"),
    "unusable-mask": ("mask that cannot be used", "image treated as not annotated"),
    "absent-file": ("thermograms.csv lists a file that is not here", "left out"),
    "bad-table-row": ("row of thermograms.csv is not usable", "row left out"),
}
NOTES = {
    "blank-image": ("every pixel has the same value", "kept"),
    "converted-unit": ("temperatures in another unit", "converted to degrees C"),
    "repaired-pixels": ("some bad pixels", "replaced by their neighbours, or clamped"),
    "coloured-marks": ("gray image with coloured marks", "marks replaced by gray neighbours"),
    "known-palette": ("colours of a known palette", "turned back into gray levels"),
    "unknown-palette": ("colours of no known palette", "used as they are, as a heatmap only"),
    "padded": ("aspect is not 4:3", "edges repeated"),
    "stack": ("file of several frames", "each frame is one thermogram of a sequence"),
    "radiometry": ("settings of the camera", "used as recorded, unless the configuration says so"),
    "no-temperatures": ("temperatures inside the file are not read", "read as a picture"),
    "unused-file": ("second file of one thermogram", "the other one is used"),
    "mixed-gray": ("gray images of several origins", "kept: compare results by origin"),
    "mixed-heat": ("heatmaps of several origins", "kept: compare results by origin"),
    "earlier-run": ("results of an earlier run", "passed over"),
    "missing-snap": ("no heatmap (snap)", "rendered from temperatures, else gray only"),
    "missing-gray": ("no gray image", "rendered from temperatures, else heatmap only"),
    "assumed-view": ("no view in any name of a file or folder", "all taken as frontal"),
    "missing-diagnosis": ("no diagnosis file or row", "treated as unlabelled"),
    "unknown-diagnosis": ("diagnosis is neither Healthy nor Sick", "treated as unlabelled"),
    "bad-row": ("row of the diagnosis table is not usable", "row left out"),
    "duplicate-row": ("patient listed twice with one diagnosis", "used once"),
    "missing-file": ("diagnosis without a thermogram", "ignored"),
    "unknown-patient": ("patient is not known", "grouped by folder, pretraining only"),
    "unknown-name": ("file name of no known form", "view, visit and date unknown"),
    "odd-name": ("impossible view or date in the file name", "that part treated as unknown"),
    "ignored-file": ("not a thermogram", "ignored"),
    "absent-image": ("annotation file names an image that is not here", "ignored"),
    "unknown-image-id": ("annotation of an image that the file does not list", "ignored"),
    "unknown-category": ("annotation of an unknown category", "that region left out"),
    "several-rings": ("region of several polygons", "filled together as one region"),
    "repeated-image": ("image annotated twice", "first kept"),
    "ambiguous-annotation": ("several images fit the annotation", "annotation left out"),
    "unused-shape": ("shape that is not a region", "that shape left out"),
    "class-and-folder": ("numbers start again in every class", "a patient is class and folder"),
    "assumed-patients": ("files directly in a class folder", "patients assumed: one per file"),
}
_ORIGINS = (
    "the set mixes {images} of several origins ({detail}): a way of rendering can betray the "
    "acquisition, and with it the diagnosis"
)
# Notes that belong on every page of results: kind -> the sentence.
CAUTIONS = {
    "assumed-patients": "patients assumed: one per file",
    "class-and-folder": "patients assumed: numbers start again in every class folder",
    "mixed-gray": _ORIGINS.replace("{images}", "gray images"),
    "mixed-heat": _ORIGINS.replace("{images}", "heatmaps"),
}
_BAD_ANNOTATIONS = frozenset(
    {"unusable-polygon", "annotation-size", "masks-without-classes", "unusable-mask"}
)
KINDS = {**BAD_FILES, **NOTES}
REPORT_FILES = ("data_report.txt", "records.csv", "oddities.csv")


@dataclasses.dataclass(frozen=True)
class Oddity:
    """Something unusual in a file (path relative to the root); `kind` is a key of `KINDS`."""

    kind: str
    file: str
    detail: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of oddity {self.kind!r}")

    @property
    def is_bad(self) -> bool:
        """Whether a strict run stops at it."""
        return self.kind in BAD_FILES

    @property
    def note(self) -> str:
        """The detail, for results that show one thermogram."""
        is_about_file = self.is_bad or self.kind in ("unused-file", "no-temperatures")
        return (
            f"{pathlib.PurePath(self.file).name}: {self.detail}" if is_about_file else self.detail
        )


# A function that reads a data set is a generator, which yields oddities and returns its result. Its
# caller writes `result = yield from read_something(...)`; `layouts.scan`, which has the report,
# writes `result = report.collect(read_something(...))`.
T = TypeVar("T")
Reading = Generator[Oddity, None, T]


@dataclasses.dataclass
class DataReport:
    """The oddities of a data set. `strict` raises `DataError` at the first bad file."""

    root: str | pathlib.Path = ""
    layout: str = ""
    strict: bool = False
    problem: str = ""  # why nothing can be used
    oddities: list[Oddity] = dataclasses.field(default_factory=list)
    # "gray 480x640" -> files
    sizes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def collect(self, reading: Reading[T]) -> T:
        """Runs a reading function: adds its oddities to the report, and returns its result.

        Raises:
          DataError: a bad file, if `strict`.
        """
        with contextlib.closing(reading):
            while True:
                try:
                    oddity = next(reading)
                except StopIteration as end:
                    return end.value
                self.oddities.append(oddity)
                if self.strict and oddity.is_bad:
                    detail = f"{oddity.detail} (config.data.strict=False would skip it and go on)"
                    raise DataError(oddity.kind, oddity.file, detail)

    @property
    def num_bad(self) -> int:
        """How many oddities would have stopped a strict run."""
        return sum(oddity.is_bad for oddity in self.oddities)

    def count(self, kind: str) -> int:
        """How many oddities of this kind there are."""
        return sum(oddity.kind == kind for oddity in self.oddities)

    @property
    def cautions(self) -> dict[str, str]:
        """The sentences of `CAUTIONS` that apply, by kind."""
        return {
            oddity.kind: CAUTIONS[oddity.kind].replace("{detail}", oddity.detail)
            for oddity in self.oddities
            if oddity.kind in CAUTIONS
        }

    @property
    def skipped(self) -> list[str]:
        """The bad files, sorted, each one once. A file with a bad annotation is not one of them."""
        return sorted(self.left_out)

    @property
    def left_out(self) -> dict[str, str]:
        """Why each of the skipped files is bad."""
        kinds = BAD_FILES.keys() - _BAD_ANNOTATIONS
        bad = [oddity for oddity in self.oddities if oddity.kind in kinds]
        return {oddity.file: oddity.detail for oddity in reversed(bad)}

    def summary(self) -> str:
        """One line that says how many oddities of which kind there are."""
        counts = collections.Counter(oddity.kind for oddity in self.oddities)
        return ", ".join(f"{n} {kind}" for kind, n in counts.most_common()) or "no oddities"

    def text(self, records: Sequence[Thermogram]) -> str:
        """The report as text: counts, then the oddities by kind."""
        source = f"{self.root} ({self.layout} layout)" if self.layout else str(self.root)
        lines = [f"Data report: {source}".rstrip(), ""]
        if self.problem:
            lines += [f"NOT USABLE: {_plain(self.problem)}", ""]
        images = collections.Counter(record.patient for record in records)
        keys = _COUNTS | {"images per patient": lambda r: images[r.patient]}
        tables = {"": {"total": list(records)}} | {
            title: _grouped(records, key) for title, key in keys.items()
        }
        width = max(len(name) for title, groups in tables.items() for name in (title, *groups))
        for title, groups in tables.items():
            lines += _table(title, groups, width=width)
        counts = {
            "gray": sum(r.gray_path is not None for r in records),
            "heatmap": sum(r.heat_path not in (None, r.gray_path) for r in records),
            "heatmap rendered from gray": sum(
                r.heat_path == r.gray_path is not None for r in records
            ),
            "temperatures": sum(r.temperature_path is not None for r in records),
        }
        lines += ["thermograms with", *_aligned(counts), ""]
        lines += ["files by size (rows x columns)", *_aligned(dict(sorted(self.sizes.items()))), ""]
        for kind, (title, action) in KINDS.items():
            if oddities := [oddity for oddity in self.oddities if oddity.kind == kind]:
                sort = "BAD" if kind in BAD_FILES else "note"
                lines.append(f"{sort}: {title} [{kind}], {len(oddities)}: {action}")
                width = min(max(len(oddity.file) for oddity in oddities), 60)
                lines += [f"  {_plain(o.file):<{width}}  {_plain(o.detail)}" for o in oddities]
                lines.append("")
        annotations = sum(self.count(kind) for kind in _BAD_ANNOTATIONS)
        lines.append(
            f"skipped files: {len(self.skipped)}; annotations left out: {annotations}; "
            f"oddities in all: {len(self.oddities)}"
        )
        return "\n".join(lines) + "\n"

    def records_csv(self, records: Iterable[Thermogram]) -> str:
        """A table of the thermograms."""
        return _safe_csv(map(_record_row, records), header=_RECORD_COLUMNS)

    def oddities_csv(self) -> str:
        """A table of the oddities."""
        rows = (
            ("bad file" if o.is_bad else "note", o.kind, o.file, o.detail, KINDS[o.kind][1])
            for o in self.oddities
        )
        return _safe_csv(rows, header=("sort", "kind", "file", "detail", "action"))

    def write(
        self, directory: str | os.PathLike, records: Sequence[Thermogram]
    ) -> list[epath.Path]:
        """Writes `REPORT_FILES`; returns their paths."""
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        texts = self.text(records), self.records_csv(records), self.oddities_csv()
        for name, text in zip(REPORT_FILES, texts, strict=True):
            # In names that are not UTF-8, Python uses surrogates, which are written as escapes.
            (directory / name).write_bytes(text.encode("utf-8", errors="backslashreplace"))
        return [directory / name for name in REPORT_FILES]


_COUNTS: dict[str, Callable[[Thermogram], str]] = {
    "label": lambda r: LABEL_NAMES[r.label],
    "view": lambda r: VIEW_NAMES[r.view],
    "protocol": lambda r: PROTOCOL_NAMES[r.protocol],
    "year": lambda r: r.date[:4] or "unknown",
    "annotated": lambda r: "yes" if r.regions else "no",
    "mirrored": lambda r: "yes" if r.mirrored else "no",
}


def _grouped(
    records: Iterable[Thermogram], key: Callable[[Thermogram], str | int]
) -> dict[str, list[Thermogram]]:
    groups = collections.defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return {str(value): groups[value] for value in sorted(groups)}


def _table(title: str, groups: dict[str, list[Thermogram]], *, width: int) -> list[str]:
    names = [LABEL_NAMES[label] for label in (HEALTHY, SICK, UNLABELLED)]
    rows = [(title, ["images", "patients", *names])]
    for name, records in groups.items():
        labels = collections.Counter(LABEL_NAMES[record.label] for record in records)
        patients = len({record.patient for record in records})
        rows.append((name, [len(records), patients, *(labels[label] for label in names)]))
    return [f"{name:<{width}}" + "".join(f"{c:>11}" for c in cells) for name, cells in rows] + [""]


def _aligned(counts: dict[str, int]) -> list[str]:
    width = max(map(len, counts), default=0)
    return [f"  {name:<{width}}  {count:>7}" for name, count in counts.items()]


def _plain(text: str) -> str:
    """Escapes characters of file names and diagnoses that would break a line or a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_RECORD_COLUMNS = (
    *("name", "patient", "patient_known", "visit", "view", "protocol", "date", "frame", "mirrored"),
    *("label", "gray", "heat", "temperatures", "mean_temperature", "annotated"),
)


def _record_row(record: Thermogram) -> list[object]:
    values = vars(record) | {
        "visit": record.visit or "",
        "view": VIEW_NAMES[record.view],
        "protocol": PROTOCOL_NAMES[record.protocol],
        "frame": record.frame if record.frame >= 0 else "",
        "label": LABEL_NAMES[record.label],
        "annotated": bool(record.regions),
        **{kind: kind in record.paths for kind in PATH_FIELDS},
    }
    if record.mean_temperature is not None:
        values["mean_temperature"] = f"{record.mean_temperature:.2f}"
    return [values[column] for column in _RECORD_COLUMNS]


def _safe_csv(rows: Iterable[Sequence[object]], *, header: Sequence[str]) -> str:
    return csv_text(header, [[safe_cell(value) for value in row] for row in rows])


def safe_cell(value: object) -> str:
    """The text of a cell, quoted if a spreadsheet would run it as a formula."""
    text = "" if value is None else _plain(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
