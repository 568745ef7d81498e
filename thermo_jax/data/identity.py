"""Who and what (SPEC section 9): patient, label, view, visit and date of any folder's thermograms.

Nothing is opened: names of files and folders say everything. The rules, in this order:

1. DMR-IR's own file names (`thermogram.parse_name`).
2. A prefix and a number, of a folder (`sub-02/ses-1`, `healthy/7`) before a file's name (`P051`).
3. If the numbers of patients' folders start again in every class folder, patient 1 of one class is
   not patient 1 of the other: a patient is class *and* folder.
4. Each other file directly in a class folder is a patient of its own.

`thermogram_table` reads the user's own table, which comes before all these rules.
"""

import collections
import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thermo_jax.data.class_folders import below_class_folder, class_word
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.file_listing import THERMOGRAM_TABLE, FileListing
from thermo_jax.data.name_guess import NameGuess, guess_from_names
from thermo_jax.data.thermogram import (
    HEALTHY,
    LABEL_NAMES,
    SICK,
    UNLABELLED,
    Thermogram,
    contradiction,
    parse_name,
    stem_of,
)

# Notes of a thermogram. The first one is a caution on every report of the set.
ONE_PER_FILE = "patients assumed: one per file"
CLASS_AND_FOLDER = "numbers start again in every class: a patient is class and folder"
_UNSAFE = re.compile(r"[^\w.()=+ -]+")


def identify(
    groups: Sequence[Sequence[pathlib.Path]],
    files: FileListing,
    *,
    given: Sequence[Mapping[str, Any]] = (),
    keep_mismatched: bool = False,
) -> Reading[list[Thermogram]]:
    """Reads who and what from the names of files and folders; opens nothing.

    Args:
      groups: all files of each thermogram, which have the same folder and stem.
      files: the listing, whose root the names are relative to.
      given: for each group, fields of `Thermogram` that the user's table contains; they replace
        those of the names. Empty if there is no table.
      keep_mismatched: whether to keep a thermogram whose file name and folder contain different
        patients, as one of the patient in its file name. Only prediction may do so.
    Returns:
      The thermograms, in the order of the groups. `patient_known` is False where nothing names a
      patient. One is left out if its file name and its folder contain different patients:
      otherwise, an image of a test patient might be used for training. Patients with conflicting
      diagnoses are still included (see `without_conflicts`).
    """
    guesses = []
    for group, values in zip(groups, given or [{}] * len(groups), strict=True):
        guess = guess_from_names(group, files)
        guess.given = values
        parsed = parse_name(stem_of(group[0]))
        if parsed and parsed.protocol and not parsed.complete:
            yield Oddity(
                "odd-name", guess.file, "expected view 1..5, visit from 1, and a real date"
            )
        patient = guess.patient if guess.source == "dmr" else None
        mismatch = contradiction(patient, below_class_folder(guess.folder))
        if mismatch and "patient" not in values:
            yield Oddity("patient-mismatch", guess.file, mismatch)
            if not keep_mismatched:
                continue
        guesses.append(guess)
    _use_names_of_dmr(guesses)
    _distrust_running_numbers(guesses)
    yield from _split_by_class(guesses)
    _assume_one_per_file(guesses)
    records = [_record(guess) for guess in guesses]
    yield from _report_unknown(records, files)
    names_view = any(guess.names_view for guess in guesses)
    if records and not names_view and not any(record.view for record in records):
        yield Oddity("assumed-view", ".", f"none of {len(records)} file names contains a view")
        records = [dataclasses.replace(record, view=1) for record in records]
    return records


def without_conflicts(
    records: Sequence[Thermogram],
    files: FileListing,
    labels: Sequence[Iterable[int]] | None = None,
) -> Reading[list[Thermogram]]:
    """Leaves out patients whose diagnoses contradict each other.

    A label of one thermogram is used for all thermograms of its patient.

    Args:
      records: the thermograms, with labels unless `labels` is given.
      files: the listing, for the names of files in the report.
      labels: the diagnoses found for each thermogram; two of them are a contradiction.
    """
    if labels is None:
        labels = [{record.label} - {UNLABELLED} for record in records]
    of_patient: dict[str, set[int]] = {}
    for record, said in zip(records, labels, strict=True):
        of_patient.setdefault(record.patient, set()).update(said)
    kept = []
    for record in records:
        said = of_patient[record.patient]
        if len(said) <= 1:
            kept.append(dataclasses.replace(record, label=next(iter(said), UNLABELLED)))
            continue
        names = " and ".join(LABEL_NAMES[label] for label in sorted(said))
        for path in record.files or record.paths.values():
            detail = f"patient {record.patient} is called {names}"
            yield Oddity("conflicting-diagnosis", files.relative(path), detail)
    return kept


# ---------------------------------------------------------------- a whole set


def _use_names_of_dmr(guesses: Sequence[NameGuess]) -> None:
    """Makes "patient 5/T0005.jpg" and "patient 5/photo.jpg" the same patient."""
    names = {guess.of_folder: guess.patient for guess in guesses if guess.of_folder}
    for guess in guesses:
        guess.patient = names.get(guess.patient, guess.patient)


def _patients_by_label(guesses: Iterable[NameGuess]) -> dict[int, set[str]]:
    patients: dict[int, set[str]] = {HEALTHY: set(), SICK: set()}
    for guess in guesses:
        if guess.class_folder:
            patients[guess.label].add(guess.patient)
    return patients


def _start_again(guesses: Sequence[NameGuess]) -> set[str]:
    """The patients in both classes, if they are at least half of the smaller class; else none."""
    healthy, sick = _patients_by_label(guesses).values()
    both = healthy & sick
    return both if 2 * len(both) >= min(len(healthy), len(sick)) else set()


def _distrust_running_numbers(guesses: Sequence[NameGuess]) -> None:
    """If Bild_1.jpg, Bild_2.jpg, ... are in both classes, they are pictures, not patients.

    This is for unknown words in file names. A word for patients is believed; its patients then have
    conflicting diagnoses.
    """
    by_file = [guess for guess in guesses if guess.source == "file" and not guess.sure]
    if _start_again(by_file):
        for guess in by_file:
            if guess.class_folder:
                guess.patient = guess.source = ""


def _split_by_class(guesses: Sequence[NameGuess]) -> Reading[None]:
    """Makes a patient class *and* folder, if the numbers of folders start again in every class.

    The patients of DMR-IR's file names are the same in every class.
    """
    by_folder = [guess for guess in guesses if guess.source == "folder" and guess.class_folder]
    both = _start_again(by_folder)
    if not both or any(guess.source == "dmr" and guess.patient in both for guess in guesses):
        return
    for guess in by_folder:
        number = guess.patient.lstrip("0") or "0"  # "0007" -> 7, but "sub-2" as it is
        guess.patient, guess.note = f"{guess.class_folder}-{number}", CLASS_AND_FOLDER
    example = min(both)
    detail = (
        f"{len(both)} patients, such as {example}, are in healthy and in sick folders: "
        f"{len({guess.patient for guess in by_folder})} patients assumed"
    )
    yield Oddity("class-and-folder", ".", detail)


def _assume_one_per_file(guesses: Sequence[NameGuess]) -> None:
    """Makes a file directly in a class folder a patient of its own, if no name says the patient.

    A table may list a file more than once, with its frames.
    """
    taken = {guess.patient for guess in guesses}
    of_name: dict[str, str] = {}
    for guess in guesses:
        is_named = guess.patient or "patient" in guess.given
        if is_named or class_word(guess.folder.name) is None:
            continue
        if guess.name not in of_name:
            base = _UNSAFE.sub("-", f"file-{guess.name.replace('/', '-')}")[:80]
            names = itertools.chain([base], (f"{base}-{i}" for i in itertools.count(len(taken))))
            of_name[guess.name] = next(name for name in names if name not in taken)
            taken.add(of_name[guess.name])
        guess.patient, guess.source, guess.note = of_name[guess.name], "file", ONE_PER_FILE


def report_assumed_patients(records: Iterable[Thermogram]) -> Reading[None]:
    """Reports how many thermograms are patients of their own, because no name says the patient.

    The caller leaves out what turned out to be no thermogram, such as notes in a text file.
    """
    if assumed := sum(ONE_PER_FILE in record.notes for record in records):
        detail = (
            f"the names of {assumed} files say no patient: {ONE_PER_FILE}; "
            f"{THERMOGRAM_TABLE} can name them"
        )
        yield Oddity("assumed-patients", ".", detail)


def _record(guess: NameGuess) -> Thermogram:
    """The thermogram, with the values of the user's table instead of those of the names."""
    patient = guess.given.get("patient", guess.patient)
    fields = {
        "name": guess.name,
        "files": guess.files,
        "patient": patient or f"folder:{guess.folder.as_posix()}",
        "patient_known": bool(patient),
        "label": guess.label,
        "notes": (guess.note,) if guess.note and patient == guess.patient else (),
    }
    return Thermogram(**guess.fields | fields | dict(guess.given))


def _report_unknown(records: Sequence[Thermogram], files: FileListing) -> Reading[None]:
    """Reports thermograms whose patient or diagnosis is not known, once for each folder."""
    unknown = [record for record in records if not record.patient_known]
    detail = "neither name nor folder contains the patient"
    yield from _by_folder("unknown-patient", detail, unknown, files)
    unlabelled = [record for record in records if record.label == UNLABELLED]
    detail = "in no class folder (healthy, sick, or another name of these)"
    if unlabelled and len(unlabelled) == len(records):
        yield Oddity("missing-diagnosis", ".", f"all {len(records)} thermograms are {detail}")
    else:
        yield from _by_folder("missing-diagnosis", detail, unlabelled, files)


def _by_folder(
    kind: str, detail: str, records: Sequence[Thermogram], files: FileListing
) -> Reading[None]:
    of_folder = collections.defaultdict(list)
    for record in records:
        of_folder[min(record.files).parent].append(record)
    for folder, inside in of_folder.items():
        if len(inside) == 1:
            yield Oddity(kind, files.relative(min(inside[0].files)), detail)
        else:
            yield Oddity(kind, files.relative(folder), f"{len(inside)} thermograms: {detail}")
