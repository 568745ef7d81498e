"""Folders of runs: on a disk, or in a bucket of Google Cloud Storage (gs://bucket/folder)."""

import os

from etils import epath


def folder_path(folder: str | os.PathLike) -> epath.Path:
    """The folder's absolute path; `~` is the home folder."""
    path = epath.Path(folder).expanduser()
    return path if path.is_absolute() else path.resolve()  # a gs:// path is absolute


def is_remote(path: str | os.PathLike) -> bool:
    """Whether it is in a bucket."""
    return "://" in os.fspath(path)
