"""What a folder holds, to be compared before and after."""

import os
from pathlib import Path


def contents(folder: str | os.PathLike) -> dict[Path, tuple[bytes, int]]:
    """Every file's bytes and time of change, and every folder."""
    found = {}
    for path in Path(folder).rglob("*"):
        is_file = path.is_file()
        found[path] = (path.read_bytes(), path.stat().st_mtime_ns) if is_file else (b"", 0)
    return found
