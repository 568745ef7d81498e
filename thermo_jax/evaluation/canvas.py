"""Parts of figures: a grid of pictures of one size, small text below them, and the PNG file.

matplotlib is imported inside the functions, so that importing this module is fast. It is used
without pyplot, so that there is no global state or display, and any thread may draw.
"""

import io
import itertools
import math
import textwrap

import numpy as np
from etils import epath

from thermo_jax.evaluation.wording import DISCLAIMER, printable
from thermo_jax.files import write_whole

DPI = 120
PANEL_INCHES = 2.4  # width of one picture
TEXT_INCHES = 0.24  # height of one line of small text
SMALL, NORMAL = 7.5, 9.0  # points


def grid(
    rows,
    columns,
    shape,
    *,
    title,
    footer_lines,
    headings=(),
    panel_inches=PANEL_INCHES,
    make_figure=None,
):
    """A figure and its axes [rows, columns] for pictures, with a line of text below each picture.

    Args:
        shape: (height, width) of a picture; only the ratio matters.
        headings: one per column, above the first row.
        footer_lines: height of the empty space below the pictures, in lines of text.
        panel_inches: the width of a picture.
        make_figure: makes the figure; by default `matplotlib.figure.Figure`, without pyplot.
    """
    from matplotlib.figure import Figure

    panel_height = panel_inches * shape[0] / shape[1]
    line, margin = TEXT_INCHES, 0.05 * panel_inches  # inches
    header = line * ((1.2 if headings else 0.3) + (1.4 if title else 0))
    footer = line * footer_lines + margin
    width = columns * (panel_inches + margin) + margin
    height = header + rows * (panel_height + 1.25 * line) + footer
    figure = (make_figure or Figure)(figsize=(width, height), dpi=DPI)
    if title:
        figure.text(0.5, 1 - 0.3 * line / height, title, ha="center", va="top", fontsize=NORMAL + 2)
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        subplot_kw={"xticks": [], "yticks": []},
        gridspec_kw={
            "left": margin / width,
            "right": 1 - margin / width,
            "bottom": (footer + 1.25 * line) / height,
            "top": 1 - header / height,
            "wspace": margin / panel_inches,
            "hspace": 1.25 * line / panel_height,
        },
    )
    for axis in axes.flat:
        axis.xaxis.labelpad = 3
        axis.spines[:].set(color="#999999", linewidth=0.5)
    for axis, heading in zip(axes[0], headings, strict=False):
        axis.set_title(heading, fontsize=NORMAL)
    return figure, axes


def pairs(count, shape, *, title, footer_lines):
    """A figure with `count` pairs of axes, at most two pairs in a row."""
    per_row = min(2, count)
    rows = math.ceil(count / per_row)
    figure, axes = grid(rows, 2 * per_row, shape, title=title, footer_lines=footer_lines)
    axes = axes.reshape(rows * per_row, 2)
    for axis in axes[count:].ravel():
        axis.set_visible(False)
    return figure, axes[:count]


def show(axis, image):
    """Draws a uint8 image [h, w], [h, w, 1] or [h, w, 3]; gray levels are not stretched."""
    height, width = image.shape[:2]
    pixels = image.reshape(height, width) if image.shape[2:] == (1,) else image
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))


def overlay(axis, color, alpha, *, extent):
    """Paints a color, or one color per pixel, with opacity alpha [h, w] over the picture."""
    from matplotlib.colors import to_rgb

    layer = np.empty((*alpha.shape, 4))
    layer[..., :3] = to_rgb(color) if isinstance(color, str) else color[..., :3]
    layer[..., 3] = alpha
    axis.imshow(layer, extent=extent, interpolation="nearest")


def wrap(text, *, panels, panel_inches=PANEL_INCHES):
    """Breaks small text into lines for a figure with this number of pictures side by side."""
    characters = int(16.25 * panel_inches)  # that have room below one picture
    count = math.ceil(len(text) / (characters * panels))
    # Starts at the smallest possible width, so that all lines are about equally long.
    width = math.ceil(len(text) / count)
    return next(
        "\n".join(lines)
        for characters in itertools.count(width)
        if len(lines := textwrap.wrap(text, characters)) <= count
    )


def lines_of(text):
    """The height of wrapped small text, in the unit of `footer_lines` in `grid`."""
    return 1 + 0.55 * text.count("\n")


def legend(figure, handles, *, columns, note=""):
    """Draws the legend below the pictures and above the `note` that `save` writes later."""
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, (0.9 + lines_of(note)) * TEXT_INCHES / figure.get_figheight()),
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        borderaxespad=0,
        handlelength=1.2,
        columnspacing=1.5,
    )


def save(figure, path, *, note=""):
    """Writes the figure with the note and the disclaimer at the bottom; returns the path."""
    sign(figure, note=note)
    return write(figure, path)


def sign(figure, *, note=""):
    """Writes the note and the disclaimer at the bottom of the figure."""
    figure.text(
        0.5,
        0.3 * TEXT_INCHES / figure.get_figheight(),
        f"{note}\n{DISCLAIMER}" if note else DISCLAIMER,
        ha="center",
        va="bottom",
        fontsize=SMALL,
        color="#444444",
    )


def write(figure, path):
    """Writes the figure as PNG, and makes the folder if it is missing; returns the path."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    figure.savefig(image, facecolor="white", format="png")
    return write_whole(path, image.getvalue())


def lightness(image):
    """An image as gray uint8 [h, w] for a background; warm pixels are light in heatmaps, too.

    In jet and similar colour maps (blue, cyan, yellow, red), the brightness of a colour does not
    always increase with temperature, but (R - B) * (2 - G) does.
    """
    levels = image.astype(np.float64) / 255
    if image.shape[-1] == 1 or np.ptp(levels, axis=-1).max() < 0.04:
        return (255 * levels.mean(axis=-1)).astype(np.uint8)
    levels /= np.maximum(levels.max(axis=-1, keepdims=True), 0.5)  # the ends of jet are dark
    red, green, blue = np.moveaxis(levels, -1, 0)
    return (255 * (0.5 + (red - blue) * (2 - green) / 4)).astype(np.uint8)


def extent(images):
    """The `extent` with which matplotlib draws an array of any resolution over images [n,h,w,c]."""
    return (0, images.shape[2], images.shape[1], 0)


def short_name(name, limit=34):
    """The file name without its folders, with the middle left out if it is too long."""
    return short_text(printable(name).rsplit("/", 1)[-1], limit)


def short_text(text, limit):
    """A text on one line for matplotlib, with the middle left out if it is too long."""
    text = " ".join(text.split())
    half = (limit - 1) // 2
    text = text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"
    return text.replace("$", r"\$")  # text between dollar signs would be a formula
