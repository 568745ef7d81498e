"""Finds and reads the thermograms that a user gives to `predict`.

    files, folders, patterns, zips -> listings of files -> Thermogram: whose, of which view
                                                        -> ReadThermogram: its pixels

Files are recognised and read as for training (`data/identity.py`, `data/reader.py`).
"""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

from absl import logging

from thermo_jax.data import identity, thermogram_table
from thermo_jax.data.data_report import KINDS, DataReport, Oddity, Reading
from thermo_jax.data.file_listing import IMAGES, MATRICES, FileListing, group_by_name
from thermo_jax.data.name_guess import guess_from_names
from thermo_jax.data.picture import Picture, read_picture, with_frames
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings
from thermo_jax.data.thermogram import Thermogram, stem_of, without_suffix
from thermo_jax.errors import UserError
from thermo_jax.inference.sources import Listing, find_sources, list_sources, log_unused

# Oddities that do not matter for a prediction.
_IGNORED = ("unknown-patient", "missing-diagnosis", "assumed-view")
Paths = str | os.PathLike | Iterable[str | os.PathLike]


class ReadThermogram(NamedTuple):
    """A thermogram, its pixels, and what a reader of the results must know about it."""

    record: Thermogram
    picture: Picture
    notes: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The path of its main file, relative to the user's folder.

        For a frame of a stack, it is the name of the thermogram with the suffix of the file.
        """
        name, file = pathlib.PurePosixPath(self.record.name), self.picture.main_file
        is_whole_file = stem_of(file).lower() == name.name.lower()
        return name.with_name(file.name if is_whole_file else name.name + file.suffix).as_posix()


class Unreadable(NamedTuple):
    """A thermogram without a usable file, or a folder that cannot be read, and the reason."""

    name: str  # of a folder: with "/*"
    reason: str
    patient: str | None = None  # if known

    @property
    def probability(self) -> None:
        """None, as for a thermogram that no classifier can read."""
        return None


class Inputs(NamedTuple):
    """Thermograms of a user, and notes about them by their names.

    Patients are in the order of their first names, and so are the thermograms of each patient.
    """

    items: list[Thermogram | Unreadable]
    notes: dict[str, list[str]]


def find_thermograms(
    paths: Paths, *, unpack_dir: pathlib.Path, leave_out: str | os.PathLike | None = None
) -> Inputs:
    """Finds the thermograms in files, folders, zips, or patterns such as "clinic/*.csv".

    A file that is given twice is one thermogram. A subfolder that cannot be read becomes an
    `Unreadable`. Files of other kinds are ignored with a log message, and so are workdirs, whose
    pictures are results.

    Args:
      unpack_dir: an empty folder, for the content of zips.
      leave_out: a folder to ignore, such as the folder of the results.
    Raises:
      FileNotFoundError: there is no such file or folder.
      PermissionError: a folder cannot be read.
      UserError: there is no thermogram, a folder is the workdir of a run, or a zip or a
        thermograms.csv cannot be used.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise UserError("no file or folder is given: name a thermogram or a folder of them")
    sources = find_sources(given, leave_out=leave_out)
    common = pathlib.Path(os.path.commonpath([source.root for source in sources]))
    inputs = Inputs([], {})
    names: set[str] = set()
    seen: set[pathlib.Path] = set()
    for listing in list_sources(sources, common, unpack_dir=unpack_dir, leave_out=leave_out):
        _add(inputs, listing, names, seen)
    if not inputs.items:
        kinds = ", ".join(suffix[1:] for suffix in MATRICES + IMAGES)
        shown = ", ".join(map(str, given))
        raise UserError(f"{shown} is or contains no thermogram: expected files of {kinds}")
    # The frames of a file stay in their order.
    inputs.items.sort(key=lambda item: re.sub(r"\.frame\d+$", "", item.name))
    first: dict[tuple[str, bool], int] = {}  # position of each patient's first thermogram
    for position, item in enumerate(inputs.items):
        first.setdefault(_whose(item), position)
    inputs.items.sort(key=lambda item: first[_whose(item)])
    return inputs


def who(name: str, patient: str | None) -> tuple[str, bool]:
    """(patient, True), or (name, False) for a thermogram whose patient is not known."""
    return patient or name, patient is not None


def _whose(item: Thermogram | Unreadable) -> tuple[str, bool]:
    patient = item.patient if isinstance(item, Unreadable) else item.known_patient
    return who(item.name, patient)


def read_thermogram(
    record: Thermogram, settings: ReaderSettings = AS_RECOGNISED, *, notes: Sequence[str] = ()
) -> ReadThermogram | Unreadable:
    """Reads the files of a thermogram. A file that cannot be read is named in a note.

    Args:
      notes: what is known about it already.
    """
    picture, errors = read_picture(record.files, settings, frame=record.frame_in_file)
    failed = [f"{pathlib.Path(error.file).name}: {error.detail}" for error in errors]
    if picture is None:
        reason = "; ".join(dict.fromkeys([*failed, *notes]))
        return Unreadable(record.name, reason, record.known_patient)
    notes = [*notes, *record.notes, *failed, *picture.notes]
    return ReadThermogram(record, picture, tuple(dict.fromkeys(notes)))


def _add(inputs: Inputs, listing: Listing, names: set[str], seen: set[pathlib.Path]) -> None:
    """Adds the thermograms of one listing.

    Args:
      names: those in use; the new ones are added.
      seen: files of earlier listings, which are not used again; the new ones are added.
    """
    files = listing.files
    log_unused(files)

    def named(name: str) -> str:
        full = unique = f"{listing.prefix}/{name}" if listing.prefix else name
        number = 1
        while unique in names:
            number += 1
            unique = f"{full} ({number})"
        names.add(unique)
        return unique

    report = DataReport(files.root)
    records = report.collect(_identified(files, seen))
    seen.update(path for record in records for path in record.files)
    oddities: dict[str, list[Oddity]] = collections.defaultdict(list)  # of each stem
    for oddity in report.oddities:
        if oddity.kind in _IGNORED:
            continue
        logging.info("%s: %s", oddity.file, oddity.detail)
        oddities[_stem(oddity.file).lower()].append(oddity)
    used = set()
    for record in records:
        stem = _stem(files.relative(record.files[0])).lower()
        used.add(stem)
        name = named(record.name)
        inputs.notes[name] = [_note(oddity) for oddity in oddities.get(stem, ())]
        inputs.items.append(dataclasses.replace(record, name=name))
    # Rows of the table that cannot be used, and damaged files of the zip.
    lost: dict[str, list[str]] = collections.defaultdict(list)
    for oddity in report.oddities:
        if oddity.is_bad and _stem(oddity.file).lower() not in used:
            lost[_stem(oddity.file)].append(oddity.note)
    for file, reason in listing.failed.items():
        lost[_stem(file)].append(f"{file.name}: {reason}")
    for stem, reasons in lost.items():
        inputs.items.append(Unreadable(named(stem), "; ".join(reasons)))
    for folder in files.closed:
        reason = f"folder {files.relative(folder)} cannot be read: check its permissions"
        patient = guess_from_names([folder / "*"], files).patient or None
        name = named(f"{files.relative(folder)}/*")
        inputs.items.append(Unreadable(name, reason, patient))


def _identified(files: FileListing, seen: Set[pathlib.Path]) -> Reading[list[Thermogram]]:
    """Finds out whose the thermograms of a listing are; those of files in `seen` are left out."""
    if files.thermogram_table:
        table = yield from thermogram_table.identify_listed(files, for_prediction=True)
        records, frames = table.records, table.frames
    else:
        groups = [group for group in group_by_name(files) if seen.isdisjoint(group)]
        records = yield from identity.identify(groups, files, keep_mismatched=True)
        frames = {}
    new = [record for record in records if seen.isdisjoint(record.files)]
    return (yield from with_frames(new, files=files, chosen=frames))


def _stem(file: str | pathlib.PurePosixPath) -> str:
    """What the files of one thermogram have in common; a table may name any file."""
    return without_suffix(pathlib.PurePosixPath(file)).as_posix()


def _note(oddity: Oddity) -> str:
    if oddity.kind == "patient-mismatch":
        return oddity.detail
    if oddity.kind == "odd-name":
        return f"{KINDS[oddity.kind][0]}: {oddity.detail}"
    return oddity.note
