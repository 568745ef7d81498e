"""What a user gives to `predict` -> the listings of its files.

files, folders, patterns such as "clinic/*.csv", zips -> sources -> listings
"""

import collections
import functools
import glob
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from absl import logging

from thermo_jax.data.file_listing import (
    DIAGNOSIS_TABLE,
    IMAGES,
    MATRICES,
    THERMOGRAM_TABLE,
    FileListing,
    has_masks,
    list_folder,
)
from thermo_jax.errors import ClosedFolderError, MissingFileError, UserError
from thermo_jax.files import is_remote, task_of_run
from thermo_jax.inference.zip_files import unpack


class Source(NamedTuple):
    """A file or folder; names of thermograms are relative to `root`, or to a folder above it."""

    path: pathlib.Path
    root: pathlib.Path

    @property
    def is_zip(self) -> bool:
        return self.path.suffix.lower() == ".zip" and self.path.is_file()


def find_sources(
    given: Sequence[str | os.PathLike], *, leave_out: str | os.PathLike | None
) -> list[Source]:
    """The files and folders that exist, or match a pattern; each one once.

    Raises:
      FileNotFoundError: there is no such file or folder, and no match.
      UserError: a pattern matches nothing but results and masks, or a path is in a bucket.
    """
    sources: dict[pathlib.Path, Source] = {}
    for text in given:
        if is_remote(text):
            raise UserError(f"{text} is not on this machine: copy it to a folder here (gcloud ...)")
        path = pathlib.Path(os.path.expanduser(text))  # "~nobody" stays as it is
        if os.path.exists(path):
            path = _absolute(path)
            if path.name.lower() == THERMOGRAM_TABLE:
                path = path.parent
            found = [Source(path, path if path.is_dir() else path.parent)]
        else:
            found = _matches(path, leave_out=leave_out)
        for source in found:
            sources.setdefault(source.path, source)
    return list(sources.values())


def _absolute(path: pathlib.Path) -> pathlib.Path:
    """The absolute path without "..", which must not become a part of a thermogram's name."""
    parts = path.absolute().parts
    end = max((depth for depth, part in enumerate(parts, 1) if part == ".."), default=0)
    return pathlib.Path(*parts[:end]).resolve().joinpath(*parts[end:]) if end else path.absolute()


def _matches(pattern: pathlib.Path, *, leave_out: str | os.PathLike | None) -> list[Source]:
    """The files and folders that match a pattern, without results of runs and masks."""
    depth = next((d for d, part in enumerate(pattern.parts) if glob.has_magic(part)), None)
    matches = sorted(glob.glob(str(pattern), recursive=True)) if depth is not None else []
    if not matches:
        raise MissingFileError(f"{pattern} does not exist: name a thermogram or a folder of them")
    root = _absolute(pathlib.Path(*pattern.parts[:depth]))
    results = {_absolute(pathlib.Path(leave_out))} if leave_out is not None else set()
    is_run = functools.cache(task_of_run)
    found: list[Source] = []
    folders: set[pathlib.Path] = set()  # whose content is listed as a whole
    for path in (_absolute(pathlib.Path(match)) for match in matches):
        above = [folder for folder in path.parents if folder.is_relative_to(root)]
        if not folders.isdisjoint(above):
            continue
        if workdir := next((f for f in (path, *above) if f in results or is_run(f)), None):
            if workdir not in results:
                _log_workdir(workdir)
                results.add(workdir)
        elif path.is_dir():
            folders.add(path)
            found.append(Source(path, root))
        elif not has_masks(path.parent):
            found.append(Source(path, root))
    if not found:
        raise UserError(f"{pattern} matches only results of runs, and masks: no thermograms")
    return found


def _log_workdir(folder: pathlib.Path) -> None:
    logging.warning("%s is left out: the workdir of a run of %s", folder, task_of_run(folder))


class Listing(NamedTuple):
    """Files; what the names of their thermograms start with; why some could not be unpacked."""

    files: FileListing
    prefix: str
    failed: Mapping[pathlib.PurePosixPath, str] = MappingProxyType({})


def list_sources(
    sources: Sequence[Source],
    common: pathlib.Path,
    *,
    unpack_dir: pathlib.Path,
    leave_out: str | os.PathLike | None,
) -> list[Listing]:
    """Lists each zip, each folder with a thermograms.csv, and all other files together."""
    listings: list[Listing] = []
    together = FileListing(common, layout="folder")
    # Dictionaries, because folders may overlap: the same file counts once.
    lists = {field: {} for field in ("pixels", "others", "workdirs", "closed")}
    for source in sources:
        if source.is_zip:
            unpacked = unpack(source.path, unpack_dir / str(len(listings)))
            prefix = _prefix(source.path.with_suffix(""), common) if len(sources) > 1 else ""
            files = _list_folder(unpacked.folder, leave_out=None)
            listings.append(Listing(files, prefix, unpacked.failed))
        elif not source.path.is_dir():
            known = source.path.suffix.lower() in MATRICES + IMAGES
            is_table = source.path.name.lower() in (THERMOGRAM_TABLE, DIAGNOSIS_TABLE)
            lists["pixels" if known and not is_table else "others"][source.path] = None
        else:
            files = _list_folder(source.path, leave_out=leave_out)
            if files.thermogram_table:
                listings.append(Listing(files, _prefix(source.path, common)))
                continue
            for field, paths in lists.items():
                paths.update(dict.fromkeys(getattr(files, field)))
    for field, paths in lists.items():
        setattr(together, field, list(paths))
    together.pixels.sort(key=lambda path: path.relative_to(common).parts)
    return [*listings, Listing(together, "")]


def _prefix(path: pathlib.Path, common: pathlib.Path) -> str:
    return "" if path == common else path.relative_to(common).as_posix()


def _list_folder(path: pathlib.Path, *, leave_out: str | os.PathLike | None) -> FileListing:
    """Lists a folder; files that are no pixels are `others`."""
    if task := task_of_run(path):
        raise UserError(
            f"{path} is the workdir of a run of {task}, whose pictures are not thermograms: name "
            "the folder of the thermograms; if they are in this one, move them to another folder"
        )
    files = list_folder(path, leave_out=leave_out)
    if files.root in files.closed:
        raise ClosedFolderError(f"{path} cannot be read: check the permissions of this folder")
    files.layout = "table" if files.thermogram_table else "folder"
    files.others += [*files.annotations, *files.masks, *files.pages, *files.tables]
    return files


def log_unused(files: FileListing) -> None:
    """Logs what a listing contains beside thermograms."""
    if files.others:
        kinds = collections.Counter(path.suffix.lower() or "no suffix" for path in files.others)
        counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
        logging.warning("ignored %d files of other kinds: %s", kinds.total(), counts)
    for workdir in files.workdirs:
        _log_workdir(workdir)
