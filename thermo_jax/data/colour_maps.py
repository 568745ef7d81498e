"""The colour maps that cameras and plotting programs use for thermograms, as tables of 256 colours.

Colours of matplotlib's maps come from matplotlib. Cameras have maps of their own, which differ a
little from maker to maker: for these, this file contains control points, between which colours
are interpolated. The control points are our own approximations of FLIR's published palettes.
"""

import functools

import numpy as np
from jaxtyping import UInt8

# Position on the scale (0 = coldest, 255 = hottest): red, green, blue.
_ControlPoints = dict[int, tuple[int, int, int]]

# Between the iron palettes of several makers, of which none is more than 19 levels away.
_IRON: _ControlPoints = {
    0: (0, 0, 12),
    10: (2, 3, 80),
    20: (26, 0, 114),
    40: (84, 0, 152),
    60: (130, 0, 158),
    80: (170, 8, 148),
    100: (200, 26, 120),
    120: (222, 53, 76),
    140: (238, 85, 38),
    156: (248, 117, 10),
    180: (253, 160, 2),
    200: (255, 194, 4),
    215: (255, 217, 30),
    230: (254, 235, 86),
    240: (253, 245, 145),
    255: (255, 255, 255),
}
# The short list of colours that many programs use for "ironbow".
_IRON_OF_PROGRAMS: _ControlPoints = {
    0: (0, 0, 0),
    26: (32, 0, 140),
    89: (204, 0, 119),
    179: (255, 165, 0),
    217: (255, 215, 0),
    255: (255, 255, 255),
}
_CAMERA_RAINBOW: _ControlPoints = {
    0: (0, 3, 74),
    24: (0, 50, 134),
    48: (0, 90, 202),
    60: (0, 108, 222),
    70: (2, 126, 214),
    80: (8, 142, 172),
    92: (28, 157, 108),
    104: (83, 177, 43),
    120: (138, 196, 11),
    136: (203, 213, 2),
    150: (240, 206, 8),
    170: (255, 163, 22),
    190: (255, 93, 40),
    205: (250, 28, 62),
    215: (247, 26, 80),
    228: (250, 93, 108),
    240: (255, 165, 148),
    255: (255, 233, 208),
}
_ARCTIC: _ControlPoints = {
    0: (15, 15, 145),
    28: (15, 34, 240),
    72: (54, 227, 232),
    128: (107, 101, 97),
    184: (237, 101, 13),
    222: (235, 202, 13),
    255: (235, 230, 194),
}
# Maps whose colours look like skin (copper, pink, ...) are left out: a photograph would match.
# A map of several tables is one name for several makers' colours.
_TABLES: dict[str, tuple[str | _ControlPoints, ...]] = {
    "jet": ("jet",),
    "rainbow": ("rainbow", _CAMERA_RAINBOW),
    "iron": (_IRON, _IRON_OF_PROGRAMS),
    "inferno": ("inferno",),
    "plasma": ("plasma",),
    "magma": ("magma",),
    "viridis": ("viridis",),
    "hot": ("hot",),
    "arctic": (_ARCTIC,),
    "turbo": ("turbo",),
}
NAMES = tuple(_TABLES)


@functools.cache
def tables(name: str) -> tuple[UInt8[np.ndarray, "256 3"], ...]:
    """The colours of a map from coldest to hottest, once for each maker whose colours differ."""
    return tuple(_colours(table) for table in _TABLES[name])


def _colours(table: str | _ControlPoints) -> UInt8[np.ndarray, "256 3"]:
    positions = np.arange(256)
    if isinstance(table, str):
        import matplotlib  # here, because the import is slow

        colours = matplotlib.colormaps[table](positions, bytes=True)[:, :3].copy()
    else:
        points, values = np.array(list(table)), np.array(list(table.values()))
        channels = [np.interp(positions, points, channel) for channel in values.T]
        colours = np.round(np.stack(channels, axis=-1)).astype(np.uint8)
    colours.setflags(write=False)  # all threads share it
    return colours
