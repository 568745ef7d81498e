"""Recognises images on which a decoder was trained, also in other folders and under other names.

The meta of a checkpoint or of a file of weights contains digests of these images ("images" in its
"trained_on", which `programs/initial_decoder.trained_on` writes). Only someone who has an image can
compute its digest, so that a shared file shows nothing about the patients.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from thermo_jax.data.streamed import Column

DIGITS = 16  # hexadecimal


def image_digests(images: Iterable[UInt8[np.ndarray, "..."]]) -> list[str]:
    """The digest of each image [H, W, C], as a model reads it, or of each label map [H, W]."""
    return [hashlib.sha256(image.tobytes()).hexdigest()[:DIGITS] for image in images]


def trained_with(meta: Mapping[str, Any], images: Column | Sequence[np.ndarray]) -> list[bool]:
    """Whether each image is known to be one of those that trained or validated a model.

    False does not show that it is a new one: models of earlier versions and imported ones have no
    digests, and the same thermogram may have been saved again with other pixels.

    Args:
      meta: of the model's checkpoint or file of weights.
      images: uint8 [N, H, W, C], as this model reads them.
    """
    runs = meta.get("trained_on") or []  # None in a list stands for a run that is not known
    known = {one for run in runs if run is not None for one in run.get("images", ())}
    if not known:  # then no image need be read
        return [False] * len(images)
    return [one in known for one in image_digests(images)]
