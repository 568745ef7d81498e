"""Radiometric JPEGs: temperatures of FLIR cameras, and the names of other makers' formats.

The optional package `flyr` computes the temperatures by FLIR's published radiometric formula.
"""

import io
import re

import numpy as np
from jaxtyping import Float64
from PIL import Image

from thermo_jax.data.radiometry import ZERO_CELSIUS_IN_KELVIN

_FLIR = re.compile(rb"\xff\xe1..FLIR\x00", re.DOTALL)  # the segment that contains temperatures
_MAKE, _ORIENTATION = 0x010F, 0x0112  # EXIF tags
# EXIF orientation -> what turns rows and columns upright.
_UPRIGHT = {
    2: np.fliplr,
    3: lambda values: np.rot90(values, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values, 2).T,
    8: np.rot90,
}
# A part of the maker's name in EXIF data -> (its format, the way to temperatures that we can read).
_MAKERS = {
    "dji": ("DJI R-JPEG", "DJI's Thermal SDK (`dji_irp -a measure`) writes them as raw numbers"),
    "autel": ("Autel radiometric JPEG", "export a table of temperatures from Autel's program"),
    "parrot": ("Parrot radiometric JPEG", "export a TIFF of temperatures from Parrot's SDK"),
    "hik": ("HIKMICRO radiometric JPEG", "HIKMICRO Analyzer exports them as CSV"),
    "infiray": ("InfiRay radiometric JPEG", "InfiRay's program exports them as CSV"),
    "guide": ("Guide radiometric JPEG", "Guide's program exports them as CSV"),
    "testo": ("testo thermogram", "testo IRSoft exports them as a table (Excel, CSV)"),
    "fluke": ("Fluke thermogram", "Fluke Connect or SmartView exports them as CSV"),
    "seek": ("Seek thermogram", "the camera's setting for radiometric files writes a CSV or TIFF"),
    "optris": ("Optris thermogram", "PIX Connect exports them as CSV or TIFF"),
    "infratec": ("InfraTec thermogram", "IRBIS exports them as a table"),
    "nec": ("NEC thermogram", "the camera's program exports them as CSV"),
    "topdon": ("TOPDON thermogram", "TOPDON's program exports them as CSV"),
    "uni-t": ("UNI-T thermogram", "UNI-T's program exports them as CSV"),
    "flir": ("picture of a FLIR camera", "if this copy lost them, use the camera's original file"),
    "workswell": ("Workswell radiometric JPEG", "CorePlayer exports them as CSV"),
}


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
        thermogram = flyr.unpack(io.BytesIO(data))
        recorded = float(thermogram.metadata["emissivity"])
        reflected = float(thermogram.metadata["reflected_apparent_temperature"])
        if emissivity:
            thermogram = thermogram.adjust_metadata(emissivity=emissivity)
        celsius = np.asarray(thermogram.celsius, np.float64)
        if celsius.ndim != 2:
            raise ValueError(f"an array of shape {list(celsius.shape)}")
    except Exception as error:  # flyr raises errors of many types
        text = str(error).split("\n")[0][:100] or type(error).__name__
        raise NotReadableError(f"its temperatures cannot be read ({text})") from error
    turn = _UPRIGHT.get(_exif(data).get(_ORIENTATION), np.asarray)
    note = f"emissivity {recorded:.3g}" + (f" replaced by {emissivity:.3g}" if emissivity else "")
    note += f", reflected temperature {reflected - ZERO_CELSIUS_IN_KELVIN:.1f} degrees C"
    return np.ascontiguousarray(turn(celsius)), note


def maker_of(image: Image.Image) -> str | None:
    """A note about a JPEG without temperatures: another maker's format, or None for a plain one."""
    try:
        make = str(image.getexif().get(_MAKE, "")).strip("\x00 ")
    except Exception:  # damaged EXIF data raise errors of many types
        return None
    formats = [known for part, known in _MAKERS.items() if part in make.lower()]
    if not formats:
        return None
    name, remedy = formats[0]
    return f"{name}: its temperatures are not read, only its picture; {remedy}"


def _exif(data: bytes) -> dict:
    try:
        return dict(Image.open(io.BytesIO(data), formats=("JPEG",)).getexif())
    except Exception:  # damaged EXIF data raise errors of many types
        return {}
