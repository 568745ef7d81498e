"""From predictions to everything a reviewer asks of them (SPEC section 5).

Rows of one model or of a whole cross-validation (out-of-fold), per image and per patient. Where
the cross-validation was repeated, a measure is the mean of those of the repeats, each computed on
its own: rows of several repeats are never pooled, since they are of the same patients.

Intervals resample patients, not images: frames of one patient are near-copies. A resample draws the
same patients in every repeat. Intervals show what other patients would change, not what another
training seed would.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from thermo_jax.data.thermogram import CLASS_NAMES, SICK
from thermo_jax.evaluation import bootstrap, metrics, operating
from thermo_jax.evaluation.predictions import Predictions

LEVEL = 0.95
WORST = 5  # images listed
SENSITIVITY = 0.9
CHANCE = 0.5
# Operating points chosen on validation patients, and how a table calls them.
TUNED, SENSITIVE = "best balanced accuracy", "90 % sensitivity"


class Unit(NamedTuple):
    """One row per image and model, or per patient and model."""

    names: np.ndarray  # of images, or of patients
    patients: np.ndarray
    models: np.ndarray
    repeats: np.ndarray
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
    image = Unit(
        predictions.names,
        predictions.patients,
        predictions.models,
        predictions.repeats,
        columns["labels"],
        columns["probabilities"],
        predictions.named("threshold/image, "),
        predictions.named("baseline/"),
    )
    keys = np.char.add(np.char.add(predictions.models, " "), predictions.patients)
    _, first = np.unique(keys, return_index=True)  # in the order of `patient_scores`

    def mean(values):
        return metrics.patient_scores(values, keys, image.labels).scores

    patient = Unit(
        predictions.patients[first],
        *(column[first] for column in image[1:5]),
        mean(image.scores),
        {k: values[first] for k, values in predictions.named("threshold/patient, ").items()},
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
        by model. "perfect" names the measures that are 1 in every resample and have the bound of
        `bootstrap.perfect_bound` instead. In "counts", n, sick and healthy count images or
        patients, each once; the others are means over repeats;
      "reliability": {unit: ReliabilityCurve}, of the rows of all repeats, the counts divided by
        their number;
      "subsets": {subset: measures per image at 0.5 with "interval"};
      "cautions": sentences about baselines that come within the model's interval.
    """
    outcome: dict[str, Any] = {"classification": {}, "reliability": {}, "subsets": {}}
    by_unit, drawn = units(predictions), {}
    for name, unit in by_unit.items():
        weights = bootstrap.patient_weights(unit.patients.tolist(), samples=samples, seed=seed)
        drawn[name] = weights
        rows = {row: _measured(unit, unit.scores, weights)}
        for point, thresholds in unit.thresholds.items():
            rows[f"{row} at {point}"] = _measured(unit, unit.scores, weights, thresholds=thresholds)
        for baseline, scores in unit.baselines.items():
            rows[baseline] = _measured(unit, scores, weights)
        outcome["classification"][name] = rows
        curve = operating.reliability_curve(unit.scores, unit.labels)
        count = _per_repeat(curve.count, _rows_by_repeat(unit))
        outcome["reliability"][name] = curve._replace(count=count)
    image, weights = by_unit["image"], drawn["image"]
    for name, mask in operating.subsets(
        image.labels,
        patients=predictions.patients.tolist(),
        views=predictions.views,
        protocols=predictions.protocols.tolist(),
        dates=predictions.dates.tolist(),
    ).items():
        part = Unit(*(column[mask] for column in image[:6]), {}, {})
        outcome["subsets"][name] = _measured(part, part.scores, weights[:, mask])
    outcome["cautions"] = cautions(
        outcome["classification"], row=row, baselines=list(image.baselines)
    )
    return outcome


def _measured(unit: Unit, scores, weights, *, thresholds=0.5) -> dict[str, Any]:
    """Measures of one row; `thresholds` is one for all, or one per entry (the same in a fold)."""
    thresholds = np.broadcast_to(thresholds, scores.shape)
    called = scores > thresholds
    by_repeat, resampled = [], []
    for rows in _rows_by_repeat(unit):
        labels = unit.labels[rows]
        measures = metrics.classification_measures(scores[rows], labels, called=called[rows])
        measures["auroc_within"] = _auroc_within(unit.models[rows], scores[rows], labels)
        by_repeat.append(measures)
        resampled.append(
            bootstrap.classification_samples(
                scores[rows], labels, weights[:, rows], called=called[rows]
            )
        )
    measures = {name: float(value) for name, value in _means(by_repeat).items()}
    measures["counts"] = _counts(unit, [one["counts"] for one in by_repeat])
    if (thresholds == thresholds[0]).all():
        measures["threshold"] = float(thresholds[0])
    else:
        models, first = np.unique(unit.models, return_index=True)
        measures["thresholds"] = dict(zip(models.tolist(), thresholds[first].tolist(), strict=True))
    measures["interval"] = {
        name: bootstrap.interval(values, level=LEVEL) for name, values in _means(resampled).items()
    }
    measures["perfect"] = []
    for name, trials in _trials(unit, called).items():
        if measures["interval"][name][0] == 1:  # as if nothing were uncertain
            bound = bootstrap.perfect_bound(trials, level=LEVEL)
            measures["interval"][name] = (bound, 1.0)
            measures["perfect"].append(name)
    measures["patients"] = len(np.unique(unit.patients))
    return measures


def _trials(unit: Unit, called: np.ndarray) -> dict[str, int]:
    """How many patients each measure puts to the test."""

    def patients(rows: np.ndarray) -> int:
        return len(np.unique(unit.patients[rows]))

    sick, healthy = patients(unit.labels == SICK), patients(unit.labels != SICK)
    return {
        "accuracy": sick + healthy,
        "precision": patients(called),
        "recall": sick,
        "specificity": healthy,
        "f1": sick,
        "auroc": min(sick, healthy),
        "auprc": min(sick, healthy),
    }


def _rows_by_repeat(unit: Unit | Predictions) -> list[np.ndarray]:
    """Indexes of the rows of each repeat."""
    return [np.flatnonzero(unit.repeats == repeat) for repeat in np.unique(unit.repeats)]


def _means(by_repeat: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The mean of each measure over repeats, of those in which it is defined; counts left out."""
    means = {}
    for name in (name for name in by_repeat[0] if name != "counts"):
        values = np.array([one[name] for one in by_repeat], np.float64)
        known = np.isfinite(values)
        total = np.where(known, values, 0).sum(0)
        means[name] = metrics.ratio(total, known.sum(0), otherwise=np.nan)
    return means


def _per_repeat(total, repeats: Sequence):
    """A count over all repeats, divided among them; an integer stays one where it is of one."""
    return total if len(repeats) == 1 else total / len(repeats)


def _counts(unit: Unit, by_repeat: Sequence[dict[str, int]]) -> dict[str, float]:
    _, first = np.unique(unit.names, return_index=True)
    sick = int((unit.labels[first] == SICK).sum())
    counts: dict[str, float] = {"n": len(first), "sick": sick, "healthy": len(first) - sick}
    for name in (name for name in by_repeat[0] if name not in counts):
        counts[name] = _per_repeat(sum(one[name] for one in by_repeat), by_repeat)
    return counts


def _auroc_within(models: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> float:
    """AUROC over pairs judged by the same model: models of different folds differ in scale."""
    pairs = wins = 0.0
    for model in np.unique(models):
        mine = models == model
        count = float((labels[mine] == 1).sum() * (labels[mine] == 0).sum())
        if count:
            pairs += count
            measures = metrics.classification_measures(scores[mine], labels[mine])
            wins += count * measures["auroc"]
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
    spread = f"95 % interval {low:.3f} to {high:.3f}"
    if "auroc" in rows[row]["perfect"]:
        spread = f"every resample is perfect; AUROC >= {low:.3f}, one-sided 97.5 %"
    start = f"{row} has AUROC {value:.3f} per patient ({spread})"
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


def chance_note(predictions: Predictions, measures: dict[str, Any]) -> str:
    """Of a run whose diagnoses were dealt at random: how far its AUROC per patient may fall.

    Args:
      measures: of the model, per patient.
    """
    sick, healthy = (measures["counts"][name] for name in ("sick", "healthy"))
    models = len(np.unique(predictions.models))
    low, high = bootstrap.chance_auroc_range(sick=sick, healthy=healthy, models=models)
    pooled = " of several folds" if models > 1 else ""
    return (
        "The diagnoses were dealt at random, so that there is nothing to learn: in about 95 of 100 "
        f"such runs, the AUROC of {sick} sick and {healthy} healthy patients{pooled} lies between "
        f"{low:.3f} and {high:.3f}."
    )


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def assess_segmentation(predictions: Predictions, *, samples: int, seed: int) -> dict[str, Any]:
    """Everything about a segmenter.

    Returns:
      "segmentation": {size: measures over all pixels of all images, with "hd95" [K] (mean over
        the images that have it), "interval" and "images" (quartiles over images)};
      "confusion": {size: [K, K]}, pixels, the mean over repeats;
      "worst": the images with the lowest mIoU at the images' size.
    """
    outcome: dict[str, Any] = {"segmentation": {}, "confusion": {}}
    weights = bootstrap.patient_weights(predictions.patients.tolist(), samples=samples, seed=seed)
    repeats = _rows_by_repeat(predictions)
    for size, confusions in predictions.named("confusion/").items():
        distances = predictions.columns[f"hd95/{size}"]
        whole = np.ones((1, len(confusions)))
        measured, resampled = (
            _means([_segmentation(confusions, distances, drawn, rows=rows) for rows in repeats])
            for drawn in (whole, weights)
        )
        measures: dict[str, Any] = {name: values[0] for name, values in measured.items()}
        measures["interval"] = {
            name: bootstrap.interval(values, level=LEVEL)
            if values.ndim == 1
            else [bootstrap.interval(column, level=LEVEL) for column in values.T]
            for name, values in resampled.items()
        }
        by_image = metrics.segmentation_measures(confusions)
        names, first, image = np.unique(predictions.names, return_index=True, return_inverse=True)
        of_image = {
            name: np.bincount(image, weights=by_image[name]) / np.bincount(image)
            for name in ("accuracy", "miou")
        }
        measures["images"] = {
            name: np.percentile(values, (0, 25, 50, 75, 100)) for name, values in of_image.items()
        }
        outcome["segmentation"][size] = measures
        outcome["confusion"][size] = _per_repeat(confusions.sum(0), repeats)
        if "worst" not in outcome:
            order = np.argsort(of_image["miou"], kind="stable")[:WORST]
            outcome["worst"] = [
                {
                    "name": str(names[i]),
                    "patient": str(predictions.patients[first[i]]),
                    "miou": float(of_image["miou"][i]),
                    "accuracy": float(of_image["accuracy"][i]),
                    "lowest_class": _lowest_class(confusions[image == i].sum(0)),
                }
                for i in order
            ]
    return outcome


def _lowest_class(confusion: np.ndarray) -> str:
    return CLASS_NAMES[int(np.nanargmin(metrics.segmentation_measures(confusion)["iou"]))]


def _segmentation(confusions, distances, weights, *, rows) -> dict[str, np.ndarray]:
    """Measures of some rows in every resample."""
    drawn = bootstrap.segmentation_samples(confusions[rows], weights[:, rows])
    return drawn | {"hd95": bootstrap.mean_samples(distances[rows], weights[:, rows])}
