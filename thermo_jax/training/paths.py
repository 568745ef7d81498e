"""Folders of runs: on a disk, or in a bucket of Google Cloud Storage (gs://bucket/folder)."""

import json
import os

from etils import epath

CONFIG = "config.json"  # in every run's workdir


def folder_path(folder: str | os.PathLike) -> epath.Path:
    """The folder's absolute path; `~` is the home folder."""
    path = epath.Path(folder).expanduser()
    return path if path.is_absolute() else path.resolve()  # a gs:// path is absolute


def is_remote(path: str | os.PathLike) -> bool:
    """Whether it is in a bucket."""
    return "://" in os.fspath(path)


def write_whole(path: str | os.PathLike, text: str) -> None:
    """Writes a file that is complete or absent, whenever the process dies."""
    partial = epath.Path(path).with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def task_of_run(folder: str | os.PathLike) -> str | None:
    """The task of the run whose workdir this is; None where it is the workdir of none.

    Told by the config.json that every run leaves there: a configuration with a task, and versions.
    """
    try:
        saved = json.loads((folder_path(folder) / CONFIG).read_text(encoding="utf-8"))
        task = saved["config"]["task"] if "thermo_jax" in saved["versions"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # somebody else's file
        return None
    return task if isinstance(task, str) else None
