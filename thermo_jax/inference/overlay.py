"""The figure of one prediction: the thermogram with its scale, regions, hottest spots, evidence."""

import os
import pathlib

import numpy as np
from scipy import ndimage

from thermo_jax.data import grids
from thermo_jax.data.picture import Picture
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.evaluation import canvas, figures
from thermo_jax.evaluation.wording import SIDES_NOTE
from thermo_jax.inference.findings import Prediction

SPOT_WIDTH, SPOT_HEIGHT = 20, 12  # of the temperature beside a cross, in points
DRAWN = 600  # largest number of pixels drawn on the longer side; a panel has about half as many


def overlay_figure(
    path: str | os.PathLike,
    prediction: Prediction,
    *,
    colormap: str = "inferno",
    note: str = "",
) -> pathlib.Path:
    """Panels side by side: the thermogram and, if they exist, the regions and the evidence.

    A cross marks the hottest spot of each region.

    Args:
      colormap: of temperatures and gray levels.
      note: what drew the regions, such as "segmented by a model"; "" if readers need not know.
    """
    headings = ["thermogram"]
    headings += ["regions"] if prediction.label_map is not None else []
    headings += ["evidence"] if prediction.evidence else []
    note = f"Regions were {note}." if note and prediction.label_map is not None else ""
    note = canvas.wrap(" ".join(filter(None, [note, SIDES_NOTE])), panels=len(headings))
    pixels = prediction.picture.pixels
    shape = pixels.shape[:2]
    step = -(-max(shape) // DRAWN)
    drawn = pixels[::step, ::step]
    columns = 4 if shape[1] >= shape[0] else 3  # of the legend: upright images are narrower
    legend_rows = 0 if prediction.label_map is None else -(-(len(CLASS_NAMES) - 1) // columns)
    figure, (axes,) = canvas.grid(
        1,
        len(headings),
        shape,
        title=_drawable(canvas.short_name(prediction.name, min(60, 28 * len(headings)))),
        headings=headings,
        # The scale, the legend, the note.
        footer_lines=2 + 0.95 * legend_rows + canvas.lines_of(note),
    )
    extent = (0, shape[1], shape[0], 0)
    _show_thermogram(figure, axes[0], prediction, drawn, colormap=colormap, extent=extent)
    for axis, heading in zip(axes[1:], headings[1:], strict=True):
        axis.imshow(
            _backdrop(drawn, prediction.picture), cmap="gray", vmin=0, vmax=255, extent=extent
        )
        if heading == "regions":
            _paint_regions(axis, prediction.label_map[::step, ::step], extent=extent)
            _mark_spots(axis, prediction.regions, shape=shape)
        else:
            _paint_evidence(axis, prediction, drawn.shape[:2], extent=extent)
    if prediction.label_map is not None:
        classes = np.setdiff1d(prediction.label_map, [BACKGROUND])
        canvas.legend(figure, figures.class_patches(classes), columns=columns, note=note)
    return canvas.save(figure, path, note=note)


def _drawable(text: str) -> str:
    """Replaces characters that matplotlib's font lacks; matplotlib would print a warning."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    index = get_font(findfont(FontProperties())).get_char_index
    return "".join(sign if index(ord(sign)) else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _show_thermogram(figure, axis, prediction, drawn, *, colormap, extent):
    """Draws the thermogram, with the scale of temperatures or gray levels below."""
    picture = prediction.picture
    if picture.kinds == ("colour",):
        axis.imshow(drawn, extent=extent)
        return
    low, high = picture.limits  # without a lamp or a window, whose temperatures were clamped
    image = axis.imshow(
        drawn, cmap=colormap, extent=extent, interpolation="nearest", vmin=low, vmax=high
    )
    height = figure.get_figheight()
    box = axis.get_position()
    below = figure.add_axes((box.x0, box.y0 - 0.2 / height, box.width, 0.08 / height))
    bar = figure.colorbar(image, cax=below, orientation="horizontal")
    bar.ax.tick_params(labelsize=canvas.SMALL, length=2, pad=1)
    title = "degrees C" if picture.temperatures is not None else "gray level"
    bar.set_label(title, fontsize=canvas.SMALL, labelpad=1)
    bar.outline.set_linewidth(0.5)


def _backdrop(pixels: np.ndarray, picture: Picture) -> np.ndarray:
    if pixels.ndim == 3:
        return canvas.lightness(pixels)
    low, high = picture.limits
    return np.uint8(255 * ((pixels - low) / max(high - low, 1e-6)).clip(0, 1))


def _paint_regions(axis, label_map, *, extent):
    from matplotlib.colors import to_rgba_array

    colors = to_rgba_array(figures.CLASS_COLORS)
    width = max(1, round(label_map.shape[0] / 240))
    inner = np.zeros(label_map.shape, bool)
    for index in np.unique(label_map):
        inner |= ndimage.binary_erosion(label_map == index, iterations=width)
    alpha = np.where(inner, 0.3, 1.0) * (label_map != BACKGROUND)  # outlines are solid
    canvas.overlay(axis, colors[label_map], alpha, extent=extent)


def _mark_spots(axis, regions, *, shape):
    """Draws crosses, with the temperature at the top right, or elsewhere if there is no room."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=1.6, foreground="black")]
    for region in regions:
        if region.hottest is None:
            continue
        x, y = region.hottest[0] + 0.5, region.hottest[1] + 0.5
        axis.plot(x, y, "+", color="white", markersize=6, path_effects=halo)
        points = 72 * canvas.PANEL_INCHES / shape[1]  # the size of a pixel in print
        to_left = (shape[1] - x) * points < SPOT_WIDTH
        below = y * points < SPOT_HEIGHT
        axis.annotate(
            f"{region.max:.1f}",
            (x, y),
            xytext=(-3 if to_left else 3, -3 if below else 3),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va="top" if below else "bottom",
            fontsize=canvas.SMALL - 1.5,
            color="white",
            path_effects=halo,
        )


def _paint_evidence(axis, prediction, shape, *, extent):
    """Draws the mean evidence of the classifiers, blurred as in `figures.evidence_figure`."""
    picture = prediction.picture
    maps = [
        grids.from_model(evidence.astype(np.float32)[..., np.newaxis], picture.grid)[..., 0]
        for evidence in prediction.evidence.values()
    ]
    step = -(-picture.grid.height // shape[0])
    evidence = np.mean(maps, axis=0)[::step, ::step]
    evidence = ndimage.gaussian_filter(evidence, figures.SMOOTHING * shape[0], mode="reflect")
    limit = float(np.percentile(np.abs(evidence), 99.5)) or 1.0
    figures.paint_evidence(axis, evidence / limit, extent=extent)
    axis.set_xlabel("orange speaks for sick, purple for healthy", fontsize=canvas.SMALL)
