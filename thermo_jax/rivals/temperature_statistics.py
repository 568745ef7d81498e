"""Statistics of the levels in each half of an image, and how the two halves differ.

After the study of 248 patients in SPEC section 12: the same statistics of each breast and of their
difference, for a logistic regression. Different: the two halves of an image stand for the breasts
(in the area "breasts", each contains one predicted breast; in "full", they are halves of the
frame), levels stand for temperatures unless these are kept, and skewness is added.
"""

import numpy as np
from jaxtyping import Float, UInt8

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def features(images: UInt8[np.ndarray, "n h w 1"]) -> Float[np.ndarray, "n k"]:
    """The 50 statistics of each image, from pixels above level 0 only.

    They are the 10 `level_statistics` of the left half of the frame, of the right half, and of
    both halves together, then the 10 differences left minus right, then their absolute values. All
    differences are 0 if a half has no pixel above 0, because nothing is known about them.
    """
    return np.stack([_features_of_image(image[..., 0]) for image in images])


def level_statistics(levels: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "10"]:
    """Mean, standard deviation, minimum, maximum, five quantiles, and skewness of levels above 0.

    The quantiles are those at 5, 25, 50, 75 and 95 %. The skewness of equal levels is 0, and so is
    every statistic if no level is above 0.
    """
    levels = levels[levels > 0]
    if not levels.size:
        return np.zeros(5 + len(QUANTILES))
    mean, deviation = levels.mean(), levels.std()
    skewness = (((levels - mean) / deviation) ** 3).mean() if deviation > 0 else 0.0
    quantiles = np.quantile(levels, QUANTILES)
    return np.array([mean, deviation, levels.min(), levels.max(), *quantiles, skewness])


def _features_of_image(image: np.ndarray) -> np.ndarray:
    middle = image.shape[1] // 2
    sides = image[:, :middle], image[:, middle:]
    left, right = (level_statistics(side) for side in sides)
    difference = left - right if all(side.any() for side in sides) else np.zeros_like(left)
    return np.concatenate([left, right, level_statistics(image), difference, np.abs(difference)])
