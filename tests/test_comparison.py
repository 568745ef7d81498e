"""Several models on the same patients: paired differences, baselines, strata, encoded years."""

import dataclasses

import numpy as np
import pytest
from example_tables import table

from thermo_jax.errors import UserError
from thermo_jax.evaluation import assessment, comparison
from thermo_jax.evaluation.predictions import Predictions, pool

SAMPLING = {"samples": 400, "seed": 0}


def judged(scores, labels=(0, 0, 1, 1), *, patients=None, model="fold 0", repeat=0, **baselines):
    """A classifier's predictions; image `a` is of patient `a`, unless `patients` are given."""
    names = [f"{i:03d}" for i in range(len(scores))]
    columns = {"labels": np.array(labels, np.int32), "probabilities": np.array(scores, float)}
    columns |= {f"baseline/{name}": np.array(values, float) for name, values in baselines.items()}
    examples = table(patients=patients or names, names=names)
    found = Predictions.of(examples, model=model, columns=columns)
    return dataclasses.replace(found, repeats=np.full(len(names), repeat, np.int32))


def noisy(seed=0, count=80):
    """Scores of two similar models (they err on the same patients), and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    base = 0.5 + 0.1 * (labels - 0.5) + 0.1 * rng.normal(size=count)
    return *(np.clip(base + 0.02 * rng.normal(size=count), 0, 1) for _ in range(2)), labels


# --------------------------------------------------------------------------------------------------
# Differences
# --------------------------------------------------------------------------------------------------


def test_the_difference_is_the_rows_auroc_minus_ours():
    rows = {
        "ours": judged([0.1, 0.4, 0.3, 0.9]),  # 3 of 4 pairs
        "perfect": judged([0.1, 0.2, 0.3, 0.4]),
        "reversed": judged([0.4, 0.3, 0.2, 0.1]),
        "tied": judged([0.5] * 4),
    }
    found = comparison.paired_differences(rows, ours="ours", **SAMPLING)
    assert {name: estimate.value for name, estimate in found.items()} == {
        "perfect": 0.25,
        "reversed": -0.75,
        "tied": -0.25,
    }


def test_identical_predictions_differ_by_exactly_nothing_in_any_order():
    first, _, labels = noisy()
    patients = [f"{i // 4}" for i in range(80)]
    labels = np.repeat(labels[:20], 4)
    ours = judged(first, labels, patients=patients)
    other = ours.take(np.random.default_rng(1).permutation(80))
    (difference,) = comparison.paired_differences(
        {"ours": ours, "other": other}, ours="ours", **SAMPLING
    ).values()
    assert difference == (0, 0, 0)


def test_the_paired_interval_of_similar_models_is_narrower_than_that_of_each_model():
    first, second, labels = noisy()
    rows = {"ours": judged(first, labels), "other": judged(second, labels)}
    (paired,) = comparison.paired_differences(rows, ours="ours", **SAMPLING).values()
    assessed = assessment.assess_classification(rows["other"], row="other", **SAMPLING)
    low, high = assessed["classification"]["patient"]["other"]["interval"]["auroc"]
    assert paired.low < paired.value < paired.high
    assert paired.high - paired.low < 0.5 * (high - low)


def test_the_auroc_is_per_patient():
    """The two images of each patient average to the same score, in another order for each row."""
    patients = ["1", "1", "2", "2"]
    rows = {
        "ours": judged([0.0, 0.5, 0.25, 0.75], [0, 0, 1, 1], patients=patients),
        "other": judged([0.5, 0.0, 0.5, 0.5], [0, 0, 1, 1], patients=patients),
    }
    (difference,) = comparison.paired_differences(rows, ours="ours", **SAMPLING).values()
    assert difference.value == 0


def test_folds_are_pooled_and_repeats_are_averaged():
    parts = [
        judged([0.1, 0.2, 0.3, 0.4], model="r0", repeat=0),  # 1
        judged([0.9, 0.8, 0.7, 0.6], model="r1", repeat=1),  # 0, but all above the other repeat
    ]
    rows = {"ours": judged([0.1, 0.2, 0.3, 0.4]), "twice": pool(parts)}
    (difference,) = comparison.paired_differences(rows, ours="ours", **SAMPLING).values()
    assert difference.value == -0.5
    halves = [parts[0].take([0, 2]), judged([0.1, 0.2, 0.3, 0.4], model="x").take([1, 3])]
    rows = {"ours": rows["ours"], "folds": pool(halves)}
    (difference,) = comparison.paired_differences(rows, ours="ours", **SAMPLING).values()
    assert difference == (0, 0, 0)


def test_the_models_of_repeats_may_have_the_same_name():
    parts = [judged(scores, repeat=k) for k, scores in enumerate(([0.1, 0.2, 0.3, 0.4], [0.5] * 4))]
    rows = {"ours": judged([0.5] * 4), "twice": pool(parts)}
    (difference,) = comparison.paired_differences(rows, ours="ours", **SAMPLING).values()
    assert difference.value == 0.25


def segmented(*confusions):
    names = [f"{i}" for i in range(len(confusions))]
    columns = {
        "confusion/1x10": np.array(confusions, np.int64),
        "confusion/2x20": np.array(confusions, np.int64)[:, ::-1],
    }
    return Predictions.of(table(patients=names, names=names), model="fold 0", columns=columns)


def test_segmenters_are_compared_by_their_miou_at_the_images_own_size():
    exact, wrong = [[5, 0], [0, 5]], [[5, 0], [5, 0]]  # IoU of wrong: 5/10 and 0
    rows = {"ours": segmented(exact, exact), "one wrong": segmented(exact, wrong)}
    (difference,) = comparison.paired_differences(rows, ours="ours", **SAMPLING).values()
    assert difference.value == pytest.approx((10 / 15 + 5 / 10) / 2 - 1)
    # The resamples contain the second image 0, 1 or 2 times.
    assert difference.high == 0
    assert difference.low == pytest.approx((5 / 10 + 0) / 2 - 1)


def _changed(**fields):
    fields = {name: np.array(values) for name, values in fields.items()}
    return dataclasses.replace(judged([0.1, 0.2, 0.3, 0.4]), **fields)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (_changed(names=["000", "001", "002", "x.jpg"]), "'ours' differ in 2 images, such as 003"),
        (_changed(patients=["000", "001", "002", "9"]), "differ in the patient of 003"),
        (judged([0.1] * 4, [0, 1, 1, 1]), "differ in the diagnosis of 001"),
        (_changed(names=["000", "001", "002", "002"]), "'other' judges 002 2 times in one repeat"),
        (segmented([[5, 0], [0, 5]]), "one of 'other' and 'ours' classifies, the other segments"),
    ],
)
def test_rows_that_do_not_judge_the_same_images_are_refused_and_named(other, message):
    rows = {"ours": judged([0.1, 0.2, 0.3, 0.4]), "other": other}
    with pytest.raises(UserError, match=f"{message}.*: compare runs of one task on the same folds"):
        comparison.paired_differences(rows, ours="ours", **SAMPLING)


def test_a_missing_row_of_ours_is_named():
    with pytest.raises(UserError, match="no row 'ours' to compare with, only theirs"):
        comparison.paired_differences({"theirs": judged([0.5] * 4)}, ours="ours", **SAMPLING)


def test_without_a_sick_patient_the_difference_is_undefined():
    rows = {name: judged([0.1, 0.2, 0.3, 0.4], [0] * 4) for name in ("ours", "other")}
    (difference,) = comparison.paired_differences(rows, ours="ours", **SAMPLING).values()
    assert np.isnan(difference).all()


# --------------------------------------------------------------------------------------------------
# Baselines
# --------------------------------------------------------------------------------------------------


def test_the_baselines_that_a_model_does_not_clearly_beat_are_listed():
    first, second, labels = noisy()
    good = np.clip(first + 0.3 * labels, 0, 1)
    baselines = {"border": second, "year": good, "majority class": np.full(80, 0.5)}
    rows = {
        "ours": judged(good, labels, **baselines),
        "weak": judged(first, labels, **baselines),
        "constant": judged(np.full(80, 0.5), labels, **baselines),
    }
    assert comparison.unbeaten_baselines(rows, **SAMPLING) == {
        "ours": ["year"],
        "weak": ["border", "year"],
        "constant": ["border", "year", "majority class"],
    }
    del baselines["year"]
    rows = {"ours": judged(good, labels, **baselines)}
    assert comparison.unbeaten_baselines(rows, **SAMPLING) == {"ours": []}


def test_a_row_without_baselines_is_not_said_to_be_better_than_them():
    with pytest.raises(UserError, match="'ours' have no baselines"):
        comparison.unbeaten_baselines({"ours": judged([0.5] * 4)}, **SAMPLING)


# --------------------------------------------------------------------------------------------------
# Strata
# --------------------------------------------------------------------------------------------------


def _within(scores, labels, strata):
    return comparison.auroc_within_strata(
        np.array(scores), np.array(labels), np.array(strata, dtype=str)
    )


def test_pairs_of_different_strata_do_not_count():
    scores, labels = [0.1, 0.2, 0.2, 0.9, 0.8, 0.7], [0, 1, 0, 1, 0, 1]
    strata = ["2012", "2012", "2012", "2013", "2013", "2013"]
    # 2012: .2 > .1 and .2 = .2; 2013: .9 > .8 and .7 < .8.
    assert _within(scores, labels, strata) == ((1 + 0.5 + 1 + 0) / 4, 4)


def test_a_score_that_only_tells_the_strata_apart_is_at_chance():
    assert _within([0.1, 0.1, 0.1, 0.9, 0.9, 0.9], [0, 0, 1, 1, 1, 0], list("aaabbb")) == (0.5, 4)


def test_patients_of_no_stratum_are_left_out_and_without_a_pair_nothing_is_defined():
    assert _within([0.1, 0.9, 0.9, 0.1], [0, 1, 0, 1], ["a", "a", "", ""]) == (1, 1)
    area, pairs = _within([0.1, 0.9, 0.5], [0, 1, 1], ["a", "b", ""])
    assert np.isnan(area) and pairs == 0


def _dated(dates, patients=None):
    patients = patients or [f"{i}" for i in range(len(dates))]
    return dataclasses.replace(table(patients=patients), dates=dates)


def test_years_are_those_of_dates_and_unknown_ones_are_empty():
    years = comparison.acquisition_years(_dated(["2012-10-08", "", "2013", "0000-01-01", "x"]))
    assert years.tolist() == ["2012", "", "2013", "", ""]


def test_quarters_are_of_the_patients_with_a_number():
    names = ["0007", "sub-1", "anonymous", "0400", "3", "5", "6", "100", "900"]
    quarters = comparison.number_quarters(table(patients=names))
    assert quarters.tolist() == ["3", "1", "", "4", "1", "2", "2", "3", "4"]
    assert comparison.number_quarters(table(patients=["x", "y"])).tolist() == ["", ""]


def test_stratified_aurocs_are_per_patient_and_means_over_repeats():
    def repeat(scores, number):
        rows = judged(scores, [0, 1, 0, 1], model=f"r{number}", repeat=number)
        return dataclasses.replace(rows, dates=["2012-01-01"] * 2 + ["2013-01-01"] * 2)

    both = pool([repeat([0.1, 0.2, 0.3, 0.4], 0), repeat([0.2, 0.1, 0.3, 0.4], 1)])
    found = comparison.stratified_aurocs(both)
    assert found["year"] == (0.75, 2)
    area, pairs = found["quarter of patient numbers"]  # each of the four patients is alone
    assert np.isnan(area) and pairs == 0


# --------------------------------------------------------------------------------------------------
# Encoded years
# --------------------------------------------------------------------------------------------------


def test_a_year_that_features_encode_is_found():
    rng = np.random.default_rng(0)
    years = rng.choice(["2012", "2013", "2015"], 60, p=[0.5, 0.3, 0.2])
    features = rng.normal(size=(60, 80))
    features[:, :10] += 3 * (years == "2012")[:, np.newaxis]
    features[:, 10:20] += 3 * (years == "2015")[:, np.newaxis]
    accuracy, chance = comparison.year_accuracy(features, years=years, folds=np.arange(60) % 5)
    assert accuracy > 0.9 and chance == pytest.approx(1 / 3)


def test_noise_predicts_the_year_at_chance():
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        years = rng.choice(["2012", "2013"], 80)
        features = rng.normal(size=(80, 8))
        found.append(comparison.year_accuracy(features, years=years, folds=np.arange(80) % 5))
    accuracies, chances = np.transpose(found)
    assert (chances == 0.5).all() and abs(accuracies.mean() - 0.5) < 0.08


def test_the_balanced_accuracy_is_the_mean_over_years_of_patients_outside_the_fit():
    """The last patient of 2013 looks like 2012, and the year of the only patient is left out."""
    features = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [0.1], [9.0], [9.0]])
    years = np.array(["2012"] * 3 + ["2013"] * 3 + ["2014", ""])
    folds = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    accuracy, chance = comparison.year_accuracy(features, years=years, folds=folds)
    assert accuracy == pytest.approx((3 / 3 + 2 / 3) / 2) and chance == 0.5


@pytest.mark.parametrize("years", [["2012"] * 4, ["2012", "2012", "2013", ""], [""] * 4])
def test_with_fewer_than_two_years_nothing_is_predicted(years):
    found = comparison.year_accuracy(np.eye(4), years=np.array(years), folds=np.arange(4))
    assert np.isnan(found).all()


def test_a_year_that_is_in_no_training_set_is_not_predicted():
    years, folds = np.array(["2012", "2012", "2013", "2013"]), np.array([0, 0, 1, 1])
    assert comparison.year_accuracy(np.eye(4), years=years, folds=folds) == (0, 0.5)
