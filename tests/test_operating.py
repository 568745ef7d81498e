"""Operating points, the reliability curve and the subsets that are scored on their own."""

import numpy as np
import pytest

from thermo_jax.data.table import Table
from thermo_jax.evaluation import metrics, operating


def _recall(scores, labels, threshold):
    return metrics.classification_measures(scores, labels, called=np.array(scores) > threshold)[
        "recall"
    ]


def test_the_threshold_reaches_the_sensitivity_and_no_larger_one_does():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scores, labels = rng.random(50).round(2), rng.integers(0, 2, 50)
        threshold = operating.threshold_at_sensitivity(scores, labels)
        assert _recall(scores, labels, threshold) >= 0.9
        next_higher = scores[scores > threshold].min()
        assert _recall(scores, labels, next_higher) < 0.9


def test_the_threshold_is_midway_to_the_next_lower_score_healthy_or_sick():
    scores, labels = [0.2, 0.4, 0.5, 0.8, 0.9], [1, 0, 0, 1, 1]
    threshold = operating.threshold_at_sensitivity(scores, labels, sensitivity=0.6)
    assert threshold == pytest.approx(0.65)


def test_a_sensitivity_that_is_met_exactly_needs_no_further_example():
    scores, labels = np.arange(1, 21) / 20, np.ones(20, int)
    threshold = operating.threshold_at_sensitivity(scores, labels, sensitivity=0.55)
    assert _recall(scores, labels, threshold) == 11 / 20


def test_sick_examples_with_tied_scores_are_called_together():
    scores, labels = [0.3, 0.6, 0.6, 0.6, 0.9], [0, 1, 1, 1, 1]
    threshold = operating.threshold_at_sensitivity(scores, labels, sensitivity=0.5)
    assert threshold == pytest.approx(0.45)


def test_the_threshold_separates_neighbouring_floats():
    low, high = 0.25, np.nextafter(0.25, 1)
    threshold = operating.threshold_at_sensitivity([low, high], [0, 1])
    assert low <= threshold < high


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [([0.4, 0.6, 0.8], 0.2), ([0.0, 0.6, 0.8], -1.0)],
)
def test_everyone_is_called_sick_where_the_lowest_score_must_be(scores, threshold):
    chosen = operating.threshold_at_sensitivity(scores, [1, 0, 1], sensitivity=1.0)
    assert chosen == pytest.approx(threshold)
    assert (np.array(scores) > chosen).all()


def test_the_threshold_is_one_half_without_a_sick_example():
    assert operating.threshold_at_sensitivity([0.1, 0.9], [0, 0]) == 0.5


def test_the_reliability_curve_is_mean_score_share_of_sick_and_count_by_bin():
    curve = operating.reliability_curve([0.0, 0.05, 0.5, 0.9, 0.95, 1.0], [0, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(curve.count, [2, 0, 0, 0, 0, 1, 0, 0, 0, 3])
    np.testing.assert_allclose(curve.mean_score[[0, 1, 5, 9]], [0.025, np.nan, 0.5, 0.95])
    np.testing.assert_allclose(curve.share_sick[[0, 1, 5, 9]], [0.5, np.nan, 0, 1])


def test_the_distance_of_the_reliability_curve_is_the_calibration_error():
    rng = np.random.default_rng(0)
    scores, labels = rng.random(100).round(1), rng.integers(0, 2, 100)
    curve = operating.reliability_curve(scores, labels)
    distance = np.nansum(curve.count * np.abs(curve.mean_score - curve.share_sick)) / 100
    measures = metrics.classification_measures(scores, labels, called=scores > 0.5)
    assert distance == pytest.approx(measures["ece"])


def _subsets(**changes):
    identity = {
        "patients": ["0001", "0002", "0299", "0300", "0301", "folder:x"],
        "views": [1, 1, 2, 2, 3, 0],
        "protocols": ["S", "S", "D", "D", "D", ""],
        "dates": ["2012-10-08", "2012-11-01", "2013-01-01", "2014-01-01", "", ""],
    } | changes
    identity["views"] = np.array(identity["views"])
    labels = np.array([0, 1, 0, 1, 0, 1])
    return operating.subsets(Table(names=list("abcdef"), **identity, columns={"labels": labels}))


def test_subsets_are_the_views_protocols_years_and_numbers_with_both_classes():
    members = {name: np.flatnonzero(rows).tolist() for name, rows in _subsets().items()}
    assert members == {
        "view 1 frontal": [0, 1],
        "view 2 right 45": [2, 3],
        "protocol S static": [0, 1],
        "protocol D dynamic": [2, 3, 4],
        "year 2012": [0, 1],
        "patient number below 300": [0, 1, 2],
        "patient number 300 and above": [3, 4],
    }


def test_a_subset_of_all_examples_is_left_out():
    assert "view 1 frontal" not in _subsets(views=[1] * 6)


def test_images_without_a_view_protocol_or_date_form_no_subset():
    names = _subsets(
        patients=["folder:x"] * 6,
        views=[0, 0, 1, 1, 1, 1],
        protocols=["", "", "S", "S", "S", "S"],
        dates=["", "", *["2012-10-08"] * 4],
    ).keys()
    assert names == {"view 1 frontal", "protocol S static", "year 2012"}
