"""What a folder holds, to be compared before and after."""

import os
from pathlib import Path

from thermo_jax.programs.workdir import LOCK


def contents(folder: str | os.PathLike) -> dict[Path, bytes]:
    """Every file's bytes, but for the lock, which names the last process that asked for it."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != LOCK]
    return {path: path.read_bytes() for path in files}
