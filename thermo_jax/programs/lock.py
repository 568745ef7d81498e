"""The lock of a workdir: one run at a time writes it.

The file .lock is locked, and names its process, while a run writes there. It is removed at the end.
What may be changed: the message. What may not: the order of creating, locking and comparing the
file, which keeps a second run out at every moment (tests/test_workdir.py starts runs in between).
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import BinaryIO

from absl import logging
from etils.epath import Path

from thermo_jax.errors import UserError
from thermo_jax.files import is_remote
from thermo_jax.programs.workdir import workdir_path
from thermo_jax.training import processes

LOCK = ".lock"
_LOCK_TRIES = 10


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
    folder = pathlib.Path(workdir_path(path))
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
