"""Finds and reads the thermograms that a user gives to `predict`.

    file, folder, pattern, zip, or several of these -> Thermogram: whose, of which view
                                                    -> ReadThermogram: its pixels

Files are recognised and read as for training (`data/identity.py`, `data/reader.py`).
"""

import collections
import dataclasses
import glob
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from absl import logging

from thermo_jax.data import identity, thermogram_table
from thermo_jax.data.data_report import DataReport
from thermo_jax.data.file_listing import IMAGES, MATRICES, FileListing, group_by_name, list_folder
from thermo_jax.data.picture import Picture, read_picture, with_frames
from thermo_jax.data.reader import MAX_ARRAY_BYTES, MAX_FILE_BYTES, ReaderSettings, short_text
from thermo_jax.data.thermogram import Thermogram
from thermo_jax.errors import ClosedFolderError, MissingFileError, UserError
from thermo_jax.files import task_of_run

MAX_ZIP_FILES, MAX_ZIP_BYTES = 100_000, 20 * 2**30  # after decompression
Paths = str | os.PathLike | Iterable[str | os.PathLike]


class ReadThermogram(NamedTuple):
    """A thermogram, its pixels, and what a reader of the results must know about it."""

    record: Thermogram
    picture: Picture
    notes: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The path of its main file, relative to the user's folder."""
        return f"{self.record.name}{self.picture.main_file.suffix}"


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
    """Thermograms of a user, sorted by name, and notes about them by their names."""

    items: list[Thermogram | Unreadable]
    notes: dict[str, list[str]]


def find_thermograms(
    paths: Paths, *, unpack_dir: pathlib.Path, leave_out: str | os.PathLike | None = None
) -> Inputs:
    """Finds the thermograms in files, folders, zips, or patterns such as "clinic/*.csv".

    A subfolder that cannot be read becomes an `Unreadable`. Files of other kinds are ignored with a
    log message, and so are workdirs, whose pictures are results.

    Args:
      unpack_dir: an empty folder, for the content of zips.
      leave_out: a folder to ignore, such as the folder of the results.
    Raises:
      FileNotFoundError: there is no such file or folder.
      PermissionError: a folder cannot be read.
      UserError: there is no thermogram, a folder is the workdir of a run, or a zip is damaged.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    sources = list(dict.fromkeys(path for pattern in given for path in _matches(pattern)))
    parts = [_list(path, unpack_dir=unpack_dir, leave_out=leave_out) for path in sources]
    prefixes = _prefixes(sources)
    inputs = Inputs([], {})
    for files, prefix in zip(parts, prefixes, strict=True):
        _add(inputs, files, prefix=prefix)
    if not inputs.items:
        kinds = ", ".join(suffix[1:] for suffix in MATRICES + IMAGES)
        names = ", ".join(map(str, given))
        raise UserError(f"{names} is or contains no thermogram: expected files of {kinds}")
    inputs.items.sort(key=lambda item: item.name)
    return inputs


def read_thermogram(
    record: Thermogram, settings: ReaderSettings, *, notes: Sequence[str] = ()
) -> ReadThermogram | Unreadable:
    """Reads the files of a thermogram. A file that cannot be read is named in a note."""
    picture, errors = read_picture(record.files, settings, frame=record.frame_in_file)
    failed = [f"{pathlib.Path(error.file).name}: {error.detail}" for error in errors]
    if picture is None:
        return Unreadable(record.name, "; ".join(failed), record.known_patient)
    return ReadThermogram(record, picture, tuple(dict.fromkeys([*notes, *failed, *picture.notes])))


def _matches(pattern: str | os.PathLike) -> list[pathlib.Path]:
    """The path itself if it exists; else the paths that match it as a pattern, sorted."""
    path = pathlib.Path(os.path.expanduser(pattern))  # "~nobody" stays as it is
    if path.exists():
        return [path]
    if matches := sorted(glob.glob(str(path), recursive=True)):
        return [pathlib.Path(match) for match in matches]
    raise MissingFileError(f"{path} does not exist: name a thermogram or a folder of them")


def _prefixes(sources: Sequence[pathlib.Path]) -> list[str]:
    """What to put before the names of each source, so that names of several differ."""
    folders = [path if path.is_dir() else path.parent for path in sources]
    common = os.path.commonpath([path.absolute() for path in folders])
    prefixes = []
    for path, folder in zip(sources, folders, strict=True):
        prefix = pathlib.PurePath(os.path.relpath(folder.absolute(), common))
        if path.suffix.lower() == ".zip" and len(sources) > 1:
            prefix /= path.stem
        prefixes.append("" if prefix == pathlib.PurePath(".") else prefix.as_posix())
    return prefixes


def _list(
    path: pathlib.Path, *, unpack_dir: pathlib.Path, leave_out: str | os.PathLike | None
) -> FileListing:
    if path.is_file() and path.suffix.lower() == ".zip":
        path = _unpack(path, unpack_dir)
    if not path.is_dir():
        files = FileListing(path.absolute().parent, layout="folder")
        is_readable = path.suffix.lower() in MATRICES + IMAGES
        (files.pixels if is_readable else files.others).append(path.absolute())
        return files
    if task := task_of_run(path):
        raise UserError(
            f"{path} is the workdir of a run of {task}, whose pictures are not thermograms: name "
            "the folder of the thermograms; if they are in this one, move them to another folder"
        )
    files = list_folder(path.absolute(), leave_out=leave_out)
    if files.root in files.closed:
        raise ClosedFolderError(f"{path} cannot be read: check the permissions of this folder")
    files.layout = "table" if files.thermogram_table else "folder"
    return files


def _unpack(path: pathlib.Path, unpack_dir: pathlib.Path) -> pathlib.Path:
    """Extracts the files of a zip that can be thermograms; returns their folder."""
    folder = unpack_dir / f"{len(list(unpack_dir.iterdir()))}"
    kinds = (*MATRICES, *IMAGES, ".json")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [
                entry
                for entry in archive.infolist()
                if pathlib.PurePosixPath(entry.filename).suffix.lower() in kinds
                and not entry.filename.startswith("__MACOSX/")
            ]
            size = sum(entry.file_size for entry in entries)
            free = shutil.disk_usage(unpack_dir).free
            if len(entries) > MAX_ZIP_FILES or size > min(MAX_ZIP_BYTES, free):
                raise UserError(
                    f"{path} has {len(entries)} files of {size / 2**30:.1f} GB in all; expected at "
                    f"most {MAX_ZIP_FILES} files of {min(MAX_ZIP_BYTES, free) / 2**30:.1f} GB: "
                    "unpack a part of it"
                )
            small = [entry for entry in entries if entry.file_size <= _most_bytes(entry.filename)]
            if len(small) < len(entries):
                logging.warning("left out %d huge files in %s", len(entries) - len(small), path)
            for entry in small:
                archive.extract(entry, folder)  # never outside of the folder
    except UserError:
        raise
    except Exception as error:  # damaged zips raise errors of many types, such as zlib.error
        raise UserError(
            f"{path} cannot be unpacked ({short_text(error)}): unpack it yourself"
        ) from error
    folder.mkdir(exist_ok=True)
    return folder


def _most_bytes(name: str) -> int:
    """The size of the largest file of this kind that can be read."""
    return MAX_ARRAY_BYTES if name.lower().endswith((".npy", ".npz")) else MAX_FILE_BYTES


def _add(inputs: Inputs, files: FileListing, *, prefix: str) -> None:
    """Adds the thermograms of one source."""
    others = [*files.others, *files.annotations, *files.masks, *files.pages, *files.tables]
    if others:
        logging.warning("ignored %d files of other kinds in %s", len(others), files.root)
    for workdir in files.workdirs:
        logging.warning("%s is left out: the workdir of a run", workdir)
    for folder in files.closed:
        name = (pathlib.PurePosixPath(prefix) / files.relative(folder) / "*").as_posix()
        reason = f"folder {files.relative(folder)} cannot be read: check its permissions"
        inputs.items.append(Unreadable(name, reason))
    report = DataReport(files.root)
    if files.thermogram_table:
        table = report.collect(thermogram_table.identify_listed(files))
        records, frames = table.records, table.frames
    else:
        records, frames = report.collect(identity.identify(group_by_name(files), files)), {}
    records = report.collect(with_frames(records, files=files, chosen=frames))
    notes_of = collections.defaultdict(list)  # by file; a folder may have 100,000
    for oddity in report.oddities:
        notes_of[oddity.file].append(oddity.note)
    for record in records:
        name = (pathlib.PurePosixPath(prefix) / record.name).as_posix()
        inputs.notes[name] = [note for file in files.names(record) for note in notes_of[file]]
        inputs.items.append(dataclasses.replace(record, name=name))
    for oddity in report.oddities:
        logging.info("%s: %s", oddity.file, oddity.detail)
