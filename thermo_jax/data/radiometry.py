"""Reads temperature matrices and JPEGs; renders gray thermograms and heatmaps from temperatures.

Rendering (SPEC section 4): gray is scaled from the image's minimum and maximum to 8 bit; a heatmap
shows 4x4 means of the same scaled values in the colours of a matplotlib colour map.
"""

import collections
import concurrent.futures
import contextlib
import functools
import io
import os
import pathlib
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm
from jaxtyping import Float32, Float64, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from thermo_jax.data.thermogram import GRAY_SHAPE, HEAT_SHAPE, DataError, Thermogram
from thermo_jax.errors import UserError

MIN_CELSIUS, MAX_CELSIUS = 10.0, 45.0
ZERO_CELSIUS_IN_KELVIN = 273.15
MAX_COLOUR_SPREAD = 8  # gray levels between the channels of a gray image
MAX_FILE_BYTES = 64 * 2**20  # a matrix is 2-3 MB of text; images are much smaller
MAX_PIXELS = 4096**2  # a larger image is not decoded

# Pillow raises SyntaxError for some broken headers.
_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, *_BOMB_ERRORS)


class Pixels(NamedTuple):
    """The pixels of one thermogram; None for a kind that has no file and cannot be rendered."""

    gray: UInt8[np.ndarray, "480 640 1"] | None = None
    heat: UInt8[np.ndarray, "120 160 3"] | None = None
    temperatures: Float32[np.ndarray, "480 640"] | None = None  # degrees C


def read_temperatures(path: str | os.PathLike) -> Float32[np.ndarray, "480 640"]:
    """Reads a text matrix of 480 lines x 640 temperatures in degrees C.

    Space, tab or `;` separate numbers. A decimal comma is accepted if no number has a point. Some
    files have line ends \\r\\n or \\r\\r\\n, blank lines, separators at the end of lines, or a byte
    order mark.

    Raises:
      DataError: the file cannot be read, or its values cannot be temperatures in degrees C.
      FileNotFoundError: there is no such file.
    """
    text = _read_text(path)
    if "," in text and (
        "." in text or re.search(r",\s|,;|,$", text) or not re.search(r"[;\t ]", text)
    ):
        detail = "numbers separated by commas; expected space, tab or ';' between them"
        raise DataError("unreadable-matrix", path, detail)
    expected = "expected 480 lines of 640 (rows x columns)"
    values = _parse_matrix(path, text, expected=expected)
    if values.shape != GRAY_SHAPE:
        rows, columns = values.shape
        detail = f"{rows} lines of {columns} values; {expected}"
        raise DataError("wrong-shape", path, detail, size=f"{rows}x{columns}")
    check_celsius(path, values)
    return values.astype(np.float32)


def read_any_matrix(path: str | os.PathLike) -> Float64[np.ndarray, "h w"]:
    """Reads a text matrix of any size, in the forms of `read_temperatures` or separated by commas.

    Raises:
      DataError: the file cannot be read, or contains no matrix of numbers.
      FileNotFoundError: there is no such file.
    """
    text = _read_text(path)
    other_separator = re.search(r"\d[;\t ]+[\d-]", text)
    if "." in text or ", " in text or not other_separator:
        text = text.replace(",", " ")
    return _parse_matrix(path, text)


def _read_text(path: str | os.PathLike) -> str:
    data = read_bytes(path)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError("unreadable-matrix", path, "not a text file") from error


def _parse_matrix(
    path: str | os.PathLike, text: str, *, expected: str = "expected lines of equally many numbers"
) -> Float64[np.ndarray, "h w"]:
    text = re.sub(r"(?<=\d),(?=\d)", ".", text).replace(";", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        if not lines:
            raise ValueError("only blank lines")
        # Double precision, so that a value too large for float32 is reported as out of range.
        return np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None)
    except ValueError as error:
        kind = "wrong-shape" if "number of columns" in str(error) else "unreadable-matrix"
        detail = f"no matrix of numbers ({str(error).split(';')[0][:100]}); {expected}"
        raise DataError(kind, path, detail) from error


def check_celsius(path: str | os.PathLike, values: np.ndarray) -> None:
    """Raises DataError, which names the file, if values cannot be temperatures in degrees C."""
    finite = np.isfinite(values)
    if not finite.all():
        detail = f"{int((~finite).sum())} of {values.size} values are NaN or infinite"
        raise DataError("not-a-number", path, detail)
    low, high, middle = values.min(), values.max(), np.median(values)
    if MIN_CELSIUS <= middle - ZERO_CELSIUS_IN_KELVIN <= MAX_CELSIUS:
        detail = f"looks like Kelvin (median {middle:.2f}); subtract 273.15"
        raise DataError("kelvin", path, detail)
    outside = int(((values < MIN_CELSIUS) | (values > MAX_CELSIUS)).sum())
    if outside:
        detail = (
            f"{outside} of {values.size} values outside {MIN_CELSIUS:g}..{MAX_CELSIUS:g} degrees C "
            f"(from {low:.6g} to {high:.6g})"
        )
        raise DataError("out-of-range", path, detail)


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the file's content.

    Raises:
      DataError: the file is empty, larger than 64 MB, or not a readable plain file; a broken link.
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    kind = "unreadable-matrix" if path.suffix.lower() == ".txt" else "unreadable-image"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(kind, path, "not a plain file")  # reading a pipe would block
        if status.st_size > MAX_FILE_BYTES:
            limit = MAX_FILE_BYTES // 2**20
            detail = f"{status.st_size / 2**20:.0f} MB; expected at most {limit} MB"
            raise DataError("too-large", path, detail)
        data = path.read_bytes()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(kind, path, "link to a file that does not exist") from error
        raise
    except OSError as error:
        raise DataError(kind, path, f"cannot be read ({error.strerror})") from error
    if not data:
        raise DataError(kind, path, "the file is empty; copy it again")
    return data


def read_gray(path: str | os.PathLike) -> UInt8[np.ndarray, "480 640 1"]:
    """Reads a 480x640 gray JPEG of one channel, or of three (nearly) equal channels.

    Raises:
      DataError: the file is unreadable, truncated, of another size, or coloured.
    """
    image = _read_image(path, expected=GRAY_SHAPE).convert("RGB")
    spread = colour_spread(image)
    if spread > MAX_COLOUR_SPREAD:
        detail = (
            f"channels up to {spread} levels apart, so not a gray thermogram "
            f"(at most {MAX_COLOUR_SPREAD}); is it a heatmap?"
        )
        raise DataError("coloured-gray", path, detail)
    return np.array(image.convert("L"))[..., np.newaxis]


def colour_spread(image: Image.Image) -> int:
    """The largest difference between the channels of a pixel of an RGB image, in gray levels."""
    # Whole channels are compared: reducing the last axis of [480,640,3] is ten times slower.
    channels = [np.asarray(channel) for channel in image.split()]
    high, low = (functools.reduce(limit, channels) for limit in (np.maximum, np.minimum))
    return int((high - low).max())


def read_heat(path: str | os.PathLike) -> UInt8[np.ndarray, "120 160 3"]:
    """Reads a 120x160 heatmap ("snap") as RGB.

    Raises:
      DataError: the file is unreadable, truncated, or of another size.
    """
    return np.array(_read_image(path, expected=HEAT_SHAPE).convert("RGB"))


READERS = {"gray": read_gray, "heat": read_heat, "temperatures": read_temperatures}


def _read_image(path: str | os.PathLike, *, expected: tuple[int, int]) -> Image.Image:
    image = open_image(path, read_bytes(path), formats=("JPEG", "PNG"))
    if (image.height, image.width) != expected:
        size = f"{image.height}x{image.width}"
        detail = f"{size} pixels (rows x columns); expected {expected[0]}x{expected[1]}"
        raise DataError("wrong-size", path, detail, size=size)
    return image


def open_image(path: str | os.PathLike, data: bytes, *, formats: Sequence[str]) -> Image.Image:
    """Decodes an image, and turns it upright by its EXIF data.

    Raises:
      DataError: `data` is not a complete image of these formats, or is implausibly large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.height}x{image.width}"
            detail = f"{size} pixels (rows x columns); expected at most 4096x4096"
            raise DataError("wrong-size", path, detail, size=size)
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


def render_gray(temperatures: Float32[np.ndarray, "480 640"]) -> UInt8[np.ndarray, "480 640 1"]:
    """Renders temperatures as gray: the minimum of the image becomes 0, its maximum 255."""
    levels = np.round(_min_max(temperatures) * 255.0)
    return levels.astype(np.uint8)[..., np.newaxis]


def render_heat(
    temperatures: Float32[np.ndarray, "480 640"], *, colormap: str = "jet"
) -> UInt8[np.ndarray, "120 160 3"]:
    """Renders temperatures as a heatmap: min-max, 4x4 mean, then a matplotlib colour map.

    Raises:
      UserError: there is no such colour map.
    """
    colors = find_colormap(colormap)
    rows, columns = HEAT_SHAPE
    blocks = _min_max(temperatures).reshape(rows, 4, columns, 4)
    return colors(blocks.mean(axis=(1, 3)), bytes=True)[..., :3].copy()


def find_colormap(name: str) -> Callable:
    """matplotlib's colour map of this name.

    Raises:
      UserError: there is no such colour map.
    """
    import matplotlib  # here, because the import is slow

    if name not in matplotlib.colormaps:
        raise UserError(
            f"unknown colour map {name!r}; use a matplotlib name such as 'jet' or 'inferno'"
        )
    # This look-up returns a copy. Threads need their own copies, because a colour map builds its
    # table when it is first used.
    return matplotlib.colormaps[name]


def _min_max(temperatures: np.ndarray) -> np.ndarray:
    values = np.asarray(temperatures, dtype=np.float64)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def load_pixels(
    record: Thermogram,
    *,
    colormap: str = "jet",
    wanted: Collection[str] = Pixels._fields,
) -> Pixels:
    """Reads a thermogram's pixels; renders gray and heat from temperatures if they have no file.

    Args:
      wanted: the kinds to read or render; the others are None.
    Raises:
      DataError: a file of the record cannot be used.
      UserError: an unknown colour map.
    """
    if unknown := set(wanted) - set(Pixels._fields):
        raise ValueError(f"unknown pixels {sorted(unknown)}; choose from {Pixels._fields}")
    paths = record.paths
    pixels = {kind: READERS[kind](paths[kind]) for kind in wanted if kind in paths}
    missing = set(wanted) - pixels.keys()
    if missing and "temperatures" in paths:
        temperatures = pixels.get("temperatures")
        if temperatures is None:
            temperatures = read_temperatures(paths["temperatures"])
        render = {"gray": render_gray, "heat": functools.partial(render_heat, colormap=colormap)}
        pixels |= {kind: render[kind](temperatures) for kind in missing}
    return Pixels(**pixels)


def ordered_map(
    function: Callable[[Any], Any], items: Sequence[Any], *, description: str
) -> Iterator[Any]:
    """Like `map`, but threads compute results in advance, and a terminal shows a progress bar.

    At most two results per thread wait in memory.
    """
    workers = min(8, os.cpu_count() or 1)  # files may be large: 64 MB each
    ahead: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            # disable=None hides the bar if standard error is no terminal; delay hides it for 2 s.
            for item in tqdm.tqdm(items, description, disable=None, delay=2):
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
