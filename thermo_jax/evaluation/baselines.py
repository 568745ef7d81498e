"""Classifiers that see no anatomy, to be shown beside every classification score.

The DMR-IR label is confounded with the acquisition: in one public subset the patient number alone
separates healthy from sick with AUROC .974, in another the year does. A model that is no better
than these has not been shown to read a breast.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num, UInt8
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

HISTOGRAM_BINS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineTable:
    """What the baselines may see of n images; row i of every array is the same image."""

    labels: Num[np.ndarray, " n"]  # 1 sick, 0 healthy
    mean_intensity: Num[np.ndarray, " n"]  # mean pixel value
    mean_temperatures: Num[np.ndarray, " n"]  # degrees C; NaN = unknown
    histograms: Num[np.ndarray, "n 16"]  # counts or shares of pixels by value
    years: Num[np.ndarray, " n"]  # of acquisition; 0 or NaN = unknown
    patient_numbers: Num[np.ndarray, " n"]  # NaN = unknown

    def __post_init__(self):
        count = len(self.labels)
        for field in dataclasses.fields(self):
            rows = len(getattr(self, field.name))
            if rows != count:
                raise ValueError(
                    f"{field.name} has {rows} rows but labels {count}: give equally many"
                )


def baseline_table(
    images: UInt8[np.ndarray, "n h w c"],
    *,
    labels: Num[np.ndarray, " n"],
    dates: Sequence[str],
    patients: Sequence[str],
    mean_temperatures: Float[np.ndarray, " n"],
) -> BaselineTable:
    """The table of n images, 16 levels a histogram bin, all channels together.

    Args:
        dates: ISO dates; the first four digits are the year, anything else is unknown.
        patients: "0001" counts as number 1; an id that is not all digits is unknown.
        mean_temperatures: degrees C; NaN is unknown.
    """
    bin_width = 256 // HISTOGRAM_BINS
    return BaselineTable(
        labels=np.asarray(labels),
        mean_intensity=np.array([image.mean() for image in images], dtype=np.float64),
        mean_temperatures=np.asarray(mean_temperatures, dtype=np.float64),
        histograms=np.array(
            [
                np.bincount(np.ravel(image) // bin_width, minlength=HISTOGRAM_BINS) / image.size
                for image in images
            ]
        ).reshape(len(images), HISTOGRAM_BINS),
        years=np.array([_number(date[:4]) for date in dates], dtype=np.float64),
        patient_numbers=np.array([_number(patient) for patient in patients], dtype=np.float64),
    )


def baseline_scores(
    train: BaselineTable, test: BaselineTable
) -> dict[str, Float[np.ndarray, " n_test"]]:
    """Probabilities of Sick for every test image, by baseline, fitted on the training images.

    - "majority class": the share of sick in training, for everyone;
    - "mean intensity": logistic regression on the standardised mean;
    - "mean temperature": the same on degrees C, which a gray image stretched from its own lowest
      to its own highest value has lost;
    - "histogram": the same on the 16 shares;
    - "acquisition year": the same on the year and one indicator per year (a year not seen in
      training is judged by the trend alone);
    - "patient number": the same on the number and its square.

    An unknown temperature, year or number takes the training median and an "unknown" indicator.
    Where training holds one diagnosis only, or knows none of them, the score is the share of sick.

    Raises:
        ValueError: the training table is empty or holds a label besides 0 and 1.
    """
    labels = np.asarray(train.labels)
    if not labels.size or not np.isin(labels, (0, 1)).all():
        raise ValueError("baselines need a training table of labels 0 (healthy) and 1 (sick)")
    scores = {"majority class": np.full(len(test.labels), labels.mean())}
    for name, features, pipeline in (
        ("mean intensity", _mean_intensity, make_pipeline(StandardScaler(), _logistic())),
        (
            "mean temperature",
            _mean_temperatures,
            make_pipeline(_impute_median(), StandardScaler(), _logistic()),
        ),
        ("histogram", _histograms, make_pipeline(StandardScaler(), _logistic())),
        ("acquisition year", _years, _year_pipeline()),
        ("patient number", _patient_numbers, _patient_number_pipeline()),
    ):
        scores[name] = _fit_and_score(pipeline, features(train), labels, features(test))
    return scores


def _fit_and_score(pipeline, train_features, labels, test_features):
    if not len(test_features) or len(np.unique(labels)) < 2 or np.isnan(train_features).all():
        return np.full(len(test_features), labels.mean())
    return pipeline.fit(train_features, labels).predict_proba(test_features)[:, 1]


def _logistic() -> LogisticRegression:
    return LogisticRegression(C=1.0, max_iter=1000)


def _year_pipeline() -> Pipeline:
    trend = make_pipeline(_impute_median(), StandardScaler())
    indicators = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=0.0), OneHotEncoder(handle_unknown="ignore")
    )
    return make_pipeline(make_union(trend, indicators), _logistic())


def _patient_number_pipeline() -> Pipeline:
    # Scaled before squaring: numbers up to 425 would otherwise give a square that is all trend.
    square = PolynomialFeatures(degree=2, include_bias=False)
    return make_pipeline(_impute_median(), StandardScaler(), square, StandardScaler(), _logistic())


def _impute_median() -> SimpleImputer:
    return SimpleImputer(strategy="median", add_indicator=True)


def _mean_intensity(table):
    return np.asarray(table.mean_intensity, dtype=np.float64)[:, None]


def _mean_temperatures(table):
    return np.asarray(table.mean_temperatures, dtype=np.float64)[:, None]


def _histograms(table):
    counts = np.asarray(table.histograms, dtype=np.float64)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)


def _years(table):
    years = np.asarray(table.years, dtype=np.float64)[:, None]
    return np.where(years > 0, years, np.nan)


def _patient_numbers(table):
    return np.asarray(table.patient_numbers, dtype=np.float64)[:, None]


def _number(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else np.nan
