"""Measures of predictions and their intervals, as a reviewer asks for them (SPEC section 5).

The predictions are those of one model, or of a whole cross-validation (each image is judged by the
model that did not train on it). Measures are computed per image and per patient. If the
cross-validation was repeated, a measure is the mean over the repeats: rows of several repeats are
never pooled, because they come from the same patients.

Intervals resample patients, not images: the frames of one patient are near-copies. A resample
draws the same patients in every repeat. An interval shows how a measure would vary with other
test patients. It does not show how it would vary with another training seed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thermo_jax.data.thermogram import CLASS_NAMES, SICK
from thermo_jax.evaluation import bootstrap, metrics, operating
from thermo_jax.evaluation.predictions import Predictions

WORST = 5  # images listed
CHANCE = 0.5
# Operating points that are chosen on validation patients, as tables name them.
TUNED, SENSITIVE = "best balanced accuracy", "90 % sensitivity"


def operating_points(validation: Predictions) -> dict[str, float]:
    """Thresholds chosen on validation data, by unit and point ("image, 90 % sensitivity")."""
    points = {}
    for name, unit in units(validation).items():
        scored = unit.columns["probabilities"], unit.columns["labels"]
        points[f"{name}, {TUNED}"] = metrics.best_threshold(*scored)
        points[f"{name}, {SENSITIVE}"] = operating.threshold_at_sensitivity(*scored)
    return points


def units(predictions: Predictions) -> dict[str, Predictions]:
    """A classifier's predictions per "image" and per "patient".

    The score of a patient is the mean over their images. The row of a patient has the patient's
    name; its other values are those of their first image.
    """
    keys = np.char.add(np.char.add(predictions.models, " "), predictions.patients)
    _, first, row, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    means = {
        name: np.clip(np.bincount(row, weights=column) / counts, 0.0, 1.0)
        for name, column in predictions.columns.items()
        if name == "probabilities" or name.startswith(("member/", "baseline/"))
    }
    patients = predictions.take(first)
    patients = dataclasses.replace(
        patients, names=patients.patients, columns=patients.columns | means
    )
    return {"image": predictions, "patient": patients}


def assess_classification(
    predictions: Predictions, *, row: str, samples: int, seed: int
) -> dict[str, Any]:
    """All results of a classifier whose row is named `row`, and of the baselines.

    Args:
      samples: bootstrap resamples of patients.
    Returns:
      "classification": {unit: {row name: measures with "interval"}}; the rows are the model at 0.5,
        then at the operating points chosen on validation data, then the members of an ensemble,
        then the baselines. If the models of several folds have different thresholds, "threshold" is
        NaN and "thresholds" contains the threshold of each model. "perfect" names the measures that
        are 1 in every resample; the lower end of their interval is `bootstrap.perfect_bound`. In
        "counts", n, sick and healthy count every image or patient once; the other counts are means
        over repeats;
      "reliability": {unit: ReliabilityCurve}, of the rows of all repeats, the counts divided by
        the number of repeats;
      "roc": {"patient": RocCurve};
      "subsets": {subset: measures per image at 0.5 with "interval"};
      "cautions": sentences about baselines whose score is within the model's interval.
    """
    outcome: dict[str, Any] = {"classification": {}, "reliability": {}, "roc": {}, "subsets": {}}
    for name, unit in units(predictions).items():
        weights = bootstrap.patient_weights(unit.patients, samples=samples, seed=seed)
        scores, baselines = unit.columns["probabilities"], unit.named("baseline/")
        rows = {row: _measured(unit, scores, weights)}
        for point, thresholds in unit.named(f"threshold/{name}, ").items():
            rows[f"{row} at {point}"] = _measured(unit, scores, weights, thresholds=thresholds)
        others = unit.named("member/") | baselines
        rows |= {key: _measured(unit, values, weights) for key, values in others.items()}
        outcome["classification"][name] = rows
        curve = operating.reliability_curve(scores, unit.columns["labels"])
        count = _per_repeat(curve.count, len(np.unique(unit.repeats)))
        outcome["reliability"][name] = curve._replace(count=count)
        if name == "patient":
            outcome["roc"][name] = _roc_curve(unit, weights)
        if name == "image":
            for subset, members in operating.subsets(unit).items():
                part = unit.take(np.flatnonzero(members))
                outcome["subsets"][subset] = _measured(
                    part, part.columns["probabilities"], weights[:, members]
                )
    outcome["cautions"] = cautions(
        outcome["classification"], row=row, baselines=list(predictions.named("baseline/"))
    )
    return outcome


def aurocs(predictions: Predictions) -> dict[str, float]:
    """The AUROC per patient: "auroc", pooled over folds, and "auroc_within" folds.

    The second one is over pairs of patients whom the same model judged.
    """
    unit = units(predictions)["patient"]
    scores, labels = (unit.columns[name] for name in ("probabilities", "labels"))
    pooled = metrics.auroc(scores, labels, weights=np.ones(len(scores)))
    within = _auroc_within(unit.models, scores, labels)
    return {"auroc": float(pooled), "auroc_within": within}


def _measured(unit: Predictions, scores, weights, *, thresholds=0.5) -> dict[str, Any]:
    """The measures of one row of the table.

    Args:
      thresholds: one for all entries, or one per entry; all entries of a model have the same one.
    """
    thresholds = np.broadcast_to(thresholds, scores.shape)
    labels, called = unit.columns["labels"], scores > thresholds
    repeats = _rows_by_repeat(unit)
    columns = {"scores": scores, "labels": labels, "called": called}
    measures, interval = _estimated(
        metrics.classification_measures, columns, repeats=repeats, weights=weights
    )
    of_model = dict(zip(unit.models.tolist(), thresholds.tolist(), strict=True))
    same = len(set(of_model.values())) == 1
    measures["threshold"] = thresholds.tolist()[0] if same else np.nan
    within = [_auroc_within(unit.models[rows], scores[rows], labels[rows]) for rows in repeats]
    measures["auroc_within"] = float(finite_mean(within))
    measures["counts"] = _counts(unit, called, repeats=len(repeats))
    if not same:
        measures["thresholds"] = of_model
    trials = _trials(unit, called)
    # A bound of 1 would mean that nothing is uncertain.
    perfect = [name for name in trials if interval[name][0] == 1]
    interval |= {name: (bootstrap.perfect_bound(trials[name]), 1.0) for name in perfect}
    patients = len(np.unique(unit.patients))
    return measures | {"interval": interval, "perfect": perfect, "patients": patients}


def _roc_curve(unit: Predictions, weights: np.ndarray) -> operating.RocCurve:
    columns = {"scores": unit.columns["probabilities"], "labels": unit.columns["labels"]}
    curve, band = _estimated(
        metrics.sensitivities, columns, repeats=_rows_by_repeat(unit), weights=weights
    )
    low, high = np.transpose(band["sensitivity"])
    return operating.RocCurve(metrics.FALSE_POSITIVE_RATES, curve["sensitivity"], low, high)


def _estimated(
    measure: Callable[..., dict[str, np.ndarray]],
    columns: dict[str, np.ndarray],
    *,
    repeats: Sequence[np.ndarray],
    weights: np.ndarray,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The mean of every measure over the repeats, and its interval.

    Args:
      measure: returns measures [r] or [r, K]; its arguments are the `columns` of one repeat and
        the `weights` [r, rows] of these rows.
      repeats: the rows of each repeat.
      weights: of `bootstrap.patient_weights`.
    """
    measured, resampled = (
        [
            measure(**{name: c[rows] for name, c in columns.items()}, weights=drawn[:, rows])
            for rows in repeats
        ]
        for drawn in (np.ones((1, weights.shape[1])), weights)
    )
    values, intervals = {}, {}
    for name in measured[0]:
        values[name] = finite_mean([measures[name] for measures in measured])[0]
        samples = finite_mean([measures[name] for measures in resampled])
        intervals[name] = np.apply_along_axis(bootstrap.interval, 0, samples).T.tolist()
    return values, intervals


def finite_mean(values: Sequence) -> np.ndarray:
    """The mean over the first axis of the values that are finite; NaN if there are none."""
    return np.ma.filled(np.ma.masked_invalid(values).mean(axis=0), np.nan)


def _trials(unit: Predictions, called: np.ndarray) -> dict[str, int]:
    """The number of patients on whom each measure depends."""
    is_sick = unit.columns["labels"] == SICK
    sick, healthy, positive = (
        len(np.unique(unit.patients[rows])) for rows in (is_sick, ~is_sick, called)
    )
    return {
        "accuracy": sick + healthy,
        "precision": positive,
        "recall": sick,
        "specificity": healthy,
        "f1": sick,
        "auroc": min(sick, healthy),
        "auprc": min(sick, healthy),
    }


def _rows_by_repeat(predictions: Predictions) -> list[np.ndarray]:
    repeats = predictions.repeats
    return [np.flatnonzero(repeats == repeat) for repeat in np.unique(repeats)]


def _per_repeat(total, repeats: int):
    """The mean of a count over repeats; the integer itself if there is one repeat."""
    return total if repeats == 1 else total / repeats


def _counts(unit: Predictions, called: np.ndarray, *, repeats: int) -> dict[str, float]:
    labels = unit.columns["labels"]
    _, first = np.unique(unit.names, return_index=True)
    sick = int((labels[first] == SICK).sum())
    return {"n": len(first), "sick": sick, "healthy": len(first) - sick} | {
        name: _per_repeat(int(members.sum()), repeats)
        for name, members in metrics.decisions(called, labels == SICK).items()
    }


def _auroc_within(models: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> float:
    """AUROC over pairs judged by the same model: the scales of different models differ."""
    sick = labels == SICK
    same = models[sick][:, np.newaxis] == models[~sick]
    order = np.sign(scores[sick][:, np.newaxis] - scores[~sick])[same]
    return float((order.mean() + 1) / 2) if order.size else np.nan


def cautions(
    classification: dict[str, dict[str, dict]], *, row: str, baselines: Sequence[str]
) -> list[str]:
    """A sentence that says whether chance or a baseline reaches the model's AUROC per patient.

    Returns no sentence if the AUROC is undefined.
    """
    rows = classification["patient"]
    value, (low, high) = rows[row]["auroc"], rows[row]["interval"]["auroc"]
    if not np.isfinite([value, low]).all():
        return []
    spread = f"95 % interval {low:.3f} to {high:.3f}"
    if "auroc" in rows[row]["perfect"]:
        spread = f"every resample is perfect; AUROC >= {low:.3f}, one-sided 97.5 %"
    start = f"{row} has AUROC {value:.3f} per patient ({spread})"
    if low <= CHANCE:
        return [f"{start}, which chance (0.5) may explain: it shows nothing."]
    rivals = [
        f"{name} ({rows[name]['auroc']:.3f})" for name in baselines if rows[name]["auroc"] >= low
    ]
    if not baselines:
        return [f"{start}. No baseline that sees no anatomy was fitted."]
    if not rivals:
        return [f"{start}; no baseline that sees no anatomy comes within this interval."]
    *others, last = rivals
    reach = f"{', '.join(others)} and {last} come" if others else f"{last} comes"
    return [
        f"{start}; without seeing any anatomy, {reach} within it or above: this "
        "score does not show that the model reads the breast."
    ]


def chance_note(predictions: Predictions, measures: dict[str, Any]) -> str:
    """The range in which the AUROC lies by chance, for a run with shuffled diagnoses.

    Args:
      measures: those of the model per patient.
    """
    sick, healthy = (measures["counts"][name] for name in ("sick", "healthy"))
    models = len(np.unique(predictions.models))
    low, high = bootstrap.chance_auroc_range(sick=sick, healthy=healthy, models=models)
    pooled = " of several folds" if models > 1 else ""
    return (
        "The diagnoses were permuted at random, so there is nothing to learn: in about 95 of 100 "
        f"such runs, the AUROC of {sick} sick and {healthy} healthy patients{pooled} lies between "
        f"{low:.3f} and {high:.3f}."
    )


def assess_segmentation(predictions: Predictions, *, samples: int, seed: int) -> dict[str, Any]:
    """All results of a segmenter.

    Returns:
      "segmentation": {size: measures over all pixels of all images, with "hd95" [K] (the mean over
        the images in which it is defined), "interval" and "images" (quartiles over images)};
      "confusion": {size: [K, K]}, pixels, the mean over repeats;
      "worst": the images with the lowest mIoU at the images' size.
    """
    outcome: dict[str, Any] = {"segmentation": {}, "confusion": {}}
    drawn = bootstrap.patient_weights(predictions.patients, samples=samples, seed=seed)
    repeats = _rows_by_repeat(predictions)
    for size, confusions in predictions.named("confusion/").items():
        columns = {"confusions": confusions, "hd95": predictions.columns[f"hd95/{size}"]}
        measures, interval = _estimated(_pixel_measures, columns, repeats=repeats, weights=drawn)
        measures["interval"] = interval
        by_row = metrics.segmentation_measures(confusions)
        names, first, image = np.unique(predictions.names, return_index=True, return_inverse=True)
        by_image = {
            name: np.bincount(image, weights=by_row[name]) / np.bincount(image)
            for name in ("accuracy", "miou")
        }
        measures["images"] = {
            name: np.percentile(values, (0, 25, 50, 75, 100)) for name, values in by_image.items()
        }
        outcome["segmentation"][size] = measures
        outcome["confusion"][size] = _per_repeat(confusions.sum(0), len(repeats))
        if "worst" not in outcome:
            outcome["worst"] = []
            for i in np.argsort(by_image["miou"], kind="stable")[:WORST]:
                iou = metrics.segmentation_measures(confusions[image == i].sum(0))["iou"]
                worst = {"name": str(names[i]), "patient": str(predictions.patients[first[i]])}
                worst |= {name: float(by_image[name][i]) for name in ("miou", "accuracy")}
                outcome["worst"].append(worst | {"lowest_class": CLASS_NAMES[np.nanargmin(iou)]})
    return outcome


def _pixel_measures(*, confusions, hd95, weights) -> dict[str, np.ndarray]:
    measures = metrics.segmentation_measures(np.tensordot(weights, confusions, axes=1))
    return measures | {"hd95": bootstrap.mean_samples(hd95, weights)}
