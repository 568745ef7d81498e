"""SIGTERM: a run saves within the epoch, ends with its own exit code, and continues exactly."""

import os
import signal
import subprocess
import sys

import pytest
import tiny_training as tiny

from thermo_jax.training import preemption
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import METRICS

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

PLAN = tiny.plan(epochs=3)
STEPS = 5  # per epoch


@pytest.fixture
def sigterm(monkeypatch):
    """The event that SIGTERM sets; a test sets it to stop a run, and clears it again."""
    monkeypatch.setattr(preemption, "_asked", preemption.threading.Event())
    return preemption._asked


@pytest.fixture(scope="module")
def run():
    return tiny.make_run(tiny.line_trainer(), device_count=2)


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """The workdir and the returned state of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, run.fit(workdir, PLAN)


def stopping_before(step_number, step, sigterm):
    """Return a training or evaluation step whose n-th call asks the run to stop."""
    calls = []

    def stepped(state, batch):
        calls.append(None)
        if len(calls) == step_number:
            sigterm.set()
        return step(state, batch)

    return stepped


def assert_same_end(run, workdir, finished):
    tiny.assert_same_tree(run.fit(workdir, PLAN), finished[1])
    assert (workdir / METRICS).read_bytes() == (finished[0] / METRICS).read_bytes()


@pytest.mark.parametrize("step_number", [1, 3, STEPS, 2 * STEPS + 2])
def test_a_run_stops_within_an_epoch_and_continues_exactly(
    run, finished, sigterm, tmp_path, step_number
):
    stepped = stopping_before(step_number, run.train_step, sigterm)
    with pytest.raises(preemption.Stopped):
        run.fit(tmp_path, PLAN, train_step=stepped)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == step_number
        assert not checkpoints.meta()["finished"]
    sigterm.clear()
    assert_same_end(run, tmp_path, finished)


def test_a_run_stops_in_an_evaluation_and_does_not_train_that_epoch_again(
    run, finished, sigterm, tmp_path
):
    with pytest.raises(preemption.Stopped):
        run.fit(tmp_path, PLAN, eval_step=stopping_before(3, run.eval_step, sigterm))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 2 * STEPS
    sigterm.clear()
    assert_same_end(run, tmp_path, finished)


def test_a_run_can_be_stopped_many_times(run, finished, sigterm, tmp_path):
    for _ in range(3 * STEPS):
        sigterm.clear()
        stepped = stopping_before(1, run.train_step, sigterm)
        with pytest.raises(preemption.Stopped):
            run.fit(tmp_path, PLAN, train_step=stepped)
    sigterm.clear()
    assert_same_end(run, tmp_path, finished)


def program(workdir, signals):
    """Start a run in its own process, which gets SIGTERM `signals` times after its first epoch."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import tiny_training as tiny
from pathlib import Path
from thermo_jax import main
from thermo_jax.training import preemption

def interrupt(epoch):
    for _ in range({signals} * (epoch == 1)):
        os.kill(os.getpid(), signal.SIGTERM)
        while not preemption.asked():  # two pending signals count as one
            pass

def run(argv):
    preemption.listen()
    tiny.compile_quickly()
    if {signals}:
        tiny.make_run(tiny.line_trainer(), device_count=2).fit(
            Path({str(workdir)!r}), tiny.plan(epochs=3), on_epoch=interrupt)
    else:
        Path({str(workdir / "ready")!r}).touch()
        while True:
            signal.pause()

main._main = run
sys.argv = ["thermo_jax", "--config=demo"]
main.main()
"""
    workdir.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_sigterm_ends_a_program_with_its_own_exit_code_and_a_message(run, finished, tmp_path):
    ended = program(tmp_path / "run", 1)
    _, errors = ended.communicate(timeout=300)
    assert ended.returncode == preemption.EXIT_STOPPED == 75, errors
    assert "SIGTERM: saving, then exiting" in errors
    assert errors.splitlines()[-1] == "thermo_jax: stopped; the same command continues"
    assert_same_end(run, tmp_path / "run", finished)


def test_a_second_sigterm_ends_it_at_once_and_the_last_checkpoint_can_be_used(
    run, finished, tmp_path
):
    ended = program(tmp_path / "run", 2)
    _, errors = ended.communicate(timeout=300)
    assert ended.returncode == preemption.EXIT_STOPPED
    assert "stopped;" not in errors
    assert_same_end(run, tmp_path / "run", finished)


def test_sigterm_is_obeyed_at_once_where_nothing_is_trained(tmp_path):
    waiting = program(tmp_path, 0)
    while not (tmp_path / "ready").exists():
        assert waiting.poll() is None, waiting.communicate()
    waiting.send_signal(signal.SIGTERM)
    _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == preemption.EXIT_STOPPED
    assert errors.splitlines()[-1] == "thermo_jax: stopped; the same command continues"


def test_sigterm_during_the_exit_of_a_finished_program_does_not_change_its_exit_code():
    code = """
import os, signal
from thermo_jax.training import preemption

class Last:
    def __del__(self, kill=os.kill, program=os.getpid(), number=signal.SIGTERM):
        kill(program, number)  # after Python has removed its handlers

last = Last()
preemption.listen()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
