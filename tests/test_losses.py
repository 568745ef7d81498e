"""The losses equal loops in NumPy, and are averaged over the right axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermo_jax.models import losses

CONTRASTIVE = {
    name: jax.jit(loss, static_argnames="temperature")
    for name, loss in losses.CONTRASTIVE_LOSSES.items()
}
segmentation_loss = jax.jit(losses.segmentation_loss)


def latents(images=3, patches=5, size=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, images, patches, size))


def similarities(anchors, positives, temperature):
    rows = [a / np.linalg.norm(a) for a in anchors]
    columns = [q / np.linalg.norm(q) for q in positives]
    return np.array([[a @ q / temperature for q in columns] for a in rows])


def paper_loss(anchors, positives, temperature):
    similarity = np.exp(similarities(anchors, positives, temperature))
    same = np.trace(similarity)
    return -np.log(same / (similarity.sum() - same + 1e-7) + 1e-7)


def nt_xent(anchors, positives, temperature):
    similarity = np.exp(similarities(anchors, positives, temperature))
    return np.mean([-np.log(row[i] / row.sum()) for i, row in enumerate(similarity)])


@pytest.mark.parametrize("temperature", [0.5, 0.1])
@pytest.mark.parametrize(("name", "definition"), [("paper", paper_loss), ("nt_xent", nt_xent)])
def test_a_contrastive_loss_equals_its_definition_in_float64(name, definition, temperature):
    anchors, positives = latents()
    expected = [definition(a, q, temperature) for a, q in zip(anchors, positives, strict=True)]
    with jax.enable_x64(True):
        actual = CONTRASTIVE[name](
            jnp.asarray(anchors), jnp.asarray(positives), temperature=temperature
        )
        assert actual.dtype == jnp.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_the_default_temperature_is_one_half():
    anchors, positives = jnp.asarray(latents(), jnp.float32)
    for loss in CONTRASTIVE.values():
        explicit = loss(anchors, positives, temperature=0.5)
        np.testing.assert_array_equal(loss(anchors, positives), explicit)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_negatives_come_from_the_same_image_only(name):
    loss = CONTRASTIVE[name]
    anchors, positives = jnp.asarray(latents(images=1), jnp.float32)
    alone = loss(anchors, positives)
    others_a, others_q = jnp.asarray(latents(images=2, seed=1), jnp.float32)
    batch = [jnp.concatenate(pair) for pair in ((anchors, others_a), (positives, others_q))]
    np.testing.assert_allclose(loss(*batch)[0], alone[0], rtol=1e-6)
    twice = [jnp.concatenate([x, x]) for x in (anchors, positives)]
    np.testing.assert_allclose(loss(*twice), [alone[0]] * 2, rtol=1e-6)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_length_of_a_latent_vector_does_not_matter(name):
    loss = CONTRASTIVE[name]
    anchors, positives = jnp.asarray(latents(), jnp.float32)
    np.testing.assert_allclose(
        loss(100 * anchors, positives / 30), loss(anchors, positives), rtol=1e-5
    )


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_zero_latents_give_a_finite_loss_and_gradient(name):
    zeros = jnp.zeros((2, 4, 6))
    value_and_grad = jax.value_and_grad(lambda x: CONTRASTIVE[name](x, zeros).mean())
    value, gradient = jax.jit(value_and_grad)(zeros)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_bfloat16_latents_give_a_bfloat16_loss_near_the_float32_one(name):
    loss = CONTRASTIVE[name]
    anchors, positives = jnp.asarray(latents(), jnp.bfloat16)
    half = loss(anchors, positives)
    assert half.dtype == jnp.bfloat16
    full = loss(anchors.astype(jnp.float32), positives.astype(jnp.float32))
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=0.03)


def test_the_reconstruction_loss_is_the_mean_square_of_each_image():
    patches, reconstructed = np.random.default_rng(0).random((2, 3, 4, 5, 5, 2), np.float32)
    expected = [np.mean((a - b) ** 2) for a, b in zip(patches, reconstructed, strict=True)]
    actual = losses.reconstruction_loss(jnp.asarray(patches), jnp.asarray(reconstructed))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_classification_loss_is_binary_cross_entropy_of_each_image():
    logits = np.array([-3.0, 0.0, 0.7, 2.0], np.float32)
    labels = np.array([0.0, 1.0, 0.0, 1.0], np.float32)
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(labels == 1, probability, 1 - probability))
    actual = losses.classification_loss(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_the_classification_loss_stays_finite_at_extreme_logits():
    actual = losses.classification_loss(jnp.array([200.0, -200.0]), jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(actual, [200, 200])


def segmentation_inputs(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((2, 3, 4, 8)).astype(np.float32)
    return logits, rng.dirichlet(np.ones(8), (2, 3, 4)).astype(np.float32)


def test_the_segmentation_loss_is_the_weighted_cross_entropy_of_each_image():
    logits, labels = segmentation_inputs()
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    weights = [1, 1, 2, 2, 1, 1, 1, 1]
    expected = (-(log_softmax * labels * weights).sum(-1)).reshape(2, -1).mean(1)
    actual = segmentation_loss(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [([0, 0, 6, 7], 1.0), ([2, 2, 3, 3], 2.0), ([0, 2, 1, 3], 1.5)],
)
def test_class_weights_count_nipples_twice_and_are_averaged_over_pixels(classes, expected):
    labels = jax.nn.one_hot(jnp.array(classes), 8)[None, None]
    loss = segmentation_loss(jnp.zeros((1, 1, 4, 8)), labels)  # log 8 per pixel
    np.testing.assert_allclose(loss, [expected * np.log(8)], rtol=1e-6)


def test_an_all_zero_soft_label_adds_nothing_but_counts_as_a_pixel():
    labels = jax.nn.one_hot(jnp.array([0, 1, 1, 0]), 8).at[2:].set(0)[None, None]
    value_and_grad = jax.value_and_grad(lambda x: segmentation_loss(x, labels).mean())
    value, gradient = jax.jit(value_and_grad)(jnp.zeros((1, 1, 4, 8)))
    np.testing.assert_allclose(value, np.log(8) / 2, rtol=1e-6)
    np.testing.assert_array_equal(gradient[0, 0, 2:], 0)


def test_the_segmentation_loss_of_an_image_does_not_depend_on_the_batch():
    logits, labels = (jnp.asarray(array) for array in segmentation_inputs())
    together = segmentation_loss(logits, labels)
    alone = segmentation_loss(logits[1:], labels[1:])
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-6)


def test_the_segmentation_loss_keeps_float64():
    with jax.enable_x64(True):
        logits, labels = (jnp.asarray(x, jnp.float64) for x in segmentation_inputs())
        assert segmentation_loss(logits, labels).dtype == jnp.float64


def soft_dice(logits, targets):
    """The definition, for one image, in loops."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    coefficients = []
    for k in range(logits.shape[-1]):
        if targets[..., k].sum() > 0:
            shared = (p[..., k] * targets[..., k]).sum()
            coefficients.append(
                2 * shared / ((p[..., k] ** 2).sum() + (targets[..., k] ** 2).sum())
            )
    return 1 - np.mean(coefficients)


def test_soft_dice_equals_a_loop_over_the_classes_that_are_present():
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((2, 4, 5, 8))
    targets = rng.dirichlet(np.ones(8), (2, 4, 5))
    targets[0, ..., 2] = targets[1, ..., :5] = 0
    got = losses.soft_dice_loss(jnp.asarray(logits), jnp.asarray(targets))
    expected = [soft_dice(*image) for image in zip(logits, targets, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_soft_dice_is_0_for_equal_soft_targets_and_without_any_class():
    targets = np.random.default_rng(4).dirichlet(np.ones(3), (1, 4, 5)).astype(np.float32)
    assert abs(losses.soft_dice_loss(jnp.log(targets), jnp.asarray(targets))[0]) < 1e-6
    nothing = jnp.zeros_like(jnp.asarray(targets))
    gradient = jax.grad(lambda x: losses.soft_dice_loss(x, nothing).sum())(jnp.log(targets))
    assert losses.soft_dice_loss(jnp.log(targets), nothing)[0] == 0 and not gradient.any()
