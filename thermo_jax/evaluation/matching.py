"""Names for clusters: which class each cluster of an image is, read off the annotation.

The annotation takes part in the answer, so that a score of matched clusters is an upper bound: what
the clusters reach when somebody who knows the truth names them. It tells what latents separate. It
is not the score of a method for images without annotations, nor comparable with a trained
segmenter's. (The bound is on the sum of IoU; other names can have more pixels right.)
"""

import numpy as np
from jaxtyping import Int, Integer
from scipy.optimize import linear_sum_assignment

from thermo_jax.evaluation import metrics


def match_clusters(
    confusion: Integer[np.ndarray, "clusters classes"],
) -> Int[np.ndarray, " clusters"]:
    """The class of each cluster.

    First the one-to-one matching with the largest sum of IoU: every class counts alike, as in the
    mean IoU that is reported, where a matching by pixels would serve background alone. A pair
    without a common pixel is no match. Then each cluster that is left goes to the class with
    which it shares most pixels (of equal ones the first, so that an empty cluster is class 0).

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
    """One image's clusters as classes, by `match_clusters`.

    Raises:
        ValueError: the shapes differ, or a number is outside its range.
    """
    size = max(num_clusters, num_classes)
    pixels = metrics.confusion_matrix(truth, clusters, num_classes=size)
    return match_clusters(pixels[:num_classes, :num_clusters].T)[clusters]
