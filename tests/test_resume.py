"""An interrupted run that is continued gives the same bits as an uninterrupted one (on CPUs)."""

import functools
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
import tiny_training as tiny
from augmented_trainers import augmented, endless

from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import METRICS, TIMING, read_jsonl
from thermo_jax.training.state import TrainState

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

EPOCHS = 3
# The quick test that interrupts after every epoch covers all models; the others need only `line`.
MODELS_ARE_SLOW = pytest.mark.parametrize(
    "finished",
    [
        "line",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("encoder", "classify", "endless")
        ),
    ],
    indirect=True,
)


class Interrupted(Exception):
    """Raised by a test to stop a run."""


class Finished(NamedTuple):
    """A run, and the result of its training without an interruption."""

    run: tiny.Run
    workdir: Path
    returned: TrainState


@pytest.fixture(scope="module")
def finish(tmp_path_factory):
    """Return a cached function that finishes a run of the named trainer."""

    @functools.cache
    def get(name: str) -> Finished:
        workdir = tmp_path_factory.mktemp(name)
        if name == "encoder":
            run = tiny.make_run(augmented(tiny.encoder_trainer()))
        elif name == "endless":
            run = tiny.make_run(endless(tiny.decoder_trainer("segment")))
        elif name in tiny.TRAINERS:
            run = tiny.make_run(tiny.TRAINERS[name]())
        else:
            run = tiny.make_run(tiny.decoder_trainer(name), device_count=2)
        return Finished(run, workdir, run.fit(workdir, tiny.plan(epochs=EPOCHS)))

    with tiny.shallow_decoders():
        yield get


@pytest.fixture(params=["line", "encoder", "classify"])
def finished(finish, request):
    return finish(request.param)


def assert_same(finished: Finished, workdir: Path, returned: TrainState):
    """Check that the returned state, the last state, the metrics and the checkpoints are equal."""
    tiny.assert_same_tree(returned, finished.returned)
    assert (workdir / METRICS).read_bytes() == (finished.workdir / METRICS).read_bytes()
    saved = []
    for folder in (workdir, finished.workdir):
        with Checkpoints(folder, read_only=True) as checkpoints:
            saved.append((checkpoints.restore(finished.run.state()), checkpoints.meta()))
    (last, meta), (expected_last, expected_meta) = saved
    assert int(last.step) == 5 * EPOCHS
    tiny.assert_same_tree(last, expected_last)
    assert meta == expected_meta


def interrupt_after_epoch(number: int):
    def on_epoch(epoch):
        if epoch == number:
            raise Interrupted

    return {"on_epoch": on_epoch}


def interrupt_in_step(run: tiny.Run, number: int):
    count = 0

    def train_step(state, batch):
        nonlocal count
        count += 1
        if count == number:
            raise Interrupted
        return run.train_step(state, batch)

    return {"train_step": train_step}


def assert_exact_after_interruptions(finished, workdir, *, loader):
    plan = tiny.plan(epochs=EPOCHS, loader=loader)
    for epoch in range(1, EPOCHS):
        with pytest.raises(Interrupted):
            finished.run.fit(workdir, plan, **interrupt_after_epoch(epoch))
    assert_same(finished, workdir, finished.run.fit(workdir, plan))


def test_a_run_interrupted_after_every_epoch_continues_exactly(finished, tmp_path):
    assert_exact_after_interruptions(finished, tmp_path, loader="numpy")


@MODELS_ARE_SLOW
def test_a_run_with_tensorflows_loader_continues_exactly(finished, tmp_path):
    # The uninterrupted run used the NumPy loader: both loaders give the same.
    pytest.importorskip("tensorflow")
    assert_exact_after_interruptions(finished, tmp_path, loader="tf.data")


@MODELS_ARE_SLOW
def test_a_run_interrupted_within_an_epoch_continues_exactly(finished, tmp_path):
    run, plan = finished.run, tiny.plan(epochs=EPOCHS)
    with pytest.raises(Interrupted):
        run.fit(tmp_path, plan, **interrupt_in_step(run, 8))
    assert_same(finished, tmp_path, run.fit(tmp_path, plan))


@MODELS_ARE_SLOW
def test_a_run_interrupted_between_metrics_and_checkpoint_continues_exactly(
    finished, tmp_path, monkeypatch
):
    save, saves = Checkpoints.save, []

    def save_once(self, *args, **kwargs):
        saves.append(1)
        if len(saves) == 2:
            raise Interrupted
        save(self, *args, **kwargs)

    run, plan = finished.run, tiny.plan(epochs=EPOCHS)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpoints, "save", save_once)
        run.fit(tmp_path, plan)
    # The thread that saves fails while the third epoch is trained.
    assert [row["epoch"] for row in read_jsonl(tmp_path / METRICS)] == [1, 2, 3]
    assert_same(finished, tmp_path, run.fit(tmp_path, plan))


@pytest.mark.parametrize("name", ["line", pytest.param("encoder", marks=pytest.mark.slow)])
def test_a_run_that_was_killed_while_it_saved_continues_exactly(finish, tmp_path, name):
    finished, workdir = finish(name), tmp_path / "killed"
    arguments = [name, str(workdir), "numpy", "float32", str(EPOCHS), "SIGKILL", "2"]
    command = [sys.executable, str(Path(__file__).with_name("tiny_program.py")), *arguments]
    program = subprocess.run(command, capture_output=True)
    assert program.returncode == -signal.SIGKILL, program.stderr.decode()[-2000:]
    assert read_jsonl(workdir / METRICS)[-1]["epoch"] == 2
    assert_same(finished, workdir, finished.run.fit(workdir, tiny.plan(epochs=EPOCHS)))


def test_a_finished_run_makes_no_further_step(finished, tmp_path):
    copy = shutil.copytree(finished.workdir, tmp_path / "copy")
    timing = (copy / TIMING).read_bytes()
    run = finished.run
    returned = run.fit(copy, tiny.plan(epochs=EPOCHS), **interrupt_in_step(run, 1))
    assert_same(finished, copy, returned)
    assert (copy / TIMING).read_bytes() == timing


def test_training_learned_something_to_compare(finished):
    losses = [row["train/loss"] for row in read_jsonl(finished.workdir / METRICS)]
    assert losses[-1] < losses[0]
    start = jax.tree.leaves(finished.run.trainer.state.params)
    best = jax.tree.leaves(jax.device_get(finished.returned.params))
    assert all((a != b).any() for a, b in zip(start, best, strict=True))
