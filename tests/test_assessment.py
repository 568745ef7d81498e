"""From predictions to measures: units, operating points, intervals, cautions, worst cases."""

import numpy as np
import pytest
from example_tables import table

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation import assessment, metrics
from thermo_jax.evaluation.predictions import Predictions, pool

SAMPLING = {"samples": 200, "seed": 0}


def judged(patients, labels, scores, *, model="fold 0", thresholds=None, **baselines):
    columns = {"labels": np.array(labels, np.int32), "probabilities": np.array(scores, float)}
    for name, value in (thresholds or {}).items():
        columns[f"threshold/{name}"] = np.full(len(labels), value)
    for name, values in baselines.items():
        columns[f"baseline/{name}"] = np.array(values, float)
    return Predictions.of(table(patients=patients), model=model, columns=columns)


def test_a_patients_score_is_the_mean_over_her_images():
    found = judged(["1", "2", "2"], [0, 1, 1], [0.4, 0.6, 0.35], year=[0.1, 0.2, 0.4])
    patient = assessment.units(found)["patient"]
    np.testing.assert_allclose(patient.scores, [0.4, 0.475])
    assert patient.labels.tolist() == [0, 1]
    np.testing.assert_allclose(patient.baselines["year"], [0.1, 0.3])


def test_the_same_patient_in_two_repeats_is_two_rows_and_one_patient_to_resample():
    parts = [judged(["1", "2"], [0, 1], [0.2, 0.8], model=f"repeat {r}") for r in (0, 1)]
    patient = assessment.units(pool(parts))["patient"]
    assert patient.patients.tolist() == ["1", "2", "1", "2"]


def test_every_models_own_threshold_decides_over_its_own_rows():
    parts = [
        judged(["1", "2"], [0, 1], [0.2, 0.3], thresholds={"image, tuned": 0.25}),
        judged(["3", "4"], [0, 1], [0.6, 0.9], model="fold 1", thresholds={"image, tuned": 0.7}),
    ]
    rows = assessment.assess_classification(pool(parts), row="H/H", **SAMPLING)["classification"]
    assert rows["image"]["H/H at tuned"]["accuracy"] == 1.0
    assert rows["image"]["H/H"]["accuracy"] == 0.5
    assert list(rows["patient"]) == ["H/H"]  # no threshold per patient was given
    assert rows["image"]["H/H at tuned"]["thresholds"] == {"fold 0": 0.25, "fold 1": 0.7}
    assert np.isnan(rows["image"]["H/H at tuned"]["threshold"])


def test_a_threshold_that_all_rows_share_is_kept_with_the_measures():
    found = judged(["1", "2"], [0, 1], [0.2, 0.3], thresholds={"image, tuned": 0.25}, year=[0, 1])
    rows = assessment.assess_classification(found, row="H/H", **SAMPLING)["classification"]["image"]
    assert {name: row["threshold"] for name, row in rows.items()} == {
        "H/H": 0.5,
        "H/H at tuned": 0.25,
        "year": 0.5,
    }
    assert not any("thresholds" in row for row in rows.values())


def test_an_interval_holds_its_value_and_the_seed_decides_it():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    found = judged(
        [f"{i}" for i in range(40)], labels, np.clip(labels * 0.2 + rng.random(40), 0, 1)
    )
    assessed = [
        assessment.assess_classification(found, row="H/H", samples=200, seed=seed)
        for seed in (0, 0, 1)
    ]
    one, same, other = (each["classification"]["image"]["H/H"] for each in assessed)
    for name in ("accuracy", "auroc", "brier"):
        low, high = one["interval"][name]
        assert low < one[name] < high
    assert one["interval"] == same["interval"] != other["interval"]


def test_subsets_with_both_diagnoses_are_scored_on_their_own():
    found = judged(["0001", "0002", "0301", "0302"], [0, 1, 0, 1], [0.2, 0.8, 0.9, 0.1])
    subsets = assessment.assess_classification(found, row="H/H", **SAMPLING)["subsets"]
    assert subsets["patient number below 300"]["auroc"] == 1.0


def cautions_of(scores, **baselines):
    labels = [0] * 10 + [1] * 10
    found = judged([f"{i}" for i in range(20)], labels, scores, **baselines)
    return assessment.assess_classification(found, row="H/H", **SAMPLING)["cautions"]


PERFECT = [0.1] * 10 + [0.9] * 10
BLIND = [0.5] * 20


def test_a_baseline_as_good_as_the_model_is_named():
    (sentence,) = cautions_of(PERFECT, **{"patient number": PERFECT, "histogram": BLIND})
    assert "without seeing any anatomy, patient number (1.000) comes within it" in sentence
    assert "does not show that the model reads the breast" in sentence
    assert "histogram" not in sentence


def test_a_model_better_than_every_baseline_is_said_to_be():
    (sentence,) = cautions_of(PERFECT, histogram=BLIND)
    assert "no baseline that sees no anatomy comes within this interval" in sentence


def test_a_model_that_chance_explains_is_said_to_be():
    (sentence,) = cautions_of([0.4, 0.6] * 10, histogram=BLIND)
    assert sentence.endswith("which chance (0.5) may explain: it shows nothing.")


def test_without_both_diagnoses_there_is_nothing_to_say():
    found = judged(["1", "2"], [0, 0], [0.2, 0.3])
    assert assessment.assess_classification(found, row="H/H", **SAMPLING)["cautions"] == []


def test_operating_points_come_from_the_data_they_are_given():
    points = assessment.operating_points(np.array([0.2, 0.4]), np.array([0, 1]))
    assert 0.2 <= points[assessment.TUNED] < 0.4
    assert 0.2 <= points[assessment.SENSITIVE] < 0.4


@pytest.fixture(scope="module")
def segmented():
    """Three images: right, half wrong, all wrong (neck taken for background)."""
    count, neck, background = len(CLASS_NAMES), CLASS_NAMES.index("neck"), 6
    truth = np.full((4, 4), background)
    half, wrong = truth.copy(), np.full((4, 4), neck)
    half[:2] = neck
    guesses = (truth, half, wrong)
    confusions = np.stack(
        [metrics.confusion_matrix(truth, guess, num_classes=count) for guess in guesses]
    )
    columns = {"confusion/4x4": confusions, "hd95/4x4": np.full((3, count), np.nan)}
    columns["hd95/4x4"][:2, background] = (1.0, 3.0)
    found = Predictions.of(table(patients=["1", "2", "3"]), model="fold 0", columns=columns)
    return assessment.assess_segmentation(found, **SAMPLING), confusions


def test_a_segmenter_is_scored_over_all_pixels_of_all_images(segmented):
    found, confusions = segmented
    measures = found["segmentation"]["4x4"]
    expected = metrics.segmentation_measures(confusions.sum(0))
    assert measures["accuracy"] == expected["accuracy"] == 0.5
    assert measures["miou"] == expected["miou"]
    low, high = measures["interval"]["accuracy"]
    assert low < 0.5 < high
    np.testing.assert_array_equal(found["confusion"]["4x4"], confusions.sum(0))


def test_hd95_is_the_mean_over_the_images_that_have_the_region_with_an_interval(segmented):
    measures = segmented[0]["segmentation"]["4x4"]
    assert measures["hd95"][6] == 2.0 and np.isnan(measures["hd95"][0])
    assert measures["interval"]["hd95"][6] == (1.0, 3.0)
    assert np.isnan(measures["interval"]["hd95"][0]).all()


def test_the_spread_over_images_and_the_worst_of_them_are_told(segmented):
    found, _ = segmented
    spread = found["segmentation"]["4x4"]["images"]["accuracy"]
    np.testing.assert_allclose(spread, [0, 0.25, 0.5, 0.75, 1])
    assert [one["patient"] for one in found["worst"]] == ["3", "2", "1"]
    assert found["worst"][0]["accuracy"] == 0.0


def test_auroc_within_models_is_not_hurt_by_their_different_scales():
    parts = [
        judged(["1", "2"], [0, 1], [0.1, 0.2]),
        judged(["3", "4"], [0, 1], [0.8, 0.9], model="fold 1"),
    ]
    rows = assessment.assess_classification(pool(parts), row="H/H", **SAMPLING)["classification"]
    assert rows["image"]["H/H"]["auroc"] == 0.75
    assert rows["image"]["H/H"]["auroc_within"] == 1.0
