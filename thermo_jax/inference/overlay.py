"""The picture of one prediction: the thermogram, its regions with hottest spots, the evidence.

Panels are side by side, each with its own scale. A page shows the same panels below each other
where there is no room, so the positions of the panels are returned with the file.
"""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from thermo_jax.data import grids
from thermo_jax.data.picture import Picture
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.evaluation import canvas, figures
from thermo_jax.evaluation.wording import SIDES_NOTE
from thermo_jax.inference.findings import Overlay, Panel, Prediction
from thermo_jax.inference.probe import encode_values

PANEL_INCHES = 4.2  # width of a picture: 504 pixels
SPOT_WIDTH, SPOT_HEIGHT = 26, 14  # of the temperature beside a cross, in points
DRAWN = 640  # largest number of pixels drawn on the longer side
LONGEST_NAME, SHORTEST_NAME = 200, 8  # characters of a name above the panels
DOUBTFUL = "may not be a frontal view of two breasts"


class Scales(NamedTuple):
    """What the ends of the colour scales mean; None for those of the picture itself.

    Attributes:
      celsius: the lowest and the highest temperature, degrees C.
      evidence: the largest part of the logit per 1 % of the image.
    """

    celsius: tuple[float, float] | None = None
    evidence: float | None = None


def common_scales(predictions: Iterable[Prediction]) -> Scales:
    """Scales that fit all these thermograms, so that equal colours mean equal temperatures.

    Thermograms in doubt do not count, unless all are in doubt: a mug is hotter than a breast.
    """
    ranges: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    strengths: list[float] = []
    for prediction in predictions:
        if prediction.celsius:
            ranges[bool(prediction.doubts)].append(prediction.picture.limits)
        if prediction.evidence:
            strengths.append(_strength(_evidence(prediction)))
    counted = ranges[False] or ranges[True]
    lows, highs = zip(*counted, strict=True) if counted else ((), ())
    celsius = (min(lows), max(highs)) if counted else None
    return Scales(celsius, max(strengths, default=None))


def write_overlay(
    path: str | os.PathLike,
    prediction: Prediction,
    *,
    colormap: str = "inferno",
    scales: Scales | None = None,
) -> Overlay:
    """Draws the panels, and writes them as a PNG file.

    Args:
      colormap: of temperatures and gray levels.
      scales: by default, those of this thermogram.
    """
    figure, axes = _draw(prediction, colormap=colormap, scales=scales or Scales())
    canvas.write(figure, path)
    drawn = () if prediction.label_map is None else _classes(prediction.label_map)
    values = encode_values(prediction.picture, prediction.label_map)
    return Overlay(path, tuple(_panels(figure, axes)), values, drawn)


def show_overlay(prediction: Prediction, *, colormap: str) -> list[Any]:
    """Draws the panels with pyplot, which notebooks show; returns the axes of each panel."""
    import matplotlib.pyplot as plt

    _, parts = _draw(prediction, colormap=colormap, scales=Scales(), make_figure=plt.figure)
    return [axes[0] for axes in parts]


def _draw(prediction: Prediction, *, colormap: str, scales: Scales, make_figure=None):
    """The figure, and for each panel its axes: the picture's, and the scale's if it has one."""
    headings = ["thermogram"]
    headings += ["regions"] if prediction.label_map is not None else []
    headings += ["evidence"] if prediction.evidence else []
    size = {"panels": len(headings), "panel_inches": PANEL_INCHES}
    note = canvas.wrap(f"{prediction.models_note} {SIDES_NOTE}".strip(), **size)
    pixels = prediction.picture.pixels
    shape = pixels.shape[:2]
    step = -(-max(shape) // DRAWN)
    drawn = pixels[::step, ::step]
    columns = 4 if len(headings) > 1 else 3  # of the legend
    legend_rows = 0 if prediction.label_map is None else -(-(len(CLASS_NAMES) - 1) // columns)
    figure, (axes,) = canvas.grid(
        1,
        len(headings),
        shape,
        title="name",  # `_write_title` replaces it
        headings=headings,
        # The scale, the legend, the note.
        footer_lines=2 + 0.95 * legend_rows + canvas.lines_of(note),
        panel_inches=PANEL_INCHES,
        make_figure=make_figure,
    )
    _write_title(figure, prediction)
    extent = (0, shape[1], shape[0], 0)
    image = _show_thermogram(
        axes[0], prediction.picture, drawn, colormap=colormap, extent=extent, scales=scales
    )
    parts = [[axes[0]]]
    if image is not None:
        title = "degrees C" if prediction.celsius else "gray level"
        parts[0].append(_scale(figure, axes[0], image, title=title))
    for axis, heading in zip(axes[1:], headings[1:], strict=True):
        axis.imshow(
            _backdrop(drawn, prediction.picture), cmap="gray", vmin=0, vmax=255, extent=extent
        )
        parts.append([axis])
        if heading == "regions":
            _paint_regions(axis, prediction.label_map[::step, ::step], extent=extent)
            _mark_spots(axis, prediction.measurements, shape=shape)
        else:
            image = _paint_evidence(axis, prediction, extent=extent, limit=scales.evidence)
            title = "logit per 1 % of the image; orange: for sick, purple: for healthy"
            parts[-1].append(_scale(figure, axis, image, title=title))
    if prediction.label_map is not None:
        patches = figures.class_patches(_classes(prediction.label_map))
        canvas.legend(figure, patches, columns=columns, note=note)
    canvas.sign(figure, note=note)
    return figure, parts


def _write_title(figure, prediction: Prediction) -> None:
    """Writes the name above the panels, as much as has room, and the mark of one in doubt."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import FontProperties, findfont, get_font

    # matplotlib would print a warning for a character that its font lacks.
    index = get_font(findfont(FontProperties())).get_char_index
    room, renderer = figure.bbox.width - 16, FigureCanvasAgg(figure).get_renderer()
    title = figure.texts[0]
    for mark in (f" ({DOUBTFUL})", " (in doubt)") if prediction.doubts else ("",):
        length = LONGEST_NAME
        while length > SHORTEST_NAME:
            text = canvas.short_name(prediction.name, length) + mark
            shown = (sign if index(ord(sign)) else "\N{REPLACEMENT CHARACTER}" for sign in text)
            title.set_text("".join(shown))
            if title.get_window_extent(renderer).width <= room:
                return
            length = int(0.9 * length)


def _show_thermogram(axis, picture: Picture, drawn, *, colormap, extent, scales: Scales):
    """Draws the thermogram; returns what a scale shows, None for colours."""
    if picture.kinds == ("colour",):
        axis.imshow(drawn, extent=extent)
        return None
    low, high = picture.limits  # without a lamp or a window, whose temperatures were clamped
    if picture.temperatures is not None and scales.celsius is not None:
        low, high = scales.celsius
    return axis.imshow(
        drawn, cmap=colormap, extent=extent, interpolation="nearest", vmin=low, vmax=high
    )


def _scale(figure, axis, image, *, title: str):
    """Draws a scale below a panel; returns its axis."""
    height = figure.get_figheight()
    box = axis.get_position()
    below = figure.add_axes((box.x0, box.y0 - 0.2 / height, box.width, 0.08 / height))
    bar = figure.colorbar(image, cax=below, orientation="horizontal", extend=_beyond(image))
    bar.ax.tick_params(labelsize=canvas.SMALL, length=2, pad=1)
    bar.set_label(title, fontsize=canvas.SMALL, labelpad=1)
    bar.outline.set_linewidth(0.5)
    return below


def _beyond(image) -> str:
    """Which ends of the scale some pixels exceed; matplotlib draws arrows there."""
    if image.get_array() is None:
        return "neither"
    (low, high), values = image.get_clim(), image.get_array()
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    return ends.get((bool(values.min() < low), bool(values.max() > high)), "both")


def _panels(figure, parts) -> Iterable[Panel]:
    """Where the panels are in the file that was just written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    for axes in parts:
        boxes = [axis.get_tightbbox(renderer) for axis in axes]
        left, right = min(box.x0 for box in boxes) - 4, max(box.x1 for box in boxes) + 4
        # The file's rows count from the top, matplotlib's from the bottom.
        top, bottom = height - max(b.y1 for b in boxes) - 4, height - min(b.y0 for b in boxes) + 4
        left, top, right, bottom = map(
            int, (max(0, left), max(0, top), min(width, right), min(height, bottom))
        )
        inner = axes[0].get_window_extent(renderer)
        picture = (
            (inner.x0 - left) / (right - left),
            (height - inner.y1 - top) / (bottom - top),
            (inner.x1 - left) / (right - left),
            (height - inner.y0 - top) / (bottom - top),
        )
        yield Panel(axes[0].get_title(), (left, top, right, bottom), picture)


def _classes(label_map: np.ndarray) -> tuple[int, ...]:
    return tuple(int(index) for index in np.setdiff1d(label_map, [BACKGROUND]))


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

    halo = [withStroke(linewidth=1.8, foreground="black")]
    for region in regions:
        if region.hottest is None:
            continue
        x, y = region.hottest[0] + 0.5, region.hottest[1] + 0.5
        axis.plot(x, y, "+", color="white", markersize=7, path_effects=halo)
        points = 72 * PANEL_INCHES / shape[1]  # the size of a pixel in print
        to_left = (shape[1] - x) * points < SPOT_WIDTH
        below = y * points < SPOT_HEIGHT
        axis.annotate(
            f"{region.max:.1f}",
            (x, y),
            xytext=(-3 if to_left else 3, -3 if below else 3),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va="top" if below else "bottom",
            fontsize=canvas.SMALL,
            color="white",
            path_effects=halo,
        )


def _evidence(prediction: Prediction) -> Float[np.ndarray, "h w"]:
    """The mean evidence of the classifiers at the picture's size: logit per 1 % of the image.

    For display, it is blurred as in `figures.evidence_figure`, which does not change its sum.
    """
    maps = []
    for evidence in prediction.evidence.values():
        sigma = figures.SMOOTHING * evidence.shape[0]
        density = evidence.astype(np.float32) * (evidence.size / 100)
        blurred = ndimage.gaussian_filter(density, sigma, mode="reflect")
        maps.append(grids.from_model(blurred[..., np.newaxis], prediction.picture.grid)[..., 0])
    return np.mean(maps, axis=0)


def _strength(evidence: np.ndarray) -> float:
    """A limit that few pixels exceed."""
    return float(np.percentile(np.abs(evidence), 99.5)) or 1.0


def _paint_evidence(axis, prediction: Prediction, *, extent, limit: float | None):
    """Paints the evidence; returns what a scale shows."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    evidence = _evidence(prediction)
    limit = limit or _strength(evidence)
    step = -(-max(evidence.shape) // DRAWN)
    figures.paint_evidence(axis, evidence[::step, ::step] / limit, extent=extent)
    return ScalarMappable(Normalize(-limit, limit), figures.EVIDENCE_COLORMAP)
