"""Mistakes of the user, which end a program with one clear line instead of a traceback.

Everything else that is raised is a bug, of ours or of a library, except what the system says of the
user's files and disks (`is_users`).
"""

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """A mistake that the user can mend; the message names the file or value and the remedy."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class ClosedFolderError(UserError, PermissionError):
    """A folder that the user named may not be read."""


class UnwrittenError(UserError, OSError):
    """The system could not write a file of the run."""


class DivergedError(UserError, FloatingPointError):
    """A loss is not finite: the data or the learning rate are to blame."""


def is_full_disk(error: BaseException) -> bool:
    """Whether the system said that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def is_users(error: BaseException) -> bool:
    """Whether the user, rather than a programmer, can mend what was raised.

    An `OSError` is the system's own word on a file where it has both a number and the file's name;
    others (a pipe that closed, a disk that fails while a file is read) show where they happened.
    """
    if isinstance(error, UserError) or is_full_disk(error):
        return True
    named = isinstance(error, OSError) and error.filename is not None
    return named and error.errno is not None
