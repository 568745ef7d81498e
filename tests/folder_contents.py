"""The contents of folders, to be compared before and after."""

import os
from pathlib import Path

from thermo_jax.training.checkpoints import FOLDER


def contents(folder: str | os.PathLike) -> dict[Path, tuple[bytes, int]]:
    """Every file's bytes and time of change, and every folder."""
    found = {}
    for path in Path(folder).rglob("*"):
        is_file = path.is_file()
        found[path] = (path.read_bytes(), path.stat().st_mtime_ns) if is_file else (b"", 0)
    return found


def kept_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints in a workdir."""
    return sorted(int(path.name) for path in (workdir / FOLDER).iterdir() if path.name.isdigit())
