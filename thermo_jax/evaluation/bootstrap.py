"""95 % intervals of every measure by resampling patients, which are independent of each other.

A patient's images are near-copies of each other, so resampling images would give intervals that
are far too narrow. Instead, patients are drawn with replacement, each with all their images (the
cluster bootstrap; Field and Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x). A resample is a row
of weights, which say how often each image was drawn. The model, its baselines and the subsets of
the images are all measured with the same weights.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from thermo_jax.evaluation import metrics

LEVEL = 0.95
# The standard deviation of the AUROC pooled over folds, as a multiple of that of one model. It was
# 1.0 to 1.4 for logistic regression and nearest neighbours on noise (4 or 5 folds of 72 to 120
# patients, 300 seeds each).
POOLED = 1.4


def patient_weights(
    patients: Sequence[str], *, samples: int, seed: int
) -> Float[np.ndarray, "r n"]:
    """How often each image is drawn in each of `samples` resamples of the patients.

    Patients are drawn in sorted order, so that the same seed draws the same patients whether
    there is an entry per image or per patient.
    """
    names, rows = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    return draws.astype(np.float64)[:, rows]


def mean_samples(
    values: Float[np.ndarray, "n k"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "r k"]:
    """The mean of k measures over the images of every resample in which the measure is finite.

    The mean is NaN if a resample has no such image.
    """
    finite = np.isfinite(values)
    sums = weights @ np.where(finite, values, 0)
    return metrics.ratio(sums, weights @ finite, otherwise=np.nan)


def interval(samples: Float[np.ndarray, " r"]) -> tuple[float, float]:
    """The percentile interval (low, high) of one measure's samples.

    Undefined samples (NaN) are ignored. Returns (NaN, NaN) if fewer than half of the samples are
    finite, because those few would not represent all resamples.
    """
    samples = np.asarray(samples, dtype=np.float64)
    finite = samples[np.isfinite(samples)]
    if not finite.size or 2 * finite.size < samples.size:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def chance_auroc_range(*, sick: int, healthy: int, models: int = 1) -> tuple[float, float]:
    """The range (low, high) that contains 95 % of the AUROCs of models that learned nothing.

    The AUROC of one model is normal around 0.5 with variance (sick + healthy + 1) / (12 sick
    healthy) (Mann and Whitney 1947, doi 10.1214/aoms/1177730491). If it is pooled over the folds
    of a cross-validation, the range is `POOLED` times as wide, because the test patients of each
    fold are training patients of the other folds.

    Args:
      models: the number of folds, each with its own patients and model.
    Returns:
      (NaN, NaN) if a diagnosis is absent.
    """
    if not sick or not healthy:
        return np.nan, np.nan
    deviation = np.sqrt((sick + healthy + 1) / (12 * sick * healthy))
    reach = stats.norm.ppf((1 + LEVEL) / 2) * deviation * (POOLED if models > 1 else 1)
    return float(max(0.5 - reach, 0)), float(min(0.5 + reach, 1))


def perfect_bound(trials: int) -> float:
    """The lower end of the interval of a measure that is 1 in every resample: .025^(1/n).

    Resampling perfect scores shows no uncertainty, however few patients there are. Instead, each
    patient is a trial that succeeded. For n successes in n trials, Clopper and Pearson (1934, doi
    10.1093/biomet/26.4.404) give this bound (one-sided 97.5 %).
    """
    return float(((1 - LEVEL) / 2) ** (1 / trials))
