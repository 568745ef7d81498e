"""Predictions as the mean over an image and its mirror image.

A mirror image swaps the left and the right side, so that its predictions are mirrored back, and
the classes of the two sides are swapped.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

# Class k of an image is class MIRRORED_CLASSES[k] of its mirror image: breasts, nipples and armpits
# swap their sides, background and neck have none (SPEC section 2).
MIRRORED_CLASSES = (1, 0, 3, 2, 5, 4, 6, 7)
Outputs = Float[Array, "b h w k"] | tuple[Float[Array, " b"], Float[Array, "b h w"]]


def mirror_averaged(
    decode: Callable[[UInt8[Array, "n h w c"]], Outputs], images: UInt8[Array, "b h w c"]
) -> Outputs:
    """Returns the mean of the outputs for images and for their mirror images, mirrored back.

    A segmenter's outputs are logits. A classifier's are logits and evidence: the sum of the mean
    evidence, plus the bias, is the mean logit.

    Args:
      decode: returns the outputs of a decoder (`models/decoders.py`) for images.
    """
    count = images.shape[0]
    outputs = decode(jnp.concatenate([images, images[:, :, ::-1]]))
    return jax.tree.map(lambda both: _mean(both[:count], both[count:]), outputs)


def _mean(direct: Array, mirrored: Array) -> Array:
    if mirrored.ndim > 1:  # a classifier's logits have no sides
        mirrored = mirrored[:, :, ::-1]
    if mirrored.ndim == 4:
        mirrored = mirrored[..., jnp.array(MIRRORED_CLASSES)]
    return (direct + mirrored) / 2
