"""Lists the source files of a data set, and groups those of the same thermogram.

Only file names are used here; `layouts` opens the files. Everything is sorted by relative path, so
the order does not depend on the file system.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.thermogram import Thermogram, split_name
from thermo_jax.errors import MissingFileError, UserError

MATRIX_SUFFIX = ".txt"
DIAGNOSIS_TABLE = "id_diagnosis.csv"


@dataclasses.dataclass
class FileListing:
    """The files of a data set by kind: absolute paths, sorted by their relative paths."""

    root: pathlib.Path
    layout: str = ""  # how the files are arranged; `layouts.scan` sets it
    pixels: list[pathlib.Path] = dataclasses.field(default_factory=list)  # images and matrices
    pages: list[pathlib.Path] = dataclasses.field(default_factory=list)  # description.html
    tables: list[pathlib.Path] = dataclasses.field(default_factory=list)  # id_diagnosis.csv
    annotations: list[pathlib.Path] = dataclasses.field(default_factory=list)  # COCO
    others: list[pathlib.Path] = dataclasses.field(default_factory=list)
    closed: list[pathlib.Path] = dataclasses.field(default_factory=list)  # unreadable folders

    def relative(self, path: pathlib.Path) -> str:
        """Returns a file's path relative to the root, for the report."""
        return path.relative_to(self.root).as_posix()

    def names(self, record: Thermogram) -> list[str]:
        """Returns the relative paths of a thermogram's files."""
        return [self.relative(path) for path in record.paths.values()]

    def sources(self) -> list[pathlib.Path]:
        """Returns every file that a scan reads."""
        return [*self.pixels, *self.pages, *self.tables, *self.annotations]


def list_files(root: str | os.PathLike) -> FileListing:
    """Lists a data set's files; hidden files and folders are skipped.

    Raises:
      FileNotFoundError: the root does not exist.
      UserError: the root is a file, or empty.
    """
    root = pathlib.Path(root).expanduser().absolute()
    if not root.exists():
        raise MissingFileError(
            f"data root {root} does not exist; set config.data.root to the folder of the data set"
        )
    if not root.is_dir():
        raise UserError(f"data root {root} is a file; set config.data.root to its folder")
    files = FileListing(root)
    paths = [
        folder / name for folder, _, names in walk(root, closed=files.closed) for name in names
    ]
    for path in sorted(paths, key=lambda path: path.relative_to(root).parts):
        name, suffix = path.name.lower(), path.suffix.lower()
        if name in ("description.html", "description.htm"):
            files.pages.append(path)
        elif name == DIAGNOSIS_TABLE:
            files.tables.append(path)
        elif suffix == ".json" and "instances" in name and path.parent == root:
            files.annotations.append(path)
        elif suffix == MATRIX_SUFFIX and name.startswith("readme"):
            files.others.append(path)
        elif suffix in (".jpg", ".jpeg", MATRIX_SUFFIX):
            files.pixels.append(path)
        else:
            files.others.append(path)
    if not (paths or files.closed):
        raise UserError(
            f"data root {root} is empty; copy the data set there, or set config.data.root"
        )
    return files


def walk(
    root: pathlib.Path, *, closed: list[pathlib.Path]
) -> Iterator[tuple[pathlib.Path, list[str], list[str]]]:
    """Yields (folder, its subfolders, its files) from `root` on.

    Links are followed, but no folder is visited twice. Hidden files and folders are skipped; so is
    every subfolder that the caller removes from the list.

    Args:
      closed: folders that cannot be read are appended to this list.
    """
    seen: set[str] = set()

    def add_closed(error: OSError) -> None:
        closed.append(pathlib.Path(error.filename))

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=add_closed):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder that was visited before, perhaps a loop
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield pathlib.Path(folder), subfolders, [n for n in names if not n.startswith(".")]


def group(files: FileListing) -> Reading[list[dict[str, pathlib.Path]]]:
    """Groups the gray image, snap and matrix that have the same name in a folder, sorted by name.

    Returns the files of each thermogram by kind of pixels: "gray", "heat", "temperatures".
    """
    groups: dict[tuple[pathlib.Path, str], dict[str, pathlib.Path]] = {}
    for path in files.pixels:
        stem, is_snap = split_name(path.name)
        kind = "heat" if is_snap else "gray"
        if path.suffix.lower() == MATRIX_SUFFIX:
            kind = "temperatures"
        paths = groups.setdefault((path.parent, stem.lower()), {})
        if paths.setdefault(kind, path) != path:
            detail = f"same name as {paths[kind].name}, which is used"
            yield Oddity("duplicate", files.relative(path), detail)

    def folder_and_stem(paths: dict[str, pathlib.Path]) -> tuple[tuple[str, ...], str]:
        first = next(iter(paths.values()))
        return first.parent.parts, split_name(first.name)[0]

    return sorted(groups.values(), key=folder_and_stem)


def report_unused(files: FileListing) -> Reading[None]:
    """Reports the folders that cannot be read and the files that this layout does not use."""
    for path in files.closed:
        yield Oddity("unreadable-folder", files.relative(path), "check its permissions")
    for path in files.others:
        detail = f"neither .jpg nor a temperature .txt ({path.suffix or 'no suffix'})"
        if path.suffix.lower() == ".json" and "instances" in path.name.lower():
            detail = "annotation files are read in the data root only: move it there"
        yield Oddity("ignored-file", files.relative(path), detail)
    unused = {"site": files.tables, "matrices": files.pages}
    for path in unused.get(files.layout, files.tables + files.pages):
        detail = f"not used by the {files.layout} layout"
        yield Oddity("ignored-file", files.relative(path), detail)
