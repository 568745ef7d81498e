"""What ends a program with one clear line: mistakes of the user, and a request to stop.

Any other exception is a bug of this package or of a library and shows its traceback, except what
the operating system reports about the user's files and disks (see `is_users`).
"""

import difflib
import errno
from collections.abc import Iterable

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command continues the run


class UserError(ValueError):
    """A mistake that the user can correct; the message names the file or value and the remedy."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class ClosedFolderError(UserError, PermissionError):
    """The user has no permission to read a folder that they named."""


class MissingPackageError(UserError):
    """An optional package is not installed; the message says how to install it."""


class UnwrittenError(UserError, OSError):
    """The system could not write a file of the run."""


class DivergedError(UserError, FloatingPointError):
    """A loss is not finite, because of the data or the learning rate."""


class Stopped(SystemExit):
    """The run was asked to stop, and has saved its state."""

    def __init__(self):
        super().__init__(EXIT_STOPPED)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A space and a question with the nearest known name; "" if none is near."""
    near = difflib.get_close_matches(word, [*known], n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def first_line(error: Exception) -> str:
    """The first line of an error's text, at most 100 characters."""
    return str(error).split("\n")[0][:100] or type(error).__name__


def is_full_disk(error: BaseException) -> bool:
    """Whether the error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_users(error: BaseException) -> bool:
    """Whether the user, rather than a programmer, can correct the cause of this error.

    This is so for an `OSError` with an error number and a file name. Others (a closed pipe, a disk
    that fails while a file is read) need a traceback, which shows where they happened.
    """
    if isinstance(error, UserError) or is_full_disk(error):
        return True
    return isinstance(error, OSError) and None not in (error.filename, error.errno)
