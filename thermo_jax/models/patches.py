"""Patch sampling for the contrastive loss: anchors, and a structurally similar positive for each.

The functions are vectorised, and run inside the jitted step (SPEC section 2, "Patch sampling").
Positions are (row, column) of a patch's centre.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from thermo_jax.errors import UserError

WINDOW = 5  # candidates lie within +-5 pixels of their anchor
NUM_CANDIDATES = 10
SSIM_THRESHOLD = 0.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
DATA_RANGE = 2.0  # images lie in [-1, 1]


def extract_patches(
    images: Float[Array, "b h w c"], centers_hw: Int[Array, "b s 2"], *, patch_size: int = 5
) -> Float[Array, "b s p p c"]:
    """Returns the patches around `centers_hw`, which must lie completely inside the image."""
    # Columns and channels become one axis. Otherwise, a TPU would read pixels one by one, and pad
    # the few channels of each to 128.
    channels = images.shape[-1]
    rows = images.reshape(*images.shape[:2], -1)
    corners = (centers_hw - patch_size // 2) * jnp.array([1, channels])
    size = (patch_size, patch_size * channels)

    def extract(image, corner):
        return jax.lax.dynamic_slice(image, corner, size)

    patches = jax.vmap(jax.vmap(extract, in_axes=(None, 0)))(rows, corners)
    return patches.reshape(*centers_hw.shape[:-1], patch_size, patch_size, channels)


def gather_latents(
    latents: Float[Array, "b h w l"], centers_hw: Int[Array, "b s 2"]
) -> Float[Array, "b s l"]:
    """Returns the latent vectors at `centers_hw`."""
    images = jnp.arange(latents.shape[0])[:, None]
    return latents[images, centers_hw[..., 0], centers_hw[..., 1]]


def patch_ssim(
    first: Float[Array, "*#batch p p c"], second: Float[Array, "*#batch p p c"]
) -> Float[Array, "*#batch"]:
    """Returns the SSIM (structural similarity) of pairs of patches, the mean over the channels.

    All pixels of a patch have the same weight; covariances are divided by n - 1. Source: Wang et
    al. 2004; K1 .01, K2 .03, data range 2 (SPEC section 2).
    """
    axes = (-3, -2)
    count = first.shape[-3] * first.shape[-2]
    mean_a, mean_b = first.mean(axes, keepdims=True), second.mean(axes, keepdims=True)
    centered_a, centered_b = first - mean_a, second - mean_b
    var_a = jnp.square(centered_a).sum(axes) / (count - 1)
    var_b = jnp.square(centered_b).sum(axes) / (count - 1)
    covariance = (centered_a * centered_b).sum(axes) / (count - 1)
    mean_a, mean_b = mean_a.squeeze(axes), mean_b.squeeze(axes)
    c1, c2 = (SSIM_K1 * DATA_RANGE) ** 2, (SSIM_K2 * DATA_RANGE) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean(-1)


def draw_positions(
    keys: Key[Array, " b"],
    *,
    height: int,
    width: int,
    num_patches: int = 16,
    patch_size: int = 5,
) -> tuple[Int[Array, "b s 2"], Int[Array, "b s n 2"]]:
    """Draws anchors, and 10 candidates for the positive of each, with one random key per image.

    Anchors are uniform over all positions whose patch lies inside the image. Candidates are uniform
    over the positions of this kind that are at most 5 rows and 5 columns away from their anchor.

    Raises:
      UserError: an image is too small for a patch and its diagonal neighbour.
    """
    if min(height, width) <= patch_size:
        raise UserError(
            f"Images of {height}x{width} pixels are too small to sample {patch_size}x{patch_size} "
            f"patches: at least {patch_size + 1} rows and columns are needed."
        )
    margin = patch_size // 2
    low = jnp.full(2, margin, jnp.int32)
    high = jnp.array([height, width], jnp.int32) - margin  # interior is [low, high)

    def draw(key):
        anchor_key, candidate_key = jax.random.split(key)
        anchors = jax.random.randint(anchor_key, (num_patches, 2), low, high, jnp.int32)
        candidates = jax.random.randint(
            candidate_key,
            (num_patches, NUM_CANDIDATES, 2),
            jnp.maximum(anchors - WINDOW, low)[:, None],
            jnp.minimum(anchors + WINDOW + 1, high)[:, None],
            jnp.int32,
        )
        return anchors, candidates

    return jax.vmap(draw)(keys)


def choose_positives(
    images: Float[Array, "b h w c"],
    anchors_hw: Int[Array, "b s 2"],
    candidates_hw: Int[Array, "b s n 2"],
    *,
    patch_size: int = 5,
) -> Int[Array, "b s 2"]:
    """Returns the positive of each anchor.

    It is the candidate with the highest SSIM if that is above 0.5. Otherwise, it is the anchor's
    diagonal neighbour in the direction of the image's centre. Of equal candidates, the first one is
    chosen. A candidate at the anchor's own position does not count.
    """
    batch, num_patches, num_candidates = candidates_hw.shape[:3]
    extract = partial(extract_patches, images, patch_size=patch_size)
    patches = extract(candidates_hw.reshape(batch, -1, 2))
    patches = patches.reshape(batch, num_patches, num_candidates, *patches.shape[2:])
    similarity = patch_ssim(extract(anchors_hw)[:, :, None], patches)
    is_anchor = (candidates_hw == anchors_hw[:, :, None]).all(-1)
    similarity = jnp.where(is_anchor, -jnp.inf, similarity)
    best = jnp.argmax(similarity, axis=2)
    positives = jnp.take_along_axis(candidates_hw, best[..., None, None], axis=2)[:, :, 0]
    size = jnp.array(images.shape[1:3], jnp.int32)
    toward_center = anchors_hw + jnp.where(2 * anchors_hw < size - 1, 1, -1).astype(jnp.int32)
    similar_enough = similarity.max(axis=2)[..., None] > SSIM_THRESHOLD
    return jnp.where(similar_enough, positives, toward_center)
