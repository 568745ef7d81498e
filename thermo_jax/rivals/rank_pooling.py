"""Rank pooling: the direction in which the frames of a recording change with time.

After Abdel-Nasser 2019: a linear support vector regression is fitted to one recording, from the
running mean of a descriptor of its frames to the number of the frame, and its weights are the
recording's feature. Different: the descriptor is a coarse grid of mean levels with a histogram of
each half of the frame, where the paper compares several texture descriptors.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from sklearn.svm import LinearSVR

from thermo_jax.errors import UserError
from thermo_jax.rivals.texture import block_means

MIN_FRAMES = 5
CELL = 80  # pixels: 480x640 has 6 x 8 cells
BINS = 32


def features(frames: Sequence[UInt8[np.ndarray, "_t h w 1"]]) -> Float[np.ndarray, "n k"]:
    """One vector for each recording, of length 1, with one weight for each number of a frame.

    The numbers of a frame are the mean level of each cell of 80 x 80 pixels, row by row, then for
    the left and the right half of the frame the mean, the standard deviation and the shares of a
    histogram with 32 bins: 116 for 480x640. Pixels of level 0 are left out; a number is 0 where
    there are no others. The vector of a recording that does not change is 0.

    Args:
        frames: recordings, each with its frames in the order of time. Their numbers of frames may
            differ.

    Raises:
        UserError: a recording has fewer than 5 frames.
        ValueError: a side of the frames is not a multiple of 80 pixels.
    """
    for number, recording in enumerate(frames):
        if len(recording) < MIN_FRAMES:
            raise UserError(
                f"Recording {number} (counted from 0) has {len(recording)} frames, but rank "
                f"pooling needs at least {MIN_FRAMES}: leave this recording out"
            )
    return np.stack([_weights(recording) for recording in frames])


def _weights(recording: np.ndarray) -> np.ndarray:
    descriptors = np.stack([_descriptor(frame[..., 0]) for frame in recording])
    numbers = np.arange(1.0, len(recording) + 1)
    means = np.cumsum(descriptors, axis=0) / numbers[:, None]
    # Both are centred, so that no intercept is needed: scikit-learn would shrink it. The primal
    # problem is solved without random numbers.
    regression = LinearSVR(
        C=1.0,
        epsilon=0.1,
        loss="squared_epsilon_insensitive",
        dual=False,
        fit_intercept=False,
        max_iter=10_000,
    )
    regression.fit(means - means.mean(axis=0), numbers - numbers.mean())
    weights = np.ravel(regression.coef_).astype(np.float64)
    return weights / max(np.linalg.norm(weights), 1e-12)


def _descriptor(frame: np.ndarray) -> np.ndarray:
    """Mean levels of the cells, and statistics of both halves, all from 0 to 1."""
    parts = [block_means(frame, CELL).ravel() / 255]
    middle = frame.shape[1] // 2
    for side in (frame[:, :middle], frame[:, middle:]):
        levels = side[side > 0]
        counts = np.bincount(levels // (256 // BINS), minlength=BINS)
        some = levels if levels.size else np.zeros(1)
        parts.append(np.array([some.mean(), some.std()]) / 255)
        parts.append(counts / max(levels.size, 1))
    return np.concatenate(parts)
