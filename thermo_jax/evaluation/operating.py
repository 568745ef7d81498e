"""Operating points, calibration and subsets: details that one number per model hides.

A screening threshold is chosen on validation patients for its sensitivity. A reliability curve
compares probabilities with the share of sick cases. Subsets (view, protocol, year, patient number)
show whether a score remains the same within one kind of acquisition, because in DMR-IR the
diagnosis is confounded with the acquisition.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from thermo_jax.data.table import Table
from thermo_jax.data.thermogram import HEALTHY, PROTOCOL_NAMES, SICK, VIEW_NAMES
from thermo_jax.evaluation import baselines, metrics

CONFOUNDED_BELOW = 300  # below this patient number, the number alone predicts the diagnosis


class ReliabilityCurve(NamedTuple):
    """One entry per bin of probability, lowest first."""

    mean_score: Float[np.ndarray, " bins"]  # NaN for an empty bin
    share_sick: Float[np.ndarray, " bins"]  # NaN for an empty bin
    count: Num[np.ndarray, " bins"]


class RocCurve(NamedTuple):
    """The ROC curve with its 95 % band, at each of `metrics.FALSE_POSITIVE_RATES`.

    The curves of resamples, or of the repeats of a cross-validation, are averaged vertically: at
    each rate of false positives, the mean or the interval of their sensitivities is taken (Fawcett
    2006, doi 10.1016/j.patrec.2005.10.010). So the band says where the sensitivity at one rate may
    lie; it is not a band that contains 95 % of whole curves.
    """

    false_positive_rate: Float[np.ndarray, " k"]  # 1 - specificity
    sensitivity: Float[np.ndarray, " k"]  # NaN if a diagnosis is absent
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]


def threshold_at_sensitivity(
    scores: Num[np.ndarray, " n"], labels: Num[np.ndarray, " n"], *, sensitivity: float = 0.9
) -> float:
    """The threshold at which `score > threshold` reaches this sensitivity on validation data.

    The threshold is the midpoint between the lowest score that must be called sick and the next
    lower score (0 if there is none). If that lowest score is 0, the threshold is -1, so that every
    example is called sick. Without a sick example, the threshold is 0.5.

    Args:
        sensitivity: above 0, at most 1.
    """
    scores, labels = metrics.checked_scores(scores, labels)
    sick = np.sort(scores[labels == SICK])[::-1]
    if not sick.size:
        return 0.5
    reached = np.arange(1, sick.size + 1) / sick.size >= sensitivity
    last_called = sick[np.argmax(reached)]
    if last_called == 0:
        return -1.0
    next_lower = scores[scores < last_called].max(initial=0.0)
    return float(metrics.cut_between(next_lower, last_called))


def reliability_curve(
    scores: Num[np.ndarray, " n"], labels: Num[np.ndarray, " n"]
) -> ReliabilityCurve:
    """Mean probability, share of sick and count by bin of `metrics.calibration_bins`.

    The mean distance of the first two, weighted by the count, is the measure "ece".
    """
    scores, labels = metrics.checked_scores(scores, labels)
    index, bins = metrics.calibration_bins(scores), metrics.CALIBRATION_BINS
    count = np.bincount(index, minlength=bins)
    mean_score, share_sick = (
        metrics.ratio(np.bincount(index, weights=values, minlength=bins), count, otherwise=np.nan)
        for values in (scores, labels)
    )
    return ReliabilityCurve(mean_score, share_sick, count)


def subsets(images: Table) -> dict[str, Bool[np.ndarray, " n"]]:
    """The images of each view, protocol, year and range of patient numbers.

    A subset is returned only if it contains healthy and sick images, but not all images: without
    both diagnoses it cannot be scored, and the score of all images is known already. An image
    whose view, protocol, date or patient number is unknown is in no subset of that kind.

    Args:
        images: with the column "labels", 1 sick, 0 healthy.

    Returns:
        name such as "view 1 frontal", "protocol S static", "year 2012" or "patient number below
        300" -> which images belong to it.
    """
    years = np.array([date[:4] for date in images.dates], dtype=str)
    numbers = np.array([baselines.number(patient) for patient in images.patients])
    candidates = {
        **{f"view {k} {name}": images.views == k for k, name in VIEW_NAMES.items() if k},
        **{
            f"protocol {k} {name}": images.protocols == k for k, name in PROTOCOL_NAMES.items() if k
        },
        **{f"year {year}": years == year for year in np.unique(years) if year},
        f"patient number below {CONFOUNDED_BELOW}": numbers < CONFOUNDED_BELOW,
        f"patient number {CONFOUNDED_BELOW} and above": numbers >= CONFOUNDED_BELOW,
    }
    labels = images.columns["labels"]
    return {
        name: members
        for name, members in candidates.items()
        if not members.all() and {HEALTHY, SICK} <= set(labels[members].tolist())
    }
