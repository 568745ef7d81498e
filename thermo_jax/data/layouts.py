"""The three layouts of DMR-IR on disk -> thermograms and a data report (SPEC section 4).

site           <root>/0001/T0001.1.1.D.2012-10-08.00{,_snap}.jpg, .txt, description.html, COCO
matrices       <root>/txt_files/T0001.txt, <root>/id_diagnosis.csv
class folders  <root>/{healthy,sick}/<patient>/T....{txt,jpg}, or synonyms of healthy and sick

The scan opens every file once, so that loading does not fail later. Files that cannot be used are
reported by name and left out. Each step of the scan returns the thermograms that it keeps.
"""

import collections
import dataclasses
import functools
import os
import pathlib

import numpy as np

from thermo_jax.data import diagnoses, radiometry
from thermo_jax.data.annotation_files import annotate
from thermo_jax.data.data_report import DataReport, Oddity, Reading
from thermo_jax.data.file_listing import (
    DIAGNOSIS_TABLE,
    MATRIX_SUFFIX,
    FileListing,
    group,
    list_files,
    report_unused,
)
from thermo_jax.data.thermogram import (
    LABEL_NAMES,
    PATH_FIELDS,
    UNLABELLED,
    DataError,
    ParsedName,
    Thermogram,
    contradiction,
    parse_name,
    patients_of_folders,
    split_name,
)
from thermo_jax.errors import UserError

LABELS_OF_LAYOUT = {
    "site": diagnoses.labels_of_site,
    "matrices": diagnoses.labels_of_matrices,
    "class_folders": diagnoses.labels_of_class_folders,
}
LAYOUTS = ("auto", *LABELS_OF_LAYOUT)


def scan(
    root: str | os.PathLike, *, layout: str = "auto", strict: bool = False
) -> tuple[list[Thermogram], DataReport]:
    """Finds and checks every thermogram under `root`, sorted by name.

    `strict` stops at the first bad file (`data_report.BAD_FILES`); otherwise bad files are left out
    and reported. Notes (`data_report.NOTES`), such as a missing snap, never stop a scan.

    Raises:
      FileNotFoundError: the root does not exist.
      UserError: an unknown layout, or no usable thermogram.
      DataError: a bad file, if `strict`.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    files = list_files(root)
    if not files.pixels:
        raise UserError(
            f"no thermograms (.jpg or .txt) under {files.root}; expected one of the layouts "
            "site, matrices or class_folders (see the README)"
        )
    files.layout = detect(files) if layout == "auto" else layout
    report = DataReport(files.root, layout=files.layout, strict=strict)
    report.collect(report_unused(files))
    records = report.collect(_identified(files))
    records = report.collect(_with_views(records, files))
    records = report.collect(_with_labels(records, files))
    records, report.sizes = report.collect(_with_sound_pixels(records, files))
    records = report.collect(_without_duplicates(records, files))
    records = report.collect(annotate(records, files))
    if not records:
        first = next(oddity for oddity in report.oddities if oddity.is_bad)
        raise UserError(
            f"no usable thermogram among the {len(files.pixels)} files under {files.root}: "
            f"{report.summary()}; first: {first.file}: {first.detail}"
        )
    return records, report


def detect(files: FileListing) -> str:
    """Returns the layout of a data set: matrices, class_folders or site."""
    top = {path.relative_to(files.root).parts[0].lower() for path in files.sources()}
    if DIAGNOSIS_TABLE in top or "txt_files" in top:
        return "matrices"
    folders = {pathlib.PurePosixPath(files.relative(path)).parent for path in files.pixels}
    if any(diagnoses.label_of_folder(folder) is not None for folder in folders):
        return "class_folders"
    flat = folders == {pathlib.PurePosixPath(".")}
    if flat and all(path.suffix.lower() == MATRIX_SUFFIX for path in files.pixels):
        return "matrices"
    return "site"


def _identified(files: FileListing) -> Reading[list[Thermogram]]:
    """Reads patient, view and so on from file names; from folders if a name has no patient.

    A thermogram is left out if its file name and its folder contain different patients. Otherwise,
    an image of a test patient might be used for training.
    """
    records = []
    for paths in (yield from group(files)):
        file = files.relative(min(paths.values()))
        folder = pathlib.PurePosixPath(file).parent
        stem, _ = split_name(next(iter(paths.values())).name)
        parsed = parse_name(stem)
        if parsed is None:
            yield Oddity("unknown-name", file, "not a DMR-IR file name")
            parsed = ParsedName()
        elif parsed.protocol and not parsed.complete:
            yield Oddity("odd-name", file, "expected view 1..5, visit from 1, and a real date")
        # Folders above a class folder may be the folds of a split (1/sick/), not patients.
        parts = diagnoses.below_class_folder(folder)
        sure, unsure = patients_of_folders(parts)
        patient = parsed.patient or next(iter(sure + unsure), None)
        if detail := contradiction(patient, parts):
            yield Oddity("patient-mismatch", file, detail)
            continue
        if patient is None:
            yield Oddity("unknown-patient", file, "neither name nor folder contains the patient")
        fields = vars(parsed) | {
            "name": (folder / stem).as_posix(),
            "patient": patient or f"folder:{folder.as_posix()}",
            "patient_known": patient is not None,
        }
        # In the database, files with only a patient in their name (T0001.txt) are frontal views.
        if parsed.patient and parsed == ParsedName(patient=patient, mirrored=parsed.mirrored):
            fields["view"] = 1
        fields |= {PATH_FIELDS[kind]: path for kind, path in paths.items()}
        records.append(Thermogram(**fields))
    return records


def _with_views(records: list[Thermogram], files: FileListing) -> Reading[list[Thermogram]]:
    """Assumes frontal views in class folders if no file name there contains a view."""
    if files.layout != "class_folders" or any(record.view for record in records):
        return records
    yield Oddity("assumed-view", ".", f"none of {len(records)} file names contains a view")
    return [dataclasses.replace(record, view=1) for record in records]


def _with_labels(records: list[Thermogram], files: FileListing) -> Reading[list[Thermogram]]:
    """Adds the labels; leaves out patients whose diagnoses contradict each other."""
    of_records = yield from LABELS_OF_LAYOUT[files.layout](records, files)
    of_patient: dict[str, set[int]] = {}  # a label of one visit is used for all visits
    for record, labels in zip(records, of_records, strict=True):
        of_patient.setdefault(record.patient, set()).update(labels)
    kept = []
    for record in records:
        labels = of_patient[record.patient]
        if len(labels) <= 1:
            kept.append(dataclasses.replace(record, label=next(iter(labels), UNLABELLED)))
            continue
        names = " and ".join(LABEL_NAMES[label] for label in sorted(labels))
        for file in files.names(record):
            detail = f"patient {record.patient} is called {names}"
            yield Oddity("conflicting-diagnosis", file, detail)
    return kept


def _with_sound_pixels(
    records: list[Thermogram], files: FileListing
) -> Reading[tuple[list[Thermogram], collections.Counter[str]]]:
    """Opens every file; removes bad files, and records of which no file is left.

    Returns the records, and how many files there are of each size ("gray 480x640").
    """
    kept, incomplete, sizes = [], [], collections.Counter()
    check = functools.partial(_check_files, files=files)
    checks = radiometry.ordered_map(check, records, description="checking")
    for record, (sound, oddities, sizes_of_record) in zip(records, checks, strict=True):
        yield from oddities
        sizes.update(sizes_of_record)
        kept += [sound] if sound.paths else []
        if ("gray" in record.paths) != ("heat" in record.paths):
            incomplete.append((record, sound))
    for record, sound in incomplete:
        kind, missing, usable = (
            ("missing-snap", "heatmap", "gray")
            if "gray" in record.paths
            else ("missing-gray", "gray", "heatmap")
        )
        rendered = "temperatures" in sound.paths
        detail = f"{missing} rendered from temperatures" if rendered else f"usable as {usable} only"
        yield Oddity(kind, files.names(record)[0], detail)
    return kept, sizes


def _check_files(
    record: Thermogram, files: FileListing
) -> tuple[Thermogram, list[Oddity], list[str]]:
    """Returns the record without its bad files, the oddities, and the sizes that could be read."""
    changes, oddities, sizes = {}, [], []
    for kind, path in record.paths.items():
        file = files.relative(path)
        try:
            pixels = radiometry.READERS[kind](path)
        except DataError as error:
            oddities.append(Oddity(error.kind, file, error.detail))
            sizes += [f"{kind} {error.size}"] if error.size else []
            changes[PATH_FIELDS[kind]] = None
            continue
        sizes.append(f"{kind} {pixels.shape[0]}x{pixels.shape[1]}")
        if (pixels == pixels[0, 0]).all():
            oddities.append(Oddity("blank-image", file, "check the recording"))
        if kind == "temperatures":
            changes["mean_temperature"] = float(pixels.mean(dtype=np.float64))
    return dataclasses.replace(record, **changes), oddities, sizes


def _without_duplicates(records: list[Thermogram], files: FileListing) -> Reading[list[Thermogram]]:
    """Keeps one record for each patient, visit, view, protocol, frame and mirroring."""
    kept: dict[tuple, Thermogram] = {}
    for record in records:
        first = kept.setdefault(_identity(record), record)
        if first is not record:
            detail = f"same patient, visit, view, protocol and frame as {first.name}"
            for file in files.names(record):
                yield Oddity("duplicate", file, detail)
    return list(kept.values())


def _identity(record: Thermogram) -> tuple:
    stem = pathlib.PurePosixPath(record.name).name
    parsed = parse_name(stem)
    if not record.patient_known or parsed is None:
        return (record.name,)
    if not parsed.complete:
        return (record.patient, record.mirrored, stem.lower())
    recording = (record.visit, record.view, record.protocol, record.frame)
    return (record.patient, record.mirrored, *recording)
