"""The losses of the encoder and of both decoders (SPEC section 2).

Each loss returns one value per example. Training uses their mean. Evaluation uses a mask, which
removes padding, so that all examples have equal weights.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

EPSILON = 1e-7
SEGMENTATION_CLASS_WEIGHTS = (1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0)  # nipples count twice


def _similarities(anchors: Array, positives: Array, *, temperature: float) -> Array:
    def normalize(x):
        norm = jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))
        return x / norm

    highest = jax.lax.Precision.HIGHEST
    pairs = jnp.einsum("bil,bjl->bij", normalize(anchors), normalize(positives), precision=highest)
    return pairs / temperature


def patch_contrastive_loss(
    anchors: Float[Array, "b s l"], positives: Float[Array, "b s l"], *, temperature: float = 0.5
) -> Float[Array, " b"]:
    """Returns the paper's loss of each image. Negatives come from the same image only.

    `-log(sum_i exp(sim_ii) / (sum_{i!=j} exp(sim_ij) + 1e-7) + 1e-7)`.
    """
    similarity = jnp.exp(_similarities(anchors, positives, temperature=temperature))
    same = jnp.eye(similarity.shape[-1], dtype=bool)
    positive = jnp.where(same, similarity, 0).sum((1, 2))
    negative = jnp.where(same, 0, similarity).sum((1, 2))
    return -jnp.log(positive / (negative + EPSILON) + EPSILON)


def nt_xent_loss(
    anchors: Float[Array, "b s l"], positives: Float[Array, "b s l"], *, temperature: float = 0.5
) -> Float[Array, " b"]:
    """Returns NT-Xent (Chen et al. 2020), a mean of cross-entropies over an image's anchors."""
    similarities = _similarities(anchors, positives, temperature=temperature)
    log_probabilities = jax.nn.log_softmax(similarities, axis=-1)
    return -jnp.diagonal(log_probabilities, axis1=1, axis2=2).mean(-1)


CONTRASTIVE_LOSSES = {"paper": patch_contrastive_loss, "nt_xent": nt_xent_loss}


def reconstruction_loss(
    patches: Float[Array, "b s p p c"], reconstructed: Float[Array, "b s p p c"]
) -> Float[Array, " b"]:
    """Returns the mean squared error of each image's patches."""
    return jnp.square(patches - reconstructed).mean((1, 2, 3, 4))


def classification_loss(
    logits: Float[Array, " b"], labels: Float[Array, " b"]
) -> Float[Array, " b"]:
    """Returns the binary cross-entropy of each image; Sick is 1."""
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def segmentation_loss(
    logits: Float[Array, "b h w k"],
    soft_labels: Float[Array, "b h w k"],
    *,
    class_weights: tuple[float, ...] = SEGMENTATION_CLASS_WEIGHTS,
) -> Float[Array, " b"]:
    """Returns class-weighted cross-entropy with soft targets.

    The sum is divided by the number of pixels, not by the sum of the weights.
    """
    weights = jnp.asarray(class_weights, logits.dtype)
    per_pixel = -(weights * soft_labels * jax.nn.log_softmax(logits)).sum(-1)
    return per_pixel.mean((1, 2))


def soft_dice_loss(
    logits: Float[Array, "b h w k"], soft_labels: Float[Array, "b h w k"]
) -> Float[Array, " b"]:
    """Returns 1 - the mean soft Dice coefficient (V-Net: Milletari et al. 2016) of each image.

    With p the softmax of the logits and t the targets, the coefficient of class k is
    `2 sum(p_k t_k) / (sum(p_k^2) + sum(t_k^2))`, with sums over the image's pixels. The squares
    make it 1 where p equals t, also for soft targets. The mean is over the classes that are present
    in the image (sum(t_k) > 0); without any, the loss is 0.
    """
    probabilities = jax.nn.softmax(logits)
    shared = (probabilities * soft_labels).sum((1, 2))
    total = (jnp.square(probabilities) + jnp.square(soft_labels)).sum((1, 2))
    present = soft_labels.sum((1, 2)) > 0
    # `total` is above 0 where the class is present.
    losses = jnp.where(present, 1 - 2 * shared / jnp.where(present, total, 1), 0)
    return losses.sum(-1) / jnp.maximum(present.sum(-1), 1)
