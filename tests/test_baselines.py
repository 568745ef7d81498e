"""The classifiers that see no anatomy: each finds its own confounder, and nothing else."""

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


def _table(seed=0, count=80, **columns):
    """A table of noise that tells nothing of the label, but for the columns given."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    noise = {
        "mean_intensity": rng.normal(100, 10, count),
        "mean_temperatures": rng.normal(31, 1, count),
        "histograms": rng.dirichlet(np.ones(16), count),
        "years": rng.integers(2010, 2014, count).astype(float),
        "patient_numbers": rng.permutation(count).astype(float),
    }
    given = {name: column(labels, rng) for name, column in columns.items()}
    return baselines.BaselineTable(labels=labels, **{**noise, **given})


CONFOUNDERS = {
    "mean intensity": {"mean_intensity": lambda y, rng: 100 + 20 * y + rng.normal(0, 5, len(y))},
    "mean temperature": {
        "mean_temperatures": lambda y, rng: 30 + 2 * y + rng.normal(0, 0.5, len(y))
    },
    "histogram": {
        "histograms": lambda y, rng: rng.dirichlet(np.ones(16), len(y)) + 0.3 * np.eye(16)[4 * y]
    },
    "acquisition year": {
        "years": lambda y, rng: np.where(y == 1, 2012.0, rng.choice([2011, 2013], len(y)))
    },
    "patient number": {"patient_numbers": lambda y, rng: 200 * y + rng.uniform(0, 200, len(y))},
}


@pytest.mark.parametrize("name", CONFOUNDERS)
def test_each_baseline_finds_its_own_confounder_and_the_others_do_not(name):
    train, test = (_table(seed, count=400, **CONFOUNDERS[name]) for seed in (0, 1))
    scores = baselines.baseline_scores(train, test)
    assert list(scores) == NAMES
    areas = {key: roc_auc_score(test.labels, value) for key, value in scores.items()}
    assert areas.pop(name) > 0.95
    assert all(0.35 < area < 0.65 for area in areas.values())


def test_patient_number_finds_a_class_in_the_middle_of_the_numbers():
    middle = {
        "patient_numbers": lambda y, rng: np.where(
            y == 1, rng.uniform(150, 250, len(y)), rng.choice([50.0, 350.0], len(y))
        )
    }
    train, test = _table(0, **middle), _table(1, **middle)
    scores = baselines.baseline_scores(train, test)["patient number"]
    assert roc_auc_score(test.labels, scores) > 0.95


def test_majority_class_scores_everyone_with_the_training_share_of_sick():
    train = _table(0, count=81)  # 41 healthy, 40 sick
    scores = baselines.baseline_scores(train, _table(1))["majority class"]
    np.testing.assert_allclose(scores, 40 / 81)


def test_scores_are_probabilities_also_for_unknown_and_unseen_years_and_numbers():
    train = _table(0, years=lambda y, rng: np.where(np.arange(len(y)) < 9, 0, 2012.0 + y))
    test = _table(
        1,
        years=lambda y, rng: rng.choice([0, np.nan, 1999, 2012], len(y)),
        patient_numbers=lambda y, rng: rng.choice([np.nan, 7.0], len(y)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = baselines.baseline_scores(train, test)
    for values in scores.values():
        assert values.shape == (80,)
        assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("label", [0, 1])
def test_a_training_table_of_one_diagnosis_gives_constant_scores(label):
    rows = _table(0)
    columns = {**vars(rows), "labels": np.full(80, label)}
    scores = baselines.baseline_scores(baselines.BaselineTable(**columns), _table(1))
    assert all((values == label).all() for values in scores.values())


def test_a_training_table_without_any_known_year_scores_the_share_of_sick():
    train = _table(0, years=lambda y, rng: np.zeros(len(y)))
    scores = baselines.baseline_scores(train, _table(1))["acquisition year"]
    np.testing.assert_allclose(scores, 0.5)


def test_an_empty_training_table_and_unlabelled_rows_are_refused():
    with pytest.raises(ValueError, match="training table"):
        baselines.baseline_scores(_table(0, count=0), _table(1))
    unlabelled = baselines.BaselineTable(**{**vars(_table(0)), "labels": np.full(80, -1)})
    with pytest.raises(ValueError, match="training table"):
        baselines.baseline_scores(unlabelled, _table(1))


def test_columns_of_different_lengths_are_refused_by_name():
    with pytest.raises(ValueError, match="years has 79 rows"):
        baselines.BaselineTable(**{**vars(_table(0)), "years": np.zeros(79)})


def test_the_table_of_images_holds_means_histograms_years_and_numbers():
    images = np.stack([np.full((4, 4, 1), 16, np.uint8), np.full((4, 4, 1), 255, np.uint8)])
    table = baselines.baseline_table(
        images,
        labels=[0, 1],
        dates=["2012-10-08", ""],
        patients=["0042", "folder:x/y"],
        mean_temperatures=[31.5, np.nan],
    )
    np.testing.assert_array_equal(table.mean_temperatures, [31.5, np.nan])
    np.testing.assert_array_equal(table.mean_intensity, [16, 255])
    np.testing.assert_array_equal(table.histograms, np.eye(16)[[1, 15]])
    np.testing.assert_array_equal(table.years, [2012, np.nan])
    np.testing.assert_array_equal(table.patient_numbers, [42, np.nan])
