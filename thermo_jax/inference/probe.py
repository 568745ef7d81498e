"""The temperatures of a thermogram as a small PNG file, which a page reads under the mouse.

red * 256 + green = 100 x degrees C, or 100 x gray level; blue = index of the region's class
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from thermo_jax.data.picture import Picture
from thermo_jax.data.thermogram import BACKGROUND

LONGEST = 320  # pixels of a side


def encode_values(picture: Picture, label_map: UInt8[np.ndarray, "h w"] | None) -> bytes:
    """The file's content; b"" for a picture that has only colours.

    Larger pictures are thinned out to at most 320 pixels a side: each value is one that was
    measured, not a mean.
    """
    values = picture.levels if picture.temperatures is None else picture.temperatures
    if values is None:
        return b""
    step = -(-max(values.shape) // LONGEST)
    hundredths = np.rint(100 * values[::step, ::step].astype(np.float64)).astype(np.uint16)
    classes = np.full(values.shape, BACKGROUND) if label_map is None else label_map
    channels = (hundredths >> 8, hundredths & 255, classes[::step, ::step])
    file = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(file, "PNG", optimize=True)
    return file.getvalue()
