"""Temperatures of the segmented regions: per region, image left minus right, and hottest spots.

All temperatures are in degrees C. Left and right are sides of the *image*: on an unmirrored frontal
thermogram image left is the patient's right (SPEC section 2).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.evaluation.wording import class_title

PAIRS = {"breasts": (0, 1), "nipples": (2, 3), "armpits": (4, 5)}  # image left, image right
MEASURES = {"mean": np.mean, "median": np.median, "min": np.min, "max": np.max, "sd": np.std}


class RegionMeasurement(NamedTuple):
    """One class of one thermogram. Without temperatures, `mean` to `sd` are NaN, `hottest` None."""

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
    label_map: UInt8[np.ndarray, "h w"],
    temperatures: Float[np.ndarray, "h w"] | None,
    *,
    good: Bool[np.ndarray, "h w"] | None = None,
) -> list[RegionMeasurement]:
    """Measures every class but the background, in the order of CLASS_NAMES.

    Args:
      good: the pixels whose temperatures were measured; None if all were. The others were replaced
        or clamped: a lamp must not become the hottest spot of a breast.
    """
    regions = []
    for index, name in enumerate(CLASS_NAMES):
        inside = label_map == index
        if index == BACKGROUND or not inside.any():
            continue
        area = int(inside.sum())
        measures: dict[str, float] = dict.fromkeys(MEASURES, float("nan"))
        hottest = None
        measured = inside if good is None else inside & good
        if temperatures is not None and measured.any():
            values = temperatures[measured].astype(np.float64)
            measures = {measure: float(of(values)) for measure, of in MEASURES.items()}
            rows, columns = np.nonzero(measured)
            pixel = int(values.argmax())
            hottest = (int(columns[pixel]), int(rows[pixel]))
        regions.append(
            RegionMeasurement(name, area, area / label_map.size, **measures, hottest=hottest)
        )
    return regions


def differences(regions: list[RegionMeasurement]) -> dict[str, float]:
    """Mean and maximum of image left minus those of image right, for pairs with both sides."""
    by_class = {region.class_name: region for region in regions}
    result = {}
    for pair, (left, right) in PAIRS.items():
        sides = [by_class.get(CLASS_NAMES[index]) for index in (left, right)]
        if None not in sides and np.isfinite(sides[0].mean) and np.isfinite(sides[1].mean):
            result[f"{pair}, mean"] = sides[0].mean - sides[1].mean
            result[f"{pair}, max"] = sides[0].max - sides[1].max
    return result


def region_rows(regions: Sequence[RegionMeasurement]) -> list[dict[str, Any]]:
    """Each region as a dictionary of plain values; `hottest_x` and `_y` count pixels from 0."""
    return [
        {
            "region": region.class_name,
            "title": class_title(region.class_name),
            "area_pixels": region.area,
            "share_of_image": region.share,
            "mean_c": region.mean,
            "median_c": region.median,
            "min_c": region.min,
            "max_c": region.max,
            "sd_c": region.sd,
            "hottest_x": region.hottest[0] if region.hottest else None,
            "hottest_y": region.hottest[1] if region.hottest else None,
        }
        for region in regions
    ]
