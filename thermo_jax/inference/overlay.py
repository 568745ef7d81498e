"""The picture of one prediction: thermogram with its scale, regions and hottest spots, evidence."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.evaluation import canvas, figures
from thermo_jax.evaluation.wording import SIDES_NOTE, class_title
from thermo_jax.inference import grids
from thermo_jax.inference.predictor import Prediction
from thermo_jax.inference.regions import Region

TINT = 0.3  # opacity of a region's area; its outline is solid


def overlay_figure(
    path: str | os.PathLike,
    prediction: Prediction,
    regions: Sequence[Region],
    *,
    colormap: str = "inferno",
) -> pathlib.Path:
    """Panels side by side: thermogram; regions, where there are; evidence, where there is.

    Args:
      regions: of `regions.measure_regions`; a cross marks each one's hottest spot.
      colormap: of temperatures and gray levels.
    """
    headings = ["thermogram"]
    headings += ["regions"] if prediction.label_map is not None else []
    headings += ["evidence"] if prediction.evidence else []
    pixels = prediction.picture.pixels
    shape = pixels.shape[:2]
    figure, (axes,) = canvas.grid(
        1,
        len(headings),
        shape,
        title=canvas.short_name(prediction.name, 60),
        headings=headings,
        footer_lines=4.9,
    )
    extent = (0, shape[1], shape[0], 0)
    scale = _show_thermogram(axes[0], prediction, colormap=colormap, extent=extent)
    _scale_below(figure, axes[0], scale)
    for axis, heading in zip(axes[1:], headings[1:], strict=True):
        canvas.show(axis, _backdrop(pixels))
        if heading == "regions":
            _paint_regions(axis, prediction.label_map, extent=extent)
            _mark_spots(axis, regions)
        else:
            _paint_evidence(figure, axis, prediction, extent=extent)
    if prediction.label_map is not None:
        canvas.legend(figure, _handles(prediction.label_map), columns=4)
    return canvas.save(figure, path, note=SIDES_NOTE)


def _show_thermogram(axis, prediction, *, colormap, extent):
    """Draws it; returns (mappable, title, tick labels' format) of its scale, None for colours."""
    picture = prediction.picture
    if picture.temperatures is None and picture.gray is None:
        canvas.show(axis, picture.colour)
        return None
    shown = axis.imshow(picture.pixels, cmap=colormap, extent=extent, interpolation="nearest")
    return shown, "degrees C" if picture.temperatures is not None else "gray level"


def _scale_below(figure, axis, scale):
    if scale is None:
        return
    shown, title = scale
    height = figure.get_size_inches()[1]
    box = axis.get_position()
    below = figure.add_axes((box.x0, box.y0 - 0.2 / height, box.width, 0.08 / height))
    bar = figure.colorbar(shown, cax=below, orientation="horizontal")
    bar.ax.tick_params(labelsize=canvas.SMALL, length=2, pad=1)
    bar.set_label(title, fontsize=canvas.SMALL, labelpad=1)
    bar.outline.set_linewidth(0.5)


def _backdrop(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3:
        return canvas.lightness(pixels)
    low, high = float(pixels.min()), float(pixels.max())
    return np.uint8(255 * (pixels - low) / max(high - low, 1e-6))


def _paint_regions(axis, label_map, *, extent):
    for index, color in enumerate(figures.CLASS_COLORS):
        inside = label_map == index
        if index == BACKGROUND or not inside.any():
            continue
        outline = inside & ~ndimage.binary_erosion(inside, iterations=_line(label_map))
        canvas.overlay(axis, color, np.where(outline, 1.0, TINT * inside), extent=extent)


def _line(label_map) -> int:
    """Pixels of an outline's width."""
    return max(1, round(label_map.shape[0] / 240))


def _mark_spots(axis, regions):
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=1.6, foreground="black")]
    for region in regions:
        if region.hottest is None:
            continue
        x, y = region.hottest[0] + 0.5, region.hottest[1] + 0.5
        axis.plot(x, y, "+", color="white", markersize=6, path_effects=halo)
        axis.annotate(
            f"{region.max:.1f}",
            (x, y),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=canvas.SMALL - 1.5,
            color="white",
            path_effects=halo,
        )


def _paint_evidence(figure, axis, prediction, *, extent):
    """The classifiers' mean evidence, blurred for display as `figures.evidence_figure` does."""
    grid = prediction.picture.grid
    maps = [
        grids.from_model(np.asarray(one, np.float32)[..., np.newaxis], grid)[..., 0]
        for one in prediction.evidence.values()
    ]
    evidence = ndimage.gaussian_filter(np.mean(maps, axis=0), 0.025 * grid.height, mode="reflect")
    limit = float(np.percentile(np.abs(evidence), 99.5)) or 1.0
    figures.paint_evidence(axis, evidence / limit, extent=extent)
    axis.set_xlabel("orange speaks for sick, purple for healthy", fontsize=canvas.SMALL)


def _handles(label_map):
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=color, edgecolor="#666666", linewidth=0.5, label=class_title(name))
        for index, (name, color) in enumerate(zip(CLASS_NAMES, figures.CLASS_COLORS, strict=True))
        if index != BACKGROUND and (label_map == index).any()
    ]
