"""From predictions to everything a reviewer asks of them (SPEC section 5).

Rows of one model or of a whole cross-validation (out-of-fold), per image and per patient. Intervals
resample patients, not images: frames of one patient are near-copies. They tell which patients
happened to be in the data, not what another training seed would give.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation import bootstrap, metrics, operating
from thermo_jax.evaluation.predictions import Predictions

LEVEL = 0.95
WORST = 5  # images listed
SENSITIVITY = 0.9
CHANCE = 0.5
# Operating points chosen on validation patients, and how a table calls them.
TUNED, SENSITIVE = "best balanced accuracy", "90 % sensitivity"


class Unit(NamedTuple):
    """One row per image, or per patient and model."""

    patients: np.ndarray
    models: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    thresholds: dict[str, np.ndarray]
    baselines: dict[str, np.ndarray]


def operating_points(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Thresholds that validation data choose, by name."""
    return {
        TUNED: metrics.best_threshold(scores, labels),
        SENSITIVE: operating.threshold_at_sensitivity(scores, labels, sensitivity=SENSITIVITY),
    }


def units(predictions: Predictions) -> dict[str, Unit]:
    """The rows per "image" and per "patient"; a patient's score is the mean over her images."""
    columns = predictions.columns
    thresholds = {
        unit: {
            name.removeprefix(f"{unit}, "): values
            for name, values in predictions.named("threshold").items()
            if name.startswith(f"{unit}, ")
        }
        for unit in ("image", "patient")
    }
    image = Unit(
        predictions.patients,
        predictions.models,
        columns["labels"],
        columns["probabilities"],
        thresholds["image"],
        predictions.named("baseline"),
    )
    keys = np.char.add(np.char.add(predictions.models, " "), predictions.patients)
    _, first = np.unique(keys, return_index=True)  # in the order of `patient_scores`

    def mean(values):
        return metrics.patient_scores(values, keys, image.labels).scores

    patient = Unit(
        predictions.patients[first],
        predictions.models[first],
        columns["labels"][first],
        mean(image.scores),
        {name: values[first] for name, values in thresholds["patient"].items()},
        {name: mean(values) for name, values in image.baselines.items()},
    )
    return {"image": image, "patient": patient}


def assess_classification(
    predictions: Predictions, *, row: str, samples: int, seed: int
) -> dict[str, Any]:
    """Everything about a classifier called `row`, the baselines beside it.

    Args:
      samples: bootstrap resamples of patients.
    Returns:
      "classification": {unit: {row name: measures with "interval"}}; the model at 0.5, then at
        the operating points chosen on validation data, then the baselines. Where models of
        several folds have thresholds of their own, "threshold" is NaN and "thresholds" has them
        by model;
      "reliability": {unit: ReliabilityCurve};
      "subsets": {subset: measures per image at 0.5 with "interval"};
      "cautions": sentences about baselines that come within the model's interval.
    """
    found: dict[str, Any] = {"classification": {}, "reliability": {}, "subsets": {}}
    by_unit, drawn = units(predictions), {}
    for name, unit in by_unit.items():
        weights = bootstrap.patient_weights(unit.patients.tolist(), samples=samples, seed=seed)
        drawn[name] = weights
        rows = {row: _measured(unit, unit.scores, weights)}
        for point, thresholds in unit.thresholds.items():
            rows[f"{row} at {point}"] = _measured(unit, unit.scores, weights, thresholds=thresholds)
        for baseline, scores in unit.baselines.items():
            rows[baseline] = _measured(unit, scores, weights)
        found["classification"][name] = rows
        found["reliability"][name] = operating.reliability_curve(unit.scores, unit.labels)
    image, weights = by_unit["image"], drawn["image"]
    for name, mask in operating.subsets(
        image.labels,
        patients=predictions.patients.tolist(),
        views=predictions.views,
        protocols=predictions.protocols.tolist(),
        dates=predictions.dates.tolist(),
    ).items():
        rows = (image.patients[mask], image.models[mask], image.labels[mask], image.scores[mask])
        part = Unit(*rows, {}, {})
        found["subsets"][name] = _measured(part, part.scores, weights[:, mask])
    found["cautions"] = cautions(found["classification"], row=row, baselines=list(image.baselines))
    return found


def _measured(unit: Unit, scores, weights, *, thresholds=0.5) -> dict[str, Any]:
    """Measures of one row; `thresholds` is one for all, or one per entry (the same in a fold)."""
    thresholds = np.broadcast_to(thresholds, scores.shape)
    called = scores > thresholds
    measures = metrics.classification_measures(scores, unit.labels, called=called)
    if (thresholds == thresholds[0]).all():
        measures["threshold"] = float(thresholds[0])
    else:
        models, first = np.unique(unit.models, return_index=True)
        measures["thresholds"] = dict(zip(models.tolist(), thresholds[first].tolist(), strict=True))
    resampled = bootstrap.classification_samples(scores, unit.labels, weights, called=called)
    measures["interval"] = {
        name: bootstrap.interval(values, level=LEVEL) for name, values in resampled.items()
    }
    measures["auroc_within"] = _auroc_within(unit.models, scores, unit.labels)
    measures["patients"] = len(np.unique(unit.patients))
    return measures


def _auroc_within(models: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> float:
    """AUROC over pairs judged by the same model: models of different folds differ in scale."""
    pairs = wins = 0.0
    for model in np.unique(models):
        mine = models == model
        count = float((labels[mine] == 1).sum() * (labels[mine] == 0).sum())
        if count:
            pairs += count
            found = metrics.classification_measures(scores[mine], labels[mine])
            wins += count * found["auroc"]
    return wins / pairs if pairs else float("nan")


def cautions(
    classification: dict[str, dict[str, dict]], *, row: str, baselines: Sequence[str]
) -> list[str]:
    """A plain sentence: whether chance, or baselines without anatomy, reach the model's AUROC.

    Per patient; none where the AUROC is undefined.
    """
    rows = classification["patient"]
    value, (low, high) = rows[row]["auroc"], rows[row]["interval"]["auroc"]
    if not np.isfinite([value, low]).all():
        return []
    start = f"{row} has AUROC {value:.3f} per patient (95 % interval {low:.3f} to {high:.3f})"
    if low <= CHANCE:
        return [f"{start}, which chance (0.5) may explain: it shows nothing."]
    rivals = [
        f"{name} ({rows[name]['auroc']:.3f})" for name in baselines if rows[name]["auroc"] >= low
    ]
    if not rivals:
        return [f"{start}; no baseline that sees no anatomy comes within this interval."]
    come = "comes" if len(rivals) == 1 else "come"
    return [
        f"{start}; without seeing any anatomy, {_listed(rivals)} {come} within it or above: this "
        "score does not show that the model reads the breast."
    ]


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def assess_segmentation(predictions: Predictions, *, samples: int, seed: int) -> dict[str, Any]:
    """Everything about a segmenter.

    Returns:
      "segmentation": {size: measures over all pixels of all images, with "hd95" [K] (mean over
        the images that have it), "interval" and "images" (quartiles over images)};
      "confusion": {size: int64 [K, K]};
      "worst": the images with the lowest mIoU at the images' size.
    """
    found: dict[str, Any] = {"segmentation": {}, "confusion": {}}
    weights = bootstrap.patient_weights(predictions.patients.tolist(), samples=samples, seed=seed)
    for size, confusions in predictions.named("confusion").items():
        total = confusions.sum(0)
        measures = metrics.segmentation_measures(total)
        distances = predictions.columns[f"hd95/{size}"]
        measures["hd95"] = bootstrap.mean_samples(distances, np.ones((1, len(distances))))[0]
        resampled = bootstrap.segmentation_samples(confusions, weights)
        resampled["hd95"] = bootstrap.mean_samples(distances, weights)
        measures["interval"] = {
            name: bootstrap.interval(values, level=LEVEL)
            if values.ndim == 1
            else [bootstrap.interval(column, level=LEVEL) for column in values.T]
            for name, values in resampled.items()
        }
        each = metrics.segmentation_measures(confusions)
        measures["images"] = {
            name: np.percentile(each[name], (0, 25, 50, 75, 100)) for name in ("accuracy", "miou")
        }
        found["segmentation"][size] = measures
        found["confusion"][size] = total
        if "worst" not in found:
            order = np.argsort(each["miou"], kind="stable")[:WORST]
            found["worst"] = [
                {
                    "name": str(predictions.names[i]),
                    "patient": str(predictions.patients[i]),
                    "miou": float(each["miou"][i]),
                    "accuracy": float(each["accuracy"][i]),
                    "lowest_class": CLASS_NAMES[int(np.nanargmin(each["iou"][i]))],
                }
                for i in order
            ]
    return found
