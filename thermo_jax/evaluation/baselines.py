"""Classifiers that see no anatomy, to be shown beside every classification score.

The DMR-IR diagnosis is confounded with the acquisition: in one public subset the patient number
alone separates healthy from sick with AUROC .974; in another, the year alone separates them. Unless
a model is better than these baselines, nothing shows that it uses the anatomy.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

HISTOGRAM_BINS = 16
Features = dict[str, Float[np.ndarray, "n k"]]  # by baseline; NaN = unknown


def baseline_features(
    images: Iterable[UInt8[np.ndarray, "h w c"]],
    *,
    dates: Sequence[str],
    patients: Sequence[str],
    mean_temperatures: Float[np.ndarray, " n"],
) -> Features:
    """The features that each baseline uses. A bin of the histogram has 16 levels.

    Args:
        dates: ISO dates; the year is unknown if a date does not start with four digits.
        patients: "0001" and "sub-1" are number 1; a name that does not end so has none.
        mean_temperatures: degrees C; NaN is unknown.
    """
    means, counts = [], []
    for image in images:  # only once: they may be streamed
        means.append(image.mean())
        levels = np.ravel(image) // (256 // HISTOGRAM_BINS)
        counts.append(np.bincount(levels, minlength=HISTOGRAM_BINS) / levels.size)
    histograms = np.reshape(counts, (len(means), HISTOGRAM_BINS))
    years = np.array([number(date[:4]) for date in dates], dtype=np.float64)
    columns = {
        "mean intensity": means,
        "mean temperature": mean_temperatures,
        "histogram": histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1e-12),
        "acquisition year": np.where(years > 0, years, np.nan),
        "patient number": [number(patient.rpartition("-")[2]) for patient in patients],
    }
    return {
        name: np.asarray(column, dtype=np.float64).reshape(len(means), -1)
        for name, column in columns.items()
    }


def baseline_scores(
    train: Features, test: Features, *, labels: Integer[np.ndarray, " n_train"]
) -> dict[str, Float[np.ndarray, " n_test"]]:
    """The probability of Sick for every test image, by baseline, fitted on the training images.

    - "majority class": the share of sick training images, the same for all test images;
    - "mean intensity": logistic regression on the standardised mean;
    - "mean temperature": the same on the mean in degrees C, which cannot be read from a gray
      image, because its levels are scaled from its own minimum to its own maximum;
    - "histogram": the same on the 16 shares;
    - "acquisition year": the same on the year and one indicator per year (for a year that is not
      in training, the year alone counts);
    - "patient number": the same on the number and its square.

    An unknown temperature, year or number is replaced by the training median, and an indicator
    says that it is unknown. If training images have only one diagnosis, or no known value, the
    score is the share of sick training images.

    Args:
        labels: of the training images, 1 sick, 0 healthy.
    """
    pipelines = {
        "mean intensity": [StandardScaler()],
        "mean temperature": [_impute_median(), StandardScaler()],
        "histogram": [StandardScaler()],
        "acquisition year": [
            make_union(
                make_pipeline(_impute_median(), StandardScaler()),
                make_pipeline(
                    SimpleImputer(strategy="constant", fill_value=0.0),
                    OneHotEncoder(handle_unknown="ignore"),
                ),
            )
        ],
        # Scaled before squaring: the square of numbers from 1 to 425 would be almost linear.
        "patient number": [
            _impute_median(),
            StandardScaler(),
            PolynomialFeatures(degree=2, include_bias=False),
            StandardScaler(),
        ],
    }
    count = len(test["mean intensity"])
    scores = {"majority class": np.full(count, labels.mean())}
    for name, steps in pipelines.items():
        scores[name] = np.full(count, labels.mean())
        if count and len(np.unique(labels)) == 2 and not np.isnan(train[name]).all():
            classifier = make_pipeline(*steps, LogisticRegression(C=1.0, max_iter=1000))
            classifier.fit(train[name], labels)
            scores[name] = classifier.predict_proba(test[name])[:, 1]
    return scores


def out_of_fold_scores(
    features: Features,
    *,
    labels: Integer[np.ndarray, " n"],
    folds: Integer[np.ndarray, " n"],
) -> dict[str, Float[np.ndarray, " n"]]:
    """`baseline_scores` of every image, fitted on the images of the other folds.

    Args:
        labels: 1 sick, 0 healthy.
        folds: the fold of each image, the same for all images of a patient.
    """
    scores: dict[str, np.ndarray] = {}
    for fold in np.unique(folds):
        tested = folds == fold
        train, test = (
            {name: column[rows] for name, column in features.items()} for rows in (~tested, tested)
        )
        for name, values in baseline_scores(train, test, labels=labels[~tested]).items():
            scores.setdefault(name, np.full(len(labels), np.nan))[tested] = values
    return scores


def _impute_median() -> SimpleImputer:
    return SimpleImputer(strategy="median", add_indicator=True)


def number(text: str) -> float:
    """The number in a text of digits, such as a patient's number or a year; NaN for other texts."""
    return float(text) if text.isascii() and text.isdigit() else np.nan
