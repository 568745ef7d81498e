"""k-means against scikit-learn's, and what it promises about keys, batches and odd images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from tiny_training import quick_compilation

from thermo_jax.models.kmeans import kmeans

_quick = pytest.fixture(scope="module", autouse=True)(quick_compilation)

cluster = jax.jit(kmeans, static_argnames=("num_clusters", "iterations"))
CORNERS = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)
NOISE = np.random.default_rng(0).random((120, 3), np.float32)  # without clusters: takes long


def blobs(seed=0, *, per_blob=30):
    """Well separated blobs around CORNERS, in no order."""
    rng = np.random.default_rng(seed)
    points = np.repeat(CORNERS, per_blob, axis=0) + rng.normal(0, 0.5, (4 * per_blob, 3))
    return rng.permutation(points).astype(np.float32)


def inertia(pixels, assignments, centers):
    return np.square(pixels - np.asarray(centers)[assignments]).sum()


def test_separated_blobs_are_scikit_learns_partition_with_its_inertia():
    pixels = blobs()
    assignments, centers = cluster(pixels, rng=jax.random.key(0), num_clusters=4, iterations=50)
    reference = KMeans(4, n_init=10, random_state=0).fit(pixels)
    assert assignments.dtype == jnp.int32
    assert adjusted_rand_score(reference.labels_, assignments) == 1
    assert inertia(pixels, assignments, centers) == pytest.approx(reference.inertia_, rel=1e-5)


def test_values_far_from_zero_are_clustered_as_well():
    pixels = blobs() + np.float32(3000)  # distances of 1e-1 between squares of 1e7
    assignments, centers = cluster(pixels, rng=jax.random.key(0), num_clusters=4, iterations=50)
    reference = KMeans(4, n_init=10, random_state=0).fit(pixels)
    assert adjusted_rand_score(reference.labels_, assignments) == 1
    np.testing.assert_allclose(centers[assignments], reference.cluster_centers_[reference.labels_])


def test_more_clusters_end_where_centers_are_means_and_pixels_are_nearest():
    pixels = blobs()
    assignments, centers = cluster(pixels, rng=jax.random.key(1), num_clusters=7, iterations=100)
    distances = np.square(pixels[:, None] - np.asarray(centers)).sum(-1)
    np.testing.assert_array_equal(assignments, distances.argmin(-1))
    for k in range(7):
        np.testing.assert_allclose(centers[k], pixels[assignments == k].mean(0), atol=1e-5)


def test_iterations_bound_the_work():
    run = partial(cluster, NOISE, rng=jax.random.key(0), num_clusters=7)
    assert inertia(NOISE, *run(iterations=1)) > 1.01 * inertia(NOISE, *run(iterations=100))


def test_equal_keys_give_equal_clusters_and_another_key_other_ones():
    run = partial(cluster, NOISE, num_clusters=7, iterations=100)
    first, again, other = (run(rng=jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_many_images_at_once_are_the_same_as_one_by_one():
    images = np.stack([blobs(0), blobs(1), 0.01 * blobs(2)])
    keys = jax.random.split(jax.random.key(3), 3)
    settings = {"num_clusters": 4, "iterations": 50}
    together = jax.jit(jax.vmap(partial(kmeans, **settings)))(images, rng=keys)
    for image, key, assignments, centers in zip(images, keys, *together, strict=True):
        alone = cluster(image, rng=key, **settings)
        np.testing.assert_array_equal(assignments, alone[0])
        np.testing.assert_allclose(centers, alone[1], atol=1e-5)


def test_fewer_distinct_pixels_than_clusters_leave_clusters_empty():
    pixels = np.repeat(CORNERS[:2], 60, axis=0)
    assignments, centers = cluster(pixels, rng=jax.random.key(0), num_clusters=4, iterations=50)
    assert np.isfinite(centers).all()
    np.testing.assert_allclose(centers[assignments], pixels, atol=1e-6)
    assert len(set(assignments.tolist())) == 2


def test_latents_in_bfloat16_are_clustered_in_float32():
    pixels = jnp.asarray(blobs(), jnp.bfloat16)
    assignments, centers = cluster(pixels, rng=jax.random.key(0), num_clusters=4, iterations=50)
    assert centers.dtype == jnp.float32
    members = np.asarray(pixels, np.float32)[assignments == 0]
    np.testing.assert_allclose(centers[0], members.mean(0), atol=1e-5)


@pytest.mark.parametrize("num_clusters", [0, 5])
def test_a_number_of_clusters_that_pixels_cannot_fill_is_refused(num_clusters):
    with pytest.raises(ValueError, match=f"num_clusters={num_clusters}.*choose 1 to 4"):
        kmeans(jnp.asarray(CORNERS), rng=jax.random.key(0), num_clusters=num_clusters, iterations=1)


def test_no_iteration_is_refused():
    with pytest.raises(ValueError, match="iterations=0: at least 1"):
        kmeans(jnp.asarray(CORNERS), rng=jax.random.key(0), num_clusters=2, iterations=0)
