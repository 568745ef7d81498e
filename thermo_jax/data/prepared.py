"""Prepared data sets on disk: where they are, whether they are complete, and their sources.

A prepared set contains a fingerprint of its source, which shows when the source has changed.
`preparing.py` writes prepared sets, `dmr_ir.py` reads them; nothing here needs TFDS.
"""

import contextlib
import dataclasses
import fcntl
import importlib.util
import json
import os
import pathlib
from collections.abc import Iterator

from absl import logging
from etils import epath

from thermo_jax.data.data_report import REPORT_FILES
from thermo_jax.data.file_listing import list_files
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings
from thermo_jax.data.thermogram_table import other_sources
from thermo_jax.errors import UserError
from thermo_jax.files import CACHE_DIR_VARIABLE, cache_dir, digest, is_remote, writing

DATASET_NAME, DATASET_VERSION = "dmr_ir", "2.0.0"  # TFDS names folders after these
KINDS = ("thermograms", "gray", "heat", "label_map")  # "thermograms" is the metadata
PREPARED_FILE = "prepared.json"
# Increase it after a change of the stored data, or of the way sources are read: then all sets are
# prepared again.
FORMAT_VERSION = 6
_ELSEWHERE = f"config.data.prepared_dir or ${CACHE_DIR_VARIABLE}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared data set on disk.

    Attributes:
      directory: its folder, which may be deleted: the next run prepares it again.
      fingerprint: a hash of the source and of the settings that it was read with.
      num_oddities: how many entries the data report has.
      num_skipped: how many source files were left out.
      num_bad: how many oddities would stop a strict run, bad annotations included.
      cautions: of the data report.
    """

    directory: pathlib.Path
    fingerprint: str
    num_oddities: int
    num_skipped: int
    num_bad: int
    cautions: dict[str, str]

    @property
    def report_path(self) -> pathlib.Path:
        """The data report as text, written at preparation."""
        return self.directory / REPORT_FILES[0]

    def copy_report(self, folder: epath.Path) -> None:
        """Copies the files of the data report."""
        for name in REPORT_FILES:
            (folder / name).write_bytes((self.directory / name).read_bytes())

    @staticmethod
    def subfolder(kind: str) -> str:
        """The folder of one of `KINDS` in that of a prepared set."""
        return f"{DATASET_NAME}/{kind}/{DATASET_VERSION}"

    def folder_of(self, kind: str) -> pathlib.Path:
        """The folder of one of `KINDS`, to pass to `tfds.builder_from_directory`."""
        return self.directory / self.subfolder(kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """The prepared set of a source folder for some settings; it may not exist yet.

    Attributes:
      directory: where it is, or will be.
      root: the source folder.
      read_as: how its files are read.
    """

    directory: pathlib.Path
    root: pathlib.Path
    read_as: dict[str, str]

    def fingerprint(self) -> str:
        """The `source_fingerprint` of the source as it is now."""
        return source_fingerprint(self.root, **self.read_as)

    def is_prepared(self) -> bool:
        """Whether it exists, is complete, and its source has not changed since."""
        return self.directory.is_dir() and find(self.directory, self.fingerprint()) is not None


def locate(
    root: str | os.PathLike,
    *,
    layout: str = "auto",
    prepared_dir: str | os.PathLike | None = None,
    colormap: str = "jet",
    render: str = "auto",
    reader: ReaderSettings = AS_RECOGNISED,
) -> Wanted:
    """Where the prepared set with these settings is; `preparing.prepare` explains the arguments."""
    root = pathlib.Path(root).expanduser().resolve()
    # With flyr, temperatures are read from files that were pictures without it.
    has_flyr = str(importlib.util.find_spec("flyr") is not None)
    read_as = {"layout": layout, "colormap": colormap, "render": render, "flyr": has_flyr}
    read_as |= {name: str(value) for name, value in dataclasses.asdict(reader).items()}
    name = f"{root.name}-{digest({'root': str(root), **read_as})[:12]}"
    return Wanted(directory=_folder(prepared_dir) / name, root=root, read_as=read_as)


def source_fingerprint(root: str | os.PathLike, **settings: str) -> str:
    """A hash of the settings, the format, and the path, size and mtime of every source file.

    No file but thermograms.csv is opened.
    """
    listing = list_files(root)
    files = []
    for path in dict.fromkeys([*listing.sources(), *other_sources(listing)]):
        status = path.stat() if path.exists() else path.lstat()  # lstat: a broken link
        files.append([listing.relative(path), status.st_size, status.st_mtime_ns])
    return digest({"format": FORMAT_VERSION, "settings": settings, "files": files})


def find(directory: pathlib.Path, fingerprint: str) -> Prepared | None:
    """The prepared set in this folder; None if it is incomplete or its fingerprint differs."""
    try:
        facts = json.loads((directory / PREPARED_FILE).read_text())
        names = {field.name for field in dataclasses.fields(Prepared)} - {"directory"}
        prepared = Prepared(directory=directory, **{name: facts[name] for name in names})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_complete = all((prepared.folder_of(kind) / "dataset_info.json").is_file() for kind in KINDS)
    return prepared if is_complete and prepared.fingerprint == fingerprint else None


def make_prepared_dir(
    prepared_dir: str | os.PathLike | None, *, root: pathlib.Path
) -> pathlib.Path:
    """Makes the folder of prepared sets, which must not be inside `root`."""
    path = _folder(prepared_dir)
    if path.is_relative_to(root):
        raise UserError(
            f"prepared_dir {path} lies inside the data root {root}: choose another folder with "
            f"{_ELSEWHERE}"
        )
    with writing(path, elsewhere=_ELSEWHERE):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _folder(prepared_dir: str | os.PathLike | None) -> pathlib.Path:
    if prepared_dir and is_remote(prepared_dir):
        raise UserError(
            f"config.data.prepared_dir={prepared_dir} is not on this machine: choose a folder here"
        )
    return pathlib.Path(prepared_dir or cache_dir() / "prepared").expanduser().resolve()


@contextlib.contextmanager
def lock(directory: pathlib.Path) -> Iterator[None]:
    """Lets one process prepare while others wait; if it dies, the system releases the lock."""
    path = directory.with_name(f"{directory.name}.lock")
    with writing(directory.parent, elsewhere=_ELSEWHERE):
        path.touch()
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("waiting for another process, which prepares %s", directory)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
