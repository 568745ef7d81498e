"""The moving average of a model's variables, which evaluation and other runs read."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_training as tiny

from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import METRICS
from thermo_jax.training.state import TrainState

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

EPOCHS = 3


def test_the_average_equals_numpys_over_three_steps():
    variables = {"params": {"w": jnp.array([1.0, 2.0])}, "batch_stats": {"mean": jnp.zeros(2)}}
    tx = optax.sgd(0.5)
    state = TrainState.create(variables, tx=tx, rng=jax.random.key(0), ema=0.15)
    w, mean = np.array([1.0, 2.0]), np.zeros(2)
    average_w, average_mean = w, mean
    for step in range(3):
        gradient, mean = np.array([1.0, -step]), np.array([step, 2.0])
        stats = {"mean": jnp.asarray(mean, jnp.float32)}
        grads = {"w": jnp.asarray(gradient, jnp.float32)}
        state = state.apply_gradients(grads, tx=tx, batch_stats=stats)
        w = w - 0.5 * gradient
        decay = min(0.15, (1 + step) / (10 + step))  # .1, .15, .15
        average_w = decay * average_w + (1 - decay) * w
        average_mean = decay * average_mean + (1 - decay) * mean
    np.testing.assert_allclose(state.variables["params"]["w"], average_w, rtol=1e-6)
    np.testing.assert_allclose(state.variables["batch_stats"]["mean"], average_mean, rtol=1e-6)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-6)


def test_an_average_that_keeps_its_start_has_a_share_of_it_in_every_step():
    variables = {"params": {"w": jnp.array([8.0])}, "batch_stats": {"mean": jnp.array([8.0])}}
    tx = optax.sgd(1.0)
    state = TrainState.create(
        variables, tx=tx, rng=jax.random.key(0), ema=0.5, average_with_init=True
    ).replace(params={"w": jnp.array([0.0])})  # the start is far from what is learnt
    for _ in range(3):
        grads = {"w": jnp.array([0.0])}
        state = state.apply_gradients(grads, tx=tx, batch_stats={"mean": jnp.array([0.0])})
    assert state.variables["params"]["w"] == 1 and state.variables["batch_stats"]["mean"] == 1


def test_evaluation_gets_the_average_as_the_only_variables():
    state = averaged_run().state()
    state = state.replace(params=jax.tree.map(lambda x: x + 1, state.params))
    evaluated = state.without_training()
    assert evaluated.variables is not state.variables
    tiny.assert_same_tree(evaluated.variables, state.averaged)
    tiny.assert_same_tree(evaluated.trained_variables, state.averaged)
    assert evaluated.averaged == {} and evaluated.opt_state == ()


def averaged_run() -> tiny.Run:
    run = tiny.make_run(tiny.line_trainer())
    state = run.trainer.state
    state = state.replace(averaged=state.trained_variables, ema=0.9)
    return run._replace(trainer=run.trainer._replace(state=state))


class Interrupted(Exception):
    """Raised by a test to stop a run."""


def test_a_run_with_an_average_continues_exactly(tmp_path):
    run, plan, whole, parts = (
        averaged_run(),
        tiny.plan(epochs=EPOCHS),
        *map(tmp_path.joinpath, ("whole", "parts")),
    )
    returned = run.fit(whole, plan)

    def stop(epoch):
        if epoch < EPOCHS:
            raise Interrupted

    for _ in range(1, EPOCHS):
        with pytest.raises(Interrupted):
            run.fit(parts, plan, on_epoch=stop)
    tiny.assert_same_tree(run.fit(parts, plan), returned)
    assert (parts / METRICS).read_bytes() == (whole / METRICS).read_bytes()
    states = []
    for folder in (whole, parts):
        with Checkpoints(folder, read_only=True) as checkpoints:
            states.append(checkpoints.restore(run.state()))
            saved = checkpoints.variables({"model": returned.variables}, step=5 * EPOCHS)
    tiny.assert_same_tree(*states)
    last = states[0]
    assert last.params["offset"] != last.averaged["params"]["offset"]
    tiny.assert_same_tree(saved["model"], jax.device_get(last.averaged))
