"""Lists the source files of a data set, and groups those of the same thermogram.

Only file names are used here; `layouts` opens the files. Everything is sorted by relative path, so
the order does not depend on the file system.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Collection, Iterator

from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.thermogram import Thermogram, split_name, stem_of
from thermo_jax.errors import MissingFileError, UserError
from thermo_jax.files import CONFIG, task_of_run

MATRIX_SUFFIX = ".txt"
# Suffixes of the files that a reader opens.
MATRICES = (".txt", ".csv", ".asc", ".npy", ".npz")
IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
DIAGNOSIS_TABLE = "id_diagnosis.csv"
THERMOGRAM_TABLE = "thermograms.csv"
MASK_CLASSES = "classes.json"  # in a folder of masks: name of a class -> value of its pixels
# The name of a mask is that of its image, perhaps with one of these words.
MASK_NAME = re.compile(
    r"(?:mask|label|seg)[_-](?P<behind>.+)"
    r"|(?P<before>.+)[_.-](?:masks?|labels?|seg|segmentation|gt|label_?map)",
    re.IGNORECASE | re.DOTALL,
)
MASK_FOLDERS = ("mask", "masks", "label_map", "label_maps", "labelmaps", "segmentation_masks")


@dataclasses.dataclass
class FileListing:
    """The files of a data set by kind: absolute paths, sorted by their relative paths."""

    root: pathlib.Path
    layout: str = ""  # how the files are arranged; `layouts.scan` sets it
    pixels: list[pathlib.Path] = dataclasses.field(default_factory=list)  # images and matrices
    pages: list[pathlib.Path] = dataclasses.field(default_factory=list)  # description.html
    tables: list[pathlib.Path] = dataclasses.field(default_factory=list)  # id_diagnosis.csv
    annotations: list[pathlib.Path] = dataclasses.field(default_factory=list)  # .json
    masks: list[pathlib.Path] = dataclasses.field(default_factory=list)  # label maps as images
    mask_classes: list[pathlib.Path] = dataclasses.field(default_factory=list)  # classes.json
    thermogram_table: pathlib.Path | None = None  # thermograms.csv in the root
    workdirs: list[pathlib.Path] = dataclasses.field(default_factory=list)  # of runs, passed over
    others: list[pathlib.Path] = dataclasses.field(default_factory=list)
    closed: list[pathlib.Path] = dataclasses.field(default_factory=list)  # unreadable folders

    def relative(self, path: pathlib.Path) -> str:
        """Returns a file's path relative to the root, for the report."""
        return path.relative_to(self.root).as_posix()

    def names(self, record: Thermogram) -> list[str]:
        """Returns the relative paths of a thermogram's files."""
        paths = dict.fromkeys([*record.paths.values(), *record.files])
        return [self.relative(path) for path in paths]

    def sources(self) -> list[pathlib.Path]:
        """Returns every file that a scan reads."""
        table = [self.thermogram_table] if self.thermogram_table else []
        masks = self.masks + self.mask_classes
        lists = (self.pixels, self.pages, self.tables, self.annotations, masks, table)
        return [path for paths in lists for path in paths]


def list_files(root: str | os.PathLike) -> FileListing:
    """Lists a data set's files; hidden files and folders are skipped.

    Raises:
      FileNotFoundError: the root does not exist.
      UserError: the root is a file.
    """
    root = pathlib.Path(root).expanduser().absolute()
    if not root.exists():
        raise MissingFileError(
            f"data root {root} does not exist; set config.data.root to the folder of the data set"
        )
    if not root.is_dir():
        raise UserError(f"data root {root} is a file; set config.data.root to its folder")
    return list_folder(root)


def list_folder(root: pathlib.Path, *, leave_out: str | os.PathLike | None = None) -> FileListing:
    """Like `list_files`, for a folder that exists and may be empty.

    Args:
      leave_out: a subfolder to ignore, such as the folder of the results.
    """
    files = FileListing(root)
    paths, beside = [], set()  # `beside`: masks in the folders of their images
    mask_folders, only_masks = set(), set()  # `only_masks`: also in subfolders
    ignored = pathlib.Path(leave_out).absolute() if leave_out is not None else None
    for folder, subfolders, names in walk(root, closed=files.closed):
        if folder.absolute() == ignored:
            subfolders.clear()
            continue
        if folder != root and CONFIG in names and task_of_run(folder):
            files.workdirs.append(folder)
            subfolders.clear()
            continue
        paths += [folder / name for name in names]
        is_named = folder != root and folder.name.lower() in MASK_FOLDERS
        of_images = [folder / name for name in _masks_of_images(names)]
        beside.update(of_images)
        has_classes = MASK_CLASSES in names and not of_images
        if has_classes or is_named or folder.parent in only_masks:
            mask_folders.add(folder)
            inside = {name.lower() for name in subfolders}
            if folder.parent in only_masks or (is_named and not inside & {"images", *MASK_FOLDERS}):
                only_masks.add(folder)
    for path in sorted(paths, key=lambda path: path.relative_to(root).parts):
        is_table = path.parent == root and path.name.lower() == THERMOGRAM_TABLE
        if is_table and files.thermogram_table is None:
            files.thermogram_table = path
        else:
            is_mask = path.parent in mask_folders or path in beside
            _list_of(path, files, is_mask=is_mask).append(path)
    return files


def without_mask_word(stem: str) -> str:
    """The name of the image of a mask: "a" of "a_mask"; a name without such a word as it is."""
    match = MASK_NAME.fullmatch(stem)
    return (match["before"] or match["behind"]) if match else stem


def _masks_of_images(names: Collection[str]) -> list[str]:
    """The masks, such as a_mask.png, that lie beside their images, such as a.jpg."""
    stems = {split_name(name)[0] for name in names}
    return [
        name
        for name in names
        if pathlib.PurePath(name).suffix.lower() in IMAGES
        and (stem := split_name(name)[0]) != (image := without_mask_word(stem))
        and image in stems
    ]


def _list_of(path: pathlib.Path, files: FileListing, *, is_mask: bool) -> list[pathlib.Path]:
    """The list of `files` to which a file belongs; `is_mask` is about pictures only."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if name in ("description.html", "description.htm"):
        return files.pages
    if name == THERMOGRAM_TABLE:
        return files.others
    if name == DIAGNOSIS_TABLE:
        return files.tables
    if suffix == ".json":
        return files.mask_classes if name == MASK_CLASSES else files.annotations
    if suffix in IMAGES and is_mask:
        return files.masks
    is_readme = suffix == MATRIX_SUFFIX and name.startswith("readme")
    return files.pixels if suffix in MATRICES + IMAGES and not is_readme else files.others


def has_masks(folder: pathlib.Path) -> bool:
    """Whether the images of a folder are masks, by the folder's name or its classes.json."""
    return folder.name.lower() in MASK_FOLDERS or (folder / MASK_CLASSES).exists()


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
        return first.parent.parts, stem_of(first)

    return sorted(groups.values(), key=folder_and_stem)


def group_by_name(files: FileListing) -> list[tuple[pathlib.Path, ...]]:
    """Groups the files that have the same name in a folder, apart from suffixes and `_snap`."""
    groups: dict[tuple[pathlib.Path, str], list[pathlib.Path]] = {}
    for path in files.pixels:
        groups.setdefault((path.parent, stem_of(path).lower()), []).append(path)
    return [tuple(paths) for paths in groups.values()]


def report_unused(files: FileListing) -> Reading[None]:
    """Reports the folders that cannot be read and the files that this layout does not use."""
    for path in files.closed:
        yield Oddity("unreadable-folder", files.relative(path), "check its permissions")
    for path in files.workdirs:
        yield Oddity("earlier-run", files.relative(path), "the workdir of a run")
    for path in files.others:
        if path.name.lower() == THERMOGRAM_TABLE:
            detail = "used in the data root only: copy it there, or choose its folder as the root"
        elif path.suffix.lower() in MATRICES + IMAGES:
            detail = (
                f"the {files.layout} layout has no such files; config.data.layout=folder reads it"
            )
        else:
            detail = f"no thermogram ({path.suffix or 'no suffix'})"
        yield Oddity("ignored-file", files.relative(path), detail)
    if files.thermogram_table and files.layout != "table":
        detail = f"not used by the {files.layout} layout"
        yield Oddity("ignored-file", THERMOGRAM_TABLE, detail)
    unused = {"site": files.tables, "matrices": files.pages}
    for path in unused.get(files.layout, files.tables + files.pages):
        detail = f"not used by the {files.layout} layout"
        yield Oddity("ignored-file", files.relative(path), detail)
