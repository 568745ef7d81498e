"""When a run saves its best and its latest state, which it does in the background."""

import concurrent.futures
import math
import threading

import jax.numpy as jnp
import pytest
import tiny_training as tiny
from folder_contents import kept_steps

from thermo_jax.errors import DivergedError, UnwrittenError
from thermo_jax.training import preemption, processes, saving
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import MetricsLog

RARELY = 60.0  # minutes: longer than any test
LOSSES = [3.0, 4.0, 1.0, 5.0, 6.0]
STEPS = 5  # per epoch


@pytest.fixture
def saved(monkeypatch):
    """The steps of the checkpoints that are written, in order."""
    steps, save = [], Checkpoints.save

    def save_and_note(self, state, **about):
        steps.append(int(state.step))
        save(self, state, **about)

    monkeypatch.setattr(Checkpoints, "save", save_and_note)
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
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore(state, step=15, optimizer=False)
    tiny.assert_same_tree(state, restored)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.meta()["finished"] and not checkpoints.meta(15)["finished"]
        assert checkpoints.meta(15)["epoch"] == 3


def test_the_best_model_of_this_session_is_not_read_from_the_disk(tmp_path, monkeypatch):
    monkeypatch.delattr(Checkpoints, "restore")
    plan = tiny.plan(epochs=5, checkpoint_minutes=RARELY)
    assert int(tiny.toy_run(LOSSES).fit(tmp_path, plan).step) == 15


def test_a_run_whose_last_epoch_is_the_best_has_one_checkpoint(tmp_path, saved):
    tiny.toy_run([3.0, 2.0]).fit(tmp_path, tiny.plan(epochs=2, checkpoint_minutes=RARELY))
    assert saved == [10] == kept_steps(tmp_path)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.meta()["finished"]


def test_a_save_is_due_when_the_minutes_are_over(tmp_path, saved, monkeypatch):
    class Inline(concurrent.futures.Executor):
        """Runs a function at once instead of in a thread."""

        def __init__(self, *_):
            pass

        def submit(self, function, *args):
            done = concurrent.futures.Future()
            done.set_result(function(*args))
            return done

    monkeypatch.setattr(saving, "ThreadPoolExecutor", Inline)
    minutes = [0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: 60.0 * minutes[-1])
    losses = [3.0, 2.0, 4.0, 4.0, 1.0, 5.0, 6.0, 7.0, 7.0]
    plan = tiny.plan(epochs=9, checkpoint_minutes=2.5)
    tiny.toy_run(losses).fit(tmp_path, plan, on_epoch=minutes.append)
    # The best state (2nd epoch) and the latest one are saved 3 minutes after the start (4th epoch),
    # the next best (5th) and the latest 3 minutes later (7th epoch), and the last at the end.
    assert saved == [10, 20, 25, 35, 45]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    written, save, begun = threading.Event(), Checkpoints.save, []

    def slow_save(self, state, **about):
        begun.append(int(state.step))
        assert written.wait(timeout=5)
        save(self, state, **about)

    def on_epoch(epoch):
        if epoch == 4:  # the first epoch's checkpoint is still being written
            assert begun == [STEPS]
            written.set()

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    plan = tiny.plan(epochs=5, checkpoint_minutes=1e-9)
    tiny.toy_run([5.0, 4.0, 3.0, 2.0, 1.0]).fit(tmp_path, plan, on_epoch=on_epoch)
    assert kept_steps(tmp_path) == [25]


def test_a_failed_save_stops_the_run_with_its_error(tmp_path, monkeypatch):
    failed = threading.Event()

    def failing(self, state, **about):
        failed.set()
        raise UnwrittenError("no space")

    monkeypatch.setattr(Checkpoints, "save", failing)
    epochs = []

    def on_epoch(epoch):
        epochs.append(epoch)
        assert failed.wait(timeout=60)

    plan = tiny.plan(epochs=5, checkpoint_minutes=1e-9)
    with pytest.raises(UnwrittenError, match="no space"):
        tiny.toy_run([1.0] * 5).fit(tmp_path, plan, on_epoch=on_epoch)
    assert len(epochs) < 5


@pytest.mark.parametrize("interrupted_after", [1, 2, 3, 4])
def test_an_interruption_loses_only_the_epochs_after_the_best(tmp_path, interrupted_after):
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


def test_a_run_that_is_asked_to_stop_saves_its_best_and_its_latest_state(tmp_path, monkeypatch):
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


def test_a_run_that_is_asked_to_stop_after_its_best_epoch_keeps_it_as_the_best(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(preemption, "_asked", preemption.threading.Event())
    run, plan = tiny.toy_run(LOSSES), tiny.plan(epochs=5, checkpoint_minutes=RARELY)

    def ask_after_the_best(epoch):
        if epoch == 3:
            preemption._asked.set()

    with pytest.raises(preemption.Stopped):
        run.fit(tmp_path, plan, on_epoch=ask_after_the_best)
    assert kept_steps(tmp_path) == [15]
    preemption._asked.clear()
    assert int(run.fit(tmp_path, plan).step) == 15
    assert kept_steps(tmp_path) == [15, 25]


# --------------------------------------------------------------------------------------------------
# Several processes
# --------------------------------------------------------------------------------------------------


class FakeCheckpoints(Checkpoints):
    """Notes the steps that are saved; `busy` sets whether a save is under way."""

    def __init__(self, folder):
        self.directory, self.steps, self.busy = folder / "checkpoints", [], False

    def save(self, state, *, encoder, meta, value):
        self.steps.append(int(state.step))

    def is_writing(self):
        return self.busy


@pytest.fixture
def two_processes(monkeypatch):
    """Pretend to be one of two processes; the list overrides what the first one decides."""
    decisions = []
    monkeypatch.setattr(saving.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        processes, "first_says", lambda value: decisions.pop(0) if decisions else value
    )
    return decisions


@pytest.fixture
def saver(tmp_path, two_processes):
    return saving.Saver(
        FakeCheckpoints(tmp_path),
        log=MetricsLog(tmp_path),
        parallel=tiny.devices(1),
        minutes=RARELY,
        encoder_of=lambda state: {},
        step=0,
    )


def state_of(step):
    return tiny.toy_run([1.0]).state().replace(step=jnp.int32(step))


def about(step):
    return {"step": step, "meta": {}, "value": 1.0}


def test_the_first_of_several_processes_decides_when_to_save(saver, two_processes):
    two_processes += [True, False]
    assert saver.is_due() and not saver.is_due() and not saver.is_due()


def test_several_processes_save_the_latest_state_when_the_best_one_is_written(saver):
    checkpoints = saver._checkpoints
    with saver:
        saver.keep_best(state_of(5), **about(5))
        checkpoints.busy = True
        saver.save(state_of(10), **about(10))
        assert checkpoints.steps == [5]  # the main thread did not wait
        assert not saver.is_due() and checkpoints.steps == [5]
        checkpoints.busy = False
        assert not saver.is_due() and checkpoints.steps == [5, 10]


def test_several_processes_wait_for_what_is_left_at_the_end(saver):
    with saver:
        saver.keep_best(state_of(5), **about(5))
        saver.save(state_of(10), **about(10))
    assert saver._checkpoints.steps == [5, 10]


@pytest.mark.parametrize(
    ("error", "saved_steps"), [(DivergedError, [5]), (preemption.Stopped, [5]), (ValueError, [])]
)
def test_several_processes_save_after_an_error_only_if_all_have_it(saver, error, saved_steps):
    with pytest.raises(error), saver:
        saver.keep_best(state_of(5), **about(5))
        raise error
    assert saver._checkpoints.steps == saved_steps
