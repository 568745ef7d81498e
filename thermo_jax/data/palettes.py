"""Turns a decoded colour picture into gray levels (SPEC section 9, "Gray or colour", "Palettes").

A gray picture may have coloured marks: a measuring cross, text, a colour bar. A picture in the
colours of a known map is turned back into the scale of that map, 0 (coldest) to 255 (hottest).
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from thermo_jax.data import colour_maps

MAX_COLOUR_SPREAD = 8  # levels between the channels of a gray pixel
MIN_GRAY = 0.99  # share of the pixels of a gray picture that are gray; the others are marks
MIN_MATCH = 0.90  # share of the pixels that have the colours of a map
MIN_LEAD = 0.10  # how far the share of the second-best map must be behind
# Largest channel difference between a pixel and a colour of the map. The first tolerance decides
# whether a picture fits a map. The others decide between maps that have many colours in common.
TOLERANCE, *_CLOSER = (20, 10, 5)
_SAMPLE = 2500  # pixels that are compared with every map
_CHUNK = 2**15  # colours that are compared with a map at a time, to limit memory
_MAX_MARK_RADIUS = 6  # pixels; deeper inside a mark, the nearest good pixel is copied
# A map is reversed if the sides of the frame would be warmer than its middle by this share of the
# range of levels. The body is in the middle, and warmer than the room.
_MIN_WARMER_SIDES = 0.15
_FRAME_VARIATION = 8  # levels within a row or column of a plain frame around the picture

Notes = list[tuple[str, str]]  # kind of data_report.NOTES, detail


class _Fit(NamedTuple):
    """How well the colours of some pixels agree with one table of a map."""

    name: str
    table: UInt8[np.ndarray, "256 3"]
    distances: UInt8[np.ndarray, " n"]  # of each pixel from the nearest colour

    def share(self, tolerance: int) -> float:
        return float((self.distances <= tolerance).mean())


def gray_levels(
    rgb: UInt8[np.ndarray, "h w 3"],
) -> tuple[UInt8[np.ndarray, "h w"] | None, Notes]:
    """Returns the gray levels of a colour picture, and notes on how they were found.

    A gray picture becomes what Pillow's `convert("L")` makes of it; its coloured pixels, if there
    are any, become the median of their gray neighbours. A picture in the colours of a known map
    becomes the positions of these colours on the map.

    Returns:
      (levels, notes). The levels are None if the picture has the colours of no known map.
    """
    coloured = _colour_spread(rgb) > MAX_COLOUR_SPREAD
    gray_share = 1 - coloured.mean()
    if gray_share >= MIN_GRAY:
        return _gray_without_marks(rgb, coloured)
    fit, reason = _fitting_map(rgb, coloured)
    if fit is not None:
        return _scale_of_map(rgb, fit)
    # Gray counts as one of the known maps: this is a gray picture with a colour bar, for example.
    if gray_share >= MIN_MATCH:
        return _gray_without_marks(rgb, coloured)
    text = f"colours of no known palette, used as they are: {reason}"
    return None, [("unknown-palette", text)]


def _colour_spread(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """The largest difference between the channels of each pixel."""
    # Whole channels are compared: reducing an axis of length 3 is ten times slower.
    channels = [rgb[..., channel] for channel in range(3)]
    return functools.reduce(np.maximum, channels) - functools.reduce(np.minimum, channels)


def _gray_without_marks(
    rgb: UInt8[np.ndarray, "h w 3"], coloured: Bool[np.ndarray, "h w"]
) -> tuple[UInt8[np.ndarray, "h w"], Notes]:
    levels = np.array(Image.fromarray(rgb).convert("L"))
    count = int(coloured.sum())
    if not count:
        return levels, []
    text = f"{count} coloured pixels replaced by their gray neighbours"
    return fill_marks(levels, coloured), [("coloured-marks", text)]


def fill_marks(
    levels: UInt8[np.ndarray, "h w"], marks: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w"]:
    """Replaces each marked pixel by the median of its nearest neighbours that are not marked.

    The window around a marked pixel is one pixel larger on each side than the smallest square that
    contains an unmarked pixel.
    """
    from scipy import ndimage  # here, because the import is slow

    if not marks.any() or marks.all():
        return levels
    distances = ndimage.distance_transform_cdt(marks, metric="chessboard")
    filled = levels.copy()
    for distance in range(1, min(int(distances.max()), _MAX_MARK_RADIUS) + 1):
        where = np.nonzero(distances == distance)
        filled[where] = _window_medians(levels, marks, where, radius=distance + 1)
    deep = distances > _MAX_MARK_RADIUS
    if deep.any():
        nearest = ndimage.distance_transform_cdt(
            marks, metric="chessboard", return_distances=False, return_indices=True
        )
        filled[deep] = levels[tuple(nearest[:, deep])]
    return filled


def _window_medians(
    levels: UInt8[np.ndarray, "h w"],
    marks: Bool[np.ndarray, "h w"],
    where: tuple[np.ndarray, np.ndarray],
    *,
    radius: int,
) -> UInt8[np.ndarray, " n"]:
    """The median of the unmarked pixels in a square window around each of the given pixels."""
    size, marked = 2 * radius + 1, 256  # a marked pixel sorts behind all levels
    padded = np.pad(np.where(marks, np.uint16(marked), levels), radius, constant_values=marked)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    medians = []
    step = max(1, 2**21 // size**2)  # windows at a time, to limit memory
    for start in range(0, len(where[0]), step):
        rows, columns = (index[start : start + step] for index in where)
        ordered = np.sort(windows[rows, columns].reshape(-1, size**2), axis=-1)
        count = (ordered < marked).sum(axis=-1, keepdims=True)
        middle = np.concatenate([(count - 1) // 2, count // 2], axis=-1)
        medians.append((np.take_along_axis(ordered, middle, axis=-1).sum(axis=-1) + 1) // 2)
    return np.concatenate(medians).astype(np.uint8)


def _fitting_map(
    rgb: UInt8[np.ndarray, "h w 3"], coloured: Bool[np.ndarray, "h w"]
) -> tuple[_Fit | None, str]:
    """Finds the map whose colours a picture has. Returns it, or None and the reason."""
    step = max(1, int(np.ceil(np.sqrt(coloured.size / _SAMPLE))))
    sample = np.s_[::step, ::step]
    fits = sorted(
        (_best_table(name, rgb[sample].reshape(-1, 3)) for name in colour_maps.NAMES),
        key=lambda fit: fit.share(TOLERANCE),
        reverse=True,
    )
    best, share = fits[0], fits[0].share(TOLERANCE)
    if share < MIN_MATCH:
        return None, (
            f"{share:.0%} of the pixels have colours of the nearest one, {best.name}; expected at "
            f"least {MIN_MATCH:.0%} of one palette"
        )
    # The gray of a gray picture with some colour is also in the middle of the map arctic.
    inside = coloured[sample].ravel()
    if inside.any() and (best.distances[inside] <= TOLERANCE).mean() < 0.5:
        return None, f"most coloured pixels are not of the nearest one, {best.name}"
    rivals = [fit for fit in fits if fit.share(TOLERANCE) > share - MIN_LEAD]
    for tolerance in (TOLERANCE, *_CLOSER):
        shares = sorted((fit.share(tolerance) for fit in rivals), reverse=True)
        if len(rivals) == 1 or shares[0] - shares[1] >= MIN_LEAD:
            return max(rivals, key=lambda fit: fit.share(tolerance)), ""
    names = " and ".join(fit.name for fit in rivals)
    return None, f"{names} fit equally well"


def _best_table(name: str, pixels: UInt8[np.ndarray, "n 3"]) -> _Fit:
    fits = [_Fit(name, table, _distances(pixels, table)) for table in colour_maps.tables(name)]
    # Marks are far from every table: they must not decide between two makers.
    return min(fits, key=lambda fit: np.minimum(fit.distances, 2 * TOLERANCE).mean())


def _distances(
    pixels: UInt8[np.ndarray, "n 3"], table: UInt8[np.ndarray, "256 3"]
) -> UInt8[np.ndarray, " n"]:
    """The largest channel difference of each pixel from the nearest colour of a map."""
    largest = None
    for channel in range(3):
        values, colours = pixels[np.newaxis, :, channel], table[:, channel, np.newaxis]
        difference = np.maximum(values, colours) - np.minimum(values, colours)
        largest = difference if largest is None else np.maximum(largest, difference, out=largest)
    return largest.min(axis=0)


def _scale_of_map(
    rgb: UInt8[np.ndarray, "h w 3"], fit: _Fit
) -> tuple[UInt8[np.ndarray, "h w"], Notes]:
    """The position of each pixel on a map, 0 (coldest) to 255, and a note on the map."""
    positions, on_map = _positions(rgb, fit.table)
    levels = fill_marks(positions, ~on_map)
    name, reason = fit.name, ""
    if _sides_are_warmer(levels):
        levels = 255 - levels
        name = f"{name}, reversed"
        reason = "; reversed because the sides of the frame would be warmer than the body"
    share = f"{on_map.mean():.1%} of the pixels"
    text = f"{name}: colours of this palette ({share}) turned into gray levels"
    return levels, [("known-palette", f"{text}{reason}")]


def _positions(
    rgb: UInt8[np.ndarray, "h w 3"], table: UInt8[np.ndarray, "256 3"]
) -> tuple[UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The position of the nearest colour of a map, and whether that colour is near enough."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    codes = (red << 16) | (green << 8) | blue
    # Each colour of the picture is looked up once. These tables are faster than sorting the codes.
    present = np.zeros(2**24, bool)
    present[codes] = True
    positions, near = np.empty(2**24, np.uint8), np.empty(2**24, bool)
    colours_of_map = table.astype(np.float32)
    squares = (colours_of_map**2).sum(axis=-1)
    every_code = np.flatnonzero(present)
    for start in range(0, len(every_code), _CHUNK):
        part = every_code[start : start + _CHUNK]
        colours = np.stack([part >> 16, (part >> 8) & 255, part & 255], axis=-1).astype(np.float32)
        # |c - m|^2 without |c|^2, which is the same for every colour m of the map.
        nearest = (squares - 2 * colours @ colours_of_map.T).argmin(axis=-1)
        positions[part] = nearest
        near[part] = np.abs(colours - colours_of_map[nearest]).max(axis=-1) <= TOLERANCE
    return positions[codes], near[codes]


def _sides_are_warmer(levels: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether the background, seen at both sides, has higher levels than the body in the middle.

    Only the lower half of the sides is used: arms reach into the upper half. Rows and columns of
    one level around the picture are a frame, and not the background.
    """
    rows = np.flatnonzero(np.ptp(levels, axis=1) > _FRAME_VARIATION)
    columns = np.flatnonzero(np.ptp(levels, axis=0) > _FRAME_VARIATION)
    if not len(rows) or not len(columns):
        return False
    levels = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = levels.shape
    band = max(1, width * 8 // 100)
    lower = levels[height // 2 :]
    sides = (lower[:, :band].mean() + lower[:, -band:].mean()) / 2
    middle = levels[height // 4 : height - height // 7, width // 4 : width - width // 4]
    low, high = np.percentile(levels, [5, 95])
    return bool(middle.size and sides - middle.mean() > _MIN_WARMER_SIDES * (high - low))
