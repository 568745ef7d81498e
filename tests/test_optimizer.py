"""The optimiser and its learning rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_training as tiny

from thermo_jax.configs import encoder, segment
from thermo_jax.programs import settings
from thermo_jax.training.optimizer import learning_rates, make_optimizer

PARAMS = {"w": jnp.array([1.0, -2.0])}
GRADS = {"w": jnp.array([0.3, 0.1])}


def test_a_warm_up_is_linear_and_a_cosine_ends_near_zero():
    rates = learning_rates(3e-3, warmup=0.2, schedule="cosine", num_steps=20)
    warm = [3e-3 * (step + 1) / 5 for step in range(4)]
    falling = [3e-3 * (1 + np.cos(np.pi * step / 16)) / 2 for step in range(16)]
    np.testing.assert_allclose([rates(step) for step in range(20)], warm + falling, rtol=1e-5)


def test_without_a_warm_up_the_cosine_begins_at_the_highest_rate():
    rates = learning_rates(1.0, warmup=0.0, schedule="cosine", num_steps=10)
    np.testing.assert_allclose([rates(0), rates(5)], [1.0, 0.5], rtol=1e-6)


def test_a_constant_rate_after_a_warm_up():
    rates = learning_rates(1.0, warmup=0.5, schedule="constant", num_steps=4)
    np.testing.assert_allclose([rates(step) for step in range(4)], [1 / 3, 2 / 3, 1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("module", "published"),
    [(encoder, optax.adamw(1e-3, weight_decay=1e-4)), (segment, optax.adam(5e-3))],
)
def test_the_published_settings_give_the_published_optimiser(module, published):
    tx = settings.optimizer(module.get_config(), num_images=40)
    assert tx is settings.optimizer(module.get_config(), num_images=30)
    state, expected = tx.init(PARAMS), published.init(PARAMS)
    tiny.assert_same_tree(state, expected)
    tiny.assert_same_tree(
        tx.update(GRADS, state, PARAMS), published.update(GRADS, expected, PARAMS)
    )


@pytest.mark.parametrize(
    ("module", "expected"),
    [(encoder, optax.adamw(1.0, weight_decay=0.0)), (segment, optax.adam(1.0))],
)
def test_checkpoints_without_weight_decay_keep_their_form(module, expected):
    config = module.get_config()
    config.train.weight_decay = 0.0
    state = settings.optimizer(config, num_images=40).init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(expected.init(PARAMS))


def test_weight_decay_makes_adamw():
    tx = make_optimizer(0.1, weight_decay=0.5)
    plain = make_optimizer(0.1)
    (decayed, _), (updates, _) = (t.update(GRADS, t.init(PARAMS), PARAMS) for t in (tx, plain))
    np.testing.assert_allclose(decayed["w"] - updates["w"], -0.1 * 0.5 * PARAMS["w"], rtol=1e-5)


@pytest.mark.parametrize(("images", "epochs"), [(18, 61), (100, 44)])  # 5 and 7 steps an epoch
def test_a_number_of_steps_is_rounded_up_to_whole_epochs(images, epochs):
    config = segment.get_config()
    config.train.steps = 302
    assert settings.training_plan(config, num_images=images).epochs == epochs


def test_the_schedule_ends_with_the_last_epoch():
    config = segment.get_config("small")
    config.train.update({"steps": 8, "warmup": 0.0, "learning_rate": 1.0, "weight_decay": 0.0})
    tx = settings.optimizer(config, num_images=18)  # 2 epochs of 5 steps
    state, sizes = tx.init(PARAMS), []
    for _ in range(10):
        updates, state = tx.update(jax.tree.map(jnp.sign, GRADS), state, PARAMS)
        sizes.append(-float(updates["w"][0]))  # Adam's update for equal gradients is the rate
    expected = [(1 + np.cos(np.pi * step / 10)) / 2 for step in range(10)]
    np.testing.assert_allclose(sizes, expected, rtol=1e-4)
