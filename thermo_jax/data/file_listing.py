"""Finds the source files of a data set and brings together those of one thermogram.

Knows file names only; `layouts` says who is in them and opens them. Order never depends on the
directory's: everything is sorted by relative path.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator

from thermo_jax.data.data_report import DataReport
from thermo_jax.data.thermogram import split_name
from thermo_jax.errors import MissingFileError, UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg"})
MATRIX_SUFFIX = ".txt"
DIAGNOSIS_PAGES = frozenset({"description.html", "description.htm"})
DIAGNOSIS_TABLE = "id_diagnosis.csv"


@dataclasses.dataclass
class Draft:
    """The files of one thermogram, before they were opened."""

    folder: pathlib.PurePosixPath  # relative to the root
    stem: str
    paths: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)  # slot -> file

    @property
    def name(self) -> str:
        """Path relative to the root, without suffix."""
        return (self.folder / self.stem).as_posix()

    @property
    def file(self) -> str:
        """Path of its first file, relative to the root."""
        return (self.folder / min(path.name for path in self.paths.values())).as_posix()


@dataclasses.dataclass
class FileListing:
    """Absolute paths, sorted by relative path."""

    root: pathlib.Path
    pixels: list[pathlib.Path] = dataclasses.field(default_factory=list)  # images and matrices
    pages: list[pathlib.Path] = dataclasses.field(default_factory=list)  # description.html
    tables: list[pathlib.Path] = dataclasses.field(default_factory=list)  # id_diagnosis.csv
    annotations: list[pathlib.Path] = dataclasses.field(default_factory=list)  # COCO
    others: list[pathlib.Path] = dataclasses.field(default_factory=list)
    closed: list[pathlib.Path] = dataclasses.field(default_factory=list)  # unreadable folders

    def relative(self, path: pathlib.Path) -> str:
        """Returns the name under which the report knows a file."""
        return path.relative_to(self.root).as_posix()

    def sources(self) -> list[pathlib.Path]:
        """Every file that a scan reads."""
        return [*self.pixels, *self.pages, *self.tables, *self.annotations]


def list_files(root: str | os.PathLike) -> FileListing:
    """Lists a data set's files; hidden files and folders are passed over.

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
        if name in DIAGNOSIS_PAGES:
            files.pages.append(path)
        elif name == DIAGNOSIS_TABLE:
            files.tables.append(path)
        elif suffix == ".json" and "instances" in name and path.parent == root:
            files.annotations.append(path)
        elif suffix in IMAGE_SUFFIXES or (
            suffix == MATRIX_SUFFIX and not name.startswith("readme")
        ):
            files.pixels.append(path)
        else:
            files.others.append(path)
    if not (files.sources() or files.others or files.closed):
        raise UserError(f"data root {root} is empty; copy the data set there or point elsewhere")
    return files


def walk(
    root: pathlib.Path, *, closed: list[pathlib.Path]
) -> Iterator[tuple[pathlib.Path, list[str], list[str]]]:
    """(folder, its subfolders, its files) from `root` on; links are followed, each folder once.

    Hidden files and folders are passed over, and so is what the caller takes out of the subfolders.

    Args:
      closed: gets the folders that cannot be read.
    """
    seen: set[str] = set()

    def note_closed(error: OSError) -> None:
        closed.append(pathlib.Path(error.filename))

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=note_closed):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder already read, or a loop
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield pathlib.Path(folder), subfolders, [n for n in names if not n.startswith(".")]


def group(files: FileListing, report: DataReport) -> list[Draft]:
    """Brings gray image, snap and matrix of one name in one folder together, sorted by name."""
    drafts: dict[tuple[pathlib.PurePosixPath, str], Draft] = {}
    for path in files.pixels:
        relative = pathlib.PurePosixPath(files.relative(path))
        stem, snap = split_name(path.name)
        slot = "heat" if snap else "gray"
        if path.suffix.lower() == MATRIX_SUFFIX:
            slot = "temperatures"
        draft = drafts.setdefault((relative.parent, stem.lower()), Draft(relative.parent, stem))
        if slot in draft.paths:
            detail = f"same name as {draft.paths[slot].name}, which was taken"
            report.add("duplicate", relative.as_posix(), detail)
        else:
            draft.paths[slot] = path
    return sorted(drafts.values(), key=lambda draft: (draft.folder.parts, draft.stem))


def note_others(
    files: FileListing, report: DataReport, unread: Iterable[pathlib.Path] = ()
) -> None:
    """Reports the files that no reader takes, and `unread`, which this layout does not use."""
    for path in files.closed:
        report.add("unreadable-folder", files.relative(path), "check its permissions")
    for path in files.others:
        detail = f"neither .jpg nor a temperature .txt ({path.suffix or 'no suffix'})"
        if path.suffix.lower() == ".json" and "instances" in path.name.lower():
            detail = "annotation files are read in the data root only: move it there"
        report.add("ignored-file", files.relative(path), detail)
    for path in unread:
        detail = f"not used by the {report.layout} layout"
        report.add("ignored-file", files.relative(path), detail)
