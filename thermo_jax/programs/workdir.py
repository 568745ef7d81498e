"""A run's folder: one configuration, and whatever the run writes.

config.json      the resolved configuration and the versions that ran it
metrics.jsonl, timing.jsonl, timeline.json, tensorboard/, checkpoints/, pictures/
results.txt, results.json, predictions.csv
.lock            held, and naming its process, while a run writes here; gone at its end
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from importlib import metadata
from typing import Any, BinaryIO

import jax
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.errors import UserError
from thermo_jax.files import CONFIG, folder_path, is_remote, write_whole
from thermo_jax.training import processes
from thermo_jax.training.checkpoints import has_checkpoint

PICTURES, LOCK = "pictures", ".lock"
_LOCK_TRIES = 10
VERSIONED = ("thermo_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
# These change neither what is computed (but for rounding) nor the order of images: a run may
# continue with others.
FREE_FIELDS = (
    "data.loader",
    "data.prepared_dir",
    "train.checkpoint_minutes",
    "train.checkpoint_every",  # of earlier versions
    "parallel.mode",
    "parallel.devices",
    "parallel.resident_gb",
    "parallel.steps_per_dispatch",
    "model.conv",
    # A run that goes on carries its encoder, and knows its examples: both are compared.
    "encoder.workdir",
    "split.file",
    "report.bootstrap",
    "report.seed",
)
_FREE_ENDINGS = tuple(f".{name}" for name in FREE_FIELDS)
# Fields that were added to configurations since version 1 of config.json, each with the value that
# stands for what the code did before: runs of earlier versions continue. Name every new field here
# (but those of studies, whose stages alone are compared).
OLD_DEFAULTS: dict[str, Any] = {"train.checkpoint_minutes": 0}


@contextlib.contextmanager
def only_run_in(path: str | Path) -> Iterator[None]:
    """Holds an exclusive lock on the folder, so that no second run writes it in the meantime.

    The system frees it whenever the process ends. There is no such lock in a bucket. At the end the
    lock's file is removed, and the folder too where nothing was written there. A run that is
    refused leaves no trace: what a killed one left is then as it was.

    Raises:
      UserError: another run is writing it, or this one cannot.
    """
    if not str(path) or is_remote(path) or not processes.is_writer():
        yield
        return
    folder = pathlib.Path(_check_path(path))
    with _no_empty_folders(folder), _locked(folder):
        yield


@contextlib.contextmanager
def _no_empty_folders(folder: pathlib.Path) -> Iterator[None]:
    """At the end, the folder and those above it that were made since go if they are still empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty, or was not made
            for each in missing:
                each.rmdir()


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """The folder's lock is held, and its file names this process."""
    with _writable(folder):
        file, is_new = _open_locked(folder)
    with file:
        content, status = file.read(), os.fstat(file.fileno())
        done = False
        try:
            _overwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
            done = True
        finally:  # while it is locked still
            if done or is_new:
                (folder / LOCK).unlink(missing_ok=True)
            else:
                _overwrite(file, content)
                os.utime(folder / LOCK, ns=(status.st_atime_ns, status.st_mtime_ns))


def _overwrite(file: BinaryIO, content: bytes) -> None:
    file.seek(0)
    file.truncate()
    file.write(content)
    file.flush()


def _open_locked(folder: pathlib.Path) -> tuple[BinaryIO, bool]:
    """The lock's file, locked, and whether it was made for that."""
    path = folder / LOCK
    for _ in range(_LOCK_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        try:
            flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if is_new else 0)
            file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        except (FileExistsError, FileNotFoundError):
            continue  # another run made or removed it in the meantime
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                logging.warning(
                    "%s cannot be locked (%s): start no second run in it.", folder, error
                )
                return file, is_new
            with file:
                owner = file.read().decode(errors="replace")
            raise UserError(
                f"--workdir={folder} is being written by another run ({owner}): wait for it, stop "
                "it, or choose another --workdir"
            ) from error
        # The run that had it before may have removed the file after it was opened here.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file, is_new
        file.close()
    raise UserError(f"--workdir={folder}: its file {LOCK} changes all the time: choose another")


@contextlib.contextmanager
def _writable(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--workdir={folder} cannot be written ({error.strerror}): choose another --workdir"
        ) from error


def open_workdir(path: str | Path, config: ConfigDict) -> Path:
    """The folder, checked (`check_workdir`) and made this configuration's (`write_config`)."""
    workdir = check_workdir(path, config)
    write_config(workdir, config)
    return workdir


def check_workdir(path: str | Path, config: ConfigDict) -> Path:
    """The folder, which may be missing; nothing is written.

    Raises:
      UserError: no path, or it holds a run of another configuration.
    """
    workdir = _check_path(path)
    begun = has_checkpoint(workdir)
    try:
        saved = saved_config(workdir)
    except ValueError:
        if begun:
            raise
        return workdir
    wanted = to_json(config)
    if not begun:
        # A run that failed before its first checkpoint left nothing that another one of its task
        # could spoil. Runs in subfolders look after themselves.
        saved, wanted = ({"task": each.get("task")} for each in (saved, wanted))
    different = _differences(saved, wanted)
    if different:
        raise UserError(
            f"{workdir} holds a run of another configuration ({'; '.join(different)}): choose "
            "another --workdir to start anew, or give the same configuration to continue"
        )
    return workdir


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Makes the folder and writes config.json, once all else that could refuse the run is checked.

    Raises:
      UserError: it is not the same folder for all processes of the run.
    """
    file = workdir / CONFIG
    text = json.dumps({"config": to_json(config), "versions": versions()}, indent=2) + "\n"
    processes.wait("all have read the workdir")
    if processes.is_writer():
        (workdir / PICTURES).mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    processes.wait("the workdir is written")
    if not processes.all_true(file.is_file() and file.read_text(encoding="utf-8") == text):
        raise UserError(
            f"{workdir} is not one folder for all {jax.process_count()} processes of this run: "
            "choose a --workdir on a disk that all of them see"
        )


def _check_path(path: str | Path) -> Path:
    if not str(path):
        raise UserError("--workdir is missing: name a folder for the results, such as runs/first")
    workdir = folder_path(path)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={path} is a file: name a folder")
    return workdir


def saved_config(workdir: Path) -> dict[str, Any]:
    """The configuration of the run that the folder holds.

    Raises:
      UserError: there is none, or it is damaged.
    """
    file = workdir / CONFIG
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""  # buckets' errors differ
        return dict(json.loads(text)["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read, so that it is not known whose checkpoints are beside it: "
            "restore it, or choose another --workdir"
        ) from error


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def lacking_fields(saved: dict, new: dict) -> set[str]:
    """Names of the fields of a new configuration that a saved one does not have."""
    return dict(_flatten(new)).keys() - dict(_flatten(saved)).keys()


def _differences(saved: dict, new: dict) -> list[str]:
    have, want = dict(_flatten(saved)), dict(_flatten(new))
    for name in lacking_fields(saved, new):
        for field, value in OLD_DEFAULTS.items():
            if f".{name}".endswith(f".{field}"):
                have[name] = value
    return [
        f"config.{name} was {have.get(name)!r}, is {want.get(name)!r}"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name) and not f".{name}".endswith(_FREE_ENDINGS)
    ]


def _flatten(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
