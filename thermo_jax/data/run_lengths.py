"""Run lengths of a mask, the form in which COCO files contain masks.

The pixels are counted column by column: the runs are the numbers of pixels outside, inside, outside
and so on. A file contains them as a list, or as a string in the "compressed" form of pycocotools.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

_MAX_CHARACTERS = 2**21  # a mask of 480x640 pixels has at most 1 MB, whatever it shows
_MAX_DIGITS = 7  # of 5 bits; more are never needed


def runs_of(mask: Bool[np.ndarray, "h w"]) -> tuple[int, ...]:
    """Returns the run lengths of a mask; the first is 0 if the first pixel is inside."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    before = [0, 0] if pixels[0] else [0]
    return tuple(np.diff([*before, *changes.tolist(), pixels.size]).tolist())


def mask_of(runs: Sequence[int], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Returns the mask with these run lengths, whose sum must be the number of pixels."""
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(shape[::-1]).T


def read_counts(counts: object, shape: tuple[int, int]) -> tuple[int, ...]:
    """Returns the run lengths in the "counts" of a COCO mask, a list or a compressed string.

    Raises:
      ValueError: they are not those of a mask of this shape.
    """
    size = shape[0] * shape[1]
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not set(map(type, runs)) <= {int}:
        raise ValueError("run lengths are neither a list of whole numbers nor a string")
    if len(runs) > size + 1 or min(runs, default=0) < 0 or sum(runs) != size:
        raise ValueError(f"run lengths whose sum is not {shape[0]} x {shape[1]} pixels")
    return tuple(runs)


def _decompress(text: str) -> list[int]:
    """Decodes digits of 5 bits, lowest first, as ASCII characters from "0" on.

    A sixth bit says that more digits of the number follow. The top bit of the last digit is the
    sign. From the fourth number on, each is a difference to the number two places before.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"run lengths of {len(text)} characters; at most {_MAX_CHARACTERS}")
    digits = np.frombuffer(text.encode("ascii", errors="replace"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.append(0, ends + 1)[:-1]
    lengths = ends - starts + 1
    is_whole = len(ends) and ends[-1] == len(digits) - 1
    if not is_whole or not ((digits >= 0) & (digits < 64)).all() or lengths.max() > _MAX_DIGITS:
        raise ValueError("run lengths that are not in COCO's compressed form")
    places = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((digits & 31) << places, starts)
    numbers -= (digits[ends] >> 4 & 1) << 5 * lengths
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers.tolist()
