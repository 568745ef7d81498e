"""The measures equal those of scikit-learn, scipy, the published vectors and hand-made cases."""

import warnings

import numpy as np
import pytest
from conftest import golden_file
from scipy.spatial import distance
from sklearn import metrics as sk

from thermo_jax.evaluation import metrics


@pytest.fixture
def golden():
    with np.load(golden_file("metrics.npz")) as arrays:
        return dict(arrays)


def _label_maps(seed=0, classes=5, shape=(3, 20, 30)):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, shape)
    predicted = np.where(rng.random(shape) < 0.7, true, rng.integers(0, classes, shape))
    return true, predicted


def _scores(seed=0, count=200):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return np.clip(0.3 * labels + 0.7 * rng.random(count), 0, 1).round(2), labels


def _measures(scores, labels, threshold=0.5):
    return metrics.classification_measures(scores, labels, called=np.array(scores) > threshold)


def test_confusion_matrix_equals_scikit_learns():
    true, predicted = _label_maps()
    confusion = metrics.confusion_matrix(true, predicted, num_classes=6)
    assert confusion.dtype == np.int64
    expected = sk.confusion_matrix(true.ravel(), predicted.ravel(), labels=range(6))
    np.testing.assert_array_equal(confusion, expected)


def test_confusion_matrices_of_images_add_up_to_that_of_all_pixels():
    true, predicted = _label_maps()
    parts = [
        metrics.confusion_matrix(a, b, num_classes=5) for a, b in zip(true, predicted, strict=True)
    ]
    whole = metrics.confusion_matrix(true, predicted, num_classes=5)
    np.testing.assert_array_equal(sum(parts), whole)


def test_confusion_matrix_takes_uint8_label_maps_without_overflow():
    labels = np.full((4, 4), 200, np.uint8)
    assert metrics.confusion_matrix(labels, labels, num_classes=201)[200, 200] == 16


@pytest.mark.parametrize("bad", [-1, 3, 255])
def test_confusion_matrix_refuses_a_class_out_of_range(bad):
    with pytest.raises(ValueError, match="expected class indexes 0..2"):
        metrics.confusion_matrix(np.array([0, bad]), np.array([0, 1]), num_classes=3)


def test_confusion_matrix_refuses_label_maps_of_two_resolutions():
    with pytest.raises(ValueError, match="one resolution"):
        metrics.confusion_matrix(np.zeros((4, 4), int), np.zeros((2, 2), int), num_classes=2)


@pytest.mark.parametrize("num_classes", [5, 8])
def test_segmentation_measures_equal_scikit_learns_macro_means(num_classes):
    true, predicted = (part.ravel() for part in _label_maps())
    measures = metrics.segmentation_measures(
        metrics.confusion_matrix(true, predicted, num_classes=num_classes)
    )
    options = {"average": "macro", "zero_division": 0}
    assert measures["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert measures["precision"] == pytest.approx(sk.precision_score(true, predicted, **options))
    assert measures["recall"] == pytest.approx(sk.recall_score(true, predicted, **options))
    assert measures["f1"] == pytest.approx(sk.f1_score(true, predicted, **options))
    assert measures["miou"] == pytest.approx(sk.jaccard_score(true, predicted, **options))
    per_class = sk.f1_score(true, predicted, average=None)
    np.testing.assert_allclose(measures["dice"][:5], per_class)


def test_a_class_only_predicted_counts_zero_and_one_absent_from_both_is_left_out():
    confusion = np.array([[6, 0, 2], [0, 0, 0], [0, 0, 0]])
    measures = metrics.segmentation_measures(confusion)
    assert measures["miou"] == pytest.approx((6 / 8 + 0) / 2)
    assert measures["precision"] == pytest.approx((1 + 0) / 2)
    assert measures["recall"] == pytest.approx((6 / 8 + 0) / 2)
    np.testing.assert_array_equal(measures["iou"], [6 / 8, np.nan, 0])
    assert np.isnan(measures["dice"][1])


def test_macro_f1_is_the_mean_of_class_f1_not_the_f1_of_macro_means():
    measures = metrics.segmentation_measures(np.array([[8, 2], [0, 1]]))
    of_means = 2 / (1 / measures["precision"] + 1 / measures["recall"])
    assert measures["f1"] == pytest.approx(np.mean([16 / 18, 2 / 4]))
    assert measures["f1"] != pytest.approx(of_means)


def test_segmentation_measures_refuse_an_empty_matrix():
    with pytest.raises(ValueError, match="was any image scored"):
        metrics.segmentation_measures(np.zeros((8, 8), np.int64))


def test_stacked_confusion_matrices_are_measured_separately():
    confusions = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4))
    confusions[0, 0, 3] = confusions[0, 0, :, 3] = 0  # a class absent from one of them
    together = metrics.segmentation_measures(confusions)
    assert together["miou"].shape == (2, 3) and together["iou"].shape == (2, 3, 4)
    for index in np.ndindex(2, 3):
        for name, value in metrics.segmentation_measures(confusions[index]).items():
            np.testing.assert_array_equal(together[name][index], value, err_msg=name)


def test_an_empty_matrix_among_others_gives_nan():
    measures = metrics.segmentation_measures(np.stack([np.zeros((2, 2)), np.eye(2)]))
    for name, values in measures.items():
        assert np.isnan(values[0]).all() and (values[1] == 1).all(), name


def test_segmentation_measures_match_the_published_vectors(golden):
    cases = sorted({key.split("/")[0] for key in golden if key.startswith("seg")})
    assert cases
    for case in cases:
        true, predicted = golden[f"{case}/true"], golden[f"{case}/pred"]
        confusion = metrics.confusion_matrix(true, predicted, num_classes=8)
        measures = metrics.segmentation_measures(confusion)
        for name in ("accuracy", "precision", "recall", "f1", "miou"):
            assert measures[name] == pytest.approx(float(golden[f"{case}/{name}"]), abs=1e-6)


def test_classification_measures_match_the_published_vectors(golden):
    cases = sorted({key.split("/")[0] for key in golden if key.startswith("cls")})
    assert cases
    for case in cases:
        measures = _measures(golden[f"{case}/score"], golden[f"{case}/true"])
        for name in ("accuracy", "precision", "recall", "f1", "auroc"):
            assert measures[name] == pytest.approx(float(golden[f"{case}/{name}"]), abs=1e-9)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_classification_measures_equal_scikit_learns(threshold):
    scores, labels = _scores()
    measures = _measures(scores, labels, threshold)
    called = scores > threshold
    assert measures["accuracy"] == pytest.approx(sk.accuracy_score(labels, called))
    assert measures["precision"] == pytest.approx(sk.precision_score(labels, called))
    assert measures["recall"] == pytest.approx(sk.recall_score(labels, called))
    assert measures["specificity"] == pytest.approx(sk.recall_score(labels, called, pos_label=0))
    assert measures["f1"] == pytest.approx(sk.f1_score(labels, called))
    assert measures["auroc"] == pytest.approx(sk.roc_auc_score(labels, scores))
    assert measures["auprc"] == pytest.approx(sk.average_precision_score(labels, scores))
    assert measures["brier"] == pytest.approx(sk.brier_score_loss(labels, scores))
    tn, fp, fn, tp = sk.confusion_matrix(labels, called).ravel()
    counts = {name: rows.sum() for name, rows in metrics.decisions(called, labels == 1).items()}
    assert counts == {"tp": tp, "fp": fp, "tn": tn, "fn": fn}


def test_every_example_may_have_its_own_threshold():
    scores, labels, called = [0.2, 0.6, 0.7], [1, 0, 1], np.array([True, False, True])
    measures = metrics.classification_measures(scores, labels, called=called)
    assert (measures["accuracy"], measures["specificity"]) == (1, 1)
    assert measures["brier"] == _measures(scores, labels)["brier"]


@pytest.mark.parametrize(
    ("label", "undefined"),
    [
        (0, {"recall", "f1", "auroc", "auprc"}),
        (1, {"specificity", "auroc", "auprc"}),
    ],
)
def test_measures_without_one_of_the_classes_are_nan_where_undefined(label, undefined):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measures = _measures([0.2, 0.9], [label, label])
    assert {name for name, value in measures.items() if np.isnan(value)} == undefined


def test_precision_is_zero_where_nothing_is_called_sick():
    measures = _measures([0.1, 0.2], [0, 1])
    assert (measures["precision"], measures["recall"], measures["f1"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "no example"),
        ([0.1, np.nan], [0, 1], "score nan is no probability"),
        ([0.1, 1.5], [0, 1], "score 1.5 is no probability"),
        ([0.1, 0.2], [0, -1], "label -1"),
        ([0.1, 0.2], [0], "one of each"),
    ],
)
def test_classification_measures_say_what_is_wrong_with_their_input(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        _measures(np.array(scores), np.array(labels))


def test_calibration_error_is_the_weighted_gap_of_ten_bins():
    scores = np.array([0.05, 0.05, 0.05, 0.05, 0.95, 0.95, 1.0])
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    expected = 4 / 7 * abs(0.05 - 1 / 4) + 3 / 7 * abs(2.9 / 3 - 2 / 3)
    assert _measures(scores, labels)["ece"] == pytest.approx(expected)


def test_best_threshold_has_the_best_balanced_accuracy_of_all_cuts():
    for seed in range(5):
        scores, labels = _scores(seed, count=40)
        cuts = np.unique(np.concatenate([scores, scores - 1e-6]))
        best = max(sk.balanced_accuracy_score(labels, scores > cut) for cut in cuts)
        threshold = metrics.best_threshold(scores, labels)
        assert sk.balanced_accuracy_score(labels, scores > threshold) == pytest.approx(best)


def test_best_threshold_is_a_midpoint_between_scores():
    assert metrics.best_threshold([0.1, 0.2, 0.4, 0.45], [0, 0, 1, 1]) == pytest.approx(0.3)


def test_best_threshold_stays_at_one_half_where_that_is_as_good():
    assert metrics.best_threshold([0.1, 0.2, 0.6, 0.7], [0, 0, 1, 1]) == 0.5


def test_best_threshold_of_equally_good_cuts_is_the_nearest_to_one_half():
    scores, labels = [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]  # cuts at .15 and .35 are equally good
    assert metrics.best_threshold(scores, labels) == pytest.approx(0.35)


def test_best_threshold_separates_neighbouring_floats():
    low = 0.25
    high = np.nextafter(low, 1)
    threshold = metrics.best_threshold([low, high], [0, 1])
    assert low <= threshold < high


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_best_threshold_is_one_half_where_validation_has_one_class(labels):
    assert metrics.best_threshold([0.8, 0.9], labels) == 0.5


def _disk(center, radius, shape=(40, 50)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2


def _surface_points(mask):
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inside)


def test_hd95_equals_the_brute_force_over_all_pairs_of_surface_pixels():
    true, predicted = _disk((15, 20), 9), _disk((18, 26), 7) | _disk((0, 0), 3)
    pairs = distance.cdist(_surface_points(true), _surface_points(predicted))
    directed = np.percentile(pairs.min(axis=0), 95), np.percentile(pairs.min(axis=1), 95)
    assert metrics.hd95(true, predicted) == pytest.approx(max(directed))


def test_hd95_is_symmetrical_and_equals_the_shift_of_a_shifted_region():
    mask, shifted = _disk((20, 20), 8), _disk((20, 23), 8)
    assert metrics.hd95(mask, mask) == 0
    assert metrics.hd95(mask, shifted) == metrics.hd95(shifted, mask)
    assert metrics.hd95(np.eye(1, 9, 2), np.eye(1, 9, 5)) == 3


def test_hd95_is_nan_where_either_region_is_absent():
    mask, nothing = _disk((20, 20), 8), np.zeros((40, 50), bool)
    for true, predicted in ((mask, nothing), (nothing, mask), (nothing, nothing)):
        assert np.isnan(metrics.hd95(true, predicted))


def test_hd95_by_class_measures_each_region_of_a_label_map():
    true = np.where(_disk((20, 20), 8), 1, 0)
    predicted = np.where(_disk((20, 23), 8), 1, 0)
    (by_class,) = metrics.hd95_by_class(true[None], predicted[None], num_classes=3)
    assert by_class[1] == metrics.hd95(true == 1, predicted == 1) > 0
    assert np.isnan(by_class[2])


def test_the_roc_curve_goes_through_scikit_learns_points_and_weights_repeat_examples():
    scores, labels = _scores(count=60)
    weights = np.random.default_rng(1).integers(0, 3, (2, 60)).astype(float)
    curves = metrics.sensitivities(scores, labels, weights=weights)["sensitivity"]
    for curve, counts in zip(curves, weights.astype(int), strict=True):
        repeated = [np.repeat(values, counts) for values in (labels, scores)]
        rates, sensitivities, _ = sk.roc_curve(*repeated, drop_intermediate=False)
        last = np.searchsorted(rates, metrics.FALSE_POSITIVE_RATES, side="right") - 1
        exact = np.isin(metrics.FALSE_POSITIVE_RATES, rates)
        assert exact.sum() >= 2
        np.testing.assert_allclose(curve[exact], sensitivities[last[exact]])
        assert (np.diff(curve) >= 0).all() and curve[-1] == 1


def test_tied_scores_are_one_straight_line_of_the_roc_curve():
    curve = metrics.sensitivities([0.5] * 4, [0, 1, 0, 1], weights=np.ones((1, 4)))["sensitivity"]
    np.testing.assert_allclose(curve[0], metrics.FALSE_POSITIVE_RATES)


def test_the_roc_curve_is_undefined_without_both_diagnoses():
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    curves = metrics.sensitivities([0.2, 0.8], [0, 1], weights=weights)["sensitivity"]
    assert np.isnan(curves[:2]).all() and (curves[2] == 1).all()
