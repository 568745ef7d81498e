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


def test_a_patients_score_is_the_mean_over_all_their_images():
    predictions = judged(["1", "2", "2"], [0, 1, 1], [0.4, 0.6, 0.35], year=[0.1, 0.2, 0.4])
    patient = assessment.units(predictions)["patient"]
    np.testing.assert_allclose(patient.columns["probabilities"], [0.4, 0.475])
    assert patient.columns["labels"].tolist() == [0, 1]
    np.testing.assert_allclose(patient.columns["baseline/year"], [0.1, 0.3])


def test_a_score_equal_to_the_threshold_is_not_sick():
    found = judged(["1", "2"], [0, 1], [0.5, 0.5])
    rows = assessment.assess_classification(found, row="H/H", **SAMPLING)["classification"]
    counts = rows["image"]["H/H"]["counts"]
    assert (counts["tn"], counts["fn"]) == (1, 1)


def repeated(*scores, patients="123456", labels=(0, 1, 0, 1, 0, 1)):
    """Pools repeats of a cross-validation; each argument contains one repeat's scores."""
    parts = [
        judged(list(patients), labels, values, model=f"repeat {r}")
        for r, values in enumerate(scores)
    ]
    parts = [replace(part, repeats=np.full(len(part), r)) for r, part in enumerate(parts)]
    return pool(parts)


# The second repeat has another scale: its healthy patients score above the first one's sick.
REPEATS = ([0.1, 0.2, 0.1, 0.3, 0.4, 0.3], [0.7, 0.9, 0.7, 0.8, 0.6, 0.95])


def test_a_measure_is_the_mean_over_repeats_and_never_of_their_pooled_rows():
    rows = assessment.assess_classification(repeated(*REPEATS), row="H/H", **SAMPLING)
    singles = [
        assessment.assess_classification(repeated(scores), row="H/H", **SAMPLING)
        for scores in REPEATS
    ]
    for unit in ("image", "patient"):
        measures = rows["classification"][unit]["H/H"]
        expected = [single["classification"][unit]["H/H"] for single in singles]
        for name in ("auroc", "auprc", "accuracy", "brier", "ece", "f1", "auroc_within"):
            mean = np.mean([single[name] for single in expected])
            assert measures[name] == pytest.approx(mean), name
        assert measures["auroc"] == pytest.approx((2 / 3 + 1) / 2)


def test_patients_count_once_however_often_they_are_tested():
    assessed = assessment.assess_classification(repeated(*REPEATS), row="H/H", **SAMPLING)
    counts = assessed["classification"]["patient"]["H/H"]["counts"]
    assert {key: counts[key] for key in ("n", "sick", "healthy")} == {
        "n": 6,
        "sick": 3,
        "healthy": 3,
    }
    # Counts are means: above 0.5, the first repeat calls nobody sick, the second everybody.
    assert {key: counts[key] for key in ("tp", "fp", "tn", "fn")} == dict.fromkeys(
        ("tp", "fp", "tn", "fn"), 1.5
    )
    assert assessed["reliability"]["patient"].count.sum() == 6


def test_a_resample_draws_the_same_patients_in_every_repeat():
    scores = [0.1, 0.4, 0.3, 0.6, 0.5, 0.2]
    thrice, once = (
        assessment.assess_classification(repeated(*repeats), row="H/H", **SAMPLING)
        for repeats in ([scores] * 3, [scores])
    )
    thrice, once = (
        result["classification"]["patient"]["H/H"]["interval"] for result in (thrice, once)
    )
    for name, bounds in once.items():
        np.testing.assert_allclose(thrice[name], bounds, err_msg=name)


@pytest.mark.parametrize(("sick", "healthy"), [(3, 3), (2, 5), (6, 1)])
def test_a_perfect_measure_has_the_exact_binomial_bound(sick, healthy):
    labels = [1] * sick + [0] * healthy
    # Each patient has two images; the bound depends only on the patients.
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


def test_each_models_threshold_applies_to_its_own_rows():
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
    predictions = judged(
        ["1", "2"], [0, 1], [0.2, 0.3], thresholds={"image, tuned": 0.25}, year=[0, 1]
    )
    assessed = assessment.assess_classification(predictions, row="H/H", **SAMPLING)
    rows = assessed["classification"]["image"]
    assert {name: row["threshold"] for name, row in rows.items()} == {
        "H/H": 0.5,
        "H/H at tuned": 0.25,
        "year": 0.5,
    }
    assert not any("thresholds" in row for row in rows.values())


def test_an_interval_contains_its_value_and_depends_on_the_seed():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    predictions = judged(
        [f"{i}" for i in range(40)], labels, np.clip(labels * 0.2 + rng.random(40), 0, 1)
    )
    assessed = [
        assessment.assess_classification(predictions, row="H/H", samples=200, seed=seed)
        for seed in (0, 0, 1)
    ]
    first, same, other = (result["classification"]["image"]["H/H"] for result in assessed)
    for name in ("accuracy", "auroc", "brier"):
        low, high = first["interval"][name]
        assert low < first[name] < high
    assert first["interval"] == same["interval"] != other["interval"]


def test_subsets_with_both_diagnoses_are_scored_on_their_own():
    predictions = judged(["0001", "0002", "0301", "0302"], [0, 1, 0, 1], [0.2, 0.8, 0.9, 0.1])
    subsets = assessment.assess_classification(predictions, row="H/H", **SAMPLING)["subsets"]
    assert subsets["patient number below 300"]["auroc"] == 1.0


def cautions_of(scores, **baselines):
    labels = [0] * 10 + [1] * 10
    predictions = judged([f"{i}" for i in range(20)], labels, scores, **baselines)
    return assessment.assess_classification(predictions, row="H/H", **SAMPLING)["cautions"]


PERFECT = [0.1] * 10 + [0.9] * 10
BLIND = [0.5] * 20


def test_a_baseline_as_good_as_the_model_is_named():
    (sentence,) = cautions_of(PERFECT, **{"patient number": PERFECT, "histogram": BLIND})
    assert "without seeing any anatomy, patient number (1.000) comes within it" in sentence
    assert "does not show that the model reads the breast" in sentence
    assert "histogram" not in sentence


def test_a_model_better_than_every_baseline_is_reported_as_better():
    (sentence,) = cautions_of(PERFECT, histogram=BLIND)
    assert "no baseline that sees no anatomy comes within this interval" in sentence


def test_a_model_that_chance_may_explain_gets_a_caution():
    (sentence,) = cautions_of([0.4, 0.6] * 10, histogram=BLIND)
    assert sentence.endswith("which chance (0.5) may explain: it shows nothing.")


def test_without_both_diagnoses_there_are_no_cautions():
    predictions = judged(["1", "2"], [0, 0], [0.2, 0.3])
    assert assessment.assess_classification(predictions, row="H/H", **SAMPLING)["cautions"] == []


def test_operating_points_come_from_the_data_they_are_given():
    points = assessment.operating_points(judged(["1", "2", "2"], [0, 1, 1], [0.2, 0.4, 0.6]))
    for point in (assessment.TUNED, assessment.SENSITIVE):
        assert 0.2 <= points[f"image, {point}"] < 0.4
        assert 0.2 <= points[f"patient, {point}"] < 0.5


@pytest.fixture(scope="module")
def segmented():
    """Three images: right, half wrong, all wrong (background predicted as neck)."""
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
    predictions = Predictions.of(table(patients=["1", "2", "3"]), model="fold 0", columns=columns)
    return assessment.assess_segmentation(predictions, **SAMPLING), confusions


def test_a_segmenter_is_scored_over_all_pixels_of_all_images(segmented):
    assessed, confusions = segmented
    measures = assessed["segmentation"]["4x4"]
    expected = metrics.segmentation_measures(confusions.sum(0))
    assert measures["accuracy"] == expected["accuracy"] == 0.5
    assert measures["miou"] == expected["miou"]
    low, high = measures["interval"]["accuracy"]
    assert low < 0.5 < high
    np.testing.assert_array_equal(assessed["confusion"]["4x4"], confusions.sum(0))


def test_hd95_is_the_mean_over_the_images_that_have_the_region_with_an_interval(segmented):
    measures = segmented[0]["segmentation"]["4x4"]
    assert measures["hd95"][6] == 2.0 and np.isnan(measures["hd95"][0])
    assert measures["interval"]["hd95"][6] == [1.0, 3.0]
    assert np.isnan(measures["interval"]["hd95"][0]).all()


def test_the_spread_over_images_and_the_worst_of_them_are_reported(segmented):
    assessed, _ = segmented
    spread = assessed["segmentation"]["4x4"]["images"]["accuracy"]
    np.testing.assert_allclose(spread, [0, 0.25, 0.5, 0.75, 1])
    assert [image["patient"] for image in assessed["worst"]] == ["3", "2", "1"]
    assert assessed["worst"][0]["accuracy"] == 0.0


def test_a_repeated_segmenter_has_the_mean_of_its_repeats_and_each_image_once(segmented):
    assessed, confusions = segmented
    hd95 = np.full((3, len(CLASS_NAMES)), np.nan)
    hd95[:2, 6] = (1.0, 3.0)
    parts = []
    for repeat, order in enumerate(([0, 1, 2], [0, 0, 0])):  # all are right in the second
        columns = {"confusion/4x4": confusions[order], "hd95/4x4": hd95}
        part = Predictions.of(
            table(patients=["1", "2", "3"]), model=f"repeat {repeat}", columns=columns
        )
        parts.append(replace(part, repeats=np.full(3, repeat)))
    repeated = assessment.assess_segmentation(pool(parts), **SAMPLING)
    once, right = (
        result["segmentation"]["4x4"]
        for result in (assessed, assessment.assess_segmentation(parts[1], **SAMPLING))
    )
    both = repeated["segmentation"]["4x4"]
    for name in ("accuracy", "miou", "f1"):
        assert both[name] == pytest.approx((once[name] + right[name]) / 2), name
    np.testing.assert_allclose(both["images"]["accuracy"], [0.5, 0.625, 0.75, 0.875, 1])
    assert [image["patient"] for image in repeated["worst"]] == ["3", "2", "1"]
    assert repeated["confusion"]["4x4"].sum() == confusions.sum()


def test_auroc_within_models_does_not_depend_on_their_scales():
    parts = [
        judged(["1", "2"], [0, 1], [0.1, 0.2]),
        judged(["3", "4"], [0, 1], [0.8, 0.9], model="fold 1"),
    ]
    rows = assessment.assess_classification(pool(parts), row="H/H", **SAMPLING)["classification"]
    assert rows["image"]["H/H"]["auroc"] == 0.75
    assert rows["image"]["H/H"]["auroc_within"] == 1.0


def test_a_control_states_the_range_of_chance_for_one_model_and_for_several():
    labels = [0, 1] * 13
    predictions = judged([f"{i}" for i in range(26)], labels, [0.5] * 26)
    measures = {"counts": {"sick": 13, "healthy": 14}}
    assert "13 sick and 14 healthy patients lies between 0.278 and 0.722" in assessment.chance_note(
        predictions, measures
    )
    folds = replace(predictions, models=np.array(["fold 0", "fold 1"] * 13))
    sentence = assessment.chance_note(folds, {"counts": {"sick": 36, "healthy": 36}})
    assert "36 healthy patients of several folds lies between 0.312 and 0.688" in sentence


def test_the_roc_curve_is_that_of_patients_within_its_band():
    scores = np.random.default_rng(0).random(40)
    found = judged([f"{i % 20:02d}" for i in range(40)], np.arange(40) % 2, scores)
    curve = assessment.assess_classification(found, row="H/H", **SAMPLING)["roc"]["patient"]
    means, labels = scores.reshape(2, 20).mean(0), np.arange(20) % 2
    expected = metrics.sensitivities(means, labels, weights=np.ones((1, 20)))["sensitivity"][0]
    np.testing.assert_allclose(curve.sensitivity, expected)
    assert (curve.low <= expected).all() and (expected <= curve.high).all()
    assert (curve.low < curve.high).any()


def test_the_roc_curve_of_several_repeats_is_their_vertical_mean():
    assessed = [
        assessment.assess_classification(repeated(*repeats), row="H/H", **SAMPLING)["roc"]
        for repeats in (REPEATS, REPEATS[:1], REPEATS[1:])
    ]
    both, *singles = (curves["patient"].sensitivity for curves in assessed)
    np.testing.assert_allclose(both, np.mean(singles, axis=0))


def test_without_baselines_the_caution_does_not_compare_with_them():
    found = judged([f"{i:02d}" for i in range(20)], [0, 1] * 10, [0.1, 0.9] * 10)
    (sentence,) = assessment.assess_classification(found, row="H/H", **SAMPLING)["cautions"]
    assert sentence.endswith("No baseline that sees no anatomy was fitted.")
