"""Assigns a class to each cluster of an image by comparing the clusters with the annotation.

Because the annotation is used, the IoU of matched clusters is an upper bound: no other one-to-one
matching has a larger sum of IoU (but another one can have more correct pixels). It shows which
classes the latents separate. It is not the score of a method for images without annotations, and
not comparable with the score of a trained segmenter.
"""

import numpy as np
from jaxtyping import Int, Integer
from scipy.optimize import linear_sum_assignment

from thermo_jax.evaluation import metrics


def match_clusters(
    confusion: Integer[np.ndarray, "clusters classes"],
) -> Int[np.ndarray, " clusters"]:
    """The class of each cluster.

    First comes the one-to-one matching with the largest sum of IoU, which weights all classes
    equally, as the reported mean IoU does; a matching by pixels would favour the background. A
    pair without a common pixel does not match. Then each remaining cluster gets the class with
    which it shares most pixels (the first of several; an empty cluster gets class 0).

    Args:
        confusion: pixels of one image by cluster (row) and true class (column).
    """
    union = confusion.sum(1, keepdims=True) + confusion.sum(0) - confusion
    iou = confusion / np.maximum(union, 1)
    classes = confusion.argmax(1)
    clusters, matches = linear_sum_assignment(iou, maximize=True)
    common = confusion[clusters, matches] > 0
    classes[clusters[common]] = matches[common]
    return classes


def matched_label_map(
    clusters: Integer[np.ndarray, "h w"],
    truth: Integer[np.ndarray, "h w"],
    *,
    num_clusters: int,
    num_classes: int,
) -> Int[np.ndarray, "h w"]:
    """Replaces one image's clusters by their classes, which `match_clusters` chooses.

    Raises:
        ValueError: the shapes differ, or a cluster or class is outside its range.
    """
    size = max(num_clusters, num_classes)
    pixels = metrics.confusion_matrix(truth, clusters, num_classes=size)
    return match_clusters(pixels[:num_classes, :num_clusters].T)[clusters]
