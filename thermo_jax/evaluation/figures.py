"""Pictures of segmentations, evidence, latents and loss curves, as PNG.

Importing this module does not import matplotlib (see canvas.py).
"""

import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num, UInt8
from scipy import ndimage

from thermo_jax.data.thermogram import CLASS_NAMES, LABEL_NAMES
from thermo_jax.evaluation import canvas
from thermo_jax.evaluation.wording import SIDES_NOTE, class_title

# In the order of CLASS_NAMES. These colours of Okabe and Ito differ for people with any colour
# vision. Image left is cool, image right is warm, and nipples are lighter or darker than breasts.
CLASS_COLORS = (
    "#0072B2",  # left breast: blue
    "#E69F00",  # right breast: orange
    "#F0E442",  # left nipple: yellow
    "#000000",  # right nipple: black
    "#56B4E9",  # left armpit: sky
    "#D55E00",  # right armpit: vermilion
    "#E4E4E4",  # background: light gray
    "#009E73",  # neck: green
)
WRONG_COLOR = "#B0005F"  # dark pink, which no class has, visible on a pale thermogram
EVIDENCE_COLORMAP = "PuOr_r"
SMOOTHING = 0.025  # standard deviation of the blur of evidence, as a share of the image's height
SERIES = {"train": ("training", "#0072B2", "-", "o"), "val": ("validation", "#D55E00", "--", "s")}


def segmentation_figure(
    path: str | os.PathLike,
    images: UInt8[np.ndarray, "n h w c"],
    truth: Integer[np.ndarray, "n th tw"],
    predicted: Integer[np.ndarray, "n th tw"],
    names: Sequence[str],
    *,
    title: str,
) -> pathlib.Path:
    """Rows of thermogram, truth, prediction and error, like Figure 1 of the paper (2404.06589).

    Label maps contain class indexes and may have another resolution than the images. The error
    panel shows wrong pixels on the thermogram, and their share below it.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure, axes = canvas.grid(
        len(images),
        4,
        images.shape[1:3],
        title=title,
        headings=("thermogram", "truth", "prediction", "error"),
        footer_lines=3.6,
    )
    labels = {
        "cmap": ListedColormap(CLASS_COLORS),
        "vmin": -0.5,
        "vmax": len(CLASS_NAMES) - 0.5,
        "interpolation": "nearest",
        "extent": canvas.extent(images),
    }
    for row, image, true_map, predicted_map, name in zip(
        axes, images, truth, predicted, names, strict=True
    ):
        wrong = np.asarray(true_map) != np.asarray(predicted_map)
        canvas.show(row[0], image)
        row[1].imshow(true_map, **labels)
        row[2].imshow(predicted_map, **labels)
        canvas.show(row[3], canvas.lightness(image) // 2 + 100)  # pale, so that errors stand out
        canvas.overlay(row[3], WRONG_COLOR, wrong.astype(np.float64), extent=canvas.extent(images))
        row[0].set_xlabel(canvas.short_name(name), fontsize=canvas.SMALL)
        row[3].set_xlabel(f"{wrong.mean():.1%} of pixels wrong", fontsize=canvas.SMALL)
    handles = class_patches(range(len(CLASS_NAMES)))
    canvas.legend(figure, [*handles, Patch(facecolor=WRONG_COLOR, label="wrong")], columns=5)
    return canvas.save(figure, path, note=SIDES_NOTE)


def class_patches(indices: Iterable[int]) -> list:
    """Patches for a legend of these classes."""
    from matplotlib.patches import Patch

    style = {"edgecolor": "#666666", "linewidth": 0.5}
    return [
        Patch(facecolor=CLASS_COLORS[index], label=class_title(CLASS_NAMES[index]), **style)
        for index in indices
    ]


def evidence_figure(
    path: str | os.PathLike,
    images: UInt8[np.ndarray, "n h w c"],
    evidence: Float[np.ndarray, "n eh ew"],
    probabilities: Num[np.ndarray, " n"],
    labels: Num[np.ndarray, " n"],
    names: Sequence[str],
    *,
    title: str,
) -> pathlib.Path:
    """Pairs of thermograms without and with the classifier's evidence, on one scale.

    For display, the evidence is blurred by a Gaussian, which does not change its sum.

    Args:
        evidence: u*w, the exact contribution of each pixel to the logit; positive means sick.
        probabilities: of sick.
        labels: keys of LABEL_NAMES.
    """
    evidence = np.asarray(evidence, dtype=np.float64)
    sigma = SMOOTHING * evidence.shape[1]
    evidence = ndimage.gaussian_filter(evidence, (0, sigma, sigma), mode="reflect")
    limit = float(np.percentile(np.abs(evidence), 99.5)) or 1.0
    figure, pairs = canvas.pairs(len(images), images.shape[1:3], title=title, footer_lines=4)
    for pair, image, map_, probability, label, name in zip(
        pairs, images, evidence, probabilities, labels, names, strict=True
    ):
        canvas.show(pair[0], image)
        canvas.show(pair[1], canvas.lightness(image))
        paint_evidence(pair[1], map_ / limit, extent=canvas.extent(images))
        pair[0].set_xlabel(canvas.short_name(name), fontsize=canvas.SMALL)
        truth = LABEL_NAMES.get(int(label), str(label))
        pair[1].set_xlabel(f"p(sick) {probability:.2f}, labelled {truth}", fontsize=canvas.SMALL)
    _evidence_scale(figure, limit)
    blurred = f"blurred for display (sd {sigma:.1f} px)"
    return canvas.save(figure, path, note=f"Evidence: each pixel's part of the logit, {blurred}.")


def paint_evidence(axis, strength: Float[np.ndarray, "h w"], *, extent) -> None:
    """Paints evidence over a picture, from -1 (healthy) through 0 (transparent) to 1 (sick)."""
    from matplotlib import colormaps

    strength = np.clip(strength, -1, 1)
    colors = colormaps[EVIDENCE_COLORMAP](0.5 + strength / 2)
    canvas.overlay(axis, colors, 0.85 * np.abs(strength), extent=extent)


def latents_figure(
    path: str | os.PathLike,
    images: UInt8[np.ndarray, "n h w c"],
    latents: Num[np.ndarray, "n lh lw l"],
    *,
    names: Sequence[str],
) -> pathlib.Path:
    """Pairs of thermograms and latents, whose first three principal components are colours.

    All images have the same components and colour scale.
    """
    colors = pca_colors(latents)
    figure, pairs = canvas.pairs(len(images), images.shape[1:3], title="", footer_lines=1)
    for pair, image, color, name in zip(pairs, images, colors, names, strict=True):
        canvas.show(pair[0], image)
        pair[1].imshow(color, extent=canvas.extent(images), interpolation="nearest")
        pair[0].set_xlabel(canvas.short_name(name), fontsize=canvas.SMALL)
        pair[1].set_xlabel("latents, 3 principal components as RGB", fontsize=canvas.SMALL)
    return canvas.save(figure, path)


def pca_colors(latents: Num[np.ndarray, "n h w l"]) -> Float[np.ndarray, "n h w 3"]:
    """The first three principal components of latents, scaled to [0, 1].

    Components are fitted on at most 20,000 evenly spaced pixels of all images; 0 and 1 are their
    1st and 99th percentile. Missing components (L < 3, constant latents) are 0.5. The largest
    loading of each component is positive.
    """
    from sklearn.decomposition import PCA

    pixels = np.reshape(latents, (-1, latents.shape[-1]))
    sample = pixels[:: max(1, len(pixels) // 20_000)].astype(np.float64)
    count = min(3, *sample.shape)
    with np.errstate(invalid="ignore"):  # if all latents are equal
        pca = PCA(count, svd_solver="covariance_eigh").fit(sample)
    low, high = np.percentile(pca.transform(sample), (1, 99), axis=0)
    varies = pca.explained_variance_ > 1e-12
    colors = np.full((*latents.shape[:-1], 3), 0.5, dtype=np.float32)
    for color, image in zip(colors, latents, strict=True):  # one by one: latents can be large
        projected = pca.transform(image.reshape(-1, latents.shape[-1]).astype(np.float32))
        shares = np.clip((projected - low) / (high - low + 1e-12), 0, 1)
        color[..., :count] = np.where(varies, shares, 0.5).reshape(*color.shape[:-1], count)
    return colors


def curves_figure(
    path: str | os.PathLike,
    rows: Sequence[Mapping[str, Any]],
    *,
    best_epoch: int | None,
    title: str,
) -> pathlib.Path:
    """Training and validation curves by epoch, one panel per measure, the loss first.

    Args:
        rows: of metrics.jsonl: "epoch", and numbers (None if not finite) named "train/<measure>"
            or "val/<measure>"; other keys are ignored.
        best_epoch: marked by a line; None if no epoch was chosen.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    names = dict.fromkeys(key.split("/")[1] for row in rows for key in row if "/" in key)
    measures = sorted(names, key=lambda name: name != "loss")
    columns = min(3, len(measures))
    lines = math.ceil(len(measures) / columns)
    size = (0.4 + 3.9 * columns, 0.4 + 2.9 * lines)
    figure = Figure(figsize=size, dpi=canvas.DPI, layout="constrained")
    figure.suptitle(title, fontsize=canvas.NORMAL + 2)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, measure in zip(axes, measures, strict=False):
        for split, (label, color, dashes, marker) in SERIES.items():
            values = np.array([row.get(f"{split}/{measure}") for row in rows], np.float64)
            if np.isfinite(values).any():
                style = {"color": color, "marker": marker if len(rows) <= 30 else None}
                axis.plot(epochs, values, dashes, markersize=3.5, label=label, **style)
        if best_epoch is not None:
            style = {"color": "#666666", "linewidth": 1, "linestyle": ":"}
            axis.axvline(best_epoch, label="best epoch", **style)
        axis.set_title(measure.replace("_", " "), fontsize=canvas.NORMAL)
        axis.set_xlabel("epoch", fontsize=canvas.SMALL)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.tick_params(labelsize=canvas.SMALL)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=canvas.SMALL, frameon=False)
    for axis in axes[len(measures) :]:
        axis.set_visible(False)
    return canvas.write(figure, path)


def _evidence_scale(figure, limit):
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    width, height = figure.get_size_inches()
    length = min(3.2, 0.7 * width)
    bottom = 3.2 * canvas.TEXT_INCHES
    box = ((width - length) / 2 / width, bottom / height, length / width, 0.1 / height)
    axis = figure.add_axes(box)
    scale = ScalarMappable(Normalize(-limit, limit), EVIDENCE_COLORMAP)
    bar = figure.colorbar(scale, cax=axis, orientation="horizontal", ticks=[-limit, 0, limit])
    bar.ax.set_xticklabels(
        [f"{-limit:.2g}\nfor healthy", "0", f"{limit:.2g}\nfor sick"], fontsize=canvas.SMALL
    )
    bar.outline.set_linewidth(0.5)
