"""Opens one file of a thermogram: a table of temperatures, an array, or a picture of any camera.

    file -> temperatures in degrees C, gray levels or colours, at the file's own size
         -> notes: what was decided about it

Training, evaluation, the data report and prediction read files here and nowhere else (SPEC
section 9). `picture.py` puts the files of one thermogram together.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import stat
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps, UnidentifiedImageError

from thermo_jax.data import double_tiff, flir, image_limits, palettes, radiometry
from thermo_jax.data.file_listing import MATRICES
from thermo_jax.data.text_matrix import parse_matrix
from thermo_jax.data.thermogram import DataError, split_name
from thermo_jax.errors import UserError, first_line

MAX_FILE_BYTES = 64 * 2**20  # a matrix is 2-3 MB of text; images are much smaller
MAX_ARRAY_BYTES = 2**30  # of an .npy or .npz file, which may be a sequence of frames
MAX_NPZ_BYTES = 2**28  # after decompression, which happens for each frame
SMALLEST = 16  # pixels of a side
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
NO_TEMPERATURES = "no-temperatures"

# Pillow raises SyntaxError for some broken headers.
_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, *_BOMB_ERRORS)


@dataclasses.dataclass(frozen=True)
class ReaderSettings:
    """What a user may set, since files can be wrong about it.

    Attributes:
      unit: of temperatures, one of `radiometry.UNIT_CHOICES`.
      emissivity: replaces the one recorded in FLIR files; 0 = as recorded.
    """

    unit: str = "auto"
    emissivity: float = 0.0

    def __post_init__(self):
        if self.unit not in radiometry.UNIT_CHOICES:
            choices = ", ".join(radiometry.UNIT_CHOICES)
            raise UserError(f"unit={self.unit!r}: choose one of {choices}")
        if not 0 <= self.emissivity <= 1:
            raise UserError(
                f"emissivity={self.emissivity!r}: expected a number above 0 and at most 1, or 0 "
                "for the recorded one"
            )


AS_RECOGNISED = ReaderSettings()


class Content(NamedTuple):
    """The pixels of one file, or of one frame of it.

    Attributes:
      kind: "temperatures" float32 [h,w] in degrees C, "gray" uint8 [h,w], "colour" uint8 [h,w,3].
      good: of temperatures, the pixels that were measured; None if all were.
      notes: pairs (kind of `data_report.NOTES`, text).
      num_frames: of the file.
    """

    kind: str
    pixels: np.ndarray
    good: Bool[np.ndarray, "h w"] | None = None
    notes: tuple[tuple[str, str], ...] = ()
    num_frames: int = 1

    @property
    def recovered(self) -> bool:
        """Whether gray levels come from the colours of a known palette."""
        return any(kind == "known-palette" for kind, _ in self.notes)


def read_file(
    path: str | os.PathLike, settings: ReaderSettings = AS_RECOGNISED, *, frame: int = 0
) -> Content:
    """Reads a file, or one frame of a file of several frames (TIFF, GIF, array [T,H,W]).

    A file called `_snap` is DMR-IR's heatmap: its colours are used as they are.

    Raises:
      DataError: the file cannot be used.
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        frames = _read_array(path)
        if frame >= len(frames):
            raise DataError("wrong-shape", path, f"no frame {frame}: it has {len(frames)}")
        values = np.array(frames[frame], np.float64)
        return content_of_temperatures(path, values, settings, num_frames=len(frames))
    data = read_bytes(path)
    if suffix in MATRICES:
        return content_of_temperatures(path, parse_matrix(path, data), settings)
    notes = []
    if flir.is_flir(data):
        image_limits.check_image(path, data)  # of other pictures, `open_image` does so
        try:
            celsius, note = flir.read_celsius(data, emissivity=settings.emissivity)
        except flir.NotReadableError as error:
            notes.append((NO_TEMPERATURES, f"FLIR radiometric JPEG, read as a picture: {error}"))
        else:
            settings = dataclasses.replace(settings, unit="auto")
            notes = [("radiometry", note)]
            return content_of_temperatures(path, celsius, settings, notes=notes, units=("celsius",))
    image = open_image(path, data, frame=frame)
    num_frames = image_limits.count_frames(path, data)
    image_limits.check_size(path, image.height, image.width, smallest=SMALLEST)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.array(image, np.float64)
        return content_of_temperatures(path, values, settings, num_frames=num_frames)
    if image.format in ("JPEG", "MPO") and not notes and (maker := flir.maker_of(data)):
        notes.append((NO_TEMPERATURES, maker))
    return content_of_picture(path, image, notes=notes, num_frames=num_frames)


def content_of_picture(
    path: pathlib.Path,
    image: Image.Image,
    *,
    notes: Sequence[tuple[str, str]] = (),
    num_frames: int = 1,
) -> Content:
    """The content of a decoded picture of 8 bits; errors name `path`."""
    kind, pixels, more = _gray_or_colour(path, image)
    if (pixels == pixels[0, 0]).all():
        more = [("blank-image", "every pixel has the same value: nothing can be seen in it")]
    return Content(kind, pixels, notes=(*notes, *more), num_frames=num_frames)


def _gray_or_colour(
    path: pathlib.Path, image: Image.Image
) -> tuple[str, np.ndarray, list[tuple[str, str]]]:
    """(kind, pixels, notes) of a picture."""
    is_snap = split_name(path.name)[1]
    if image.mode == "L" and not is_snap:
        return "gray", np.array(image), []
    rgb = np.array(image.convert("RGB"))
    gray, notes = (None, []) if is_snap else palettes.gray_levels(rgb)
    return ("colour", rgb, notes) if gray is None else ("gray", gray, notes)


def count_frames(path: str | os.PathLike) -> int:
    """How many frames a file has; 1 for a file that cannot be read, or whose kind has only one."""
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    try:
        if suffix in (".npy", ".npz"):
            return len(_read_array(path))
        if suffix in (".tif", ".tiff", ".gif"):
            data = read_bytes(path)
            image_limits.check_image(path, data)
            return image_limits.count_frames(path, data)
    except (DataError, OSError):
        pass  # `read_file` raises the same error, and its caller reports it
    return 1


def content_of_temperatures(
    path: pathlib.Path,
    values: np.ndarray,
    settings: ReaderSettings,
    *,
    notes: Sequence[tuple[str, str]] = (),
    num_frames: int = 1,
    units: Sequence[str] = tuple(radiometry.UNITS),
) -> Content:
    """The content of numbers [h,w]; errors name `path`."""
    image_limits.check_size(path, *values.shape, smallest=SMALLEST)
    celsius = radiometry.to_celsius(path, values, unit=settings.unit, units=units)
    notes = (*notes, *celsius.notes)
    return Content("temperatures", celsius.values, celsius.good, notes, num_frames)


def _read_array(path: pathlib.Path) -> np.ndarray:
    """The numbers [T,H,W] of an .npy or .npz file; an .npy file is read when they are used."""
    check_file(path, limit=MAX_ARRAY_BYTES)
    try:
        # Memory-mapped, because a damaged header may describe a huge array. Nothing is unpickled.
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(values, np.lib.npyio.NpzFile):
            values = _only_array(values)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise ValueError("no array of numbers")
    except DataError:
        raise
    except Exception as error:  # NumPy evaluates the header as Python, which raises many types
        size = path.stat().st_size
        # NumPy's advice for what may be pickled is to load it unsafely.
        cause = "no array of numbers" if "pickle" in str(error) else first_line(error)
        detail = f"not a NumPy array ({cause}; the file has {size} bytes)"
        raise DataError("unreadable-matrix", path, detail) from error
    if values.ndim in (3, 4) and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        values = values[np.newaxis]
    if values.ndim != 3 or not len(values):
        detail = (
            f"an array of shape {list(values.shape)}; expected rows x columns of temperatures, or "
            "frames x rows x columns"
        )
        raise DataError("wrong-shape", path, detail)
    image_limits.check_frames(path, len(values))
    # Checked here, because bytes of 1 GB would become numbers of 8 GB.
    image_limits.check_size(path, *values.shape[1:], smallest=SMALLEST)
    return values


def _only_array(archive: Any) -> np.ndarray:
    """The one array of an .npz file. Raises ValueError if there are more, or it is too large."""
    with archive:
        if len(archive.files) != 1:
            raise ValueError(f"{len(archive.files)} arrays; expected one")
        size = sum(entry.file_size for entry in archive.zip.infolist())
        if size > MAX_NPZ_BYTES:
            limit = f"at most {MAX_NPZ_BYTES // 2**20} MB, or an .npy file"
            raise ValueError(f"{size / 2**20:.0f} MB after decompression; expected {limit}")
        return archive[archive.files[0]]


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the file's content.

    Raises:
      DataError: the file is empty, larger than 64 MB, or not a readable plain file; a broken link.
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    check_file(path, limit=MAX_FILE_BYTES)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(_unreadable(path), path, f"cannot be read ({error.strerror})") from error


def check_file(path: pathlib.Path, *, limit: int) -> None:
    """Checks that a file is plain, not empty, and has at most `limit` bytes; errors: `read_bytes`.

    Reading a pipe would block, and a file of many GB would fill the memory.
    """
    kind = _unreadable(path)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(kind, path, "link to a file that does not exist") from error
        raise
    except OSError as error:
        raise DataError(kind, path, f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(kind, path, "not a plain file")
    if status.st_size > limit:
        detail = f"{status.st_size / 2**20:.0f} MB; expected at most {limit // 2**20} MB"
        raise DataError("too-large", path, detail)
    if not status.st_size:
        raise DataError(kind, path, "the file is empty; copy it again")


def _unreadable(path: pathlib.Path) -> str:
    return "unreadable-matrix" if path.suffix.lower() in MATRICES else "unreadable-image"


def open_image(
    path: str | os.PathLike, data: bytes, *, formats: Sequence[str] = FORMATS, frame: int = 0
) -> Image.Image:
    """Decodes an image, or one frame of it, and turns it upright by its EXIF data.

    Raises:
      DataError: `data` is not a complete image of these formats, or is implausibly large.
    """
    image_limits.check_image(path, data)
    doubles = double_tiff.frames_of(data, most=frame + 1) if "TIFF" in formats else []
    try:
        if frame < len(doubles):
            image_limits.check_size(path, doubles[frame].height, doubles[frame].width)
            image = double_tiff.read_frame(data, frame)
        else:
            image = Image.open(io.BytesIO(data), formats=formats)
            if frame:
                image.seek(frame)
            image_limits.check_size(path, image.height, image.width)
            image.load()
        # Damaged EXIF data raise errors of many types, often after the pixels were turned.
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    except DataError:
        raise
    except _IMAGE_ERRORS as error:
        cause = f"no {' or '.join(formats)}" if isinstance(error, UnidentifiedImageError) else error
        detail = f"not a complete image ({cause}); copy it again"
        raise DataError("unreadable-image", path, detail) from error
    return image
