"""Stages of rivals that train no network: what they fit on, and that a finished one is kept."""

import numpy as np
import pytest

from thermo_jax.data.examples import Examples
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.programs import decoder_results, rival_folds
from thermo_jax.programs.rival_folds import Fold
from thermo_jax.rivals import heads, temperature_statistics

COUNT = 40
SETS = {
    "train": np.arange(0, 24),
    "validation": np.arange(24, 32),
    "test": np.arange(32, 40),
}
FOLD = Fold("repeat0_fold0", SETS)


def examples_of(images) -> Examples:
    """Forty patients with one image each, every second one sick."""
    count = len(images)
    return Examples(
        names=[f"image{i}" for i in range(count)],
        patients=[f"{i:04d}" for i in range(count)],
        views=np.ones(count, np.int32),
        protocols=["S"] * count,
        dates=[f"20{12 + i % 5}-01-01" for i in range(count)],
        data_type="gray",
        mean_temperatures=np.full(count, np.nan),
        columns={"images": images, "labels": np.arange(count, dtype=np.int32) % 2},
    )


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(1, 255, (COUNT, 48, 64, 1), np.uint8)


@pytest.fixture(scope="module")
def altered(images):
    """The same images, but that of the last test patient is black, with one white column."""
    other = images.copy()
    other[-1] = 1
    other[-1, :, 5] = 255
    return other


@pytest.mark.parametrize("head", heads.HEADS)
def test_another_test_image_leaves_every_fitted_number_as_it_is(head, images, altered):
    fitted = [
        rival_folds.fit(
            temperature_statistics.features(some),
            examples_of(some).columns["labels"],
            SETS,
            head=head,
            candidates=3,
            seed=0,
        )
        for some in (images, altered)
    ]
    assert fitted[0].setting == fitted[1].setting
    states = [head_.state() for head_ in fitted]
    assert states[0].keys() == states[1].keys()
    for name, numbers in states[0].items():
        np.testing.assert_array_equal(numbers, states[1][name], err_msg=name)
    before, after = (
        head_.probabilities(temperature_statistics.features(some))
        for head_, some in zip(fitted, (images, altered), strict=True)
    )
    np.testing.assert_array_equal(before[:-1], after[:-1])


def test_another_test_image_changes_no_baselines_score_of_other_images(images, altered):
    scores = []
    for some in (images, altered):
        examples = examples_of(some)
        features = decoder_results.baseline_features(examples, some)
        labels = examples.columns["labels"]
        scores.append(rival_folds.baseline_probabilities(features, labels, SETS))
    assert {"border", "marker", "histogram"} <= scores[0].keys()
    for name, values in scores[0].items():
        np.testing.assert_array_equal(values[:-1], scores[1][name][:-1], err_msg=name)


def test_the_threshold_is_chosen_on_validation_images_alone():
    examples = examples_of(np.zeros((COUNT, 2, 2, 1), np.uint8))
    labels = examples.columns["labels"]
    probabilities = np.where(labels == 1, 0.30, 0.10)  # on validation, .2 separates them
    probabilities[SETS["test"]] = 0.25  # on test, nothing does
    judged = rival_folds.with_thresholds(examples, FOLD, probabilities)
    assert judged.patients.tolist() == [f"{i:04d}" for i in SETS["test"]]
    thresholds = judged.columns["threshold/patient, best balanced accuracy"]
    np.testing.assert_allclose(thresholds, 0.2)


# --------------------------------------------------------------------------------------------------
# A finished stage is kept
# --------------------------------------------------------------------------------------------------


def predictions() -> Predictions:
    examples = examples_of(np.zeros((2, 2, 2, 1), np.uint8))
    return decoder_results.with_diagnoses(examples, np.array([0.1, 0.9]), model="fold 0")


def test_a_finished_stage_is_not_repeated(tmp_path):
    rival_folds.finish_once(tmp_path, {"head": "logistic"}, lambda facts: predictions())
    rival_folds.finish_once(tmp_path, {"head": "logistic"}, lambda facts: 1 / 0)


def test_a_stage_that_stopped_half_way_is_repeated(tmp_path):
    with pytest.raises(ZeroDivisionError):
        rival_folds.finish_once(tmp_path, {"head": "logistic"}, lambda facts: 1 / 0)
    rival_folds.finish_once(tmp_path, {"head": "mlp"}, lambda facts: predictions())
    assert len(Predictions.load(tmp_path / "predictions.npz")) == 2


def test_a_finished_stage_of_other_settings_is_refused(tmp_path):
    rival_folds.finish_once(tmp_path, {"head": "logistic"}, lambda facts: predictions())
    with pytest.raises(ValueError, match="contains results of another configuration"):
        rival_folds.finish_once(tmp_path, {"head": "mlp"}, lambda facts: predictions())


def test_the_settings_of_a_stage_change_with_a_patients_set_or_diagnosis():
    examples = examples_of(np.zeros((COUNT, 2, 2, 1), np.uint8))
    one = rival_folds.fitted_on(examples, FOLD)
    moved = SETS | {"train": np.arange(1, 24), "test": np.r_[0, 32:40]}
    assert rival_folds.fitted_on(examples, Fold("repeat0_fold0", moved)) != one
    examples.columns["labels"][0] = 1
    assert rival_folds.fitted_on(examples, FOLD) != one


# --------------------------------------------------------------------------------------------------
# The control
# --------------------------------------------------------------------------------------------------


def test_with_other_diagnoses_features_that_gave_away_the_true_ones_are_worth_nothing():
    examples = examples_of(np.zeros((COUNT, 2, 2, 1), np.uint8))
    truth = examples.columns["labels"].copy()
    no_anatomy = decoder_results.baseline_features(examples, examples.columns["images"])
    folds = [
        Fold(
            f"fold{k}", SETS | {"train": np.r_[8:32], "validation": np.r_[32:40], "test": np.r_[:8]}
        )
        if k
        else FOLD
        for k in range(2)
    ]
    features = {"leak": ("logistic", truth[:, np.newaxis] + 0.0)}
    shared = {"features": features, "no_anatomy": no_anatomy, "candidates": 2, "seed": 0}
    with_truth = rival_folds.shuffled_aurocs(
        examples, folds, baselines_shown=["majority class"], **shared
    )
    assert with_truth["leak"]["auroc"] == 1
    # Independent of the truth within each set: sick, sick, healthy, healthy, ...
    examples.columns["labels"][:] = np.arange(COUNT) // 2 % 2
    shuffled = rival_folds.shuffled_aurocs(
        examples, folds, baselines_shown=["majority class"], **shared
    )
    assert shuffled["leak"] == {"auroc": 0.5, "auroc_within": 0.5}
    assert shuffled["majority class"]["auroc"] == 0.5
