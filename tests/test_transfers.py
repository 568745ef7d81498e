"""Training, evaluation and prediction make only explicit transfers between host and devices.

On the CPU, JAX's guard detects writes to a device but not reads. States and results are therefore
wrapped in `Sealed`, and only `jax.device_get` unwraps them.
"""

import contextlib

import jax
import numpy as np
import pytest
import tiny_training as tiny
from resident_runs import on_devices

from thermo_jax.training import passes, resident
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.parallel import DataParallel, gather

RARELY = 60.0  # minutes: checkpoints are written at the end


class Sealed:
    """Wraps an array, which may be passed on but not read."""

    def __init__(self, value):
        self.value, self.shape, self.dtype = value, value.shape, value.dtype

    def refuse(self, *_, **__):
        raise AssertionError("read without jax.device_get")

    __array__ = __float__ = __int__ = __bool__ = __index__ = __format__ = __iter__ = refuse
    __getitem__ = __add__ = __mul__ = __truediv__ = refuse


def seal(tree):
    return jax.tree.map(Sealed, tree)


def unseal(tree):
    return jax.tree.map(lambda x: x.value if isinstance(x, Sealed) else x, tree)


def sealing(step):
    """Return the step with sealed state and results."""
    return lambda state, batch: seal(step(unseal(state), unseal(batch)))


class SealingParallel(DataParallel):
    """Copies of sealed states are sealed."""

    def copy(self, tree):
        return seal(super().copy(unseal(tree)))


@pytest.fixture
def sealed(monkeypatch):
    """Let `jax.device_get` and `Checkpoints.save` unseal their arguments."""
    get, save = jax.device_get, Checkpoints.save

    def save_unsealed(self, state, *, encoder, **about):
        save(self, unseal(state), encoder=unseal(encoder), **about)

    monkeypatch.setattr(jax, "device_get", lambda tree: get(unseal(tree)))
    monkeypatch.setattr(Checkpoints, "save", save_unsealed)


@pytest.fixture(scope="module", params=["streamed", "resident"])
def run(request):
    """A run on the second device, to which JAX transfers nothing by default."""
    parallel = SealingParallel(jax.devices()[1:2])
    run = tiny.make_run(tiny.line_trainer())._replace(parallel=parallel)
    if request.param == "resident":
        return on_devices(run)
    wrap, trainer = parallel.wrap, run.trainer
    return run._replace(
        train_step=wrap(trainer.train_step, donate_state=True), eval_step=wrap(trainer.eval_step)
    )


def plan_of(run, **changes):
    steps = 5 if isinstance(run.train, resident.ResidentSet) else 1
    return tiny.plan(steps_per_dispatch=steps, checkpoint_minutes=RARELY, **changes)


def test_states_and_results_are_read_explicitly(run, sealed, tmp_path):
    steps = {"train_step": sealing(run.train_step), "eval_step": sealing(run.eval_step)}
    run.fit(tmp_path, plan_of(run, epochs=2), **steps)


@contextlib.contextmanager
def refused():
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        yield


def implicit():
    """Transfer an array to a device implicitly."""
    jax.jit(lambda x: x)(np.ones(2))


@pytest.mark.parametrize("name", ["train_step", "eval_step"])
def test_an_implicit_transfer_is_refused_in_training_and_evaluation(run, tmp_path, name):
    def step(state, batch):
        implicit()
        return getattr(run, name)(state, batch)

    with refused():
        run.fit(tmp_path, plan_of(run, epochs=1), **{name: step})


def mean_step(_, batch):
    return gather({"mean": batch["images"].mean((1, 2, 3))})


@pytest.fixture(scope="module")
def images():
    """The second device, and a table for it."""
    return DataParallel(jax.devices()[1:2]), {
        "images": tiny.columns(11, height=4, width=4)["images"]
    }


def test_predictions_are_read_explicitly(images, sealed):
    parallel, table = images
    step = sealing(parallel.wrap(mean_step))
    state = parallel.replicate({})
    predictions = passes.predict(state, step, table, batch_size=tiny.BATCH_SIZE, parallel=parallel)
    np.testing.assert_allclose(predictions["mean"], table["images"].mean((1, 2, 3)), rtol=1e-5)


def test_an_implicit_transfer_is_refused_in_prediction(images):
    parallel, table = images

    def step(state, batch):
        implicit()

    with refused():
        passes.predict({}, step, table, batch_size=tiny.BATCH_SIZE, parallel=parallel)


def test_an_implicit_transfer_is_refused_where_a_column_is_filled(images):
    parallel, table = images

    def step(column, batch):
        implicit()

    column = parallel.zeros((resident.padded_rows(11),), np.float32)
    with refused():
        passes.fill(column, step, {}, table, batch_size=tiny.BATCH_SIZE, parallel=parallel)
