"""Temperatures of the segmented regions: per region, image left against right, hottest spots.

Degrees C throughout. Left and right are sides of the *image*: on an unmirrored frontal thermogram
image left is the patient's right (SPEC section 2).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES

PAIRS = {"breasts": (0, 1), "nipples": (2, 3), "armpits": (4, 5)}  # image left, image right
MEASURES = ("mean", "median", "min", "max", "sd")


class RegionMeasurement(NamedTuple):
    """One class of one thermogram. Temperatures are NaN and the spot None without temperatures."""

    class_name: str
    area: int  # pixels
    share: float  # of the image
    mean: float
    median: float
    min: float
    max: float
    sd: float
    hottest: tuple[int, int] | None  # (x, y) pixels from the image's top left


def measure_regions(
    label_map: UInt8[np.ndarray, "h w"], temperatures: Float[np.ndarray, "h w"] | None
) -> list[RegionMeasurement]:
    """Measures every class of the label map but the background, in the order of CLASS_NAMES."""
    if temperatures is not None and temperatures.shape != label_map.shape:
        raise ValueError(
            f"temperatures have shape {temperatures.shape}, the label map {label_map.shape}"
        )
    regions = []
    for index, name in enumerate(CLASS_NAMES):
        inside = label_map == index
        if index == BACKGROUND or not inside.any():
            continue
        area = int(inside.sum())
        measures: dict[str, float] = dict.fromkeys(MEASURES, float("nan"))
        hottest = None
        if temperatures is not None:
            values = temperatures[inside].astype(np.float64)
            measures = {
                "mean": float(values.mean()),
                "median": float(np.median(values)),
                "min": float(values.min()),
                "max": float(values.max()),
                "sd": float(values.std()),
            }
            rows, columns = np.nonzero(inside)
            pixel = int(values.argmax())
            hottest = (int(columns[pixel]), int(rows[pixel]))
        regions.append(
            RegionMeasurement(name, area, area / label_map.size, **measures, hottest=hottest)
        )
    return regions


def differences(regions: list[RegionMeasurement]) -> dict[str, float]:
    """Image left minus image right, of mean and maximum; a pair with a missing side is left out."""
    by_class = {region.class_name: region for region in regions}
    result = {}
    for pair, (left, right) in PAIRS.items():
        sides = [by_class.get(CLASS_NAMES[index]) for index in (left, right)]
        if None not in sides and np.isfinite(sides[0].mean):
            result[f"{pair}, mean"] = sides[0].mean - sides[1].mean
            result[f"{pair}, max"] = sides[0].max - sides[1].max
    return result
