"""Mistakes of the user, which end a program with one clear line instead of a traceback.

Any other exception is a bug of this package or of a library, except what the operating system
reports about the user's files and disks (see `is_users`).
"""

import errno


class UserError(ValueError):
    """A mistake that the user can correct; the message names the file or value and the remedy."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class ClosedFolderError(UserError, PermissionError):
    """The user has no permission to read a folder that they named."""


class UnwrittenError(UserError, OSError):
    """The system could not write a file of the run."""


class DivergedError(UserError, FloatingPointError):
    """A loss is not finite, because of the data or the learning rate."""


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
