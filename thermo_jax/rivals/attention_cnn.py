"""A small CNN with soft, hard or self attention, or without (SPEC section 12).

After Alshehri 2022: the same four blocks (3x3 convolution, batch norm, ReLU, 2x2 max pooling) of
16, 32, 64 and 128 channels, and the same kinds of attention on the last grid. Different: the
features are pooled over the image before one linear layer, there is no dropout, images are those of
all models here, and the loss is that of our own classifier. The details of the attention are ours:

soft: a 1x1 convolution gives each cell a score, and the softmax over all cells its weight.
hard: the same, but only the quarter of the cells with the highest scores (at least 2) has a weight;
  the softmax over them lets the scores learn.
self: one layer of multi-head self-attention, added to the grid, before the mean over cells. A cell
  then contains features of the whole image. The evidence is exact for the network's cells, but
  does not say from which pixels a cell's features came.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thermo_jax.models.layers import BatchNorm, Convolution
from thermo_jax.rivals.pooled_classifier import PooledClassifier, uniform_weights
from thermo_jax.rivals.transformer_layers import SelfAttention

ATTENTIONS = ("none", "soft", "hard", "self")
_BLOCKS, _HEADS = 4, 4
_HARD_SHARE = 0.25  # of the cells, which hard attention reads


class AttentionCnn(PooledClassifier):
    """The CNN, see above and `PooledClassifier`.

    Attributes:
      attention: one of `ATTENTIONS`.
    """

    attention: str = "none"

    def weighted_features(
        self, images: Float[Array, "n h w l"], *, train: bool
    ) -> tuple[Float[Array, "n eh ew c"], Float[Array, "n eh ew"]]:
        """Returns the last block's output, and its weights."""
        ops, x = self.operations, images
        for block in range(_BLOCKS):
            features, number = self.width * 2**block, block + 1
            x = Convolution(features, size=3, operations=ops, name=f"conv{number}")(x)
            x = BatchNorm(slope=0.0, operations=ops, name=f"batch_norm{number}")(x, train=train)
            x = ops.max_pool(x)
        if self.attention == "self":
            tokens = x.reshape(x.shape[0], -1, x.shape[-1])
            attention = SelfAttention(_HEADS, operations=ops, name="attention")
            x += attention(tokens).reshape(x.shape)
        if self.attention in ("none", "self"):
            return x, uniform_weights(x)
        scores = Convolution(1, size=1, operations=ops, name="attention_map")(x)
        scores = scores.reshape(x.shape[0], -1).astype(jnp.promote_types(x.dtype, jnp.float32))
        weights = hard_weights(scores) if self.attention == "hard" else nn.softmax(scores)
        return x, weights.reshape(x.shape[:3])


def hard_weights(scores: Float[Array, "n p"]) -> Float[Array, "n p"]:
    """Returns the softmax over the quarter of the scores that are highest; other weights are 0."""
    count = scores.shape[-1]
    chosen = min(count, max(2, round(_HARD_SHARE * count)))
    _, indices = jax.lax.top_k(scores, chosen)
    mask = nn.one_hot(indices, count, dtype=bool).any(-2)
    return nn.softmax(scores, where=mask)
