"""k-means on the device: clusters of one image's latents, without labels.

Liu et al. 2022 (CUTS, arXiv 2209.11359) segment an image by clustering its own latents. k-means++
seeding (Arthur and Vassilvitskii 2007), then Lloyd's iterations. `jax.vmap` clusters many images:
each has clusters of its own, whose numbers mean nothing to another image.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Key

from thermo_jax.errors import UserError


def kmeans(
    pixels: Float[Array, "n l"], *, rng: Key[Array, ""], num_clusters: int, iterations: int
) -> tuple[Int32[Array, " n"], Float[Array, "k l"]]:
    """Clusters the vectors of one image's pixels; computes in float32.

    Lloyd's iterations end when no pixel changes its cluster, or after `iterations`. A cluster that
    loses its last pixel keeps its center. Where there are fewer distinct vectors than clusters,
    some clusters have no pixel.

    Args:
      pixels: one vector per pixel, in any order.
      rng: of the seeding; `jax.vmap` takes one key per image.
    Returns:
      The cluster of each pixel, 0..num_clusters-1, and the clusters' centers (float32); every
      pixel is in the cluster of its nearest center, of equally near ones the first.
    Raises:
      UserError: no cluster, more clusters than pixels, or no iteration.
    """
    if not 1 <= num_clusters <= len(pixels):
        raise UserError(
            f"num_clusters={num_clusters} cannot be made of {len(pixels)} pixels: choose 1 to "
            f"{len(pixels)}"
        )
    if iterations < 1:
        raise UserError(f"iterations={iterations}: at least 1 is needed")
    pixels = pixels.astype(jnp.float32)
    origin = pixels.mean(0)
    pixels = pixels - origin  # |x|^2 - 2 x.c + |c|^2 cancels badly far from 0
    centers = _seed(pixels, rng=rng, num_clusters=num_clusters)

    def iterate(carry):
        step, _, assignments, centers = carry
        centers = _means(pixels, assignments, otherwise=centers)
        moved = _nearest(pixels, centers)
        return step + 1, (moved != assignments).any(), moved, centers

    _, _, assignments, centers = lax.while_loop(
        lambda carry: (carry[0] < iterations) & carry[1],
        iterate,
        (0, True, _nearest(pixels, centers), centers),
    )
    return assignments, centers + origin


def _seed(pixels, *, rng, num_clusters: int):
    """k-means++: pixels drawn with probabilities proportional to D^2, the first one uniformly."""
    shares = jax.random.uniform(rng, (num_clusters,))
    first = pixels[(shares[0] * len(pixels)).astype(jnp.int32)][None]

    def choose(nearest, share):
        cumulated = jnp.cumsum(nearest)
        # Where every pixel equals a center already, this is pixel 0.
        center = pixels[jnp.argmax(cumulated > share * cumulated[-1])][None]
        return jnp.minimum(nearest, _squared_distances(pixels, center)[:, 0]), center[0]

    _, others = lax.scan(choose, _squared_distances(pixels, first)[:, 0], shares[1:])
    return jnp.concatenate([first, others])


def _nearest(pixels, centers):
    return _squared_distances(pixels, centers).argmin(-1).astype(jnp.int32)


def _means(pixels, assignments, *, otherwise):
    members = jax.nn.one_hot(assignments, len(otherwise), dtype=pixels.dtype)
    counts = members.sum(0)[:, None]
    return jnp.where(counts > 0, _product(members.T, pixels) / jnp.maximum(counts, 1), otherwise)


def _squared_distances(pixels, centers):
    """[n, k]; rounding must not make them negative."""
    products = _product(pixels, centers.T)
    lengths = jnp.square(pixels).sum(-1)[:, None] + jnp.square(centers).sum(-1)
    return jnp.maximum(lengths - 2 * products, 0)


# GPU and TPU would multiply float32 in fewer bits.
_product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
