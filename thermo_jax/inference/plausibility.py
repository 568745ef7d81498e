"""Does a thermogram show two breasts from the front? (SPEC section 11, "Is it a breast?")

Models answer for any picture, also for a mug. So every picture is checked with the segmenter that
comes with thermo_jax, whatever models the user named:

    gray levels -> regions of the picture, and of the picture moved to the left and to the right
    places:    two breasts of plausible areas, side by side, below neck and armpits
    stability: the regions move with the picture

Stability is the share of region pixels whose class stays the same. On a body, regions follow what
is seen. Elsewhere they follow the frame of the picture, where training showed them. The bound is
the middle between the least stable of 60 synthetic bodies (.948) and the most stable of 312
generated pictures of other things, such as rooms, faces and hands (.871). 72 real frontal
thermograms (DMR-IR), which were seen before the bound was set, have .923 to .975, and at most .904
if they are turned upside down.

How well an encoder reconstructs a picture (SPEC section 11) is not used: one that was trained on
synthetic bodies reconstructed most real thermograms worse than any synthetic body, and 36 % of the
other pictures better than the worst 5 % of the real thermograms.

A man's chest may pass. A picture of one breast, or of little more than the breasts, may be marked:
of the 72 enlarged by 1.2 around three places, 18, 15 and 17 were (of smaller ones 6, turned by 8
degrees 3, with noise 1, blurred 0).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8

from thermo_jax.data import grids
from thermo_jax.data.examples import block_mean
from thermo_jax.data.picture import Picture
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.evaluation.canvas import lightness
from thermo_jax.inference.trained_models import Model

LEAST_STABLE = 0.91
MOVED = 6  # pixels of the model's images, which have 80 columns
UNSTABLE = "regions do not follow what is seen"
# Bounds of places; in brackets, what the same segmenter found on the 72 real thermograms.
SMALLEST, LARGEST = 0.01, 0.4  # share of the picture that a breast covers [.037 to .239]
AREA_RATIO = 3.0  # of the larger to the smaller breast [at most 1.42]
LEAST_APART = 0.1  # distance of the breasts' centres as a share of the width [.22 to .43]
LEAST_LEVEL = 0.15  # how much higher one centre may be, as a share of the height [at most .07]


def implausible_places(label_map: Integer[np.ndarray, "h w"]) -> list[str]:
    """Why regions cannot be those of two breasts seen from the front; [] if they can."""
    left, right = (_place(label_map, f"{side}_breast") for side in ("left", "right"))
    found = [place for place in (left, right) if place is not None]
    if len(found) < 2:
        return ["only one breast was found" if found else "no breasts were found"]
    reasons = []
    areas = sorted(area for area, _, _ in found)
    if areas[1] > LARGEST:
        reasons.append(f"a breast covers {100 * areas[1]:.0f} % of the picture")
    if areas[1] > AREA_RATIO * areas[0]:
        reasons.append(f"one breast is {areas[1] / areas[0]:.1f} times as large as the other")
    if right[2] - left[2] < LEAST_APART or abs(left[1] - right[1]) > LEAST_LEVEL:
        reasons.append("the breasts are not side by side")
    for name, below in (
        ("neck", min(left[1], right[1])),
        ("left_armpit", left[1]),
        ("right_armpit", right[1]),
    ):
        above = _place(label_map, name)
        if above is not None and above[1] > below:
            reasons.append(f"{name.split('_')[-1]} below a breast")
    return list(dict.fromkeys(reasons))


def _place(label_map: np.ndarray, name: str) -> tuple[float, float, float] | None:
    """(area, row, column of the centre) of a region as shares of the picture; None if too small."""
    inside = label_map == CLASS_NAMES.index(name)
    area = float(inside.mean())
    if area < SMALLEST:
        return None
    row, column = ((positions.mean() + 0.5) for positions in np.nonzero(inside))
    return area, float(row) / label_map.shape[0], float(column) / label_map.shape[1]


class PlausibilityCheck:
    """Checks pictures with a segmenter of gray images."""

    def __init__(self, model: Model):
        self.model = model

    def __call__(self, pictures: Sequence[Picture], *, size: int) -> list[list[str]]:
        """The reasons why each picture may not show two breasts; [] if none was found.

        Args:
          size: of the batch, at least the number of pictures, so that all batches of a run share
            one compiled program.
        """
        images = np.zeros((size, *self.model.image_shape), np.uint8)
        for row, picture in enumerate(pictures):
            images[row] = block_mean(_gray(picture), factor=self.model.downscale)
        label_maps = self._segment(np.concatenate([images, _moved(images, -1), _moved(images, 1)]))
        of_image, *of_moved = label_maps.reshape(3, size, *label_maps.shape[1:])
        stable = np.mean(
            [
                _agreement(_seen_in_both(of_image, -side), _seen_in_both(maps, side))
                for maps, side in zip(of_moved, (-1, 1), strict=True)
            ],
            axis=0,
        )
        return [
            # Where no breasts were found, there is nothing whose stability would say more.
            implausible_places(of_image[row]) or [UNSTABLE] * bool(stable[row] < LEAST_STABLE)
            for row in range(len(pictures))
        ]

    def _segment(self, images: UInt8[np.ndarray, "b h w 1"]) -> Integer[np.ndarray, "b h w"]:
        return self.model.label_maps(images, shape=images.shape[1:3])


def _gray(picture: Picture) -> UInt8[np.ndarray, "mh mw 1"]:
    """The gray image for models; of colours of no known palette, how warm they look."""
    if picture.temperatures is None and picture.levels is None:
        levels = lightness(picture.colour)
        return grids.to_model(levels, grids.grid_of(*levels.shape))[..., np.newaxis]
    return picture.model_image("gray")


def _moved(images: UInt8[np.ndarray, "b h w 1"], side: int) -> UInt8[np.ndarray, "b h w 1"]:
    """The images moved by MOVED columns to the left (side -1) or right (1), with repeated edges."""
    padded = np.pad(images, ((0, 0), (0, 0), (MOVED, MOVED), (0, 0)), mode="edge")
    start = MOVED - side * MOVED
    return padded[:, :, start : start + images.shape[2]]


def _seen_in_both(maps: np.ndarray, side: int) -> np.ndarray:
    """The columns of an image that was moved to this side which the image before also shows.

    With the opposite side, those of the image before which the moved image also shows.
    """
    return maps[:, :, MOVED:] if side > 0 else maps[:, :, :-MOVED]


def _agreement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The share, by image, of the pixels in a region of either map that have the same class."""
    in_either = (ours != BACKGROUND) | (theirs != BACKGROUND)
    same = (ours == theirs) & in_either
    return same.sum((1, 2)) / np.maximum(in_either.sum((1, 2)), 1)
