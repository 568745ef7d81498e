"""Texture: co-occurrences of levels (GLCM), local binary patterns (LBP), oriented gradients (HOG).

After Abdel-Nasser 2019 and Lahane 2021: the same kinds of descriptors, for a support vector
machine. Different: scikit-image computes them at a quarter of the resolution, and pixels of level
0, which are outside of the area "breasts", do not count; the numbers of cells, distances and radii
are our choice.
"""

from types import ModuleType

import cv2
import numpy as np
import scipy.ndimage
from jaxtyping import Float, UInt8

from thermo_jax.errors import MissingPackageError

REDUCTION = 4  # 480x640 becomes 120x160
GLCM_LEVELS = 32
GLCM_DISTANCES = (1, 3)
GLCM_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
GLCM_PROPERTIES = (
    "contrast",
    "dissimilarity",
    "homogeneity",
    "energy",
    "correlation",
    "entropy",
)
LBP_RADII = (1, 2, 4)
LBP_POINTS = 8
HOG_CELL = (24, 20)  # of the 120x160 pixels: 5 x 8 cells, so 4 x 7 blocks of 2 x 2 cells


def features(images: UInt8[np.ndarray, "n h w 1"]) -> Float[np.ndarray, "n k"]:
    """GLCM, LBP and HOG of each image, which is first reduced by `block_means`.

    - 48 numbers of the GLCM: the properties above (in this order), each at both distances
      and, within a distance, at four angles;
    - 30 of the LBP: the shares of the 10 uniform patterns, for each radius;
    - those of the HOG with 9 directions: 1,008 for 480x640.

    All are 0 for an image without a pixel above 0.

    Raises:
        MissingPackageError: scikit-image is not installed.
        ValueError: a side of the images is not a multiple of 4 pixels.
    """
    library = _scikit_image()
    return np.stack([_features_of_image(image[..., 0], library) for image in images])


def block_means(
    image: UInt8[np.ndarray, "h w"], size: int
) -> Float[np.ndarray, "h_reduced w_reduced"]:
    """The mean level above 0 of each block of `size` x `size` pixels; 0 if there is none.

    Raises:
        ValueError: a side of the image is not a multiple of `size`.
    """
    height, width = image.shape
    blocks = image.reshape(height // size, size, width // size, size)
    counts = np.count_nonzero(blocks, axis=(1, 3))
    return blocks.sum(axis=(1, 3), dtype=np.float64) / np.maximum(counts, 1)


def filled(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The image, in which each pixel of level 0 has the level of the nearest pixel above 0.

    Otherwise the border of the regions would be the strongest edge. An image without a pixel above
    0 stays as it is.
    """
    if not image.any():
        return image
    nearest = scipy.ndimage.distance_transform_edt(
        image == 0, return_distances=False, return_indices=True
    )
    return image[tuple(nearest)]


def _scikit_image() -> ModuleType:
    """Returns `skimage.feature`, which is imported only here because it is an optional extra."""
    try:
        import skimage.feature
    except ImportError as error:
        raise MissingPackageError(
            "Texture features need scikit-image. Run: pip install 'thermo_jax[rivals]'"
        ) from error
    return skimage.feature


def _features_of_image(image: np.ndarray, library: ModuleType) -> np.ndarray:
    reduced = block_means(image, REDUCTION)
    hog = library.hog(
        filled(reduced), orientations=9, pixels_per_cell=HOG_CELL, cells_per_block=(2, 2)
    )
    return np.concatenate([_glcm(reduced, library), _lbp(reduced, library), hog])


def _glcm(reduced: np.ndarray, library: ModuleType) -> np.ndarray:
    """Properties of the pairs of which both pixels are above 0, in either order."""
    # Level 0 of the matrix is "left out"; levels 1 to 32 are gray levels.
    levels = np.where(reduced > 0, reduced * GLCM_LEVELS // 256 + 1, 0).astype(np.uint8)
    pairs = library.graycomatrix(
        levels, GLCM_DISTANCES, GLCM_ANGLES, levels=GLCM_LEVELS + 1, symmetric=True
    )[1:, 1:]
    properties = np.stack([library.graycoprops(pairs, name) for name in GLCM_PROPERTIES])
    # Without pairs, the correlation would be 1.
    return np.where(pairs.any(axis=(0, 1)), properties, 0.0).ravel()


def _lbp(reduced: np.ndarray, library: ModuleType) -> np.ndarray:
    """Shares of the patterns at pixels whose neighbours are all above 0 and inside the frame."""
    # Whole levels: scikit-image warns that rounding errors would change patterns.
    levels = np.rint(reduced).astype(np.uint8)
    kept = (levels > 0).astype(np.uint8)
    shares = []
    for radius in LBP_RADII:
        square = np.ones((2 * radius + 1, 2 * radius + 1), dtype=np.uint8)
        inside = cv2.erode(kept, square, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        patterns = library.local_binary_pattern(levels, LBP_POINTS, radius, method="uniform")
        counts = np.bincount(patterns[inside].astype(np.int64), minlength=LBP_POINTS + 2)
        shares.append(counts / max(counts.sum(), 1))
    return np.concatenate(shares)
