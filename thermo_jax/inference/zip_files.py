"""Unpacks the thermograms in a zip of a user, which may be damaged, huge or hostile.

Nothing is written outside of the given folder. Programs that make zips disagree about names: some
write backslashes, absolute paths or "..", so a file's path is made of the usable parts of its name.
"""

import contextlib
import lzma
import pathlib
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from thermo_jax.data.file_listing import IMAGES, MATRICES, THERMOGRAM_TABLE
from thermo_jax.data.reader import MAX_ARRAY_BYTES, MAX_FILE_BYTES
from thermo_jax.errors import UserError, is_full_disk

MAX_ZIP_FILES, MAX_ZIP_BYTES = 100_000, 20 * 2**30  # after decompression
_KINDS = (*MATRICES, *IMAGES, ".json")  # JSON files show which folders are masks or workdirs
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(OSError, RuntimeError, ValueError, OverflowError),  # RuntimeError: encrypted
)


class Unpacked(NamedTuple):
    """The folder of the thermograms, and the files that could not be unpacked, with reasons."""

    folder: pathlib.Path
    failed: dict[pathlib.PurePosixPath, str]


def unpack(path: pathlib.Path, folder: pathlib.Path) -> Unpacked:
    """Unpacks the files that can be thermograms into `folder`, which need not exist.

    Raises:
      UserError: the zip has too many files or bytes, or nothing in it can be unpacked.
      OSError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive:
            failed = _extract(path, archive, folder)
    except UserError:
        raise
    except _DAMAGE as error:
        if is_full_disk(error):
            raise
        raise UserError(f"{path} cannot be unpacked ({error}): unpack it yourself") from error
    if failed and not any(file.is_file() for file in folder.rglob("*")):
        name, reason = next(iter(failed.items()))
        raise UserError(f"{path} cannot be unpacked ({name}: {reason}): unpack it yourself")
    inside = list(folder.iterdir())
    # Many programs put the whole content of a zip into one folder, which has the user's table.
    if len(inside) == 1 and (inside[0] / THERMOGRAM_TABLE).is_file():
        root = inside[0].name
        failed = {n.relative_to(root): r for n, r in failed.items() if n.is_relative_to(root)}
        return Unpacked(inside[0], failed)
    return Unpacked(folder, failed)


def _extract(
    path: pathlib.Path, archive: zipfile.ZipFile, folder: pathlib.Path
) -> dict[pathlib.PurePosixPath, str]:
    """Extracts the files; returns the reasons why some could not be extracted."""
    entries = {name: entry for entry in archive.infolist() if (name := _name_of(entry))}
    failed = {name: _too_large(entry) for name, entry in entries.items() if _too_large(entry)}
    usable = {name: entry for name, entry in entries.items() if name not in failed}
    _check_limits(path, usable.values(), free=shutil.disk_usage(folder).free)
    for name, entry in usable.items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)  # never more bytes than `entry.file_size`
        except _DAMAGE as error:
            if is_full_disk(error):
                raise
            failed[name] = f"cannot be unpacked ({str(error) or type(error).__name__})"
            with contextlib.suppress(OSError):
                target.unlink()
    # A mask's classes.json that is damaged is not a thermogram.
    return {name: reason for name, reason in failed.items() if name.suffix.lower() != ".json"}


def _name_of(entry: zipfile.ZipInfo) -> pathlib.PurePosixPath | None:
    """The path to which a file is extracted; None for folders, hidden files and other kinds."""
    if entry.is_dir():
        return None
    parts = entry.filename.replace("\\", "/").split("/")
    if parts[0].endswith(":"):  # C:/clinic/a.csv
        parts = parts[1:]
    parts = [part for part in parts if part not in ("", ".", "..")]
    is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    if not parts or is_hidden or pathlib.PurePosixPath(parts[-1]).suffix.lower() not in _KINDS:
        return None
    return pathlib.PurePosixPath(*parts)


def _too_large(entry: zipfile.ZipInfo) -> str:
    """Why no reader could open the file, or ""."""
    is_array = entry.filename.lower().endswith((".npy", ".npz"))
    limit = MAX_ARRAY_BYTES if is_array else MAX_FILE_BYTES
    if entry.file_size <= limit:
        return ""
    return f"{entry.file_size / 2**20:.0f} MB; expected at most {limit // 2**20} MB"


def _check_limits(path: pathlib.Path, entries: Iterable[zipfile.ZipInfo], *, free: int) -> None:
    sizes = [entry.file_size for entry in entries]
    limit = min(MAX_ZIP_BYTES, free)
    if len(sizes) > MAX_ZIP_FILES or sum(sizes) > limit:
        raise UserError(
            f"{path} contains {len(sizes)} files of {sum(sizes) / 2**30:.1f} GB in all; expected "
            f"at most {MAX_ZIP_FILES} files, and {limit / 2**30:.1f} GB: unpack a part of it"
        )
