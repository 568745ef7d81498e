"""DMR-IR's own layouts, site and matrices: names, kinds and sizes are those of the database.

A file of another kind or size is bad; pictures of other formats are logos and thumbnails of the
site. `layouts` says how the folders look.
"""

import collections
import contextlib
import dataclasses
import functools
import pathlib

from thermo_jax.data import class_folders, diagnoses, identity
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.file_listing import MATRIX_SUFFIX, FileListing, group
from thermo_jax.data.radiometry import measured_mean
from thermo_jax.data.reader import Content, ReaderSettings, read_file
from thermo_jax.data.thermogram import (
    GRAY_SHAPE,
    HEAT_SHAPE,
    PATH_FIELDS,
    DataError,
    ParsedName,
    Thermogram,
    contradiction,
    parse_name,
    patients_of_folders,
    split_name,
)
from thermo_jax.data.workers import ordered_map

# Layout -> the function that reads its diagnoses.
DIAGNOSES = {"site": diagnoses.labels_of_site, "matrices": diagnoses.labels_of_matrices}
SUFFIXES = (".jpg", ".jpeg", MATRIX_SUFFIX)
_CONTENTS = {"gray": "gray", "heat": "colour", "temperatures": "temperatures"}


def keep_files(files: FileListing) -> None:
    """Moves the files of other kinds to `files.others`."""
    files.others += [path for path in files.pixels if not is_dmr_file(path)]
    files.pixels = [path for path in files.pixels if is_dmr_file(path)]


def is_dmr_file(path: pathlib.Path) -> bool:
    """Whether the database has files of this suffix."""
    return path.suffix.lower() in SUFFIXES


def read(
    files: FileListing, settings: ReaderSettings, sizes: collections.Counter[str]
) -> Reading[tuple[list[Thermogram], dict[str, pathlib.Path]]]:
    """Finds and checks the thermograms; counts the files of each size ("gray 480x640").

    Returns the thermograms, and an empty dictionary: no table gives their annotation files.
    """
    records = yield from _identified(files)
    labels = yield from DIAGNOSES[files.layout](records, files)
    records = yield from identity.without_conflicts(records, files, labels)
    return (yield from _with_sound_files(records, files, settings, sizes)), {}


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
        parts = class_folders.below_class_folder(folder)
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


def _with_sound_files(
    records: list[Thermogram],
    files: FileListing,
    settings: ReaderSettings,
    sizes: collections.Counter[str],
) -> Reading[list[Thermogram]]:
    """Opens every file; removes bad files, and records of which no file is left."""
    kept, incomplete = [], []
    check = functools.partial(_check_files, root=files.root, settings=settings)
    checks = ordered_map(check, records, description="checking", by_processes=True)
    with contextlib.closing(checks):  # a strict scan stops at a bad file
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
    return kept


def _check_files(
    record: Thermogram, *, root: pathlib.Path, settings: ReaderSettings
) -> tuple[Thermogram, list[Oddity], list[str]]:
    """Returns the record without its bad files, the oddities, and the sizes that could be read."""
    changes, oddities, sizes, notes = {}, [], [], []
    for kind, path in record.paths.items():
        file = path.relative_to(root).as_posix()
        try:
            content = _read(path, kind, settings)
        except DataError as error:
            oddities.append(Oddity(error.kind, file, error.detail))
            sizes += [f"{kind} {error.size}"] if error.size else []
            changes[PATH_FIELDS[kind]] = None
            continue
        sizes.append(f"{kind} {content.pixels.shape[0]}x{content.pixels.shape[1]}")
        of_content = [Oddity(note_kind, file, text) for note_kind, text in content.notes]
        oddities += of_content
        notes += [oddity.note for oddity in of_content]
        if kind == "temperatures":
            changes["mean_temperature"] = measured_mean(content.pixels, content.good)
    return dataclasses.replace(record, **changes, notes=tuple(notes)), oddities, sizes


def _read(path: pathlib.Path, kind: str, settings: ReaderSettings) -> Content:
    """Reads a file that must have the kind and the size of the database's files."""
    content = read_file(path, settings)
    rows, columns = content.pixels.shape[:2]
    expected = HEAT_SHAPE if kind == "heat" else GRAY_SHAPE
    if (rows, columns) != expected:
        size = f"{rows}x{columns}"
        detail = f"{size} pixels (rows x columns); expected {expected[0]}x{expected[1]}"
        error = "wrong-shape" if kind == "temperatures" else "wrong-size"
        raise DataError(error, path, detail, size=size)
    if content.kind != _CONTENTS[kind] or content.recovered:
        raise DataError("coloured-gray", path, "not a gray thermogram; is it a heatmap?")
    return content
