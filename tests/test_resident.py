"""Tables on the devices give the same batches and results as streaming, with fewer dispatches."""

from unittest import mock

import jax
import numpy as np
import pytest
import tiny_training as tiny
from compilations import counted
from resident_runs import on_devices

from thermo_jax.training import resident
from thermo_jax.training.metrics_log import METRICS, read_jsonl

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


def counting(step):
    """Return the step, and a list with the shape and the number of steps of each call."""
    calls = []

    def counted(state, batch):
        mask = np.asarray(batch[1]["mask"])
        calls.append((mask.shape, int((mask[0, 0] > 0).sum())))
        return step(state, batch)

    return counted, calls


@pytest.mark.parametrize(
    ("trainer", "mode", "steps"),
    [
        ("line", "pmap", 1),
        ("line", "shard_map", 1),
        ("line", "shard_map", 3),  # 3 and 2 make an epoch
        pytest.param("encoder", "pmap", 5, marks=pytest.mark.slow),
        pytest.param("encoder", "shard_map", 1, marks=pytest.mark.slow),
    ],
)
def test_a_resident_run_equals_a_streamed_one(tmp_path, trainer, mode, steps):
    # 2 devices: a batch's rows must reach the device that owns them. In float64, since Adam
    # amplifies float32 rounding.
    with jax.enable_x64(True):
        trainer = tiny.TRAINERS[trainer](dtype="float64")
        run = tiny.make_run(trainer, device_count=2, mode=mode)
        plan = tiny.plan(epochs=2, steps_per_dispatch=steps)
        states = [
            run.fit(tmp_path / "streamed", plan),
            on_devices(run, steps=steps).fit(tmp_path / "resident", plan),
        ]
        params = [jax.tree.leaves(jax.device_get(state.params)) for state in states]
    for left, right in zip(*params, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)
    rows = [
        [list(row.values()) for row in read_jsonl(tmp_path / name / METRICS)]
        for name in ("streamed", "resident")
    ]
    np.testing.assert_allclose(*rows, rtol=1e-9)


@pytest.fixture(scope="module")
def run() -> tiny.Run:
    """A run with tables on one device."""
    return on_devices(tiny.make_run(tiny.line_trainer()))


def test_several_steps_are_one_dispatch(run, tmp_path):
    train_step, calls = counting(run.train_step)
    run.fit(tmp_path, tiny.plan(epochs=2, steps_per_dispatch=5), train_step=train_step)
    assert calls == [((1, 8, 5), 5)] * 2  # devices, batch, steps


def test_an_evaluation_is_one_dispatch(run, tmp_path):
    calls = []

    def eval_step(state, batch):
        calls.append(batch[1]["index"].shape)
        return run.eval_step(state, batch)

    # 11 validation images are two batches of 8.
    run.fit(tmp_path, tiny.plan(epochs=3, steps_per_dispatch=5), eval_step=eval_step)
    assert calls == [(1, 8)] * 3


def test_a_resident_run_continues_exactly(run, tmp_path):
    plan = tiny.plan(epochs=2, steps_per_dispatch=5)

    def stop(epoch):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.fit(tmp_path / "stopped", plan, on_epoch=stop)
    tiny.assert_same_tree(run.fit(tmp_path / "stopped", plan), run.fit(tmp_path / "straight", plan))


def test_the_budget_is_the_configured_one_or_a_share_of_the_memory(caplog):
    (device, *_) = jax.devices()
    assert resident.budget_bytes(1.5, device=device) == 1_500_000_000
    assert resident.budget_bytes(0.0, device=device) == 0
    assert 2**30 < resident.budget_bytes(-1.0, device=device) < resident.host_memory_bytes()
    gpu = mock.Mock(spec=jax.Device, platform="gpu")
    gpu.memory_stats.return_value = {"bytes_limit": 1000}
    assert resident.budget_bytes(-1.0, device=gpu) == 350
    assert not caplog.text
    gpu.memory_stats.return_value = None  # XLA_PYTHON_CLIENT_ALLOCATOR=platform
    assert resident.budget_bytes(-1.0, device=gpu) == 0
    assert "set config.parallel.resident_gb" in caplog.text
    assert resident.budget_bytes(2.0, device=gpu) == 2_000_000_000


@pytest.mark.parametrize("resident_tables", [False, True])
def test_nothing_is_compiled_after_the_first_epoch(tmp_path, resident_tables):
    # 11 validation images in batches of 8: the last one is padded.
    run = tiny.make_run(tiny.line_trainer())
    run = on_devices(run) if resident_tables else run
    counts = []
    with counted() as programs:
        plan = tiny.plan(epochs=3, steps_per_dispatch=5)
        run.fit(tmp_path, plan, on_epoch=lambda epoch: counts.append(len(programs)))
    assert counts[0] >= 2  # training and evaluation
    assert counts[0] == counts[1] == counts[2]
