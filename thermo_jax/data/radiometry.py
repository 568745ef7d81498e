"""Temperatures: their unit, their bad pixels, and the images that are rendered from them.

Rendering (SPEC section 4): gray is scaled from the image's minimum and maximum to 8 bit; a heatmap
shows 4x4 means of the same scaled values in the colours of a matplotlib colour map. Units and bad
pixels follow SPEC section 9.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from thermo_jax.data.thermogram import HEAT_SHAPE, DataError
from thermo_jax.errors import UserError

MIN_CELSIUS, MAX_CELSIUS = 10.0, 45.0
ZERO_CELSIUS_IN_KELVIN = 273.15
LARGEST_ISOLATED = 9  # pixels of an area of bad pixels that neighbours replace
MAX_BAD_SHARE = 0.2  # of an image


class Unit(NamedTuple):
    """A unit of temperature: the range of medians that show it, and how it becomes degrees C."""

    lowest: float
    highest: float
    to_celsius: Callable[[np.ndarray], np.ndarray]


UNITS = {
    "celsius": Unit(MIN_CELSIUS, MAX_CELSIUS, lambda values: values),
    "fahrenheit": Unit(50, 113, lambda values: (values - 32) / 1.8),
    "kelvin": Unit(283, 318, lambda values: values - ZERO_CELSIUS_IN_KELVIN),
    "centikelvin": Unit(28_300, 31_800, lambda values: values / 100 - ZERO_CELSIUS_IN_KELVIN),
}
UNIT_CHOICES = ("auto", *UNITS)


class Celsius(NamedTuple):
    """Temperatures of one image in degrees C.

    `good` marks the pixels that were measured; None if all of them were. `notes` are pairs (kind
    of `data_report.NOTES`, text).
    """

    values: Float32[np.ndarray, "h w"]
    good: Bool[np.ndarray, "h w"] | None
    notes: list[tuple[str, str]]


def to_celsius(
    path: str | os.PathLike,
    values: Float[np.ndarray, "h w"],
    *,
    unit: str = "auto",
    units: Sequence[str] = tuple(UNITS),
) -> Celsius:
    """Converts temperatures to degrees C, and repairs bad pixels.

    Bad pixels are NaN, infinite, or outside 10..45 degrees C. Small areas of them take the median
    of their good neighbours; larger areas are clamped to 10..45 degrees C.

    Args:
      unit: one of `UNIT_CHOICES`; "auto" recognises it by the median.
      units: those that can be recognised. A file may say that it contains degrees C: then the
        median of an oven at 60 degrees C must not look like Fahrenheit.
    Raises:
      DataError: the unit is not recognised, too many pixels are bad, or nothing varies.
    """
    finite = np.isfinite(values)
    is_complete = bool(finite.all())
    if not finite.any():
        raise DataError("bad-pixels", path, "every value is NaN or infinite")
    median = float(np.median(values if is_complete else values[finite]))
    unit = _recognise(path, median, units) if unit == "auto" else unit
    notes = []
    if unit != "celsius":
        notes.append(("converted-unit", f"{unit} (median {median:.6g}) converted to degrees C"))
        with np.errstate(over="ignore", invalid="ignore"):
            values = UNITS[unit].to_celsius(values.astype(np.float64))
    with np.errstate(invalid="ignore"):
        good = (values >= MIN_CELSIUS) & (values <= MAX_CELSIUS)
    num_bad = good.size - int(np.count_nonzero(good))
    if num_bad > MAX_BAD_SHARE * good.size:
        detail = (
            f"{num_bad} of {good.size} pixels are NaN, infinite or outside {MIN_CELSIUS:g}.."
            f"{MAX_CELSIUS:g} degrees C (median {median:.6g} {unit}); at most "
            f"{MAX_BAD_SHARE:.0%} may be"
        )
        raise DataError("bad-pixels", path, detail)
    if num_bad:
        values, isolated = _repair(values, good)
        notes.append(("repaired-pixels", _repair_note(isolated, num_bad - isolated)))
    measured = values[good] if num_bad else values
    if measured.min() == measured.max():
        detail = f"every pixel is {measured.flat[0]:.6g} degrees C"
        raise DataError("constant-temperatures", path, detail)
    return Celsius(values.astype(np.float32), good if num_bad else None, notes)


def measured_mean(
    values: Float32[np.ndarray, "h w"], good: Bool[np.ndarray, "h w"] | None
) -> float:
    """The mean of the measured pixels, degrees C."""
    return float((values if good is None else values[good]).mean(dtype=np.float64))


def _recognise(path: str | os.PathLike, median: float, units: Sequence[str]) -> str:
    for name in units:
        if UNITS[name].lowest <= median <= UNITS[name].highest:
            return name
    ranges = ", ".join(f"{UNITS[name].lowest:g}..{UNITS[name].highest:g} {name}" for name in units)
    detail = f"the median {median:.6g} fits no unit of a body's temperature ({ranges})"
    remedy = "; config.data.unit forces one" if len(units) > 1 else ""
    raise DataError("unknown-unit", path, detail + remedy)


def _repair(values: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, int]:
    """(values without bad pixels, the number of isolated ones, which neighbours replace)."""
    from scipy import ndimage  # here, because the import is slow

    areas, count = ndimage.label(~good, structure=np.ones((3, 3)))
    sizes = np.bincount(areas.reshape(-1), minlength=count + 1)
    sizes[0] = LARGEST_ISOLATED + 1  # the good pixels
    isolated = sizes[areas] <= LARGEST_ISOLATED
    # infinity is clamped like other values, NaN to the lowest temperature.
    clamped = np.clip(np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf), 10.0, 45.0)
    repaired = np.where(good, values, clamped)
    return fill_from_neighbours(repaired, good=good, missing=isolated), int(isolated.sum())


def _repair_note(isolated: int, clamped: int) -> str:
    done = [f"{isolated} replaced by the median of their neighbours"] if isolated else []
    done += [f"{clamped} in larger areas clamped"] if clamped else []
    return (
        f"bad pixels (NaN, infinite or outside {MIN_CELSIUS:g}..{MAX_CELSIUS:g} degrees C): "
        f"{', '.join(done)}"
    )


def fill_from_neighbours(
    values: Float[np.ndarray, "h w"],
    *,
    good: Bool[np.ndarray, "h w"],
    missing: Bool[np.ndarray, "h w"],
) -> Float[np.ndarray, "h w"]:
    """Replaces missing pixels by the median of the good pixels near them.

    The neighbourhood of a pixel is 3x3; where this contains no good pixel, it is 5x5, and so on.
    """
    filled = values.copy()
    # In parts: with a fifth of 4096x4096 pixels missing, the neighbours of all need 2 GB.
    all_rows, all_columns = np.nonzero(missing)
    for start in range(0, len(all_rows), 2**16):
        part = slice(start, start + 2**16)
        _fill_part(filled, values, good, all_rows[part], all_columns[part])
    return filled


def _fill_part(
    filled: np.ndarray,
    values: np.ndarray,
    good: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Writes the medians of the neighbours of the pixels at (rows, columns) into `filled`."""
    for radius in itertools.count(1):
        if not len(rows) or radius > max(values.shape):
            return
        size = 2 * radius + 1
        offsets = np.arange(size) - radius
        near_rows = rows[:, None, None] + offsets[None, :, None]
        near_columns = columns[:, None, None] + offsets[None, None, :]
        inside = (near_rows >= 0) & (near_rows < values.shape[0])
        inside = inside & (near_columns >= 0) & (near_columns < values.shape[1])
        index = near_rows.clip(0, values.shape[0] - 1), near_columns.clip(0, values.shape[1] - 1)
        near = np.where(inside & good[index], values[index], np.nan).reshape(len(rows), -1)
        known = ~np.isnan(near).all(axis=1)
        filled[rows[known], columns[known]] = np.nanmedian(near[known], axis=1)
        rows, columns = rows[~known], columns[~known]


Limits = tuple[float, float]


def render_gray(
    values: Float32[np.ndarray, "h w"], *, limits: Limits | None = None
) -> UInt8[np.ndarray, "h w 1"]:
    """Renders temperatures or levels as gray: the lower limit becomes 0, the upper one 255.

    Args:
      limits: default: the minimum and the maximum of the image.
    """
    levels = np.round(scaled(values, limits) * 255.0)
    return levels.astype(np.uint8)[..., np.newaxis]


def render_heat(
    values: Float32[np.ndarray, "480 640"], *, colormap: str = "jet", limits: Limits | None = None
) -> UInt8[np.ndarray, "120 160 3"]:
    """Renders temperatures or levels as a heatmap: scaled, 4x4 mean, then a colour map.

    Args:
      colormap: one of matplotlib's.
      limits: as in `render_gray`.
    Raises:
      UserError: there is no such colour map.
    """
    rows, columns = HEAT_SHAPE
    blocks = scaled(values, limits).reshape(rows, 4, columns, 4)
    return colours(blocks.mean(axis=(1, 3)), colormap=colormap)


def colours(shares: Float[np.ndarray, "h w"], *, colormap: str) -> UInt8[np.ndarray, "h w 3"]:
    """The colours of values from 0 to 1 in one of matplotlib's colour maps."""
    return find_colormap(colormap)(shares, bytes=True)[..., :3].copy()


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


def scaled(values: np.ndarray, limits: Limits | None = None) -> Float64[np.ndarray, "h w"]:
    """Scales values to 0..1 from their minimum and maximum, or from given limits."""
    values = np.asarray(values, dtype=np.float64)
    low, high = limits or (values.min(), values.max())
    if not high > low:
        return np.zeros_like(values)
    shares = (values - low) / (high - low)
    return shares if limits is None else shares.clip(0.0, 1.0)
