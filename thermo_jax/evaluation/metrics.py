"""Measures of segmentation and classification in NumPy, with rules for undefined cases.

Segmentation measures are computed from one confusion matrix summed over *all* images. They are
those of Table 1 of Shor et al. 2024 (arXiv 2404.06589), whose code uses the last batch only. Rules
for absent classes:

- macro means are over the classes in truth or prediction; a class that is only predicted counts
  as 0, and a class that is in neither is left out (its own IoU and Dice are NaN);
- macro F1 is the mean of the classes' F1 (which equals their Dice), not the F1 of macro means;
- the HD95 of a region is NaN if the region is missing in truth or prediction.

A score is the probability of Sick (label 1); an example with `score > threshold` is called sick.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Num, Shaped
from scipy import ndimage

CALIBRATION_BINS = 10  # of equal width in [0, 1]
FALSE_POSITIVE_RATES = np.linspace(0, 1, 101)  # at which ROC curves are measured
_BLOCK = 64  # resamples whose sorted weights are in memory at once


# --------------------------------------------------------------------------------------------------
# Segmentation
# --------------------------------------------------------------------------------------------------


def confusion_matrix(
    true: Integer[np.ndarray, "..."], predicted: Integer[np.ndarray, "..."], *, num_classes: int
) -> Int[np.ndarray, "k k"]:
    """Pixels (int64) by true class (row) and predicted class (column).

    For several images, add their matrices and call `segmentation_measures` once.

    Raises:
        ValueError: the shapes differ, or a class is outside 0..num_classes-1.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape:
        raise ValueError(
            f"true labels have shape {true.shape} but predicted ones {predicted.shape}: "
            "score both at one resolution"
        )
    for name, labels in (("true", true), ("predicted", predicted)):
        if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(
                f"{name} labels run from {labels.min()} to {labels.max()}, expected class "
                f"indexes 0..{num_classes - 1}"
            )
    pairs = true.astype(np.int64).ravel() * num_classes + predicted.astype(np.int64).ravel()
    counts = np.bincount(pairs, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def segmentation_measures(confusion: Num[np.ndarray, "... k k"]) -> dict[str, Any]:
    """Pixel accuracy, macro precision/recall/F1, mIoU and each class's IoU and Dice.

    Args:
        confusion: pixels by true class (row) and predicted class (column), over all images; or
            several such matrices, for example one per bootstrap sample, with weighted pixels.

    Returns:
        "accuracy", "precision", "recall", "f1", "miou" (floats; float64 [...] for several
        matrices) and "iou", "dice" (float64 [... k], NaN for a class absent from truth and
        prediction). All are NaN for an empty matrix among others that are not empty.

    Raises:
        ValueError: the matrices are not square, or all are empty.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    square = confusion.ndim >= 2 and confusion.shape[-2] == confusion.shape[-1]
    if not square or not confusion.sum() > 0:
        raise ValueError(
            f"expected a square confusion matrix with at least one pixel, got shape "
            f"{confusion.shape} with {confusion.sum():.0f} pixels: was any image scored?"
        )
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    in_truth, in_prediction = confusion.sum(axis=-1), confusion.sum(axis=-2)
    present = in_truth + in_prediction > 0
    dice = ratio(2 * hits, in_truth + in_prediction, otherwise=np.nan)
    iou = ratio(hits, in_truth + in_prediction - hits, otherwise=np.nan)
    by_class = {
        "precision": ratio(hits, in_prediction, otherwise=0.0),
        "recall": ratio(hits, in_truth, otherwise=0.0),
        "f1": dice,
        "miou": iou,
    }
    measures = {"accuracy": ratio(hits.sum(axis=-1), in_truth.sum(axis=-1), otherwise=np.nan)}
    for name, values in by_class.items():
        total = np.where(present, values, 0.0).sum(axis=-1)
        measures[name] = ratio(total, present.sum(axis=-1), otherwise=np.nan)
    return measures | {"iou": iou, "dice": dice}


def hd95(true_mask: Shaped[np.ndarray, "h w"], predicted_mask: Shaped[np.ndarray, "h w"]) -> float:
    """95th-percentile symmetrical Hausdorff distance of two regions' surfaces, in pixels.

    The surface of a region is its pixels with a 4-neighbour outside the region or the image. The
    result is the larger of the two directed 95th percentiles, as in MONAI and *Metrics Reloaded*
    (Maier-Hein et al. 2024). It is NaN if a region is absent; IoU and recall show that case.
    """
    true_mask, predicted_mask = np.asarray(true_mask, bool), np.asarray(predicted_mask, bool)
    if not true_mask.any() or not predicted_mask.any():
        return float("nan")
    # Within the bounding box the distances are the same, but are computed much faster.
    (box,) = ndimage.find_objects((true_mask | predicted_mask).astype(np.int8))
    true_surface, predicted_surface = _surface(true_mask[box]), _surface(predicted_mask[box])
    to_true = ndimage.distance_transform_edt(~true_surface)[predicted_surface]
    to_predicted = ndimage.distance_transform_edt(~predicted_surface)[true_surface]
    return float(max(np.percentile(to_true, 95), np.percentile(to_predicted, 95)))


def hd95_by_class(
    true: Integer[np.ndarray, "n h w"], predicted: Integer[np.ndarray, "n h w"], *, num_classes: int
) -> Float[np.ndarray, "n k"]:
    """`hd95` of every image and class, in pixels; use nanmean to average over images."""
    pairs = zip(true, predicted, strict=True)
    return np.array([[hd95(a == k, b == k) for k in range(num_classes)] for a, b in pairs])


def _surface(mask):
    return mask & ~ndimage.binary_erosion(mask)


# --------------------------------------------------------------------------------------------------
# Classification
# --------------------------------------------------------------------------------------------------


def classification_measures(
    scores: Num[np.ndarray, " n"],
    labels: Num[np.ndarray, " n"],
    *,
    called: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, "... n"] | None = None,
) -> dict[str, Float[np.ndarray, "..."]]:
    """Measures of probabilities of Sick against labels (1 sick, 0 healthy).

    Undefined cases: precision is 0 if no example is called sick; recall, F1, AUROC and AUPRC are
    NaN without a sick example; specificity, AUROC and AUPRC are NaN without a healthy one; all are
    NaN without any example. Recall is sensitivity. AUPRC is average precision (no interpolation).
    ECE is the mean of |mean probability - share of sick| over `calibration_bins`, weighted by the
    number of examples in each bin.

    Args:
        called: which examples are called sick, for example `scores > 0.5`. The threshold may
            differ from fold to fold.
        weights: how often each example counts, by default once; one row for each resample.

    Returns:
        "accuracy", "precision", "recall", "specificity", "f1", "auroc", "auprc", "brier", "ece",
        each with one value for each row of the weights.

    Raises:
        ValueError: no example, a label besides 0 and 1, or a score outside [0, 1].
    """
    scores, labels = checked_scores(scores, labels)
    weights = np.ones(len(scores)) if weights is None else weights
    sick = labels == 1
    tp, fp, tn, fn = (weights @ members for members in decisions(called, sick).values())
    total = weights.sum(axis=-1)
    error = scores - labels
    bins = calibration_bins(scores)[:, None] == np.arange(CALIBRATION_BINS)
    gaps = np.abs(weights @ (bins * error[:, None])).sum(axis=-1)
    area_under_roc, auprc = _areas(weights, scores, sick)
    precision = ratio(tp, tp + fp, otherwise=0.0)
    return {
        "accuracy": ratio(tp + tn, total, otherwise=np.nan),
        "precision": np.where(total > 0, precision, np.nan)[()],
        "recall": ratio(tp, tp + fn, otherwise=np.nan),
        "specificity": ratio(tn, tn + fp, otherwise=np.nan),
        "f1": np.where(tp + fn > 0, ratio(2 * tp, 2 * tp + fp + fn, otherwise=np.nan), np.nan)[()],
        "auroc": area_under_roc,
        "auprc": auprc,
        "brier": ratio(weights @ error**2, total, otherwise=np.nan),
        "ece": ratio(gaps, total, otherwise=np.nan),
    }


def auroc(
    scores: Num[np.ndarray, " n"],
    labels: Num[np.ndarray, " n"],
    *,
    weights: Float[np.ndarray, "... n"],
) -> Float[np.ndarray, "..."]:
    """The measure "auroc" of `classification_measures` alone, for each row of the weights."""
    scores, labels = checked_scores(scores, labels)
    return _areas(weights, scores, labels == 1)[0]


def sensitivities(
    scores: Num[np.ndarray, " n"],
    labels: Num[np.ndarray, " n"],
    *,
    weights: Float[np.ndarray, "r n"],
) -> dict[str, Float[np.ndarray, "r k"]]:
    """The ROC curve: "sensitivity" at each of `FALSE_POSITIVE_RATES`, for each row of the weights.

    Between two thresholds the curve is a straight line, so that its area is the AUROC. Where it
    rises vertically, the highest sensitivity counts. It is NaN without a sick or a healthy example.
    """
    scores, labels = checked_scores(scores, labels)
    steps = _steps(weights, scores, labels == 1)
    sick, healthy = (np.pad(step.cumsum(axis=1), ((0, 0), (1, 0))) for step in steps)
    shares = (ratio(called, called[:, -1:], otherwise=np.nan) for called in (healthy, sick))
    # Of equal rates, np.interp uses the last one, which has the highest sensitivity.
    curves = [np.interp(FALSE_POSITIVE_RATES, *curve) for curve in zip(*shares, strict=True)]
    undefined = (sick[:, -1:] == 0) | (healthy[:, -1:] == 0)
    return {"sensitivity": np.where(undefined, np.nan, np.stack(curves))}


def _steps(weights, scores, sick):
    """The weights of sick and of healthy examples at each score [r, steps], highest score first."""
    order = np.argsort(-scores)
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    weights, sick = weights[:, order], sick[order]
    return tuple(np.add.reduceat(weights * group, starts, axis=1) for group in (sick, ~sick))


def _areas(weights, scores, sick):
    """Weighted AUROC and average precision [2, ...]; tied scores are one step of both curves."""
    rows = weights.reshape(-1, len(scores))
    blocks = np.array_split(rows, -(-len(rows) // _BLOCK))
    areas = [_areas_of_block(block, scores, sick) for block in blocks]
    return np.concatenate(areas, axis=1).reshape(2, *weights.shape[:-1])


def _areas_of_block(weights, scores, sick):
    sick_at, healthy_at = _steps(weights, scores, sick)
    sick_from, healthy_from = sick_at.cumsum(axis=1), healthy_at.cumsum(axis=1)
    all_sick, all_healthy = sick_from[:, -1], healthy_from[:, -1]
    healthy_below = all_healthy[:, None] - healthy_from
    ordered_pairs = (sick_at * (healthy_below + healthy_at / 2)).sum(axis=1)
    precision = ratio(sick_from, sick_from + healthy_from, otherwise=0.0)
    average_precision = ratio((sick_at * precision).sum(axis=1), all_sick, otherwise=np.nan)
    return np.stack(
        [
            ratio(ordered_pairs, all_sick * all_healthy, otherwise=np.nan),
            np.where(all_healthy > 0, average_precision, np.nan),
        ]
    )


def decisions(
    called: Bool[np.ndarray, " n"], sick: Bool[np.ndarray, " n"]
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Which examples are true and false positives, true and false negatives."""
    return {
        "tp": called & sick,
        "fp": called & ~sick,
        "tn": ~called & ~sick,
        "fn": ~called & sick,
    }


def calibration_bins(scores: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The bin, of equal width in [0, 1], of every probability (0 is the lowest).

    A score on an edge is in the bin above the edge; 1.0 is in the last bin.
    """
    return np.minimum((scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def best_threshold(scores: Num[np.ndarray, " n"], labels: Num[np.ndarray, " n"]) -> float:
    """The threshold with the best balanced accuracy on validation data (the best Youden's J).

    Candidates are 0.5 and the midpoints between neighbouring distinct scores. Of equally good
    candidates, the nearest to 0.5 is used (the lower one if two are equally near), so that a small
    validation set changes the threshold only if this improves the accuracy. The threshold is 0.5
    if all labels are the same.
    """
    scores, labels = checked_scores(scores, labels)
    sick = labels == 1
    if sick.all() or not sick.any():
        return 0.5
    distinct = np.unique(scores)
    candidates = np.unique(np.append(cut_between(distinct[:-1], distinct[1:]), 0.5))
    sick_at_most = np.searchsorted(np.sort(scores[sick]), candidates, side="right")
    healthy_at_most = np.searchsorted(np.sort(scores[~sick]), candidates, side="right")
    # Proportional to the balanced accuracy; as integers, equally good candidates are exactly equal.
    merit = (sick.sum() - sick_at_most) * (~sick).sum() + healthy_at_most * sick.sum()
    best = candidates[merit == merit.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def cut_between(
    lower: Float[np.ndarray, "..."], upper: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Thresholds that separate lower from upper scores: lower <= threshold < upper."""
    midpoint = (lower + upper) / 2
    # The midpoint of neighbouring float64 numbers may be the upper one.
    return np.where(midpoint < upper, midpoint, lower)


# --------------------------------------------------------------------------------------------------
# Shared by the evaluation
# --------------------------------------------------------------------------------------------------


def ratio(numerator, denominator, *, otherwise: float) -> Float[np.ndarray, "..."]:
    """Elementwise quotient (of two numbers, a number); `otherwise` where the denominator is 0."""
    out = np.full(numerator.shape, otherwise)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)[()]


def checked_scores(scores, labels) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns both as 1-D arrays (float64, int64). Raises ValueError if they are not valid."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"scores have shape {scores.shape} and labels {labels.shape}: expected one of each "
            "per example"
        )
    if not scores.size:
        raise ValueError("no example to score: is the test split empty?")
    if not np.isin(labels, (0, 1)).all():
        odd = labels[~np.isin(labels, (0, 1))][0]
        raise ValueError(
            f"label {odd}: expected 0 (healthy) or 1 (sick); leave unlabelled ones out"
        )
    outside = ~((scores >= 0) & (scores <= 1))  # also true for NaN
    if outside.any():
        raise ValueError(
            f"score {scores[outside][0]} is no probability in [0, 1]: give sigmoid(logit); if the "
            "score is NaN, check whether the training diverged"
        )
    return scores, labels.astype(np.int64)
