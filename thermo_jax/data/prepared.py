"""Prepared data sets on disk: where they lie, whether they are whole, what they were made from.

A prepared set goes stale silently when its source changes, so each is kept with a fingerprint of
the source. `dmr_ir.py` writes and reads them; nothing here needs TensorFlow.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

from thermo_jax.data.file_listing import list_files
from thermo_jax.errors import UserError
from thermo_jax.files import CACHE_DIR_VARIABLE, cache_dir, digest, writing

DATASET_NAME, DATASET_VERSION = "dmr_ir", "1.1.0"  # of TFDS, in a prepared folder
# Raise it when what is stored, or how a source is read, changes: all sets are then prepared again.
FORMAT_VERSION = 3
_ELSEWHERE = f"config.data.prepared_dir or ${CACHE_DIR_VARIABLE}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared data set on disk.

    Attributes:
      directory: its folder; removing it costs nothing but the time to prepare it again.
      fingerprint: of the source and of how it was read; what a checkpoint should remember.
      num_records: thermograms in it.
      num_oddities: entries of the data report.
      num_skipped: source files left out.
      num_bad: findings that stop a strict run, bad annotations included.
    """

    directory: pathlib.Path
    fingerprint: str
    num_records: int
    num_oddities: int
    num_skipped: int
    num_bad: int

    @property
    def report_path(self) -> pathlib.Path:
        """The data report written at preparation (records.csv and oddities.csv lie beside it)."""
        return self.directory / "data_report.txt"

    @property
    def report_files(self) -> list[pathlib.Path]:
        """The data report's three files."""
        names = ("data_report.txt", "records.csv", "oddities.csv")
        return [self.directory / name for name in names]

    @property
    def dataset_dir(self) -> pathlib.Path:
        """What `tfds.builder_from_directory` takes."""
        return self.directory / DATASET_NAME / DATASET_VERSION


def source_fingerprint(root: str | os.PathLike, **settings: str) -> str:
    """Hash of relative path, size and mtime of every source file, the settings and the format.

    No file is opened, so an unchanged source is recognised in a fraction of a second.
    """
    listing = list_files(root)
    files = []
    for path in listing.sources():
        status = path.stat() if path.exists() else path.lstat()  # a broken link
        files.append([listing.relative(path), status.st_size, status.st_mtime_ns])
    return digest({"format": FORMAT_VERSION, "settings": settings, "files": files})


def find(directory: pathlib.Path) -> Prepared | None:
    """The prepared set in this folder, if there is a whole one."""
    try:
        facts = json.loads((directory / "prepared.json").read_text())
        names = {field.name for field in dataclasses.fields(Prepared)} - {"directory"}
        prepared = Prepared(directory=directory, **{name: facts[name] for name in names})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return prepared if (prepared.dataset_dir / "dataset_info.json").is_file() else None


def choose_prepared_dir(
    prepared_dir: str | os.PathLike | None, *, root: pathlib.Path
) -> pathlib.Path:
    """The folder for prepared sets (see `dmr_ir.prepare`), made if need be; not inside `root`."""
    path = pathlib.Path(prepared_dir or cache_dir() / "prepared").expanduser().resolve()
    if path.is_relative_to(root):
        raise UserError(
            f"prepared_dir {path} lies inside the data root {root}, which would change with every "
            f"preparation: choose another ({_ELSEWHERE})"
        )
    with writing(path, elsewhere=_ELSEWHERE):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def lock(directory: pathlib.Path) -> Iterator[None]:
    """One process prepares, others wait; the lock of a process that dies is freed."""
    path = directory.with_name(f"{directory.name}.lock")
    with writing(directory.parent, elsewhere=_ELSEWHERE):
        path.touch()
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
