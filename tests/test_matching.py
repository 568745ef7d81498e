"""Which class a cluster is assigned to, for confusion matrices that can be checked by eye."""

import itertools

import numpy as np
import pytest

from thermo_jax.evaluation import matching


def iou(confusion):
    return confusion / (confusion.sum(1, keepdims=True) + confusion.sum(0) - confusion)


def test_clusters_that_are_the_classes_in_another_order_get_their_names_back():
    confusion = np.array([[0, 0, 5], [7, 0, 0], [0, 2, 0]])
    assert matching.match_clusters(confusion).tolist() == [2, 0, 1]


def test_the_sum_of_iou_is_the_largest_of_all_one_to_one_matchings():
    confusion = np.random.default_rng(0).integers(1, 50, (5, 5))
    matched = matching.match_clusters(confusion)
    sums = [iou(confusion)[range(5), order].sum() for order in itertools.permutations(range(5))]
    assert sorted(matched.tolist()) == list(range(5))
    assert iou(confusion)[range(5), matched].sum() == pytest.approx(max(sums))


def test_a_small_class_counts_as_much_as_a_large_one():
    """Counting common pixels would give the other pairing: 60 + 0 is more than 50 + 5."""
    confusion = np.array([[60, 5], [50, 0]])
    assert matching.match_clusters(confusion).tolist() == [1, 0]


def test_extra_clusters_get_the_class_that_they_overlap_most():
    confusion = np.array([[90, 0], [0, 9], [30, 1], [1, 3]])
    assert matching.match_clusters(confusion).tolist() == [0, 1, 0, 1]


def test_extra_classes_get_no_cluster():
    confusion = np.array([[90, 0, 4], [0, 9, 1]])
    assert matching.match_clusters(confusion).tolist() == [0, 1]


def test_a_cluster_is_not_given_to_a_class_without_a_common_pixel():
    confusion = np.array([[90, 0, 0], [10, 0, 0], [0, 9, 0]])  # class 2 is not in the image
    assert matching.match_clusters(confusion).tolist() == [0, 0, 1]


def test_an_empty_cluster_does_no_harm():
    assert matching.match_clusters(np.array([[0, 0], [0, 9], [5, 0]]))[1:].tolist() == [1, 0]


def test_a_label_map_that_was_split_and_renumbered_is_restored():
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])
    clusters = np.array([[4, 4, 0, 0], [4, 4, 0, 0], [1, 1, 1, 3]])
    restored = matching.matched_label_map(clusters, truth, num_clusters=5, num_classes=3)
    np.testing.assert_array_equal(restored, truth)


def test_a_cluster_out_of_range_is_refused():
    with pytest.raises(ValueError, match="predicted labels run from 0 to 9"):
        matching.matched_label_map(
            np.array([[0, 9]]), np.array([[0, 1]]), num_clusters=4, num_classes=2
        )
