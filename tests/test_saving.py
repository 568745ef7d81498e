"""When a run saves: the best and the latest together, in the background, at most so often."""

import math
import threading

import pytest
import tiny_training as tiny

from thermo_jax.errors import UnwrittenError
from thermo_jax.training import preemption, processes, saving
from thermo_jax.training.checkpoints import Checkpoints

RARELY = 60.0  # minutes: not within a test
LOSSES = [3.0, 4.0, 1.0, 5.0, 6.0]
STEPS = 5  # of an epoch


def kept_steps(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return sorted(checkpoints.steps())


@pytest.fixture
def saved(monkeypatch):
    """The steps of the checkpoints that are written, in order."""
    steps, save = [], Checkpoints.save

    def noting(self, state, **about):
        steps.append(int(state.step))
        save(self, state, **about)

    monkeypatch.setattr(Checkpoints, "save", noting)
    return steps


def stop_after(number):
    def on_epoch(epoch):
        if epoch == number:
            raise KeyboardInterrupt

    return on_epoch


def test_without_a_pause_every_epoch_is_saved(tmp_path, saved):
    tiny.toy_run(LOSSES).fit(tmp_path, tiny.plan(epochs=5, checkpoint_minutes=0.0))
    assert saved == [5, 10, 15, 20, 25] and kept_steps(tmp_path) == [15, 25]


def test_a_short_run_saves_its_best_and_its_last_state_at_the_end(tmp_path, saved):
    plan = tiny.plan(epochs=5, checkpoint_minutes=RARELY)
    state = tiny.toy_run(LOSSES).fit(tmp_path, plan)
    assert saved == [15, 25] == kept_steps(tmp_path)
    tiny.assert_same_tree(state, tiny.toy_run(LOSSES).fit(tmp_path / "often", tiny.plan(epochs=5)))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.meta()["finished"] and not checkpoints.meta(15)["finished"]
        assert checkpoints.meta(15)["epoch"] == 3


def test_of_a_run_whose_last_epoch_is_the_best_there_is_one_checkpoint(tmp_path, saved):
    tiny.toy_run([3.0, 2.0]).fit(tmp_path, tiny.plan(epochs=2, checkpoint_minutes=RARELY))
    assert saved == [10] == kept_steps(tmp_path)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.meta()["finished"]


def test_a_save_is_due_when_the_minutes_are_over(tmp_path, saved, monkeypatch):
    minutes = [0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: 60.0 * minutes[-1])
    losses = [3.0, 2.0, 4.0, 4.0, 1.0, 5.0, 6.0]
    plan = tiny.plan(epochs=7, checkpoint_minutes=2.5)
    tiny.toy_run(losses).fit(tmp_path, plan, on_epoch=minutes.append)
    # After 3 minutes, the 4th epoch's: the best of the 2nd is new. At the end, that of the 5th.
    assert saved == [10, 20, 25, 35]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    written, save, begun = threading.Event(), Checkpoints.save, []

    def slow_save(self, state, **about):
        begun.append(int(state.step))
        assert written.wait(timeout=60)
        save(self, state, **about)

    def on_epoch(epoch):
        if epoch == 4:  # four epochs are done, and the first one's checkpoint is not
            assert begun == [STEPS]
            written.set()

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    plan = tiny.plan(epochs=5, checkpoint_minutes=1e-9)
    tiny.toy_run([5.0, 4.0, 3.0, 2.0, 1.0]).fit(tmp_path, plan, on_epoch=on_epoch)
    assert kept_steps(tmp_path) == [25]


def test_what_cannot_be_written_stops_the_run_with_what_the_disk_said(tmp_path, monkeypatch):
    failed = threading.Event()

    def failing(self, state, **about):
        failed.set()
        raise UnwrittenError("no space")

    monkeypatch.setattr(Checkpoints, "save", failing)
    told = []

    def on_epoch(epoch):
        told.append(epoch)
        assert failed.wait(timeout=60)

    plan = tiny.plan(epochs=5, checkpoint_minutes=1e-9)
    with pytest.raises(UnwrittenError, match="no space"):
        tiny.toy_run([1.0] * 5).fit(tmp_path, plan, on_epoch=on_epoch)
    assert len(told) < 5


@pytest.mark.parametrize("interrupted_after", [1, 2, 3, 4])
def test_an_interruption_loses_no_more_than_what_came_after_the_best(tmp_path, interrupted_after):
    run, plan = tiny.toy_run(LOSSES), tiny.plan(epochs=5, checkpoint_minutes=RARELY)
    with pytest.raises(KeyboardInterrupt):
        run.fit(tmp_path, plan, on_epoch=stop_after(interrupted_after))
    assert kept_steps(tmp_path) == [5 if interrupted_after < 3 else 15]
    straight = run.fit(tmp_path / "straight", plan)
    tiny.assert_same_tree(run.fit(tmp_path, plan), straight)
    assert kept_steps(tmp_path) == [15, 25]


def test_a_run_that_diverges_keeps_its_best_state(tmp_path):
    plan = tiny.plan(epochs=5, checkpoint_minutes=RARELY)
    with pytest.raises(FloatingPointError):
        tiny.toy_run([2.0, 1.0, 1.5, math.nan]).fit(tmp_path, plan)
    assert kept_steps(tmp_path) == [10]


def test_a_run_that_is_told_to_stop_saves_its_best_and_its_latest_state(tmp_path, monkeypatch):
    monkeypatch.setattr(preemption, "_asked", preemption.threading.Event())
    run, plan = tiny.toy_run(LOSSES), tiny.plan(epochs=5, checkpoint_minutes=RARELY)
    calls = []

    def step(state, batch):
        calls.append(None)
        if len(calls) == 4 * STEPS + 2:
            preemption._asked.set()
        return run.train_step(state, batch)

    with pytest.raises(preemption.Stopped):
        run.fit(tmp_path, plan, train_step=step)
    assert kept_steps(tmp_path) == [15, 22]
    preemption._asked.clear()
    tiny.assert_same_tree(run.fit(tmp_path, plan), run.fit(tmp_path / "straight", plan))


def test_a_run_that_is_told_to_stop_after_its_best_epoch_keeps_it_as_the_best(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(preemption, "_asked", preemption.threading.Event())
    run, plan = tiny.toy_run(LOSSES), tiny.plan(epochs=5, checkpoint_minutes=RARELY)
    told = lambda epoch: preemption._asked.set() if epoch == 3 else None  # noqa: E731
    with pytest.raises(preemption.Stopped):
        run.fit(tmp_path, plan, on_epoch=told)
    assert kept_steps(tmp_path) == [15]
    preemption._asked.clear()
    assert int(run.fit(tmp_path, plan).step) == 15
    assert kept_steps(tmp_path) == [15, 25]


def test_of_several_processes_the_first_one_says_when(tmp_path, saved, monkeypatch):
    monkeypatch.setattr(processes, "first_says", lambda due: True)
    tiny.toy_run([1.0, 2.0]).fit(tmp_path, tiny.plan(epochs=2, checkpoint_minutes=RARELY))
    assert saved == [5, 10]
