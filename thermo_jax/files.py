"""Files and folders: paths on a disk or in a bucket, files that are complete or absent, the cache.

A path in a bucket of Google Cloud Storage has the form gs://bucket/folder.
"""

import codecs
import contextlib
import csv
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from thermo_jax.errors import UserError, is_full_disk

CONFIG = "config.json"  # in every run's workdir
PARTIAL = ".partial"  # the end of the name of a file that is being written
CACHE_DIR_VARIABLE = "THERMO_JAX_CACHE_DIR"


def folder_path(folder: str | os.PathLike) -> epath.Path:
    """The folder's absolute path; `~` is the home folder."""
    path = epath.Path(folder).expanduser()
    return path if path.is_absolute() else path.resolve()  # a gs:// path is absolute


def is_remote(path: str | os.PathLike) -> bool:
    """Whether the path is in a bucket."""
    return "://" in os.fspath(path)


def write_whole(path: str | os.PathLike, content: str | bytes) -> epath.Path:
    """Writes a file that is complete or absent, even if the process dies; returns its path."""
    path = epath.Path(path)
    partial = path.with_name(f"{path.name}{PARTIAL}")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return partial.replace(path)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV, with a line feed after each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def decoded(data: bytes) -> str:
    """The text of a user's file: UTF-8 or UTF-16 with a mark, UTF-8 without one, or cp1252."""
    has_utf16_mark = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16" if has_utf16_mark else "utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")  # which accepts every byte


def digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def cache_dir() -> pathlib.Path:
    """`$THERMO_JAX_CACHE_DIR` or `~/.cache/thermo_jax`: prepared data sets, compiled programs."""
    return pathlib.Path(os.environ.get(CACHE_DIR_VARIABLE) or "~/.cache/thermo_jax").expanduser()


@contextlib.contextmanager
def writing(path: pathlib.Path, *, elsewhere: str = f"${CACHE_DIR_VARIABLE}") -> Iterator[None]:
    """Turns an `OSError` of a folder that cannot be written into a `UserError`.

    Args:
      elsewhere: the settings that choose another folder.
    Raises:
      UserError: the folder cannot be written.
      OSError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise
        raise UserError(
            f"{path} cannot be written ({error.strerror}): choose another folder with {elsewhere}"
        ) from error


def saved_config(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Reads a run's configuration from its workdir (folder of results); None for another folder.

    A workdir contains a config.json with the configuration of the run and versions of libraries.
    """
    try:
        file = folder_path(folder) / CONFIG
        # For a missing file, a bucket raises other errors.
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        saved = json.loads(text)
        return dict(saved["config"]) if "thermo_jax" in saved["versions"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # another program's file
        return None


def task_of_run(folder: str | os.PathLike) -> str | None:
    """Reads a run's task from its workdir; None for another folder."""
    return (saved_config(folder) or {}).get("task")
