"""Predictions as the mean over an image and its mirror image.

A mirror image swaps the left and the right side, so that its predictions are mirrored back, and
the classes of the two sides are swapped.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

Outputs = Float[Array, "b h w k"] | tuple[Float[Array, " b"], Float[Array, "b h w"]]


def mirror_averaged(
    decode: Callable[[UInt8[Array, "n h w c"]], Outputs],
    images: UInt8[Array | np.ndarray, "b h w c"],
    *,
    swap: Sequence[int],
) -> Outputs:
    """Returns the mean of the outputs for images and for their mirror images, mirrored back.

    A segmenter's outputs are logits. A classifier's are logits and evidence: the sum of the mean
    evidence, plus the bias, is the mean logit.

    Args:
      decode: returns the outputs of a decoder (`models/decoders.py`) for images.
      swap: for each class, the class that it becomes in a mirror image.
    """
    count = images.shape[0]
    outputs = decode(jnp.concatenate([images, images[:, :, ::-1]]))
    return jax.tree.map(lambda both: _mean(both[:count], both[count:], swap), outputs)


def _mean(direct: Array, mirrored: Array, swap: Sequence[int]) -> Array:
    if mirrored.ndim > 1:  # a classifier's logits have no sides
        mirrored = mirrored[:, :, ::-1]
    if mirrored.ndim == 4:
        mirrored = mirrored[..., np.asarray(swap)]
    return (direct + mirrored) / 2
