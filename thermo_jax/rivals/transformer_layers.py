"""Layers of transformers, for the rivals that use them.

After Vaswani et al. 2017 (multi-head attention) and Dosovitskiy et al. 2021 (Vision Transformer:
layer norm before each part, GELU). Different: query, key and value have no bias, and there is no
dropout. The memory of attention grows with the square of the number of tokens.
"""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from thermo_jax.models.operations import NATIVE, Operations

_MLP_RATIO = 4
position_init = nn.initializers.normal(0.02)


class SelfAttention(nn.Module):
    """Multi-head self-attention: each token reads all tokens.

    Attributes:
      heads: their number, which divides the channels.
      operations: only its `dtype` is used.
    """

    heads: int
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        batch, count, channels = tokens.shape
        dense = partial(
            nn.Dense, kernel_init=nn.initializers.xavier_uniform(), dtype=self.operations.dtype
        )
        heads = dense(3 * channels, use_bias=False, name="query_key_value")(tokens)
        heads = heads.reshape(batch, count, 3, self.heads, channels // self.heads)
        read = jax.nn.dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
        return dense(channels, name="out")(read.reshape(batch, count, channels))


class TransformerLayer(nn.Module):
    """Self-attention, then two linear layers for each token; both are added to their input.

    Attributes:
      heads, operations: see `SelfAttention`.
    """

    heads: int
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        channels, dtype = tokens.shape[-1], self.operations.dtype
        norm = partial(nn.LayerNorm, dtype=dtype)
        dense = partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform(), dtype=dtype)
        attention = SelfAttention(self.heads, operations=self.operations, name="attention")
        tokens += attention(norm(name="norm1")(tokens))
        hidden = nn.gelu(dense(_MLP_RATIO * channels, name="dense1")(norm(name="norm2")(tokens)))
        return tokens + dense(channels, name="dense2")(hidden)
