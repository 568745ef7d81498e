"""The training state, and random keys that depend on the example but not on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thermo_jax.training.state import TrainState, example_keys, initialise

TX = optax.sgd(0.5, momentum=0.9)


def make_state(**options) -> TrainState:
    variables = {"params": {"w": jnp.array([1.0, 2.0])}, "batch_stats": {"mean": jnp.zeros(2)}}
    return TrainState.create(variables, tx=TX, rng=jax.random.key(3), **options)


def draws(rng, *numbers, examples) -> np.ndarray:
    keys = example_keys(rng, *numbers, examples=jnp.asarray(examples, jnp.int32))
    return np.asarray(jax.vmap(jax.random.bits)(keys))


def test_a_new_state_is_at_step_0_with_nothing_frozen():
    state = make_state()
    assert int(state.step) == 0 and state.frozen == {}
    assert state.variables == {"params": state.params, "batch_stats": state.batch_stats}
    np.testing.assert_array_equal(state.opt_state[0].trace["w"], [0, 0])


def test_an_update_moves_parameters_against_the_gradient_and_keeps_the_rest():
    frozen = {"params": {"kernel": jnp.ones(3)}}
    state = make_state(frozen=frozen)
    stats = {"mean": jnp.ones(2)}
    new = state.apply_gradients({"w": jnp.array([2.0, -2.0])}, tx=TX, batch_stats=stats)
    np.testing.assert_array_equal(new.params["w"], [0.0, 3.0])
    assert int(new.step) == 1 and new.batch_stats is stats
    assert new.frozen is state.frozen and new.rng is state.rng
    np.testing.assert_array_equal(new.opt_state[0].trace["w"], [2.0, -2.0])


def test_the_optimizer_has_no_entries_for_what_is_frozen():
    frozen = {"params": {"kernel": jnp.ones((7, 7))}}
    shapes = [leaf.shape for leaf in jax.tree.leaves(make_state(frozen=frozen).opt_state)]
    assert (7, 7) not in shapes


def test_keys_depend_on_the_examples_number_not_on_its_place_in_the_batch():
    rng = make_state().rng
    whole = draws(rng, 5, examples=range(8))
    parts = [draws(rng, 5, examples=part) for part in (range(4), range(4, 8))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(draws(rng, 5, examples=[6, 1]), whole[[6, 1]])


def test_keys_differ_between_examples_steps_and_seeds():
    rng = make_state().rng
    other = jax.random.key_data(jax.random.key(4))
    all_draws = [draws(r, step, examples=range(8)) for r in (rng, other) for step in (0, 1)]
    assert len(np.unique(np.concatenate(all_draws))) == 32


def test_keys_are_the_same_for_a_step_number_on_the_device():
    rng = make_state().rng
    on_device = draws(rng, jnp.int32(7), examples=range(4))
    np.testing.assert_array_equal(on_device, draws(rng, 7, examples=range(4)))


def test_a_state_is_initialised_on_the_cpu_beside_an_accelerator(monkeypatch):
    *_, accelerator = jax.devices()  # not the first device, where the state is made
    frozen = jax.device_put({"w": jnp.ones(2)}, accelerator)

    def create(rng, frozen):
        return {"drawn": jax.random.normal(rng, (3,)), "frozen": frozen}

    expected = create(jax.random.key(1), frozen)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_device(accelerator):
        made = initialise(create, rng=jax.random.key(1), frozen=frozen)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(made))
    jax.tree.map(np.testing.assert_array_equal, made, jax.device_get(expected))


@pytest.mark.parametrize("reason", ["no CPU", "several processes"])
def test_a_state_is_initialised_on_the_accelerator_where_it_must_be(monkeypatch, reason):
    def local_devices(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    if reason == "no CPU":
        monkeypatch.setattr(jax, "local_devices", local_devices)
    else:
        monkeypatch.setattr(jax, "process_count", lambda: 2)
    *_, accelerator = jax.devices()
    with jax.default_device(accelerator):
        made = initialise(lambda rng: jax.random.normal(rng, (3,)), rng=jax.random.key(1))
    assert made.devices() == {accelerator}
