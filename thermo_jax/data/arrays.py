"""Reads thermograms that a user has in memory, to the same pixels as from a file.

array -> temperatures in degrees C, gray levels, or colours -> Picture
"""

import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from thermo_jax.data import image_limits
from thermo_jax.data.picture import Picture, combine
from thermo_jax.data.reader import (
    AS_RECOGNISED,
    SMALLEST,
    ReaderSettings,
    content_of_picture,
    content_of_temperatures,
)
from thermo_jax.data.thermogram import DataError
from thermo_jax.errors import UserError

EXPECTED = (
    "temperatures (numbers [H,W]), gray levels (uint8 [H,W]) or colours (uint8 [H,W,3]), or T "
    "thermograms ([T,H,W])"
)


def read_array(
    array: Any, *, name: str = "array", settings: ReaderSettings = AS_RECOGNISED
) -> list[Picture]:
    """Reads an array, or anything that NumPy can make one of (a tensor, a picture of Pillow).

    Arrays [H,W] of uint8 contain gray levels, and [H,W,3] colours. Any other numbers are
    temperatures in degrees C; another unit is recognised by the median, as in files. [T,H,W] are T
    thermograms. A last axis of 1 is left out. Pictures of Pillow are read as those in files.

    Args:
      name: of the array, in errors.
    Raises:
      UserError: it contains no numbers, or its shape is that of no thermogram.
      DataError: the temperatures are not those of a body, or the picture is too small or large.
    """
    if not (hasattr(array, "__array__") or hasattr(array, "__array_interface__")):
        raise UserError(f"{type(array).__name__} {array!r:.60} is no array; expected {EXPECTED}")
    path = pathlib.Path(name)
    if isinstance(array, Image.Image) and array.mode != "F" and not array.mode.startswith("I"):
        image_limits.check_size(path, array.height, array.width, smallest=SMALLEST)
        return [combine({path: content_of_picture(path, ImageOps.exif_transpose(array))})]
    values = np.asarray(array)
    if values.dtype.kind not in "fiu":
        raise UserError(f"{name} has the type {values.dtype}; expected {EXPECTED}")
    if values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    is_picture = values.dtype == np.uint8
    is_colour = values.ndim == 3 and values.shape[2] in (3, 4)
    frames = values[np.newaxis] if values.ndim == 2 or is_colour else values
    if frames.ndim != 3 + is_colour or not len(frames) or (is_colour and not is_picture):
        detail = f"shape {list(values.shape)} of {values.dtype}; expected {EXPECTED}"
        raise DataError("wrong-shape", path, detail)
    image_limits.check_frames(path, len(frames))
    pictures = []
    for frame in frames:
        if is_picture:
            image_limits.check_size(path, *frame.shape[:2], smallest=SMALLEST)
            content = content_of_picture(path, Image.fromarray(np.ascontiguousarray(frame)))
        else:
            content = content_of_temperatures(path, frame.astype(np.float64), settings)
        pictures.append(combine({path: content}))
    return pictures
