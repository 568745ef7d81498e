"""Patient bootstrap: weighted measures against scikit-learn and against repeated examples."""

import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as sk

from thermo_jax.evaluation import bootstrap, metrics

MEASURES = [
    "accuracy",
    "precision",
    "recall",
    "specificity",
    "f1",
    "auroc",
    "auprc",
    "brier",
    "ece",
]


def _scores(seed=0, count=60):
    """Scores with many ties, labels, and the patient of each image (three images each)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    scores = np.clip(0.3 * labels + 0.7 * rng.random(count), 0, 1).round(1)
    return scores, labels, [f"{index // 3:04d}" for index in range(count)]


def _confusions(seed=0, images=6):
    confusions = np.random.default_rng(seed).integers(0, 50, (images, 3, 3))
    confusions[1:, 2] = confusions[1:, :, 2] = 0  # class 2 is in the first image only
    return confusions


def _width(samples):
    low, high = bootstrap.interval(samples)
    return high - low


# --------------------------------------------------------------------------------------------------
# Resamples of patients
# --------------------------------------------------------------------------------------------------


def test_a_resample_draws_as_many_patients_as_there_are_with_replacement():
    weights = bootstrap.patient_weights(["a", "b", "c", "d"], samples=200, seed=0)
    assert weights.shape == (200, 4) and weights.dtype == np.float64
    np.testing.assert_array_equal(weights.sum(axis=1), 4)
    assert weights.max() > 1
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.2)


def test_all_images_of_a_patient_are_drawn_together():
    weights = bootstrap.patient_weights(["a", "b", "a", "c", "a"], samples=50, seed=0)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 4])
    assert (weights[:, 0] != weights[:, 1]).any()


def test_the_draws_depend_on_the_seed():
    first, same, other = (
        bootstrap.patient_weights(["a", "b", "c"], samples=20, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_the_same_patients_are_drawn_per_image_and_per_patient():
    per_image = bootstrap.patient_weights(["b", "a", "b", "c"], samples=20, seed=3)
    per_patient = bootstrap.patient_weights(["a", "b", "c"], samples=20, seed=3)
    np.testing.assert_array_equal(per_image, per_patient[:, [1, 0, 1, 2]])


# --------------------------------------------------------------------------------------------------
# Classification
# --------------------------------------------------------------------------------------------------


def test_with_all_weights_one_a_sample_is_the_measure_itself():
    scores, labels, _ = _scores()
    called, ones = scores > 0.5, np.ones((2, len(scores)))
    samples = metrics.classification_measures(scores, labels, called=called, weights=ones)
    expected = metrics.classification_measures(scores, labels, called=called)
    assert list(samples) == MEASURES
    for name in MEASURES:
        assert samples[name].shape == (2,)
        np.testing.assert_allclose(samples[name], expected[name], rtol=1e-12)


def test_every_sample_is_the_measure_of_the_examples_it_drew():
    scores, labels, patients = _scores()
    called = scores > np.where(np.arange(len(scores)) % 2, 0.3, 0.6)  # two folds' thresholds
    weights = bootstrap.patient_weights(patients, samples=70, seed=0)  # more than one block
    samples = metrics.classification_measures(scores, labels, weights=weights, called=called)
    for row, times in enumerate(weights.astype(int)):
        drawn = np.repeat(np.arange(len(scores)), times)
        expected = metrics.classification_measures(
            scores[drawn], labels[drawn], called=called[drawn]
        )
        for name in MEASURES:
            assert samples[name][row] == pytest.approx(expected[name], rel=1e-9), name


def test_samples_equal_scikit_learns_with_sample_weight():
    scores, labels, _ = _scores(seed=1)
    called = scores > 0.5
    weight = np.random.default_rng(0).random(len(scores))
    samples = metrics.classification_measures(scores, labels, weights=weight[None], called=called)
    options = {"sample_weight": weight}
    expected = {
        "accuracy": sk.accuracy_score(labels, called, **options),
        "precision": sk.precision_score(labels, called, **options),
        "recall": sk.recall_score(labels, called, **options),
        "specificity": sk.recall_score(labels, called, pos_label=0, **options),
        "f1": sk.f1_score(labels, called, **options),
        "auroc": sk.roc_auc_score(labels, scores, **options),
        "auprc": sk.average_precision_score(labels, scores, **options),
        "brier": sk.brier_score_loss(labels, scores, **options),
    }
    for name, value in expected.items():
        assert samples[name][0] == pytest.approx(value, rel=1e-12), name


def test_scores_that_are_all_tied_rank_nothing():
    samples = metrics.classification_measures(
        np.full(5, 0.4),
        [1, 0, 1, 0, 0],
        weights=np.array([[3.0, 1, 0, 2, 0]]),
        called=np.zeros(5, bool),
    )
    assert samples["auroc"][0] == 0.5
    assert samples["auprc"][0] == 3 / 6


@pytest.mark.parametrize(
    ("weights", "undefined"),
    [
        ([2, 1, 0, 0], {"recall", "f1", "auroc", "auprc"}),  # healthy only
        ([0, 0, 1, 2], {"specificity", "auroc", "auprc"}),  # sick only
        ([0, 0, 0, 0], set(MEASURES)),
    ],
)
def test_a_resample_without_a_class_is_undefined_where_the_measures_are(weights, undefined):
    scores, labels = np.array([0.1, 0.8, 0.3, 0.9]), np.array([0, 0, 1, 1])
    samples = metrics.classification_measures(
        scores, labels, weights=np.array([weights, [1, 1, 1, 1]]), called=scores > 0.5
    )
    assert {name for name in MEASURES if np.isnan(samples[name][0])} == undefined
    assert not any(np.isnan(samples[name][1]) for name in MEASURES)


def test_precision_of_a_resample_that_calls_nobody_sick_is_zero():
    samples = metrics.classification_measures(
        [0.1, 0.9], [1, 1], weights=np.array([[2.0, 0.0]]), called=np.array([False, True])
    )
    assert samples["precision"][0] == 0


def test_a_thousand_resamples_of_seven_thousand_images_need_little_memory_beside_the_weights():
    rng = np.random.default_rng(0)
    scores, labels = rng.random(7000), rng.integers(0, 2, 7000)
    patients = [f"{index // 25:04d}" for index in range(7000)]
    weights = bootstrap.patient_weights(patients, samples=1000, seed=0)
    tracemalloc.start()
    try:
        metrics.classification_measures(scores, labels, weights=weights, called=scores > 0.5)
        assert tracemalloc.get_traced_memory()[1] < weights.nbytes  # 56 MB
    finally:
        tracemalloc.stop()


# --------------------------------------------------------------------------------------------------
# Segmentation
# --------------------------------------------------------------------------------------------------


def test_every_segmentation_sample_is_the_measure_of_the_images_it_drew():
    confusions = _confusions()
    weights = bootstrap.patient_weights(["a", "b", "b", "c", "d", "e"], samples=20, seed=0)
    samples = metrics.segmentation_measures(np.tensordot(weights, confusions, axes=1))
    for row, times in enumerate(weights.astype(int)):
        expected = metrics.segmentation_measures(np.repeat(confusions, times, axis=0).sum(axis=0))
        assert samples.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(samples[name][row], value, rtol=1e-12, err_msg=name)


def test_a_resample_leaves_out_a_class_that_none_of_its_images_has():
    weights = np.array([[1.0] * 6, [0.0] + [1.0] * 5])
    samples = metrics.segmentation_measures(np.tensordot(weights, _confusions(), axes=1))
    np.testing.assert_array_equal(np.isnan(samples["iou"]), [[0, 0, 0], [0, 0, 1]])
    assert samples["miou"][1] == pytest.approx(samples["iou"][1, :2].mean())


# --------------------------------------------------------------------------------------------------
# Intervals
# --------------------------------------------------------------------------------------------------


def test_an_interval_contains_the_middle_95_percent_of_the_samples():
    samples = np.random.default_rng(0).permutation(1001) / 1000
    assert bootstrap.interval(samples) == pytest.approx((0.025, 0.975))


def test_an_interval_ignores_undefined_samples():
    samples = np.array([0.2, np.nan, 0.2, 0.2])
    assert bootstrap.interval(samples) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(
    ("samples", "undefined"),
    [([0.2, np.nan, 0.2, np.nan], False), ([0.2, np.nan, np.nan], True), ([], True)],
)
def test_an_interval_is_undefined_where_fewer_than_half_of_the_samples_are_finite(
    samples, undefined
):
    assert np.isnan(bootstrap.interval(samples)).all() == undefined


def test_accuracy_of_independent_patients_has_the_interval_of_the_binomial():
    correct = np.arange(200) % 5 > 0  # accuracy 0.8
    labels = np.arange(200) // 5 % 2
    weights = bootstrap.patient_weights([str(i) for i in range(200)], samples=2000, seed=0)
    samples = metrics.classification_measures(
        np.full(200, 0.5), labels, weights=weights, called=(labels == 1) == correct
    )
    assert _width(samples["accuracy"]) == pytest.approx(2 * 1.96 * np.sqrt(0.16 / 200), rel=0.1)


def test_copies_of_a_patients_images_do_not_narrow_the_interval():
    scores, labels, _ = _scores()
    patients = [f"{index:04d}" for index in range(len(scores))]

    def samples(copies, patients):
        return metrics.classification_measures(
            np.repeat(scores, copies),
            np.repeat(labels, copies),
            weights=bootstrap.patient_weights(patients, samples=300, seed=0),
            called=np.repeat(scores, copies) > 0.5,
        )

    once = samples(1, patients)
    copied = samples(9, np.repeat(patients, 9))
    as_if_independent = samples(9, [str(index) for index in range(9 * len(scores))])
    for name in MEASURES:
        np.testing.assert_allclose(copied[name], once[name], rtol=1e-9)
        assert _width(as_if_independent[name]) < 0.6 * _width(copied[name])  # a third, in theory


def test_means_leave_out_the_images_without_a_value_and_repeat_those_drawn_twice():
    values = np.array([[1.0, np.nan], [4.0, np.nan], [np.inf, 7.0]])
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    means = bootstrap.mean_samples(values, weights)
    np.testing.assert_allclose(means, [[2.5, 7.0], [2.0, np.nan]])


@pytest.mark.parametrize(("sick", "healthy"), [(13, 14), (5, 40), (36, 36)])
def test_chance_stays_in_its_range_in_95_of_100_draws(sick, healthy):
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [sick, healthy])
    low, high = bootstrap.chance_auroc_range(sick=sick, healthy=healthy)
    aurocs = np.array(
        [
            metrics.classification_measures(rng.random(len(labels)), labels, called=labels == 1)[
                "auroc"
            ]
            for _ in range(500)
        ]
    )
    assert np.mean((aurocs < low) | (aurocs > high)) == pytest.approx(0.05, abs=0.025)


def test_chance_has_no_range_without_both_diagnoses():
    assert np.isnan(bootstrap.chance_auroc_range(sick=0, healthy=3)).all()
    assert bootstrap.chance_auroc_range(sick=1, healthy=1) == (0, 1)
