"""What the names of a thermogram's files and folders say about it: patient, label, view and so on.

`identity` applies the rules about whole sets.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thermo_jax.data.class_folders import CLASS_FOLDERS, class_word
from thermo_jax.data.file_listing import FileListing
from thermo_jax.data.name_parts import NameParts, Person, read_parts, view_of_words
from thermo_jax.data.thermogram import UNLABELLED, ParsedName, parse_name, stem_of


@dataclasses.dataclass
class NameGuess:
    """What the names of one thermogram say; the rules about whole sets change it."""

    files: tuple[pathlib.Path, ...]
    file: str  # relative path of one of them
    name: str
    class_folder: str  # the innermost one, as a word of `CLASS_FOLDERS`; "" if there is none
    label: int
    fields: dict[str, Any]  # those of `ParsedName`, without the patient
    names_view: bool  # whether its name or a folder contains a word for a view
    patient: str = ""
    source: str = ""  # what named the patient: "dmr", "file", "folder", or "above" a class folder
    sure: bool = False  # see `Person`
    of_folder: str = ""  # "patient-5" of the folder, if a DMR-IR file name says 0005
    note: str = ""
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of the user's table

    @property
    def folder(self) -> pathlib.PurePosixPath:
        return pathlib.PurePosixPath(self.file).parent


def guess_from_names(group: Sequence[pathlib.Path], files: FileListing) -> NameGuess:
    """Reads the names of a thermogram's files (same folder and stem) and of their folders."""
    file = files.relative(min(group))
    folder = pathlib.PurePosixPath(file).parent
    stem = stem_of(group[0])
    parsed = parse_name(stem)
    if parsed and parsed.frame >= 0 and not parsed.protocol and _is_month(parsed):
        parsed = None
    own = NameParts() if parsed else read_parts(stem)
    folders = [read_parts(part) for part in folder.parts]
    classes = [depth for depth, part in enumerate(folder.parts) if class_word(part)]
    first, inside = (classes[0], classes[-1] + 1) if classes else (0, 0)
    class_folder = class_word(folder.parts[inside - 1]) if classes else ""
    below = folders[inside:]
    person, source = _person(own, below, between=folders[first + 1 : inside], above=folders[:first])
    patient, of_folder = person.patient if person else "", ""
    # A class and a number (healthy6) name a patient of that class, whichever folder it is in.
    sure = person is not None and (person.sure or class_word(person.prefix) is not None)
    if parsed and parsed.patient and not _folder_is_surer(parsed, person):
        if person and person.number == int(parsed.patient):
            of_folder = person.patient
        patient, source, sure = parsed.patient, "dmr", True
    inner_first = (own, *reversed(folders))
    words = set().union(*(parts.view_words for parts in inner_first))
    for depth, parts in enumerate(folders):
        if parts.alone and _is_angle(parts, folders[:depth]):
            words.add(str(parts.alone.number))
    read = parsed or ParsedName()
    fields = {
        "visit": read.visit or _visit(own, below, person),
        "view": read.view or view_of_words(own.view_words) or view_of_words(words),
        "protocol": read.protocol or _first(parts.protocol for parts in inner_first),
        "date": read.date or _first(parts.date for parts in inner_first),
        "frame": read.frame if read.frame >= 0 else own.frame,
        "mirrored": read.mirrored,
    }
    return NameGuess(
        files=tuple(group),
        file=file,
        name=(folder / stem).as_posix(),
        class_folder=class_folder or "",
        label=CLASS_FOLDERS.get(class_folder, UNLABELLED),
        fields=fields,
        names_view=bool(words),
        patient=patient,
        source=source,
        sure=sure,
        of_folder=of_folder,
    )


def _is_month(parsed: ParsedName) -> bool:
    """Whether a name such as 2019-01 is a month, rather than image 1 of patient 2019."""
    return parsed.patient is not None and 1900 <= int(parsed.patient) <= 2099


def _folder_is_surer(parsed: ParsedName, person: Person | None) -> bool:
    """Whether to believe a folder such as sub-01 rather than a name such as 3-1 (visit 3?) or T5.

    False for folders that are named as in DMR-IR (P12, 0012): `contradiction` compares those with
    the file's name.
    """
    if parsed.protocol or parsed.view or person is None or not person.sure:
        return False
    like_dmr = person.prefix in ("", "t", "p", "v", "id", "pat", "patient", "paciente")
    return not like_dmr and person.number != int(parsed.patient or 0)


def _first(values: Iterable[str]) -> str:
    return next(filter(None, values), "")


def _person(
    own: NameParts,
    below: Sequence[NameParts],
    *,
    between: Sequence[NameParts],
    above: Sequence[NameParts],
) -> tuple[Person | None, str]:
    """The patient in the names of a file and its folders, and where (see `NameGuess.source`).

    Folders come before the file's name, words for patients before other prefixes, and outer folders
    before inner ones, which may be visits.

    Args:
      own: the file's name.
      below: its folders below the innermost class folder; all folders if there is none.
      between: those between the outermost and the innermost class folder (sick/7/malignant).
      above: those above the outermost class folder. They may be folds of a split, or clinics. So
        they count only if the prefix is a word for patients, and if no other name says the patient.
    """
    of_folders = _people(below)
    choices = (
        (_sure(of_folders), "folder"),
        (of_folders, "folder"),
        (_people(between), "above"),
        (_sure(own.people), "file"),
        (own.people, "file"),
        (_sure(_people(above)), "above"),
    )
    return next(((people[0], source) for people, source in choices if people), (None, ""))


def _is_angle(folder: NameParts, outer: Sequence[NameParts]) -> bool:
    """Whether a folder is the angle of a view, such as 45 in left/45, rather than a patient."""
    is_number = folder.alone is not None and folder.alone.number in (45, 90)
    return is_number and any({"left", "right"} & parts.view_words for parts in outer)


def _people(folders: Sequence[NameParts]) -> list[Person]:
    """The people in the names of folders, the outermost folder first."""
    people = []
    for depth, parts in enumerate(folders):
        people += parts.people
        if parts.alone and not _is_angle(parts, folders[:depth]):
            people.append(parts.alone)
    return people


def _sure(people: Iterable[Person]) -> list[Person]:
    return [person for person in people if person.sure]


def _visit(own: NameParts, below: Sequence[NameParts], person: Person | None) -> int:
    """The visit: a word with a number, V1 of a patient, or a number in a patient's folder."""
    numbers = [parts.visit for parts in (own, *reversed(below))]
    if person:
        others = [*own.people, *reversed(_people(below))]
        numbers += [p.number for p in others if p.prefix in ("v", "") and p != person]
    return next((number for number in numbers if 0 < number < 10_000), 0)
