"""The data report: what a data set contains, and every oddity of it by file name.

Readers yield their oddities (`Reading`), and nothing is left out without one. An oddity is of one
of two sorts. A *bad file* contains something that cannot be trusted and is left out; `strict` stops
at the first one. A *note* is worth knowing, and everything usable stays in use.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from etils import epath

from thermo_jax.data.thermogram import (
    HEALTHY,
    LABEL_NAMES,
    PROTOCOL_NAMES,
    SICK,
    UNLABELLED,
    VIEW_NAMES,
    DataError,
    Thermogram,
)
from thermo_jax.files import csv_text

# Slug: (heading, what was done about it).
BAD_FILES = {
    "unreadable-image": ("image cannot be read", "file left out"),
    "wrong-size": ("image of the wrong size", "file left out"),
    "coloured-gray": ("gray image holds colour", "file left out"),
    "unreadable-matrix": ("temperatures cannot be read", "file left out"),
    "wrong-shape": ("temperature matrix of the wrong shape", "file left out"),
    "not-a-number": ("temperatures with NaN or infinity", "file left out"),
    "kelvin": ("temperatures look like Kelvin", "file left out"),
    "out-of-range": ("temperatures outside 10..45 degrees C", "file left out"),
    "unreadable-folder": ("folder cannot be read", "left out"),
    "too-large": ("file implausibly large", "file left out"),
    "duplicate": ("second file for the same thermogram", "the first by name kept, this left out"),
    "patient-mismatch": ("file name and folder name different patients", "file left out"),
    "conflicting-diagnosis": ("patient with conflicting diagnoses", "whole patient left out"),
    "unreadable-diagnosis": ("diagnosis file cannot be read", "treated as unlabelled"),
    "unreadable-annotations": ("annotation file cannot be read", "its annotations left out"),
    "unusable-polygon": ("polygon that cannot be drawn", "image treated as not annotated"),
    "annotation-size": ("annotated at another size than 640x480", "annotation left out"),
}
NOTES = {
    "missing-snap": ("no heatmap (snap)", "rendered from temperatures, else gray only"),
    "missing-gray": ("no gray image", "rendered from temperatures, else heatmap only"),
    "assumed-view": ("no view in any file name of class folders", "all taken as frontal"),
    "missing-diagnosis": ("no diagnosis file or row", "treated as unlabelled"),
    "unknown-diagnosis": ("diagnosis is neither Healthy nor Sick", "treated as unlabelled"),
    "bad-row": ("row of the diagnosis table is not usable", "row left out"),
    "duplicate-row": ("patient listed twice with one diagnosis", "used once"),
    "missing-file": ("diagnosis without a thermogram", "ignored"),
    "unknown-patient": ("patient cannot be told", "grouped by folder, pretraining only"),
    "unknown-name": ("file name of no known form", "view, visit and date unknown"),
    "odd-name": ("impossible view or date in the file name", "that part treated as unknown"),
    "blank-image": ("every pixel has the same value", "kept"),
    "ignored-file": ("not a thermogram", "ignored"),
    "absent-image": ("annotation file names an image that is not here", "ignored"),
    "unknown-image-id": ("annotation of an image that the file does not list", "ignored"),
    "unknown-category": ("annotation of an unknown category", "that region left out"),
    "several-rings": ("region of several polygons", "filled together as one region"),
    "repeated-image": ("annotation file lists the image twice", "first kept"),
    "ambiguous-annotation": ("several images fit the annotation", "annotation left out"),
}
_BAD_ANNOTATIONS = frozenset({"unusable-polygon", "annotation-size"})
KINDS = {**BAD_FILES, **NOTES}


@dataclasses.dataclass(frozen=True)
class Oddity:
    """Its kind (a key of `KINDS`), the file relative to the root, and a sentence."""

    kind: str
    file: str
    detail: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of oddity {self.kind!r}; known: {', '.join(KINDS)}")

    @property
    def is_bad(self) -> bool:
        """Whether it stops a strict run."""
        return self.kind in BAD_FILES


# What a function that reads a data set returns: a generator, which yields each oddity where it is
# found and returns the result. The caller writes `result = yield from read_something(...)`, or, at
# the top, `result = report.collect(read_something(...))`.
T = TypeVar("T")
Reading = Generator[Oddity, None, T]


@dataclasses.dataclass
class DataReport:
    """The oddities of a data set. `strict` raises `DataError` at the first bad file."""

    root: str | pathlib.Path = ""
    layout: str = ""
    strict: bool = False
    oddities: list[Oddity] = dataclasses.field(default_factory=list)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)  # "gray 480x640" -> files

    def collect(self, reading: Reading[T]) -> T:
        """Reads to the end: adds the oddities, and returns the result.

        Raises:
          DataError: a bad file, under `strict`.
        """
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
        """Returns the number of oddities of this kind."""
        return sum(oddity.kind == kind for oddity in self.oddities)

    @property
    def skipped(self) -> list[str]:
        """The bad files, sorted, each once. A bad annotation does not skip its image's file."""
        kinds = BAD_FILES.keys() - _BAD_ANNOTATIONS
        return sorted({oddity.file for oddity in self.oddities if oddity.kind in kinds})

    def summary(self) -> str:
        """Returns one line: how many of each kind."""
        counts = collections.Counter(oddity.kind for oddity in self.oddities)
        return ", ".join(f"{n} {kind}" for kind, n in counts.most_common()) or "no oddities"

    def text(self, records: Sequence[Thermogram]) -> str:
        """Returns the report for reading: counts, then the oddities grouped by kind."""
        source = f"{self.root} ({self.layout} layout)" if self.layout else str(self.root)
        lines = [f"Data report: {source}".rstrip(), ""]
        images = collections.Counter(record.patient for record in records)
        keys = _COUNTS | {"images per patient": lambda r: images[r.patient]}
        tables = [("", {"total": list(records)})]
        tables += [(title, _grouped(records, key)) for title, key in keys.items()]
        width = max(len(name) for title, groups in tables for name in (title, *groups))
        for title, groups in tables:
            lines += _table(title, groups, width=width)
        with_pixels = [
            (name, sum(kind in record.paths for record in records))
            for name, kind in (("gray", "gray"), ("heatmap", "heat"), ("temperatures",) * 2)
        ]
        lines += ["thermograms with", *_aligned(with_pixels), ""]
        lines += ["files by size (rows x columns)", *_aligned(sorted(self.sizes.items())), ""]
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

    def csv(self, records: Sequence[Thermogram]) -> str:
        """Returns the records as CSV, one row each, under a header."""
        return _safe_csv(_RECORD_COLUMNS, records)

    def oddities_csv(self) -> str:
        """Returns the oddities as CSV, one row each, under a header."""
        return _safe_csv(_ODDITY_COLUMNS, self.oddities)

    def write(
        self, directory: str | os.PathLike, records: Sequence[Thermogram]
    ) -> list[epath.Path]:
        """Writes data_report.txt, records.csv and oddities.csv; returns their paths."""
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        contents = {
            "data_report.txt": self.text(records),
            "records.csv": self.csv(records),
            "oddities.csv": self.oddities_csv(),
        }
        for name, content in contents.items():
            # Bytes of file names that are not UTF-8 (surrogates) are written escaped.
            data = content.encode("utf-8", errors="backslashreplace")
            (directory / name).write_bytes(data)
        return [directory / name for name in contents]


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


def _aligned(rows: Iterable[tuple[str, int]]) -> list[str]:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{width}}  {count:>7}" for name, count in rows]


def _plain(text: str) -> str:
    """Keeps a file name or a quoted diagnosis from breaking the line or the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# Column -> its value.
_RECORD_COLUMNS: dict[str, Callable[[Thermogram], object]] = {
    "name": lambda r: r.name,
    "patient": lambda r: r.patient,
    "patient_known": lambda r: r.patient_known,
    "visit": lambda r: r.visit or "",
    "view": lambda r: VIEW_NAMES[r.view],
    "protocol": lambda r: PROTOCOL_NAMES[r.protocol],
    "date": lambda r: r.date,
    "frame": lambda r: r.frame if r.frame >= 0 else "",
    "mirrored": lambda r: r.mirrored,
    "label": lambda r: LABEL_NAMES[r.label],
    "gray": lambda r: r.gray_path is not None,
    "heat": lambda r: r.heat_path is not None,
    "temperatures": lambda r: r.temperature_path is not None,
    "mean_temperature": lambda r: "" if r.mean_temperature is None else f"{r.mean_temperature:.2f}",
    "annotated": lambda r: bool(r.regions),
}
_ODDITY_COLUMNS: dict[str, Callable[[Oddity], object]] = {
    "sort": lambda o: "bad file" if o.is_bad else "note",
    "kind": lambda o: o.kind,
    "file": lambda o: o.file,
    "detail": lambda o: o.detail,
    "action": lambda o: KINDS[o.kind][1],
}


def _safe_csv(columns: dict[str, Callable], items: Iterable[object]) -> str:
    return csv_text(
        list(columns), [[_cell(value(item)) for value in columns.values()] for item in items]
    )


def _cell(value: object) -> str:
    """A spreadsheet runs a cell that starts with one of these as a formula: quotes it."""
    text = _plain(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
