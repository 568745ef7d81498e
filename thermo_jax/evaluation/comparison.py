"""Several models' predictions of the same images, compared on the same resamples of patients.

The scores of two models on the same patients vary together: a resample with difficult patients
lowers both. So the interval of their difference, measured in each resample of the patients, is
narrower than the two intervals suggest (paired bootstrap; Efron and Tibshirani 1993, *An
Introduction to the Bootstrap*). As everywhere in this package, the scores of a classifier are per
patient, folds are pooled, and measures of several repeats are averaged.

In DMR-IR the diagnosis is confounded with the acquisition. So three questions accompany every
comparison: Is a model better than baselines that see no anatomy? Does it separate the diagnoses
among patients of the same year, or of neighbouring patient numbers? How well do its features
predict the year, which no reading of the breast should?
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Integer, Shaped
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from thermo_jax.data.table import Table
from thermo_jax.data.thermogram import HEALTHY, SICK
from thermo_jax.errors import UserError
from thermo_jax.evaluation import assessment, baselines, bootstrap, metrics
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.evaluation.tables import Estimate

UNKNOWN = ""  # the stratum of a patient who belongs to none
BASELINE = "baseline/"


# --------------------------------------------------------------------------------------------------
# Differences
# --------------------------------------------------------------------------------------------------


def paired_differences(
    rows: Mapping[str, Predictions], *, ours: str, samples: int, seed: int
) -> dict[str, Estimate]:
    """How much better each other row is than ours: the measure of the row minus that of ours.

    The measure of classifiers is the AUROC per patient, and that of segmenters is the mIoU over
    all pixels, each at its images' own size (the first size of its table). Both are means over
    repeats, and the rows may differ in their number of repeats.

    Args:
      rows: {row name: predictions of the same images}, in any order of the images.
      ours: the name of the row that the others are compared with.
      samples: bootstrap resamples of patients.
    Returns:
      {row name: value, low and high end of the 95 % percentile interval}, in the order of the rows,
      without ours. NaN if a measure is undefined.
    Raises:
      UserError: there is no row `ours`, or the rows differ in images, patients, diagnoses or task.
    """
    if ours not in rows:
        raise UserError(f"there is no row {ours!r} to compare with, only {', '.join(rows)}")
    for name, row in rows.items():
        check_same_images(row, rows[ours], name=name, other=ours)
    sampled = {name: _sampled(row, samples=samples, seed=seed) for name, row in rows.items()}
    return {
        name: _estimate(values - sampled[ours]) for name, values in sampled.items() if name != ours
    }


def unbeaten_baselines(
    rows: Mapping[str, Predictions], *, samples: int, seed: int
) -> dict[str, list[str]]:
    """For each classifier, the baselines that see no anatomy than which it is not clearly better.

    It is clearly better if the paired interval of the difference of their AUROC per patient is
    wholly above 0. An empty list means: better than every baseline. A row that has no baselines
    cannot be better than they are.

    Args:
      rows: {row name: a classifier's predictions, with its baselines}.
    Returns:
      {row name: names of baselines, in the order of the table}.
    Raises:
      UserError: a row has no baselines.
    """
    unbeaten = {}
    for name, row in rows.items():
        scores = row.named(BASELINE)
        if not scores:
            raise UserError(
                f"the predictions of {name!r} have no baselines that see no anatomy: run it again "
                "with at least as many patients of each diagnosis as folds"
            )
        sampled = _sampled(row, samples=samples, seed=seed)
        unbeaten[name] = []
        for baseline in scores:
            scored = _sampled(row, samples=samples, seed=seed, column=f"{BASELINE}{baseline}")
            if not _estimate(sampled - scored).low > 0:  # also if it is NaN
                unbeaten[name].append(baseline)
    return unbeaten


def check_same_images(row: Predictions, reference: Predictions, *, name: str, other: str) -> None:
    """Checks that two rows judge the same images of the same patients, with equal diagnoses.

    Raises:
      UserError: they do not, or one of them judges an image twice in a repeat.
    """
    remedy = "compare runs of one task on the same folds of the same data"
    facts = []
    for title, predictions in ((name, row), (other, reference)):
        names = predictions.names.tolist()
        judged = Counter(zip(predictions.repeats.tolist(), names, strict=True))
        for (_, image), times in judged.items():
            if times > 1:
                raise UserError(f"{title!r} judges {image} {times} times in one repeat: {remedy}")
        labels = predictions.columns.get("labels", np.full(len(names), -1))
        about = zip(predictions.patients.tolist(), labels.tolist(), strict=True)
        facts.append(dict(zip(names, about, strict=True)))
    if ("probabilities" in row.columns) != ("probabilities" in reference.columns):
        raise UserError(f"one of {name!r} and {other!r} classifies, the other segments: {remedy}")
    first, second = facts
    if odd := sorted(first.keys() ^ second.keys()):
        has, lacks = (name, other) if odd[0] in first else (other, name)
        raise UserError(
            f"{name!r} and {other!r} differ in {len(odd)} images, such as {odd[0]}, which "
            f"{has!r} has and {lacks!r} lacks: {remedy}"
        )
    for image, (patient, label) in first.items():
        if (patient, label) != second[image]:
            kind = "diagnosis" if patient == second[image][0] else "patient"
            raise UserError(f"{name!r} and {other!r} differ in the {kind} of {image}: {remedy}")


def _estimate(sampled: Float[np.ndarray, " r"]) -> Estimate:
    """The first entry is the value, the others are its resamples."""
    return Estimate(float(sampled[0]), *bootstrap.interval(sampled[1:]))


def _sampled(
    predictions: Predictions, *, samples: int, seed: int, column: str = "probabilities"
) -> Float[np.ndarray, " r"]:
    """The measure of all patients, and then of each resample of the patients.

    The resamples are the same for all tables of the same patients.
    """
    if "probabilities" in predictions.columns:
        columns = {"labels": "labels", "probabilities": column}
    else:
        columns = {"confusions": next(k for k in predictions.columns if k.startswith("confusion/"))}
    columns = {key: predictions.columns[name] for key, name in columns.items()}
    table = dataclasses.replace(predictions, columns=columns)
    # In one order, so that sums of the same numbers are equal to the last bit.
    table = table.take(np.lexsort((table.names, table.repeats)))
    patients = np.unique(table.patients)
    weights = bootstrap.patient_weights(patients, samples=samples, seed=seed)
    weights = np.concatenate([np.ones((1, len(patients))), weights])
    return assessment.finite_mean(
        [
            _measured(table.take(np.flatnonzero(table.repeats == repeat)), patients, weights)
            for repeat in np.unique(table.repeats)
        ]
    )


def _measured(rows: Predictions, patients: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The measure of one repeat for each row of the patients' weights."""
    if "confusions" in rows.columns:
        drawn = weights[:, np.searchsorted(patients, rows.patients)]
        pixels = np.tensordot(drawn, rows.columns["confusions"], axes=1)
        return metrics.segmentation_measures(pixels)["miou"]
    unit = assessment.units(rows)["patient"]
    drawn = weights[:, np.searchsorted(patients, unit.patients)]
    return metrics.auroc(unit.columns["probabilities"], unit.columns["labels"], weights=drawn)


# --------------------------------------------------------------------------------------------------
# Within patients of similar acquisition
# --------------------------------------------------------------------------------------------------


def stratified_aurocs(predictions: Predictions) -> dict[str, tuple[float, float]]:
    """A classifier's AUROC over pairs of patients from similar acquisitions, and these pairs.

    Returns:
      {"year": (AUROC, number of pairs), "quarter of patient numbers": the same}, both the mean over
      repeats; see `auroc_within_strata`.
    """
    makers = {"year": acquisition_years, "quarter of patient numbers": number_quarters}
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in makers}
    for repeat in np.unique(predictions.repeats):
        rows = predictions.take(np.flatnonzero(predictions.repeats == repeat))
        patients = assessment.units(rows)["patient"]
        scored = patients.columns["probabilities"], patients.columns["labels"]
        for name, make in makers.items():
            found[name].append(auroc_within_strata(*scored, make(patients)))
    return {
        name: tuple(float(mean) for mean in assessment.finite_mean(of_repeats))
        for name, of_repeats in found.items()
    }


def auroc_within_strata(
    scores: Float[np.ndarray, " n"],
    labels: Integer[np.ndarray, " n"],
    strata: Shaped[np.ndarray, " n"],
) -> tuple[float, int]:
    """The AUROC over the pairs of a sick and a healthy patient of the same stratum.

    It is the share of these pairs in which the sick patient has the higher score (a tie counts
    1/2), with all pairs of all strata counted equally. What only distinguishes the strata cannot
    raise it.

    Args:
      strata: text; patients of the stratum "" are left out.
    Returns:
      The AUROC and the number of pairs; (NaN, 0) if there are none.
    """
    merit, pairs = 0.0, 0
    for stratum in np.unique(strata[strata != UNKNOWN]):
        members = strata == stratum
        sick, healthy = (scores[members & (labels == label)] for label in (SICK, HEALTHY))
        merit += ((np.sign(sick[:, np.newaxis] - healthy) + 1) / 2).sum()
        pairs += len(sick) * len(healthy)
    return (float(merit / pairs), pairs) if pairs else (float("nan"), 0)


def acquisition_years(patients: Table) -> Shaped[np.ndarray, " n"]:
    """The year of each patient's first image, such as "2012"; "" if it is unknown.

    Args:
      patients: one row per patient, such as those of `assessment.units`.
    """
    years = (baselines.year(date) for date in patients.dates.tolist())
    return np.array([UNKNOWN if np.isnan(year) else f"{year:.0f}" for year in years], dtype=str)


def number_quarters(patients: Table) -> Shaped[np.ndarray, " n"]:
    """The quarter of the patient numbers, "1" (the lowest) to "4"; "" for a patient without one.

    The edges are the quartiles over the patients with a number. A number that equals an edge
    belongs to the lower quarter.

    Args:
      patients: one row per patient, such as those of `assessment.units`.
    """
    numbers = np.array([baselines.patient_number(name) for name in patients.patients.tolist()])
    known = np.isfinite(numbers)
    quarters = np.full(len(numbers), UNKNOWN, dtype="<U1")
    if known.any():
        edges = np.quantile(np.unique(numbers[known]), (0.25, 0.5, 0.75))
        quarters[known] = (np.searchsorted(edges, numbers[known]) + 1).astype(str)
    return quarters


# --------------------------------------------------------------------------------------------------
# What features know of the acquisition
# --------------------------------------------------------------------------------------------------


def year_accuracy(
    features: Float[np.ndarray, "n k"] | Mapping[int, Float[np.ndarray, "n k"]],
    *,
    years: Shaped[np.ndarray, " n"],
    folds: Integer[np.ndarray, " n"],
) -> tuple[float, float]:
    """How well features predict the year of the acquisition, in patients outside the training.

    Multinomial logistic regression (L2, C = 1, years weighted equally) of the standardised
    features, fitted on the other folds. Years of a single patient are left out. Features that know
    nothing reach chance, or a little less: a year with many patients in one fold has few in the
    others.

    Args:
      features: one row per patient or image, without NaN; those of a model, before its last layer.
        If each fold has a model of its own: what it computes of all rows, by fold.
      years: text; patients of the year "" are left out.
      folds: in which a patient is predicted, by a fit on the patients of the other folds.
    Returns:
      The balanced accuracy (the mean over the years of the share of their patients whose year is
      predicted), and what guessing gives, 1 / number of years; NaN with fewer than two years.
    """
    names, counts = np.unique(years, return_counts=True)
    kept = np.isin(years, names[(counts >= 2) & (names != UNKNOWN)])
    of_fold = features if isinstance(features, Mapping) else dict.fromkeys(set(folds), features)
    years, folds = years[kept], folds[kept]
    count = len(np.unique(years))
    if count < 2:
        return float("nan"), float("nan")
    predicted = years.copy()
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        rows = of_fold[fold][kept]
        predicted[test] = _predicted_years(rows[train], years[train], rows[test])
    shares = [np.mean(predicted[years == year] == year) for year in np.unique(years)]
    return float(np.mean(shares)), 1 / count


def _predicted_years(train: np.ndarray, years: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The years of the rows of `test`, by a regression fitted on the rows of `train`."""
    if len(np.unique(years)) < 2:  # nothing can be fitted
        return np.full(len(test), years[0] if len(years) else UNKNOWN)
    # All components are kept: PCA only rotates the features, which changes no prediction of an L2
    # regression, and leaves at most as many as there are patients, which makes it fast.
    classifier = make_pipeline(
        StandardScaler(),
        PCA(svd_solver="full"),
        LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000),
    )
    return classifier.fit(train, years).predict(test)
