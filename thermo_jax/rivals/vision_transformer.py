"""A small Vision Transformer, trained from scratch (SPEC section 12).

After Mahoro 2024: the same kind of network on whole thermograms (or on segmented breasts, if the
images show nothing else). Different: it is small (patches of 10x10 pixels, 192 channels, 6 layers,
3 heads, as ViT-Tiny with half of its layers) and starts from random weights, not from pretrained
ones. A mean over the patches replaces the class token, and there is no dropout.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from thermo_jax.rivals.pooled_classifier import PooledClassifier, uniform_weights
from thermo_jax.rivals.transformer_layers import TransformerLayer, position_init

_LAYERS, _HEADS = 6, 3
_CHANNELS = 12  # for a width of 1


class VisionTransformer(PooledClassifier):
    """The transformer, see above and `PooledClassifier`; it has `12 * width` channels.

    A cell is a patch. It contains features of the whole image, so that the evidence is exact for
    the network's patches, but does not say from which pixels the features came. The learned
    positions belong to the image size for which the parameters were made.
    """

    cell: int = 10

    def weighted_features(
        self, images: Float[Array, "n h w l"], *, train: bool
    ) -> tuple[Float[Array, "n eh ew c"], Float[Array, "n eh ew"]]:
        """Returns the patches' features; all of them have the same weight."""
        # A constant, because training expects batch statistics, and this network has none.
        self.variable("batch_stats", "none", jnp.zeros, ())
        dtype, channels = self.operations.dtype, _CHANNELS * self.width
        patches = cut_patches(images, size=self.cell)
        x = nn.Dense(channels, dtype=dtype, name="patches")(patches)
        positions = self.param("positions", position_init, x.shape[1:], jnp.float32)
        x += positions.astype(x.dtype)
        tokens = x.reshape(x.shape[0], -1, channels)
        for layer in range(_LAYERS):
            tokens = TransformerLayer(_HEADS, self.operations, name=f"layer{layer + 1}")(tokens)
        x = nn.LayerNorm(dtype=dtype, name="norm")(tokens).reshape(x.shape)
        return x, uniform_weights(x)


def cut_patches(images: Float[Array, "n h w l"], *, size: int) -> Float[Array, "n eh ew p"]:
    """Returns the pixels of each patch of size x size."""
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // size, size, width // size, size, channels)
    blocks = blocks.swapaxes(2, 3)
    return blocks.reshape(count, height // size, width // size, size**2 * channels)
