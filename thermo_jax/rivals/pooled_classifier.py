"""A classifier that pools a grid of features over the whole image, before one linear layer.

All networks of rivals end like this. So each cell of the grid has an exact part of the logit, as
each pixel has in our own classifier (`models/decoders.py`).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thermo_jax.models.decoders import Decoder
from thermo_jax.models.layers import bias_init, kernel_init


class PooledClassifier(Decoder):
    """Pixels of V views `[B,V,H,W,L]` -> (logits `[B]`, evidence `[B,H,W]`).

    A network turns the image into features of a grid of cells, and into a weight for each cell. The
    weights add up to 1. The logit is linear in the weighted mean of the features, so that the part
    of a cell is `weight * (features @ head_weight)`. The evidence spreads it evenly over the cell's
    pixels: the sum of the evidence, plus the bias, is the logit.

    Attributes:
      width: 16 gives the sizes that each network's file states; it scales the channels of all
        layers.
      operations: how layers compute.
      cell: rows and columns of a cell, pixels. Images whose size is no multiple of it are padded
        with their edges, by the same number of pixels on both sides (or one more at the end).
    """

    cell: int = 16

    def weighted_features(
        self, images: Float[Array, "n h w l"], *, train: bool
    ) -> tuple[Float[Array, "n eh ew c"], Float[Array, "n eh ew"]]:
        """Returns features and weights of the cells; the size of the images is a multiple."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b v h w l"], *, train: bool
    ) -> tuple[Float[Array, " b"], Float[Array, "b h w"]]:
        views, (height, width) = latents.shape[:2], latents.shape[2:4]
        images = pad_to_cells(latents.reshape(-1, *latents.shape[2:]), cell=self.cell)
        features, weights = self.weighted_features(images, train=train)
        # The logit is computed in float32, whatever the compute type.
        wide = jnp.promote_types(features.dtype, jnp.float32)
        channels = features.shape[-1]
        kernel = self.param("head_weight", kernel_init, (channels, 1), jnp.float32)
        bias = self.param("head_bias", bias_init(fan_in=channels), (), jnp.float32)
        parts = weights.astype(wide) * (features.astype(wide) @ kernel.astype(wide))[..., 0]
        parts = parts.reshape(*views, *parts.shape[1:]).mean(1)
        return parts.sum((1, 2)) + bias, spread(parts, height=height, width=width, cell=self.cell)


def uniform_weights(features: Float[Array, "n h w c"]) -> Float[Array, "n h w"]:
    """Returns the weights with which the weighted mean is the mean."""
    _, height, width, _ = features.shape
    return jnp.full(features.shape[:3], 1 / (height * width), jnp.float32)


def pad_to_cells(images: Float[Array, "n h w l"], *, cell: int) -> Float[Array, "n h2 w2 l"]:
    """Repeats the edges until rows and columns are multiples of `cell`."""
    rows, columns = (
        np.clip(_positions(size, cell), 0, size - 1).astype(np.int32) for size in images.shape[1:3]
    )
    return images[:, rows][:, :, columns]


def spread(
    parts: Float[Array, "n eh ew"], *, height: int, width: int, cell: int
) -> Float[Array, "n h w"]:
    """Divides the part of each cell among its pixels inside an image of height x width."""
    rows, columns = (
        (np.arange(size) - _positions(size, cell)[0]) // cell for size in (height, width)
    )
    pixels = np.outer(np.bincount(rows)[rows], np.bincount(columns)[columns])
    return parts[:, rows][:, :, columns] / pixels.astype(np.float32)


def _positions(size: int, cell: int) -> np.ndarray:
    """The positions in an image's rows (or columns) of those of the padded image."""
    missing = -size % cell
    return np.arange(-(missing // 2), size + missing - missing // 2)
