"""The lock of a workdir: only one run at a time writes there.

While a run writes, it locks the file .lock, which contains its process number. At the end the run
removes the file. You may change the messages. Do not change the order in which the file is created,
locked and compared, because this order keeps a second run out at every moment
(tests/test_workdir.py).
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


@contextlib.contextmanager
def only_run_in(path: str | Path) -> Iterator[None]:
    """Locks the folder against other runs. A folder in a bucket cannot be locked.

    The system frees the lock when the process ends in any way. At the end the lock's file is
    removed, and so is a folder that this run made and that is still empty. A refused run changes
    nothing in the folder, not even the lock's file if a killed run left one.

    Raises:
      UserError: another run is writing there, or the folder cannot be written.
    """
    if not str(path) or is_remote(path) or not processes.is_writer():
        yield
        return
    folder = pathlib.Path(workdir_path(path))
    with _no_empty_folders(folder), _locked(folder):
        yield


@contextlib.contextmanager
def _no_empty_folders(folder: pathlib.Path) -> Iterator[None]:
    """At the end, removes the folder and its parents that did not exist before and are empty."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # stops at the first folder that is not empty
            for parent in missing:
                parent.rmdir()


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks the folder's file, which contains this process's number while it is locked."""
    try:
        file, is_new = _open_locked(folder)
    except OSError as error:
        raise UserError(
            f"--workdir={folder} cannot be written ({error.strerror}): choose another --workdir"
        ) from error
    with file:
        content, status = file.read(), os.fstat(file.fileno())
        done = False
        try:
            _overwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
            done = True
        finally:  # before the file is closed, which frees the lock
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
    """Returns the lock's file, locked, and whether it is new."""
    path = folder / LOCK
    for _ in range(10):
        folder.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        try:
            flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if is_new else 0)
            file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        except (FileExistsError, FileNotFoundError):
            continue  # another run has just made or removed it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                logging.warning(
                    "%s cannot be locked (%s): do not start a second run there.", folder, error
                )
                return file, is_new
            with file:
                owner = file.read().decode(errors="replace")
            raise UserError(
                f"--workdir={folder} is being written by another run ({owner}): wait for it, stop "
                "it, or choose another --workdir"
            ) from error
        # The run that had the lock may have removed the file after it was opened here.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file, is_new
        file.close()
    raise UserError(
        f"--workdir={folder}: other runs create and remove {LOCK} there: choose another --workdir"
    )
