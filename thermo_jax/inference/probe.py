"""The temperatures of a thermogram in a small form, which a page reads under the mouse.

    three planes of bytes, compressed by zlib: the high bytes of 100 x degrees C (or 100 x gray
    level), their low bytes, the index of the region's class

They are no picture, because some browsers change the pixels that a page reads from one.
"""

import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from thermo_jax.data.picture import Picture
from thermo_jax.data.thermogram import BACKGROUND

LONGEST = 320  # pixels of a side


class Values(NamedTuple):
    """The values of a thermogram; larger ones are thinned out.

    Attributes:
      width, height: of the planes.
      data: the compressed planes.
    """

    width: int
    height: int
    data: bytes


def encode_values(picture: Picture, label_map: UInt8[np.ndarray, "h w"] | None) -> Values | None:
    """The values; None for a picture that has only colours.

    Larger pictures are thinned out to at most 320 pixels a side: each value is one that was
    measured, not a mean.
    """
    values = picture.levels if picture.temperatures is None else picture.temperatures
    if values is None:
        return None
    step = -(-max(values.shape) // LONGEST)
    thin = values[::step, ::step].astype(np.float64)
    hundredths = np.rint(100 * thin).astype(np.uint16)
    classes = np.full(values.shape, BACKGROUND) if label_map is None else label_map
    planes = (hundredths >> 8, hundredths & 255, classes[::step, ::step])
    data = zlib.compress(np.stack(planes).astype(np.uint8).tobytes(), 9)
    return Values(thin.shape[1], thin.shape[0], data)
