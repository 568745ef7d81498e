"""Training and evaluation move nothing between host and devices but what they say.

On the CPU, JAX's guard sees what is put on a device, but reading is no transfer there: results are
sealed instead, which only `jax.device_get` opens.
"""

import jax
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax.training import loop
from thermo_jax.training.parallel import DataParallel, gather

SEALED = "read without jax.device_get"


class Sealed:
    """A step's result that may be waited for and passed on."""

    def __init__(self, value):
        self.value = value

    def refuse(self, *_, **__):
        raise AssertionError(SEALED)

    __array__ = __float__ = __int__ = __bool__ = __index__ = __format__ = __iter__ = refuse
    __getitem__ = __add__ = __mul__ = __truediv__ = refuse


def seal(tree):
    return jax.tree.map(Sealed, tree)


@pytest.fixture
def device_get(monkeypatch):
    """Opens what is sealed."""
    get = jax.device_get

    def opened(tree):
        return get(jax.tree.map(lambda x: x.value if isinstance(x, Sealed) else x, tree))

    monkeypatch.setattr(jax, "device_get", opened)


@pytest.fixture(scope="module")
def run():
    """On the second device, to which nothing is put by default."""
    run = tiny.make_run(tiny.line_trainer())
    parallel = DataParallel(jax.devices()[1:2])
    wrap = parallel.wrap
    return run._replace(
        parallel=parallel,
        train_step=wrap(run.trainer.train_step, donate_state=True),
        eval_step=wrap(run.trainer.eval_step),
    )


def test_results_are_read_where_the_loop_says_so(run, device_get, tmp_path):
    def train_step(state, batch):
        state, metrics = run.train_step(state, batch)
        return state, seal(metrics)

    steps = {"train_step": train_step, "eval_step": lambda *args: seal(run.eval_step(*args))}
    run.fit(tmp_path, tiny.plan(epochs=2), **steps)


def test_predictions_are_read_where_the_loop_says_so(run, device_get):
    step = run.parallel.wrap(lambda _, batch: gather({"mean": batch["images"].mean((1, 2, 3))}))
    found = loop.predict(
        run.parallel.replicate({}),
        lambda *args: seal(step(*args)),
        run.validation,
        plan=tiny.plan(),
        parallel=run.parallel,
    )
    np.testing.assert_allclose(found["mean"], run.validation["images"].mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("name", ["train_step", "eval_step"])
def test_what_is_put_on_a_device_by_the_way_is_refused(run, tmp_path, name):
    step = getattr(run, name)

    def step_with_number(state, batch):
        jax.jit(lambda x: x)(np.ones(2))
        return step(state, batch)

    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run.fit(tmp_path, tiny.plan(epochs=1), **{name: step_with_number})


@pytest.mark.parametrize("name", ["train_step", "eval_step"])
def test_what_is_read_by_the_way_is_seen(run, tmp_path, name):
    step = getattr(run, name)

    def reading(state, batch):
        float(seal(batch["images"]))
        return step(state, batch)

    with pytest.raises(AssertionError, match=SEALED):
        run.fit(tmp_path, tiny.plan(epochs=1), **{name: reading})
