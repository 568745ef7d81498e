"""The baseline classifiers, which see no anatomy: each detects its own confounder and no other."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from thermo_jax.evaluation import baselines

NAMES = [
    "majority class",
    "mean intensity",
    "mean temperature",
    "histogram",
    "border",
    "marker",
    "acquisition year",
    "patient number",
]


def _labels(count=80):
    return np.arange(count) % 2


def _features(seed=0, count=80, columns=None):
    """Returns random features that do not depend on the label, except the given `columns`."""
    rng = np.random.default_rng(seed)
    noise = {
        "mean intensity": rng.normal(100, 10, count),
        "mean temperature": rng.normal(31, 1, count),
        **{name: rng.dirichlet(np.ones(16), count) for name in ("histogram", "border", "marker")},
        "acquisition year": rng.integers(2010, 2014, count).astype(float),
        "patient number": rng.permutation(count).astype(float),
    }
    given = {name: column(_labels(count), rng) for name, column in (columns or {}).items()}
    return {name: column.reshape(count, -1) for name, column in {**noise, **given}.items()}


def _scores(train, test, count=80):
    return baselines.baseline_scores(train, test, labels=_labels(count))


def _confounded_histogram(y, rng):
    return rng.dirichlet(np.ones(16), len(y)) + 0.3 * np.eye(16)[4 * y]


CONFOUNDERS = {
    "mean intensity": lambda y, rng: 100 + 20 * y + rng.normal(0, 5, len(y)),
    "mean temperature": lambda y, rng: 30 + 2 * y + rng.normal(0, 0.5, len(y)),
    "histogram": _confounded_histogram,
    "border": _confounded_histogram,
    "marker": _confounded_histogram,
    "acquisition year": lambda y, rng: np.where(y == 1, 2012.0, rng.choice([2011, 2013], len(y))),
    "patient number": lambda y, rng: 200 * y + rng.uniform(0, 200, len(y)),
}


@pytest.mark.parametrize("name", CONFOUNDERS)
def test_each_baseline_finds_its_own_confounder_and_the_others_do_not(name):
    columns = {name: CONFOUNDERS[name]}
    train, test = (_features(seed, count=400, columns=columns) for seed in (0, 1))
    scores = _scores(train, test, count=400)
    assert list(scores) == NAMES
    areas = {key: roc_auc_score(_labels(400), value) for key, value in scores.items()}
    assert areas.pop(name) > 0.95
    assert all(0.35 < area < 0.65 for area in areas.values())


def test_patient_number_finds_a_class_in_the_middle_of_the_numbers():
    middle = {
        "patient number": lambda y, rng: np.where(
            y == 1, rng.uniform(150, 250, len(y)), rng.choice([50.0, 350.0], len(y))
        )
    }
    train, test = _features(0, columns=middle), _features(1, columns=middle)
    assert roc_auc_score(_labels(), _scores(train, test)["patient number"]) > 0.95


def test_majority_class_scores_everyone_with_the_training_share_of_sick():
    train = _features(0, count=81)  # 41 healthy, 40 sick
    scores = _scores(train, _features(1), count=81)["majority class"]
    np.testing.assert_allclose(scores, np.full(80, 40 / 81))


def test_scores_are_probabilities_also_for_unknown_and_unseen_years_and_numbers():
    years = {"acquisition year": lambda y, rng: np.where(np.arange(len(y)) < 9, np.nan, 2012.0 + y)}
    others = {
        "acquisition year": lambda y, rng: rng.choice([np.nan, 1999, 2012], len(y)),
        "patient number": lambda y, rng: rng.choice([np.nan, 7.0], len(y)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = _scores(_features(0, columns=years), _features(1, columns=others))
    for values in scores.values():
        assert values.shape == (80,)
        assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("label", [0, 1])
def test_training_images_of_one_diagnosis_give_constant_scores(label):
    scores = baselines.baseline_scores(_features(0), _features(1), labels=np.full(80, label))
    assert all((values == label).all() for values in scores.values())


def test_training_images_without_any_known_year_score_the_share_of_sick():
    train = _features(0, columns={"acquisition year": lambda y, rng: np.full(len(y), np.nan)})
    np.testing.assert_allclose(_scores(train, _features(1))["acquisition year"], 0.5)


def test_the_features_of_images_are_means_histograms_years_and_numbers():
    images = np.stack([np.full((4, 4, 1), 16, np.uint8), np.full((4, 4, 1), 255, np.uint8)])
    features = baselines.baseline_features(
        iter(np.concatenate([images, images[:1]])),  # can be read only once, as if streamed
        dates=["2012-10-08", "", "0000-01-01"],
        patients=["0042", "folder:x/y", "7"],
        mean_temperatures=np.array([31.5, np.nan, 30]),
    )
    for name, expected in {
        "mean intensity": [16, 255, 16],
        "mean temperature": [31.5, np.nan, 30],
        "acquisition year": [2012, np.nan, np.nan],
        "patient number": [42, np.nan, 7],
    }.items():
        np.testing.assert_array_equal(features[name], np.reshape(expected, (3, 1)))
    for name in ("histogram", "border", "marker"):
        np.testing.assert_array_equal(features[name], np.eye(16)[[1, 15, 1]])


def _features_of(images):
    return baselines.baseline_features(
        images,
        dates=[""] * len(images),
        patients=["1"] * len(images),
        mean_temperatures=np.full(len(images), np.nan),
    )


@pytest.mark.parametrize("shape", [(480, 640), (120, 160), (60, 80), (7, 9)])
def test_border_and_marker_are_the_same_places_of_the_frame_at_every_size(shape):
    height, width = shape
    images = np.zeros((2, height, width, 1), np.uint8)
    rows, columns = max(round(height / 10), 1), max(round(width / 10), 1)
    images[0] = 255
    images[0, rows:-rows, columns:-columns] = 0
    rows = slice(380 * height // 480, -(-470 * height // 480))
    columns = slice(270 * width // 640, -(-370 * width // 640))
    images[1, rows, columns] = 255
    features = _features_of(images)
    assert features["border"][0, 15] == features["marker"][1, 15] == 1
    np.testing.assert_allclose(features["histogram"][:, 15], (images > 0).mean(axis=(1, 2, 3)))


def test_what_changes_only_inside_the_frame_is_not_seen_by_border_and_marker():
    images = np.zeros((2, 120, 160, 1), np.uint8)
    images[1, 20:90, 20:140] = 200
    features = _features_of(images)
    for name in ("border", "marker"):
        np.testing.assert_array_equal(*features[name])
    assert features["histogram"][1, 12] > 0.4


def test_border_and_marker_have_the_stated_pixels_of_a_full_frame():
    image = np.arange(480 * 640).reshape(480, 640, 1).astype(np.uint8)
    assert baselines.border(image).shape == (480 * 640 - 384 * 512, 1)
    np.testing.assert_array_equal(baselines.marker(image), image[380:470, 270:370])


def test_the_marker_has_at_least_one_pixel_of_any_image():
    assert baselines.marker(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)
    assert baselines.border(np.zeros((1, 1, 3), np.uint8)).shape == (1, 3)


def test_out_of_fold_scores_of_a_fold_are_fitted_on_the_other_folds():
    features, folds = _features(0), np.arange(80) % 4
    scores = baselines.out_of_fold_scores(features, labels=_labels(), folds=folds)
    train, test = (
        {name: column[rows] for name, column in features.items()}
        for rows in (folds != 2, folds == 2)
    )
    expected = baselines.baseline_scores(train, test, labels=_labels()[folds != 2])
    assert scores.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(scores[name][folds == 2], values)
        assert np.isfinite(scores[name]).all()
