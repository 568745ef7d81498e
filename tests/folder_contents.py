"""Reads the contents of folders, which tests compare before and after an action."""

import os
from pathlib import Path

from thermo_jax.training.checkpoints import FOLDER


def contents(folder: str | os.PathLike) -> dict[Path, tuple[bytes, int]]:
    """Returns the bytes and the time of change of every file, and b"" and 0 for every folder."""
    entries = {}
    for path in Path(folder).rglob("*"):
        is_file = path.is_file()
        entries[path] = (path.read_bytes(), path.stat().st_mtime_ns) if is_file else (b"", 0)
    return entries


def kept_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints in a workdir."""
    return sorted(int(path.name) for path in (workdir / FOLDER).iterdir() if path.name.isdigit())
