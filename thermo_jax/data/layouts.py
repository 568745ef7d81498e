"""The three layouts of DMR-IR on disk -> thermograms and a data report (SPEC section 4).

site           <root>/0001/T0001.1.1.D.2012-10-08.00{,_snap}.jpg, .txt, description.html, COCO
matrices       <root>/txt_files/T0001.txt, <root>/id_diagnosis.csv
class folders  <root>/{healthy,sick}/<patient>/T....{txt,jpg}, and synonyms

Every file is opened here, once, so that loading cannot fail later; what cannot be used is reported
by name and left out.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tqdm

from thermo_jax.data import diagnoses, radiometry
from thermo_jax.data.annotations import Regions, read_coco
from thermo_jax.data.data_report import BAD_FILES, DataReport
from thermo_jax.data.file_listing import (
    DIAGNOSIS_TABLE,
    MATRIX_SUFFIX,
    Draft,
    FileListing,
    group,
    note_others,
    list_files,
)
from thermo_jax.data.thermogram import (
    LABEL_NAMES,
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

LAYOUTS = ("auto", "site", "matrices", "class_folders")
_FIELDS = {"gray": "gray_path", "heat": "heat_path", "temperatures": "temperature_path"}
_READERS: dict[str, Callable[[pathlib.Path], np.ndarray]] = {
    "gray": radiometry.read_gray,
    "heat": radiometry.read_heat,
    "temperatures": radiometry.read_temperatures,
}


def scan(
    root: str | os.PathLike, *, layout: str = "auto", strict: bool = False
) -> tuple[list[Thermogram], DataReport]:
    """Finds and checks every thermogram under `root`, sorted by name.

    `strict` stops at the first bad file (`data_report.BAD_FILES`); otherwise it is left out and
    reported. Notes (`data_report.NOTES`), such as a missing snap, never stop a scan.

    Raises:
      FileNotFoundError: the root does not exist.
      UserError: an unknown layout, or nothing usable under the root.
      DataError: a bad file, under `strict`.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    files = list_files(root)
    if not files.pixels:
        raise UserError(
            f"no thermograms (.jpg or .txt) under {files.root}; expected one of the layouts "
            "site, matrices or class_folders (see the README)"
        )
    report = DataReport(files.root, strict=strict)
    report.layout = detect(files) if layout == "auto" else layout
    unread = {"site": files.tables, "matrices": files.pages}
    note_others(files, report, unread.get(report.layout, files.tables + files.pages))
    drafts = group(files, report)
    identified = [_identify(draft, report) for draft in drafts]
    records = [record for record in identified if record is not None]
    records = _with_views(records, report)
    records = _with_labels(records, files, report)
    records = _check_pixels(records, files, report)
    records = _drop_duplicates(records, files, report)
    records = _with_regions(records, files, report)
    if not records:
        first = next(oddity for oddity in report.oddities if oddity.kind in BAD_FILES)
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
    folders = {pathlib.PurePosixPath(files.relative(p)).parent for p in files.pixels}
    if any(diagnoses.label_of_folder(folder) is not None for folder in folders):
        return "class_folders"
    flat = folders == {pathlib.PurePosixPath(".")}
    if flat and all(path.suffix.lower() == MATRIX_SUFFIX for path in files.pixels):
        return "matrices"
    return "site"


def _identify(draft: Draft, report: DataReport) -> Thermogram | None:
    """Tells who and what a file is from its name, and the patient from its folders if need be.

    None where name and folder name different patients: kept, it might train on a test patient.
    """
    parsed = parse_name(draft.stem)
    if parsed is None:
        report.add("unknown-name", draft.file, "no form of DMR-IR file name")
        parsed = ParsedName()
    elif parsed.protocol and not parsed.complete:
        report.add("odd-name", draft.file, "expected view 1..5, visit from 1, and a real date")
    parts = diagnoses.below_class_folder(draft.folder)  # folds of a split may be above: 1/sick/
    sure, unsure = patients_of_folders(parts)
    patient = parsed.patient or next(iter(sure + unsure), None)
    if detail := contradiction(patient, parts):
        report.add("patient-mismatch", draft.file, detail)
        return None
    if patient is None:
        report.add("unknown-patient", draft.file, "neither name nor folder tells the patient")
    # Bare names (T0001.txt) are those of the database's frontal matrices.
    bare = parsed.patient is not None and parsed == ParsedName(
        patient=parsed.patient, mirrored=parsed.mirrored
    )
    return Thermogram(
        name=draft.name,
        patient=patient or f"folder:{draft.folder.as_posix()}",
        patient_known=patient is not None,
        visit=parsed.visit,
        view=1 if bare else parsed.view,
        protocol=parsed.protocol,
        date=parsed.date,
        frame=parsed.frame,
        mirrored=parsed.mirrored,
        gray_path=draft.paths.get("gray"),
        heat_path=draft.paths.get("heat"),
        temperature_path=draft.paths.get("temperatures"),
    )


def _with_views(records: list[Thermogram], report: DataReport) -> list[Thermogram]:
    """Takes all thermograms of class folders as frontal if no file name contains a view."""
    if report.layout != "class_folders" or any(record.view for record in records):
        return records
    report.add("assumed-view", ".", f"none of {len(records)} file names contains a view")
    return [dataclasses.replace(record, view=1) for record in records]


def _with_labels(
    records: list[Thermogram], files: FileListing, report: DataReport
) -> list[Thermogram]:
    """Gives each record its label; leaves out patients whose diagnoses contradict each other."""
    found = _LABELLERS[report.layout](records, files, report)
    of_patient: dict[str, set[int]] = {}
    for record, labels in zip(records, found, strict=True):
        of_patient.setdefault(record.patient, set()).update(labels)
    kept = []
    for record in records:
        if len(of_patient[record.patient]) > 1:
            names = " and ".join(LABEL_NAMES[label] for label in sorted(of_patient[record.patient]))
            detail = f"patient {record.patient} is called {names}"
            for file in _files(record, files):
                report.add("conflicting-diagnosis", file, detail)
        else:
            # The patient's: one visit of hers may lack its page.
            label = next(iter(of_patient[record.patient]), UNLABELLED)
            kept.append(dataclasses.replace(record, label=label))
    return kept


def _files(record: Thermogram, files: FileListing) -> list[str]:
    """Returns the names of a thermogram's files, relative to the root."""
    paths = [getattr(record, field) for field in _FIELDS.values()]
    return [files.relative(path) for path in paths if path is not None]


def _folder(record: Thermogram) -> pathlib.PurePosixPath:
    return pathlib.PurePosixPath(record.name).parent


def _labels_of_site(records, files, report) -> list[set[int]]:
    pages = diagnoses.read_pages(files, report)
    diagnoses.note_missing_pages(map(_folder, records), pages, report)
    places = [diagnoses.nearest(_folder(record), pages) for record in records]
    return [pages[place] if place is not None else set() for place in places]


def _labels_of_matrices(records, files, report) -> list[set[int]]:
    table = diagnoses.read_table(files, (r.patient for r in records), report)
    if not files.tables:
        report.add("missing-diagnosis", DIAGNOSIS_TABLE, "no such file; every patient unlabelled")
    for record in records:
        if files.tables and record.patient not in table:
            detail = f"no row for patient {record.patient} in {DIAGNOSIS_TABLE}"
            report.add("missing-diagnosis", _files(record, files)[0], detail)
    return [table.get(record.patient, set()) for record in records]


def _labels_of_class_folders(records, files, report) -> list[set[int]]:
    found = [diagnoses.label_of_folder(_folder(record)) for record in records]
    for record, label in zip(records, found, strict=True):
        if label is None:
            detail = f"in no class folder ({', '.join(diagnoses.CLASS_FOLDERS)})"
            report.add("missing-diagnosis", _files(record, files)[0], detail)
    return [set() if label is None else {label} for label in found]


_LABELLERS = {
    "site": _labels_of_site,
    "matrices": _labels_of_matrices,
    "class_folders": _labels_of_class_folders,
}


def _check_pixels(
    records: list[Thermogram], files: FileListing, report: DataReport
) -> list[Thermogram]:
    """Opens every file; takes the bad ones out of their records, and records without pixels out."""
    tasks = [
        (index, slot, path)
        for index, record in enumerate(records)
        for slot in _READERS
        if (path := getattr(record, _FIELDS[slot])) is not None
    ]
    bad: dict[int, set[str]] = {}
    records = list(records)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(_check_file, [task[1] for task in tasks], [task[2] for task in tasks])
        # Quiet when not a terminal (disable=None) and on small sets (delay).
        progress = tqdm.tqdm(results, "checking", len(tasks), unit="file", disable=None, delay=2)
        try:
            for (index, slot, path), found in zip(tasks, progress, strict=True):
                name = files.relative(path)
                if found.size:
                    report.sizes[f"{slot} {found.size}"] += 1
                if found.error is not None:
                    bad.setdefault(index, set()).add(slot)
                    report.add(found.error.kind, name, found.error.detail)
                    continue
                if found.blank:
                    report.add("blank-image", name, "check the recording")
                if slot == "temperatures":
                    records[index] = dataclasses.replace(
                        records[index], mean_temperature=found.mean
                    )
        except DataError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _note_missing(records, bad, files, report)
    kept = [_without(record, bad.get(index, set())) for index, record in enumerate(records)]
    return [record for record in kept if record is not None]


class _Checked(NamedTuple):
    error: DataError | None
    size: str  # as read, "" where it could not be
    blank: bool = False  # all pixels are alike
    mean: float | None = None


def _check_file(slot: str, path: pathlib.Path) -> _Checked:
    try:
        pixels = _READERS[slot](path)
    except DataError as error:
        return _Checked(error, error.size)
    size = f"{pixels.shape[0]}x{pixels.shape[1]}"
    blank = bool((pixels == pixels[0, 0]).all())
    return _Checked(None, size, blank, float(pixels.mean(dtype=np.float64)))


def _note_missing(records, bad: dict[int, set[str]], files, report) -> None:
    for index, record in enumerate(records):
        slots = {slot for slot, field in _FIELDS.items() if getattr(record, field) is not None}
        rendered = "temperatures" in slots - bad.get(index, set())
        file = _files(record, files)[0]
        if "gray" in slots and "heat" not in slots:
            detail = "heatmap rendered from temperatures" if rendered else "usable as gray only"
            report.add("missing-snap", file, detail)
        if "heat" in slots and "gray" not in slots:
            detail = "gray rendered from temperatures" if rendered else "usable as heatmap only"
            report.add("missing-gray", file, detail)


def _without(record: Thermogram, bad: set[str]) -> Thermogram | None:
    """Returns the record without its bad files, or None if nothing is left."""
    left = dataclasses.replace(record, **{_FIELDS[slot]: None for slot in bad})
    return left if any(getattr(left, field) for field in _FIELDS.values()) else None


def _drop_duplicates(
    records: list[Thermogram], files: FileListing, report: DataReport
) -> list[Thermogram]:
    """Keeps the first record by name of each (patient, visit, view, protocol, frame, mirrored)."""
    kept: dict[tuple, Thermogram] = {}
    for record in records:
        first = kept.setdefault(_identity(record), record)
        if first is not record:
            detail = f"same patient, visit, view, protocol and frame as {first.name}"
            for file in _files(record, files):
                report.add("duplicate", file, detail)
    return list(kept.values())


def _identity(record: Thermogram) -> tuple:
    stem = pathlib.PurePosixPath(record.name).name
    parsed = parse_name(stem)
    if not record.patient_known or parsed is None:
        return (record.name,)
    if parsed.complete:
        what = (record.visit, record.view, record.protocol, record.frame)
    else:
        what = (stem.lower(),)
    return (record.patient, record.mirrored, *what)


def _with_regions(
    records: list[Thermogram], files: FileListing, report: DataReport
) -> list[Thermogram]:
    """Attaches the COCO regions to the records of the same file stem, in the folder it names."""
    regions: dict[pathlib.PurePosixPath, Regions] = {}
    for path in files.annotations:
        for image, found in read_coco(path, report).items():
            if image in regions:
                report.add("repeated-image", str(image), f"also annotated in {path.name}")
            regions.setdefault(image, found)
    at_stem: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        at_stem.setdefault(pathlib.PurePosixPath(record.name).name, []).append(index)
    present = {split_name(path.name)[0] for path in files.pixels}
    records = list(records)
    for image, found in regions.items():
        stem = image.name
        indexes = at_stem.get(stem, [])
        inside = [index for index in indexes if _ends_with(records[index].name, image)]
        parsed = parse_name(stem)
        if inside or parsed is None or parsed.patient is None:
            # A name that tells no patient (IR_2015-04-17_0007) is hers only in her folder.
            indexes = inside
        if len(indexes) == 1 and records[indexes[0]].regions:
            report.add("repeated-image", str(image), f"{records[indexes[0]].name} has regions")
            continue
        if len(indexes) == 1:
            records[indexes[0]] = dataclasses.replace(records[indexes[0]], regions=found)
        elif indexes:
            names = ", ".join(records[index].name for index in indexes)
            report.add("ambiguous-annotation", str(image), f"fits {names}")
        else:
            detail = "its files were left out, see above" if stem in present else "no such file"
            report.add("absent-image", str(image), detail)
    return records


def _ends_with(name: str, image: pathlib.PurePosixPath) -> bool:
    parts = pathlib.PurePosixPath(name).parts
    return parts[-len(image.parts) :] == image.parts
