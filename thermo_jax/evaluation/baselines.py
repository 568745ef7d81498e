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
BORDER = 0.1  # of the height at the top and bottom, and of the width at the left and right
# Rows and columns of 480x640 (the end is not included) between which DMR-IR's paper marker lies.
MARKER_ROWS, MARKER_COLUMNS, MARKER_FRAME = (380, 470), (270, 370), (480, 640)
Features = dict[str, Float[np.ndarray, "n k"]]  # by baseline; NaN = unknown


def baseline_features(
    images: Iterable[UInt8[np.ndarray, "h w c"]],
    *,
    dates: Sequence[str],
    patients: Sequence[str],
    mean_temperatures: Float[np.ndarray, " n"],
) -> Features:
    """The features that each baseline uses. A bin of a histogram has 16 levels.

    Args:
        images: each is read once, in order, because they may be streamed.
        dates: ISO dates; the year is unknown if a date does not start with four digits.
        patients: "0001" and "sub-1" are number 1; a name that does not end so has none.
        mean_temperatures: degrees C; NaN is unknown.
    """
    means: list[float] = []
    histograms: dict[str, list[np.ndarray]] = {"histogram": [], "border": [], "marker": []}
    for image in images:
        means.append(image.mean())
        for name, pixels in (
            ("histogram", image),
            ("border", border(image)),
            ("marker", marker(image)),
        ):
            levels = np.ravel(pixels) // (256 // HISTOGRAM_BINS)
            counts = np.bincount(levels, minlength=HISTOGRAM_BINS)
            histograms[name].append(counts / levels.size)
    columns = {
        "mean intensity": np.reshape(means, (-1, 1)),
        "mean temperature": np.reshape(mean_temperatures, (-1, 1)),
        **{name: np.reshape(rows, (-1, HISTOGRAM_BINS)) for name, rows in histograms.items()},
        "acquisition year": np.reshape([year(date) for date in dates], (-1, 1)),
        "patient number": np.reshape([patient_number(patient) for patient in patients], (-1, 1)),
    }
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}


def border(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "n c"]:
    """The pixels of the outer 10 % of the frame, where a frontal view shows almost no breast.

    These are the top and bottom tenth of the rows and the left and right tenth of the columns
    (rounded, at least one), together 36 % of the pixels.
    """
    inner = np.zeros(image.shape[:2], dtype=bool)
    rows, columns = (max(round(BORDER * length), 1) for length in inner.shape)
    inner[rows:-rows, columns:-columns] = True
    return image[~inner]


def marker(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "p q c"]:
    """The pixels where DMR-IR's paper marker lies, at any size of the image.

    Every pixel that lies at least partly in the rectangle counts: 90 x 100 pixels of 480x640, of
    which 38 x 100 also belong to the border.
    """
    rows, columns = (
        slice(start * length // full, -(-end * length // full))
        for (start, end), length, full in zip(
            (MARKER_ROWS, MARKER_COLUMNS), image.shape[:2], MARKER_FRAME, strict=True
        )
    )
    return image[rows, columns]


def baseline_scores(
    train: Features, test: Features, *, labels: Integer[np.ndarray, " n_train"]
) -> dict[str, Float[np.ndarray, " n_test"]]:
    """The probability of Sick for every test image, by baseline, fitted on the training images.

    - "majority class": the share of sick training images, the same for all test images;
    - "mean intensity": logistic regression on the standardised mean;
    - "mean temperature": the same on the mean in degrees C, which cannot be read from a gray
      image, because its levels are scaled from its own minimum to its own maximum;
    - "histogram": the same on the 16 shares;
    - "border": the same on the 16 shares of the outer 10 % of the frame (`border`);
    - "marker": the same on the 16 shares of the place of DMR-IR's paper marker (`marker`);
    - "acquisition year": the same on the year and one indicator per year (for a year that is not
      in training, the year alone counts);
    - "patient number": the same on the number and its square.

    An unknown temperature, year or number is replaced by the training median, and an indicator
    says that it is unknown. If training images have only one diagnosis, or no known value, the
    score is the share of sick training images.

    Args:
        train, test: features of the same baselines, all or some.
        labels: of the training images, 1 sick, 0 healthy.
    """
    pipelines = {
        "mean intensity": [StandardScaler()],
        "mean temperature": [_impute_median(), StandardScaler()],
        "histogram": [StandardScaler()],
        "border": [StandardScaler()],
        "marker": [StandardScaler()],
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
    count = len(next(iter(test.values())))
    scores = {"majority class": np.full(count, labels.mean())}
    for name, steps in pipelines.items():
        if name not in train:
            continue
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


def year(date: str) -> float:
    """The year of an ISO date; NaN if the date does not start with four digits, or with 0000."""
    return number(date[:4]) or np.nan


def patient_number(patient: str) -> float:
    """The number of a patient: 1 for "0001" and "sub-1"; NaN if the name does not end so."""
    return number(patient.rpartition("-")[2])
