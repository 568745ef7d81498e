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
        "histogram": rng.dirichlet(np.ones(16), count),
        "acquisition year": rng.integers(2010, 2014, count).astype(float),
        "patient number": rng.permutation(count).astype(float),
    }
    given = {name: column(_labels(count), rng) for name, column in (columns or {}).items()}
    return {name: column.reshape(count, -1) for name, column in {**noise, **given}.items()}


def _scores(train, test, count=80):
    return baselines.baseline_scores(train, test, labels=_labels(count))


CONFOUNDERS = {
    "mean intensity": lambda y, rng: 100 + 20 * y + rng.normal(0, 5, len(y)),
    "mean temperature": lambda y, rng: 30 + 2 * y + rng.normal(0, 0.5, len(y)),
    "histogram": lambda y, rng: rng.dirichlet(np.ones(16), len(y)) + 0.3 * np.eye(16)[4 * y],
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
        np.concatenate([images, images[:1]]),
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
    np.testing.assert_array_equal(features["histogram"], np.eye(16)[[1, 15, 1]])


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
