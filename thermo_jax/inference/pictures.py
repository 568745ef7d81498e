"""Reads a user's thermograms of any size: temperatures, gray or coloured images.

Files of one name in one folder (`a.jpg`, `a_snap.jpg`, `a.txt`) are one thermogram, as in DMR-IR.
A file that cannot be read is named in a note; the others are read.
"""

import collections
import dataclasses
import io
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float32, UInt8

from thermo_jax.data import grids, radiometry
from thermo_jax.data.file_listing import walk
from thermo_jax.data.thermogram import HEAT_SHAPE, DataError, contradiction, parse_name, split_name
from thermo_jax.errors import ClosedFolderError, MissingFileError, UserError
from thermo_jax.files import task_of_run

MATRICES, IMAGES = (".txt", ".csv", ".npy"), (".jpg", ".jpeg", ".png", ".tif", ".tiff")
SMALLEST, LARGEST = 16, 4096  # pixels of a side
NOT_RADIOMETRIC = "not a radiometric image: no temperatures"
COLOURS = "colours of an unknown palette, used as they are"
CONSTANT = "all pixels are equal: nothing can be seen in it"
LETTERBOXED = "aspect not 4:3: edges repeated to fill the models' frame"
_FLIR = re.compile(rb"\xff\xe1..FLIR\x00", re.DOTALL)  # in a JPEG with temperatures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """One thermogram with its own size; it has at least one kind of pixels.

    Attributes:
      name: path relative to the user's folder, with "/", without suffix.
      file: path of the file with `pixels`, with suffix.
      temperatures: degrees C.
      colour: the colours of a camera or a program.
      notes: facts that a reader of the results must know.
    """

    name: str
    file: str = ""
    temperatures: Float32[np.ndarray, "h w"] | None = None
    gray: UInt8[np.ndarray, "h w"] | None = None
    colour: UInt8[np.ndarray, "ch cw 3"] | None = None
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> np.ndarray:
        """The pixels that determine the picture's size: temperatures, else gray, else colour."""
        kinds = (self.temperatures, self.gray, self.colour)
        return next(pixels for pixels in kinds if pixels is not None)

    @property
    def grid(self) -> grids.Grid:
        """The position of the picture in a frame of 4:3."""
        return grids.grid_of(*self.pixels.shape[:2])


class Unreadable(NamedTuple):
    """A thermogram without a usable file, or a folder that cannot be read, and the reason."""

    name: str
    reason: str

    @property
    def probability(self) -> None:
        """None, as for a thermogram that no classifier can read."""
        return None


def find_pictures(
    path: str | os.PathLike, *, leave_out: str | os.PathLike | None = None
) -> list[tuple[str, list[pathlib.Path]] | Unreadable]:
    """(name, files) of one thermogram, or of all thermograms of a folder, sorted by name.

    A subfolder that cannot be read is returned as an `Unreadable`. Files of other kinds are ignored
    with a log message, and so are workdirs, whose pictures are results.

    Args:
      leave_out: a folder to ignore, such as the folder of the results.
    Raises:
      FileNotFoundError: there is no such file or folder.
      PermissionError: the folder cannot be read.
      UserError: it contains no file of these kinds, or is the workdir of a run.
    """
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise MissingFileError(f"{path} does not exist: name a thermogram or a folder of them")
    root = path if path.is_dir() else path.parent
    files, closed = _list(root, leave_out=leave_out) if path.is_dir() else ([path], [])
    thermograms: dict[str, list[pathlib.Path]] = {}
    others: collections.Counter[str] = collections.Counter()
    for file in files:
        if file.suffix.lower() in MATRICES + IMAGES:
            name = (file.relative_to(root).parent / split_name(file.stem)[0]).as_posix()
            thermograms.setdefault(name, []).append(file)
        else:
            others[file.suffix.lower() or "no suffix"] += 1
    if others:
        counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(others.items()))
        logging.warning("ignored %d files of other kinds: %s", others.total(), counts)
    if not (thermograms or closed):
        kinds = ", ".join(suffix[1:] for suffix in MATRICES + IMAGES)
        raise UserError(f"{path} is or contains no thermogram: expected files of {kinds}")
    items: list[tuple[str, list[pathlib.Path]] | Unreadable] = list(thermograms.items())
    for folder in (folder.relative_to(root) for folder in closed):
        reason = f"folder {folder.as_posix()} cannot be read: check its permissions"
        # With "*", the folder is a parent, from which `patient_of` reads the patient.
        items.append(Unreadable((folder / "*").as_posix(), reason))
    return sorted(items, key=lambda item: item[0])


def _list(
    root: pathlib.Path, *, leave_out: str | os.PathLike | None
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """(files, unreadable folders) of a folder; workdirs are skipped with a log message."""
    if task := task_of_run(root):
        raise UserError(
            f"{root} is the workdir of a run of {task}, whose pictures are not thermograms: name "
            "the folder of the thermograms; if they are in this one, move them to another folder"
        )
    files: list[pathlib.Path] = []
    closed: list[pathlib.Path] = []
    for folder, subfolders, names in walk(root, closed=closed):
        if leave_out is not None and folder.absolute() == pathlib.Path(leave_out).absolute():
            subfolders.clear()
        elif task := task_of_run(folder):
            logging.warning("%s is left out: the workdir of a run of %s", folder, task)
            subfolders.clear()
        else:
            files += sorted(folder / name for name in names)
    if root in closed:
        raise ClosedFolderError(f"{root} cannot be read: check the permissions of this folder")
    return files, closed


def read_picture(name: str, files: Sequence[str | os.PathLike]) -> Picture | Unreadable:
    """Reads the files of a thermogram; of each kind of pixels, the first file is used."""
    pixels: dict[str, np.ndarray] = {}
    sources: dict[str, pathlib.Path] = {}
    notes: list[str] = []
    for file in map(pathlib.Path, files):
        try:
            kind, values, remarks = _read(file)
        except (DataError, OSError) as error:
            detail = error.detail if isinstance(error, DataError) else str(error)
            notes.append(f"{file.name}: {detail}")
            continue
        if kind in pixels:
            notes.append(f"{file.name}: left out, {sources[kind].name} is used")
            continue
        pixels[kind], sources[kind] = values, file
        notes += remarks
    parsed, folders = parse_name(pathlib.PurePath(name).name), pathlib.PurePath(name).parts[:-1]
    if mismatch := contradiction(parsed.patient if parsed else None, folders):
        notes.append(mismatch)
    if not pixels:
        return Unreadable(name, "; ".join(notes))
    if "temperatures" in pixels:
        if "gray" in pixels and pixels["gray"].shape != pixels["temperatures"].shape:
            notes.append("gray image of another size than the temperatures: left out")
            del pixels["gray"]
        notes = [note for note in notes if note != NOT_RADIOMETRIC]
    if "colour" in pixels and len(pixels) > 1 and not _is_snap(sources["colour"], pixels):
        notes.append(f"{sources['colour'].name}: left out, heatmaps are rendered as for training")
        del pixels["colour"]
    if "colour" in pixels:
        notes.append(COLOURS)
    kind = next(kind for kind in ("temperatures", "gray", "colour") if kind in pixels)
    file = pathlib.PurePosixPath(name).with_name(sources[kind].name).as_posix()
    if grids.grid_of(*pixels[kind].shape[:2]).letterboxed:
        notes.append(LETTERBOXED)
    if np.ptp(pixels[kind]) == 0:
        notes.append(CONSTANT)
    return Picture(name=name, file=file, notes=tuple(dict.fromkeys(notes)), **pixels)


def _is_snap(file: pathlib.Path, pixels: dict[str, np.ndarray]) -> bool:
    """Whether the colours are DMR-IR's heatmap of the other pixels, by file name and aspect."""
    snap = pixels["colour"].shape
    shape = next(pixels[kind].shape for kind in ("temperatures", "gray") if kind in pixels)
    same_aspect = abs(snap[1] * shape[0] / (snap[0] * shape[1]) - 1) <= grids.TOLERANCE
    return split_name(file.stem)[1] and same_aspect


def model_input(
    picture: Picture, *, data_type: str, colormap: str = "jet"
) -> UInt8[np.ndarray, "mh mw mc"]:
    """A picture as an image of the models: gray [480,640,1] or heat [120,160,3].

    Raises:
      DataError: the model is gray, and the picture has only colours.
    """
    grid = picture.grid
    if data_type == "heat" and picture.colour is not None:
        colour_grid = grids.grid_of(*picture.colour.shape[:2])  # its aspect is that of the picture
        return grids.to_model(picture.colour, colour_grid, shape=HEAT_SHAPE)
    if data_type == "gray" and picture.gray is not None:
        return grids.to_model(picture.gray, grid)[..., np.newaxis]
    source = picture.temperatures if picture.temperatures is not None else picture.gray
    if source is None:
        detail = "a gray model cannot read colours: give temperatures or a gray image"
        raise DataError("coloured", picture.name, detail)
    levels = grids.to_model(source.astype(np.float32), grid)
    if data_type == "gray":
        return radiometry.render_gray(levels)
    return radiometry.render_heat(levels, colormap=colormap)


# --------------------------------------------------------------------------------------------------
# One file
# --------------------------------------------------------------------------------------------------


def _read(file: pathlib.Path) -> tuple[str, np.ndarray, list[str]]:
    """(kind, pixels, remarks) of a file."""
    suffix = file.suffix.lower()
    if suffix in MATRICES:
        read = _read_npy if suffix == ".npy" else radiometry.read_any_matrix
        return "temperatures", _celsius(file, read(file)), []
    data = radiometry.read_bytes(file)
    remarks = [NOT_RADIOMETRIC]
    if _FLIR.search(data):
        try:
            return "temperatures", _celsius(file, _unpack(data)), []
        except ImportError:
            remarks = ["radiometric, read as a picture: pip install 'thermo_jax[flir]'"]
        except UserError as error:
            remarks = [f"radiometric, read as a picture: {_short(error)}"]
    image = radiometry.open_image(file, data, formats=("JPEG", "PNG", "TIFF"))
    _check_size(file, image.height, image.width)
    if image.mode == "F":
        return "temperatures", _celsius(file, np.array(image)), []
    if image.mode.startswith("I"):
        detail = "whole numbers of more than 8 bit: give degrees C as 32-bit floating point"
        raise DataError("unreadable-image", file, detail)
    colour = image.convert("RGB")
    if radiometry.colour_spread(colour) <= radiometry.MAX_COLOUR_SPREAD:
        return "gray", np.array(image.convert("L")), remarks
    return "colour", np.array(colour), remarks


def _celsius(file: pathlib.Path, values: np.ndarray) -> Float32[np.ndarray, "h w"]:
    if values.ndim != 2:
        detail = f"an array of shape {list(values.shape)}; expected rows x columns of degrees C"
        raise DataError("wrong-shape", file, detail)
    _check_size(file, *values.shape)
    radiometry.check_celsius(file, values)
    return values.astype(np.float32)


def _check_size(file: str | os.PathLike, height: int, width: int) -> None:
    if not SMALLEST <= min(height, width) <= max(height, width) <= LARGEST:
        detail = f"{height}x{width} pixels; expected {SMALLEST} to {LARGEST} per side"
        raise DataError("wrong-size", file, detail)


def _read_npy(file: pathlib.Path) -> np.ndarray:
    data = radiometry.read_bytes(file)
    try:
        if not data.startswith(np.lib.format.MAGIC_PREFIX):
            raise ValueError("not written by numpy.save")
        # Memory-mapped, because a damaged header may describe a huge array. Nothing is unpickled.
        values = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise ValueError("no array of numbers")
        return np.array(values, np.float64)
    except Exception as error:  # NumPy evaluates the header as Python, which raises many types
        detail = f"not a NumPy array ({_short(error)}; the file has {len(data)} bytes)"
        raise DataError("unreadable-matrix", file, detail) from error


def _unpack(data: bytes) -> np.ndarray:
    import flyr

    try:
        return np.asarray(flyr.unpack(io.BytesIO(data)).celsius, np.float64)
    except Exception as error:  # flyr raises errors of many types
        raise UserError(f"its temperatures cannot be read ({_short(error)})") from error


def _short(error: Exception) -> str:
    return str(getattr(error, "detail", error)).split("\n")[0][:100] or type(error).__name__
