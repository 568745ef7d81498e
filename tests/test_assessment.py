"""From predictions to measures: units, operating points, intervals, cautions, worst cases."""

from dataclasses import replace

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
    np.testing.assert_allclose(patient.columns["probabilities"], [0.4, 0.475])
    assert patient.columns["labels"].tolist() == [0, 1]
    np.testing.assert_allclose(patient.columns["baseline/year"], [0.1, 0.3])


def test_a_score_equal_to_the_threshold_is_not_sick():
    found = judged(["1", "2"], [0, 1], [0.5, 0.5])
    rows = assessment.assess_classification(found, row="H/H", **SAMPLING)["classification"]
    counts = rows["image"]["H/H"]["counts"]
    assert (counts["tn"], counts["fn"]) == (1, 1)


def repeated(*scores, patients="123456", labels=(0, 1, 0, 1, 0, 1)):
    """Two or more repeats of a cross-validation in which the patients get these scores."""
    parts = [
        judged(list(patients), labels, one, model=f"repeat {r}") for r, one in enumerate(scores)
    ]
    parts = [replace(part, repeats=np.full(len(part), r)) for r, part in enumerate(parts)]
    return pool(parts)


# The second repeat is on another scale: its healthy patients lie above the first one's sick.
REPEATS = ([0.1, 0.2, 0.1, 0.3, 0.4, 0.3], [0.7, 0.9, 0.7, 0.8, 0.6, 0.95])


def test_a_measure_is_the_mean_over_repeats_and_never_of_their_pooled_rows():
    rows = assessment.assess_classification(repeated(*REPEATS), row="H/H", **SAMPLING)
    single = [
        assessment.assess_classification(repeated(one), row="H/H", **SAMPLING) for one in REPEATS
    ]
    for unit in ("image", "patient"):
        found = rows["classification"][unit]["H/H"]
        each = [one["classification"][unit]["H/H"] for one in single]
        for name in ("auroc", "auprc", "accuracy", "brier", "ece", "f1", "auroc_within"):
            assert found[name] == pytest.approx(np.mean([one[name] for one in each])), name
        assert found["auroc"] == pytest.approx((2 / 3 + 1) / 2)


def test_patients_count_once_however_often_they_are_tested():
    found = assessment.assess_classification(repeated(*REPEATS), row="H/H", **SAMPLING)
    counts = found["classification"]["patient"]["H/H"]["counts"]
    assert {key: counts[key] for key in ("n", "sick", "healthy")} == {
        "n": 6,
        "sick": 3,
        "healthy": 3,
    }
    # At 0.5 the first repeat calls nobody sick, the second everybody: means of both.
    assert {key: counts[key] for key in ("tp", "fp", "tn", "fn")} == dict.fromkeys(
        ("tp", "fp", "tn", "fn"), 1.5
    )
    assert found["reliability"]["patient"].count.sum() == 6


def test_a_resample_draws_the_same_patients_in_every_repeat():
    scores = [0.1, 0.4, 0.3, 0.6, 0.5, 0.2]
    found, once = (
        assessment.assess_classification(repeated(*each), row="H/H", **SAMPLING)
        for each in ([scores] * 3, [scores])
    )
    found, once = (each["classification"]["patient"]["H/H"]["interval"] for each in (found, once))
    for name, bounds in once.items():
        np.testing.assert_allclose(found[name], bounds, err_msg=name)


@pytest.mark.parametrize(("sick", "healthy"), [(3, 3), (2, 5), (6, 1)])
def test_a_perfect_measure_has_the_bound_of_as_many_successes(sick, healthy):
    labels = [1] * sick + [0] * healthy
    # Two images of each patient: only patients count.
    patients, labels = [f"{i}" for i in range(len(labels))] * 2, labels * 2
    scores = [0.9 if label else 0.1 for label in labels]
    assessed = assessment.assess_classification(
        judged(patients, labels, scores), row="H/H", **SAMPLING
    )
    bound = 0.025 ** (1 / min(sick, healthy))
    tested = {"auroc": min(sick, healthy), "recall": sick, "specificity": healthy}
    tested |= {"accuracy": sick + healthy, "f1": sick}
    for unit in ("image", "patient"):
        interval = assessed["classification"][unit]["H/H"]["interval"]
        for name, patients in tested.items():
            assert interval[name] == pytest.approx((0.025 ** (1 / patients), 1.0)), name
    (sentence,) = assessed["cautions"]
    expected = f"AUROC 1.000 per patient (every resample is perfect; AUROC >= {bound:.3f}, "
    assert f"{expected}one-sided 97.5 %)" in sentence


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
    points = assessment.operating_points(judged(["1", "2", "2"], [0, 1, 1], [0.2, 0.4, 0.6]))
    for point in (assessment.TUNED, assessment.SENSITIVE):
        assert 0.2 <= points[f"image, {point}"] < 0.4
        assert 0.2 <= points[f"patient, {point}"] < 0.5


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
    assert measures["interval"]["hd95"][6] == [1.0, 3.0]
    assert np.isnan(measures["interval"]["hd95"][0]).all()


def test_the_spread_over_images_and_the_worst_of_them_are_told(segmented):
    found, _ = segmented
    spread = found["segmentation"]["4x4"]["images"]["accuracy"]
    np.testing.assert_allclose(spread, [0, 0.25, 0.5, 0.75, 1])
    assert [one["patient"] for one in found["worst"]] == ["3", "2", "1"]
    assert found["worst"][0]["accuracy"] == 0.0


def test_a_repeated_segmenter_has_the_mean_of_its_repeats_and_each_image_once(segmented):
    found, confusions = segmented
    hd95 = np.full((3, len(CLASS_NAMES)), np.nan)
    hd95[:2, 6] = (1.0, 3.0)
    parts = []
    for repeat, order in enumerate(([0, 1, 2], [0, 0, 0])):  # in the second all three are right
        columns = {"confusion/4x4": confusions[order], "hd95/4x4": hd95}
        part = Predictions.of(
            table(patients=["1", "2", "3"]), model=f"repeat {repeat}", columns=columns
        )
        parts.append(replace(part, repeats=np.full(3, repeat)))
    repeated = assessment.assess_segmentation(pool(parts), **SAMPLING)
    once, right = (
        each["segmentation"]["4x4"]
        for each in (found, assessment.assess_segmentation(parts[1], **SAMPLING))
    )
    both = repeated["segmentation"]["4x4"]
    for name in ("accuracy", "miou", "f1"):
        assert both[name] == pytest.approx((once[name] + right[name]) / 2), name
    np.testing.assert_allclose(both["images"]["accuracy"], [0.5, 0.625, 0.75, 0.875, 1])
    assert [one["patient"] for one in repeated["worst"]] == ["3", "2", "1"]
    assert repeated["confusion"]["4x4"].sum() == confusions.sum()


def test_auroc_within_models_is_not_hurt_by_their_different_scales():
    parts = [
        judged(["1", "2"], [0, 1], [0.1, 0.2]),
        judged(["3", "4"], [0, 1], [0.8, 0.9], model="fold 1"),
    ]
    rows = assessment.assess_classification(pool(parts), row="H/H", **SAMPLING)["classification"]
    assert rows["image"]["H/H"]["auroc"] == 0.75
    assert rows["image"]["H/H"]["auroc_within"] == 1.0


def test_a_control_says_how_far_chance_reaches_of_one_model_and_of_several():
    labels = [0, 1] * 13
    found = judged([f"{i}" for i in range(26)], labels, [0.5] * 26)
    measures = {"counts": {"sick": 13, "healthy": 14}}
    assert "13 sick and 14 healthy patients lies between 0.278 and 0.722" in assessment.chance_note(
        found, measures
    )
    folds = replace(found, models=np.array(["fold 0", "fold 1"] * 13))
    sentence = assessment.chance_note(folds, {"counts": {"sick": 36, "healthy": 36}})
    assert "36 healthy patients of several folds lies between 0.312 and 0.688" in sentence
