"""Temperatures in the JPEGs of FLIR cameras; a note on those of other makers.

The optional package `flyr` computes the temperatures by FLIR's published radiometric formula. It
trusts the numbers in a file: one wrong byte in the number of records keeps it busy for half an
hour. So it gets a new file, with nothing but the two records that it needs, whose sizes were
checked.
"""

import io
import re

import numpy as np
from jaxtyping import Float64
from PIL import Image

from thermo_jax.data.radiometry import ZERO_CELSIUS_IN_KELVIN
from thermo_jax.errors import first_line

_FLIR = re.compile(rb"\xff\xe1..FLIR\x00", re.DOTALL)  # the segment that contains temperatures
_MAX_PIXELS = 2**21  # of the temperatures; FLIR's largest cameras have 1280x1024
_MAX_RECORDS = 256
_RAW, _CAMERA = 1, 32  # kinds of records
_MAKE, _ORIENTATION = 0x010F, 0x0112  # EXIF tags
# Parts of the names of makers in EXIF data whose JPEGs may contain temperatures.
_MAKERS = (
    *("dji", "flir", "autel", "parrot", "hik", "infiray", "guide", "testo", "fluke", "seek"),
    *("optris", "infratec", "nec", "topdon", "uni-t", "workswell"),
)


class NotReadableError(Exception):
    """Temperatures of a FLIR file that cannot be read; the text says why."""


def is_flir(data: bytes) -> bool:
    """Whether a file is a JPEG with the temperatures of a FLIR camera."""
    return data.startswith(b"\xff\xd8") and _FLIR.search(data) is not None


def read_celsius(data: bytes, *, emissivity: float = 0.0) -> tuple[Float64[np.ndarray, "h w"], str]:
    """Returns (temperatures in degrees C, turned upright by the EXIF data; the camera's settings).

    Args:
      emissivity: replaces the recorded one; 0 = as recorded.
    Raises:
      NotReadableError: flyr is not installed, or cannot read the file.
    """
    try:
        import flyr
    except ImportError as error:
        raise NotReadableError("pip install 'thermo_jax[flir]'") from error
    try:
        thermogram = flyr.unpack(io.BytesIO(_plain_file(data)))
        recorded = float(thermogram.metadata["emissivity"])
        reflected = float(thermogram.metadata["reflected_apparent_temperature"])
        if emissivity:
            thermogram = thermogram.adjust_metadata(emissivity=emissivity)
        with np.errstate(all="ignore"):  # impossible settings give NaN
            celsius = np.asarray(thermogram.celsius, np.float64)
        if celsius.ndim != 2:
            raise ValueError(f"an array of shape {list(celsius.shape)}")
    except Exception as error:  # flyr raises errors of many types
        raise NotReadableError(f"its temperatures cannot be read ({first_line(error)})") from error
    celsius = _upright(celsius, _exif(data).get(_ORIENTATION))
    note = f"emissivity {recorded:.3g}" + (f" replaced by {emissivity:.3g}" if emissivity else "")
    note += f", reflected temperature {reflected - ZERO_CELSIUS_IN_KELVIN:.1f} degrees C"
    return np.ascontiguousarray(celsius), note


def _plain_file(data: bytes) -> bytes:
    """A JPEG of one pixel with the records of FLIR's temperatures and settings.

    Raises:
      ValueError: the records are damaged, or implausibly large.
    """
    records = bytearray(_join_segments(data))
    count = int.from_bytes(records[28:32], "big")
    if not 0 < count <= _MAX_RECORDS or len(records) < 32 * count:
        raise ValueError(f"{count} records; expected 1 to {_MAX_RECORDS}")
    # flyr reads entry 0, 1, ... at byte 0, 32, ..., which includes the header of the file.
    for entry in range(0, 32 * count, 32):
        kind = int.from_bytes(records[entry : entry + 2], "big")
        if kind == _RAW:
            _check_raw(records, int.from_bytes(records[entry + 12 : entry + 16], "big"))
        elif kind != _CAMERA:
            records[entry : entry + 2] = bytes(2)  # such as a photograph, which flyr would open
    pieces = [records[start : start + 65_000] for start in range(0, len(records), 65_000)]
    if len(pieces) > 256:
        raise ValueError(f"{len(records)} bytes of records")
    segments = [
        b"\xff\xe1%bFLIR\x00\x01%c%c%b"
        % ((len(piece) + 10).to_bytes(2, "big"), number, len(pieces) - 1, piece)
        for number, piece in enumerate(pieces)
    ]
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "JPEG")
    picture = file.getvalue()
    return picture[:2] + b"".join(segments) + picture[2:]


def _join_segments(data: bytes) -> bytes:
    """The content of FLIR's segments, in the order of their numbers."""
    pieces: dict[int, bytes] = {}
    position = 0
    while match := _FLIR.search(data, position):
        start = match.end()
        length = int.from_bytes(match[0][2:4], "big") - 10
        if length < 0 or len(data) < start + 3:
            raise ValueError("a damaged segment")
        number, last = data[start + 1], data[start + 2]
        if number in pieces or number > last:
            raise ValueError(f"segment {number} of {last + 1}")
        position = start + 3 + length
        pieces[number] = data[start + 3 : position]
        if number == last:
            break
    if sorted(pieces) != list(range(last + 1)):
        raise ValueError(f"{len(pieces)} of {last + 1} segments")
    return b"".join(pieces[number] for number in range(last + 1))


def _check_raw(records: bytes, start: int) -> None:
    """Checks the size of a record of temperatures: as it says, and as the PNG inside it says."""
    width, height = (int.from_bytes(records[start + i : start + i + 2], "little") for i in (2, 4))
    sizes = [(height, width)]
    content = bytes(records[start + 32 : start + 56])
    if content.startswith(b"\x89PNG"):
        sizes.append((int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")))
    for size in sizes:
        if size != sizes[0] or not 0 < size[0] * size[1] <= _MAX_PIXELS:
            raise ValueError(f"{size[0]}x{size[1]} temperatures")


def maker_of(data: bytes) -> str | None:
    """A note about a JPEG without FLIR's temperatures, from a thermal camera; None for others."""
    make = str(_exif(data).get(_MAKE, "")).strip("\x00 ")[:40]
    if not any(maker in make.lower() for maker in _MAKERS):
        return None
    if "dji" in make.lower():
        name, program = "DJI R-JPEG", "DJI's Thermal SDK (`dji_irp -a measure`)"
    else:
        name, program = f"picture of a {make!r} camera", "the camera's program"
    return f"{name}: only the picture is read; to use temperatures, export them with {program}"


def _upright(values: np.ndarray, orientation: object) -> np.ndarray:
    """The rows and columns of an image, turned upright by its EXIF orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        values = values.T
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if orientation in (3, 4, 7, 8) else values


def _exif(data: bytes) -> dict:
    try:
        return dict(Image.open(io.BytesIO(data), formats=("JPEG",)).getexif())
    except Exception:  # damaged EXIF data raise errors of many types
        return {}
