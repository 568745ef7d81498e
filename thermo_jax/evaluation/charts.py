"""Charts of scores, as PNG: reliability, ROC, confusion, few-shot curves and intervals.

Importing this module does not import matplotlib (see canvas.py).
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Num

from thermo_jax.evaluation import canvas
from thermo_jax.evaluation.tables import UNDEFINED, Estimate
from thermo_jax.evaluation.wording import class_title

DPI = 2 * canvas.DPI  # so that thin lines and small digits are sharp on paper
# The colours of Okabe and Ito, except yellow, which is too light for a line; then their markers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = "osD^vPX"
REFERENCE_COLOR = "#D55E00"
GRAY = "#666666"
PUBLISHED_COLOR = "#7B8794"  # a gray
TEXT = 8.0  # points, of legends and of numbers beside a chart


def reliability_figure(
    path: str | os.PathLike,
    curves: Mapping[
        str, tuple[Num[np.ndarray, " b"], Num[np.ndarray, " b"], Num[np.ndarray, " b"]]
    ],
    *,
    title: str = "",
) -> pathlib.Path:
    """Share of sick cases against the predicted probability, one line per row, one dot per bin.

    Args:
        curves: {row name: (mean score, share sick, number of cases)}, by bin; empty bins are left
            out. The line of the first row, the model, is thicker. From the eighth row on, colours
            repeat.
    """
    figure = _figure(4.6, 4.9 + 0.2 * math.ceil(len(curves) / 2), title)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1, zorder=1, label="perfectly calibrated")
    largest = max(np.max(count) for _, _, count in curves.values())
    for index, (name, curve) in enumerate(curves.items()):
        curve = np.stack(curve)
        score, share, count = curve[:, curve[2] > 0]
        look = _look(index)
        width = 1.0 if index else 2.2
        axis.plot(score, share, color=look["color"], linewidth=width, zorder=2)
        axis.scatter(score, share, s=10 + 110 * count / largest, alpha=0.8, zorder=3, **look)
        axis.plot([], [], linewidth=width, label=canvas.short_text(name, 40), **look)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    _finish(axis, "mean predicted probability of sick", "share that is sick", columns=2)
    note = "A dot's area grows with the number of cases in its bin."
    return canvas.save(figure, path, note=note)


def roc_figure(
    path: str | os.PathLike,
    curves: Mapping[str, Sequence[Num[np.ndarray, " k"]]],
    *,
    aurocs: Mapping[str, Estimate],
    points: Mapping[str, tuple[float, float]],
    title: str = "",
) -> pathlib.Path:
    """ROC curves with their 95 % bands; the legend shows each AUROC with its interval.

    Args:
        curves: {row name: (1 - specificity, sensitivity, its lower and upper bound)}; NaN is not
            drawn.
        points: (1 - specificity, sensitivity) of each row at threshold 0.5, marked on its curve.
    """
    figure = _figure(4.6, 5.2 + 0.2 * len(curves), title)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1, zorder=1, label="chance")
    for index, (name, curve) in enumerate(curves.items()):
        look, (rate, sensitivity, low, high) = _look(index), curve
        color = look["color"]
        axis.fill_between(rate, low, high, color=color, alpha=0.15, linewidth=0)
        # The curve begins at the origin, where nobody is called sick.
        line = np.append(0, rate), np.append(0, sensitivity)
        axis.plot(*line, color=color, linewidth=1.0 if index else 2.2, zorder=2)
        axis.scatter(*points[name], s=42, zorder=3, edgecolors="white", linewidths=0.8, **look)
        label = f"{canvas.short_text(name, 30)}: AUROC {aurocs[name].text()}"
        axis.plot([], [], linewidth=1.8, label=label, **look)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    x_label, y_label = "healthy called sick (1 - specificity)", "sick called sick (sensitivity)"
    _finish(axis, x_label, y_label, columns=1)
    note = "Shade: 95 % band, patients resampled. Marker: sick above 0.5."
    return canvas.save(figure, path, note=note)


def confusion_figure(
    path: str | os.PathLike,
    matrices: Mapping[str, Num[np.ndarray, "k k"]],
    *,
    class_names: Sequence[str],
    title: str = "",
) -> pathlib.Path:
    """Confusion matrices, the true class in rows, shaded by the share of the row.

    Cells show the percentage of the row and, for at most three classes, the count. The row of a
    class that has no true case is undefined.
    """
    few = len(class_names) <= 3  # cells have room for counts
    columns = min(len(matrices), 3 if few else 2)
    lines = math.ceil(len(matrices) / columns)
    side = len(class_names) * (0.95 if few else 0.42)  # inches
    width, height = columns * (side + 0.2) + (0.9 if few else 1.5), lines * (side + 0.35) + 0.6
    figure = _figure(max(width, 3.4), height + (0.5 if few else 1.3), title, compressed=True)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    labels = [canvas.short_text(class_title(name), 40) for name in class_names]
    for axis, (name, matrix) in zip(axes, matrices.items(), strict=False):
        _draw_confusion(axis, np.asarray(matrix), few=few)
        axis.set_title(canvas.short_text(name, 40), fontsize=canvas.NORMAL)
        axis.set_xticks(range(len(labels)), labels, fontsize=canvas.SMALL)
        axis.set_yticks(range(len(labels)), labels, fontsize=canvas.SMALL)
        if not few:
            axis.tick_params(axis="x", rotation=90)
    for axis in axes[len(matrices) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(matrices) - columns) : len(matrices)]:
        axis.tick_params(labelbottom=True)  # the last row of axes may be incomplete
        axis.set_xlabel("predicted", fontsize=canvas.NORMAL)
    for axis in axes[::columns]:
        axis.set_ylabel("true", fontsize=canvas.NORMAL)
    return canvas.save(figure, path, note="Percent of the true class: a row adds up to 100.")


def few_shot_figure(
    path: str | os.PathLike,
    points: Mapping[str, Sequence[tuple[int, Sequence[float]]]],
    *,
    measure: str,
    reference: Mapping[str, float] | None = None,
    title: str = "",
) -> pathlib.Path:
    """A measure against the number of labelled patients: all seeds, their median and range.

    Args:
        points: {encoder name: [(number of patients, [score of each seed])]}, in any order.
        measure: the name of the scores, for the axis.
        reference: scores that do not depend on the number, as dashed lines.
    """
    reference = reference or {}
    curves = {name: sorted(pairs) for name, pairs in points.items()}
    numbers = sorted({number for pairs in curves.values() for number, _ in pairs})
    figure = _figure(5.2, 3.9, title)
    axis = figure.subplots()
    for index, (name, pairs) in enumerate(curves.items()):
        look = _look(index)
        shift = 1.025 ** (index - (len(curves) - 1) / 2)  # side by side, not on top of each other
        for number, scores in pairs:
            axis.scatter([number * shift] * len(scores), scores, s=13, alpha=0.65, **look)
        x = [number for number, _ in pairs]
        low, middle, high = np.transpose([np.percentile(s, (0, 50, 100)) for _, s in pairs])
        axis.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
        axis.plot(x, middle, linewidth=1.8, color=look["color"])
        axis.plot([], [], linewidth=1.8, markersize=4.5, label=canvas.short_text(name, 40), **look)
    for name, score in reference.items():
        look = {"color": GRAY, "linestyle": "--", "linewidth": 1.4}
        axis.axhline(score, label=canvas.short_text(name, 40), **look)
    axis.set_xscale("log")
    axis.set_xlim(numbers[0] / 1.15, numbers[-1] * 1.15)
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.set_xticks([], minor=True)
    columns = 2 if reference else len(curves)
    _finish(axis, "labelled patients for training", measure, columns=columns)
    note = "Small dots: one seed each. Line: their median. Shade: lowest to highest."
    return canvas.save(figure, path, note=note)


def interval_figure(
    path: str | os.PathLike,
    rows: Mapping[str, tuple[float, float, float]],
    *,
    reference: Mapping[str, float] | None = None,
    measure: str,
) -> pathlib.Path:
    """A forest plot: a dot with its interval per row, and the paper's value as a hollow diamond.

    Args:
        rows: {row name: (value, low, high)}, from top to bottom; NaN is not drawn.
        reference: the paper's values for some of these rows.
        measure: the name of the values, for the axis.
    """
    figure = _figure(6.0, 1.5 + 0.3 * len(rows), "", foot_lines=1)
    lines = [(canvas.short_text(name, 40), Estimate(*row)) for name, row in rows.items()]
    axis = _draw_rows(figure, lines, label="this run, interval")
    if reference:
        values = [reference.get(name) for name in rows]
        _draw_diamonds(axis, values, size=7.5, color=REFERENCE_COLOR, label="the paper")
    _finish(axis, measure, columns=2)
    return canvas.save(figure, path)


def forest_figure(
    path: str | os.PathLike,
    groups: Mapping[str, Mapping[str, Estimate]],
    *,
    measure: str,
    reference: float | None = None,
    published: Mapping[str, float | None] | None = None,
) -> pathlib.Path:
    """A forest plot of many models, by family: a dot, its interval and both as text for each row.

    Args:
        groups: {family: {row name: estimate}}, from top to bottom; never sorted by score. NaN
            is not drawn.
        measure: the name of the values, for the axis.
        reference: the value of our model, a dashed line across all rows.
        published: for some row names, the published value, a small gray diamond, or None.
    """
    lines, values = [], []  # of rows and headings; None instead of an estimate: a heading
    for family, rows in groups.items():
        lines.append((canvas.short_text(family, 60), None))
        lines += [("   " + canvas.short_text(name, 56), row) for name, row in rows.items()]
        values += [None, *((published or {}).get(name) for name in rows)]
    figure = _figure(1, 1.5 + 0.22 * len(lines), "")
    axis = _draw_rows(figure, lines, label="value, 95 % interval", scale=0.8)
    if reference is not None:
        label, look = f"ours ({reference:.3f})", {"color": REFERENCE_COLOR, "linewidth": 1.2}
        axis.axvline(reference, linestyle="--", zorder=1, label=label, **look)
    if published:
        look = {"size": 4.5, "color": PUBLISHED_COLOR}
        _draw_diamonds(axis, values, label="published, not comparable", **look)
    _finish(axis, measure, columns=3)
    labels = axis.get_yticklabels()
    for text, (_, estimate) in zip(labels, lines, strict=True):
        text.set(ha="left", fontweight="normal" if estimate else "bold")
    # Labels that are aligned on the left begin as far from the axis as the longest one is wide.
    inches = max(text.get_window_extent().width for text in labels) / figure.dpi
    axis.tick_params(axis="y", pad=72 * inches + 6)
    figure.set_figwidth(max(4.7 + inches, 7.2))
    note = "Rows are in the order of their families, not of their scores. Patients were resampled."
    return canvas.save(figure, path, note=note)


# --------------------------------------------------------------------------------------------------
# Parts of a chart
# --------------------------------------------------------------------------------------------------


def _figure(width, height, title, *, foot_lines=2, compressed=False):
    """A figure with room at the bottom for the lines that `canvas.save` writes."""
    from matplotlib.figure import Figure

    layout = "compressed" if compressed else "constrained"
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    foot = (0.5 + 0.7 * foot_lines) * canvas.TEXT_INCHES / height
    figure.get_layout_engine().set(rect=(0, foot, 1, 1 - foot), w_pad=0.08, h_pad=0.08)
    if title:
        figure.suptitle(canvas.short_text(title, 80), fontsize=canvas.NORMAL + 2)
    return figure


def _finish(axis, x_label, y_label="", *, columns):
    """Adds labels, grid, and a legend above the axes; without `y_label`, rows have names."""
    axis.set_xlabel(canvas.short_text(x_label, 40), fontsize=canvas.NORMAL)
    axis.set_ylabel(canvas.short_text(y_label, 40), fontsize=canvas.NORMAL)
    axis.tick_params(labelsize=canvas.SMALL, color=GRAY)
    axis.set_axisbelow(True)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GRAY)
    # Above the axes, the legend does not hide a point.
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": min(columns, 3)}
    axis.legend(**place, fontsize=TEXT, frameon=False, handlelength=2.2)
    if not y_label:
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0, labelsize=TEXT)
        axis.spines["left"].set_visible(False)


def _draw_rows(figure, lines, *, label, scale=1.0):
    """Axes with a dot and its interval for each (name, estimate); None instead of it is a heading.

    Dots and lines are `scale` times as large as usual. The legend calls them `label`.
    """
    axis = figure.subplots()
    look = {"color": COLORS[0], "linewidth": 2 * scale}
    dot = {"color": COLORS[0], "markersize": 5.5 * scale}
    place_of_text = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    rows = [(place, row) for place, (_, row) in enumerate(lines) if row is not None]
    for place, estimate in rows:
        axis.hlines(place, estimate.low, estimate.high, **look)
        axis.plot(estimate.value, place, "o", **dot)
        text = axis.annotate(estimate.text(), (1, place), xytext=(8, 0), **place_of_text)
        text.set(va="center_baseline", fontsize=TEXT, annotation_clip=False)
    axis.plot([], [], "o-", label=label, **(look | dot))
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_yticks(range(len(lines)), [name for name, _ in lines])
    return axis


def _draw_diamonds(axis, values, *, size, color, label):
    """Draws a hollow diamond in each row whose value is neither None nor NaN."""
    look = {"markerfacecolor": "none", "markeredgecolor": color, "markersize": size}
    values = np.array(values, dtype=np.float64)
    axis.plot(
        values, range(len(values)), "D", markeredgewidth=size / 5, zorder=4, label=label, **look
    )


def _look(index):
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def _draw_confusion(axis, matrix, *, few):
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, matrix / np.maximum(totals, 1), np.nan)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        percent = _percent(share) + (" %" if few and math.isfinite(share) else "")
        axis.text(
            column,
            row,
            f"{_count(matrix[row, column])}\n{percent}" if few else percent,
            ha="center",
            va="center",
            linespacing=1.4,
            fontsize=canvas.NORMAL if few else canvas.SMALL,
            color="white" if share > 0.55 else "black" if few or share >= 0.005 else GRAY,
            in_layout=False,  # makes the layout faster; the text is inside the axes anyway
        )
    edges = np.arange(len(matrix) + 1) - 0.5
    axis.set_xticks(edges, minor=True)
    axis.set_yticks(edges, minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)


def _count(number):
    """A number such as "1,234"; a mean over repeats may be "1,234.5"."""
    return f"{number:,.0f}" if number == round(number) else f"{number:,.1f}"


def _percent(share):
    """A whole percentage; "0" and "100" mean exactly none and exactly all."""
    if math.isnan(share):
        return UNDEFINED
    if 0 < share < 0.005:
        return "<1"
    return ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"
