"""The training loop: epochs, validation, early stopping, what is returned and reported.

A toy step and scripted validation losses (`tiny_training.toy_run`) replace a model.
"""

import math
import re
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax.data.batches import batch_indices, steps_per_epoch
from thermo_jax.training import loop, passes, preemption
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import METRICS, TIMING, read_jsonl


def counting(step):
    """Return the step, and the list of the batches that it is called with."""
    batches = []

    def counted(state, batch):
        batches.append(jax.device_get(batch))
        return step(state, batch)

    return counted, batches


def epochs_of(workdir):
    return [row["epoch"] for row in read_jsonl(workdir / METRICS)]


@pytest.mark.parametrize(("rows", "steps"), [(20, 5), (40, 5), (41, 6), (3, 5)])
def test_an_epoch_is_at_least_5_full_batches(tmp_path, rows, steps):
    run = tiny.toy_run([1.0, 1.0, 1.0])
    train_step, batches = counting(run.train_step)
    table = {"images": np.ones((rows, 2), np.float32)}
    run.fit(tmp_path, tiny.plan(epochs=1), train=table, train_step=train_step)
    assert len(batches) == steps == steps_per_epoch(rows, tiny.BATCH_SIZE)
    assert all(batch["mask"].shape == (1, 8) and batch["mask"].all() for batch in batches)
    assert read_jsonl(tmp_path / METRICS)[0]["step"] == steps


def test_every_batch_of_the_stream_is_used_once_and_in_order(tmp_path):
    run = tiny.toy_run([1.0, 1.0])
    train_step, batches = counting(run.train_step)
    run.fit(tmp_path, tiny.plan(epochs=2, seed=7), train_step=train_step)
    expected = [batch_indices(20, 8, seed=7, step=step) for step in range(10)]
    np.testing.assert_array_equal([batch["index"][0] for batch in batches], expected)


def test_metrics_are_means_over_the_epochs_steps(tmp_path):
    run = tiny.toy_run([3.0, 2.0])
    train_step, batches = counting(run.train_step)
    run.fit(tmp_path, tiny.plan(epochs=2), train_step=train_step)
    means = np.array([batch["images"].mean() for batch in batches]).reshape(2, 5).mean(1)
    rows = read_jsonl(tmp_path / METRICS)
    np.testing.assert_allclose([row["train/loss"] for row in rows], means, rtol=1e-6)
    assert [row["val/loss"] for row in rows] == [3.0, 2.0]
    assert all(row["images_per_s"] > 0 for row in read_jsonl(tmp_path / TIMING))


def test_the_best_state_is_returned_not_the_last(tmp_path):
    run = tiny.toy_run([3.0, 1.0, 2.0])
    assert int(run.fit(tmp_path, tiny.plan(epochs=3)).step) == 10


def test_the_returned_state_is_that_of_the_best_epoch(tmp_path):
    longer = tiny.toy_run([3.0, 1.0, 2.0, 2.0]).fit(tmp_path / "a", tiny.plan(epochs=4))
    shorter = tiny.toy_run([3.0, 1.0]).fit(tmp_path / "b", tiny.plan(epochs=2))
    tiny.assert_same_tree(longer, shorter)


def test_of_equal_losses_the_earlier_is_the_best(tmp_path):
    run = tiny.toy_run([3.0, 1.0, 1.0, 2.0])
    assert int(run.fit(tmp_path, tiny.plan(epochs=4)).step) == 10


def test_training_stops_after_patience_epochs_without_a_better_loss(tmp_path):
    run = tiny.toy_run([3.0, 2.0, 2.0, 2.5, 1.0])
    state = run.fit(tmp_path, tiny.plan(epochs=5, patience=2))
    assert epochs_of(tmp_path) == [1, 2, 3, 4] and int(state.step) == 10


def test_a_better_loss_renews_patience(tmp_path):
    run = tiny.toy_run([3.0, 3.0, 2.0, 2.0, 2.0, 1.0])
    run.fit(tmp_path, tiny.plan(epochs=6, patience=2))
    assert epochs_of(tmp_path) == [1, 2, 3, 4, 5]


def test_without_patience_all_epochs_are_run(tmp_path):
    tiny.toy_run([1.0] * 6).fit(tmp_path, tiny.plan(epochs=6, patience=0))
    assert epochs_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_patience_goes_on_counting_in_a_resumed_run(tmp_path):
    run = tiny.toy_run([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    run.fit(tmp_path, tiny.plan(epochs=2, patience=3))
    run.fit(tmp_path, tiny.plan(epochs=6, patience=3))
    assert epochs_of(tmp_path) == [1, 2, 3, 4]


def test_a_run_stopped_early_makes_no_further_step(tmp_path):
    run = tiny.toy_run([1.0, 2.0, 2.0, 0.5])
    first = run.fit(tmp_path, tiny.plan(epochs=4, patience=2))
    train_step, batches = counting(run.train_step)
    again = run.fit(tmp_path, tiny.plan(epochs=4, patience=2), train_step=train_step)
    assert batches == [] and epochs_of(tmp_path) == [1, 2, 3]
    tiny.assert_same_tree(again, first)


def test_a_run_is_not_continued_with_other_examples(tmp_path):
    run = tiny.toy_run([1.0, 1.0])
    run.fit(tmp_path, tiny.plan(epochs=1))
    with pytest.raises(ValueError, match="the data changed since.*another --workdir"):
        run.fit(tmp_path, tiny.plan(epochs=2), meta=tiny.META | {"examples": "4567"})


@pytest.mark.parametrize("text", ["", "damaged"])
def test_a_finished_run_without_the_row_of_its_best_epoch_names_the_file(tmp_path, text):
    run = tiny.toy_run([3.0, 2.0])
    run.fit(tmp_path, tiny.plan(epochs=2))
    (tmp_path / METRICS).write_text(text)
    with pytest.raises(ValueError, match=f"{METRICS} has no row of epoch 2.*restore the file"):
        run.fit(tmp_path, tiny.plan(epochs=2))


def test_more_epochs_continue_a_finished_run(tmp_path):
    run = tiny.toy_run([3.0, 2.0, 1.0])
    run.fit(tmp_path, tiny.plan(epochs=2))
    continued = run.fit(tmp_path, tiny.plan(epochs=3))
    straight = run.fit(tmp_path / "straight", tiny.plan(epochs=3))
    tiny.assert_same_tree(continued, straight)


def batch_names(step):
    rows = batch_indices(20, tiny.BATCH_SIZE, seed=0, step=step - 1)
    return {f"{row}.jpg" for row in rows}


def images_in(pattern, caught):
    return set(re.search(pattern, str(caught.value)).group(1).split(", "))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    run = tiny.toy_run([2.0, 1.0, math.nan])
    with pytest.raises(FloatingPointError, match=r"nan in validation, .*rate was 0\.25") as caught:
        run.fit(tmp_path, tiny.plan(epochs=5, learning_rate=0.25))
    assert images_in(r"after the update of step 15 \(images (.*?)\)", caught) == batch_names(15)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 10
        assert checkpoints.meta()["early_stopping"]["best_value"] == 1.0
    assert epochs_of(tmp_path) == [1, 2]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_infinities_of_both_signs_in_validation_give_nan(value):
    # The summed losses of two batches.
    sums = iter([value, -value])
    run = tiny.toy_run([1.0])
    step = lambda *_: {"loss": np.float32(next(sums)), "count": np.float32(8)}  # noqa: E731
    table = {"images": np.ones((16, 2), np.float32)}
    means = passes.evaluate(
        run.state(), step, table, batch_size=tiny.BATCH_SIZE, parallel=run.parallel
    )
    assert math.isnan(means["loss"])


def test_a_training_loss_that_is_not_finite_names_its_step_and_its_images(tmp_path):
    run = tiny.toy_run([1.0, 1.0])

    def explode(state, batch):
        state, metrics = run.train_step(state, batch)
        step, loss = jax.device_get((state.step, metrics["loss"]))
        return state, metrics | {"loss": loss if step != 8 else np.float32("inf")}

    with pytest.raises(FloatingPointError, match=r"loss is inf in training") as caught:
        run.fit(tmp_path, tiny.plan(epochs=3), train_step=explode)
    assert images_in(r"at step 8 \(images (.*?)\)", caught) == batch_names(8)
    assert images_in(r"after the update of step 7 \(images (.*?)\)", caught) == batch_names(7)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 5


def test_a_run_that_is_stopped_does_not_save_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(preemption, "_asked", threading.Event())
    run = tiny.toy_run([1.0, 1.0])

    def explode(state, batch):
        state, metrics = run.train_step(state, batch)
        if jax.device_get(state.step) == 8:
            preemption._asked.set()
        step, loss = jax.device_get((state.step, metrics["loss"]))
        return state, metrics | {"loss": loss if step != 8 else np.float32("inf")}

    with pytest.raises(FloatingPointError, match="at step 8"):
        run.fit(tmp_path, tiny.plan(epochs=3), train_step=explode)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 5


def test_on_epoch_is_called_after_the_epochs_metrics_are_written(tmp_path):
    calls = []

    def on_epoch(epoch):
        calls.append((epoch, len(read_jsonl(tmp_path / METRICS))))

    tiny.toy_run([1.0, 1.0]).fit(tmp_path, tiny.plan(epochs=2), on_epoch=on_epoch)
    assert calls == [(1, 1), (2, 2)]


def test_the_metrics_log_is_closed_when_a_run_fails(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(loop.MetricsLog, "close", lambda self: closed.append(True))
    with pytest.raises(FloatingPointError):
        tiny.toy_run([math.nan]).fit(tmp_path, tiny.plan(epochs=1))
    assert closed == [True]


def row_mean_step(parallel):
    def step(state, batch):
        sums = (batch["x"] * batch["mask"]).sum()
        return jax.lax.psum({"loss": sums, "count": batch["mask"].sum()}, "data")

    return parallel.wrap(step)


@pytest.mark.parametrize("rows", [1, 7, 8, 11, 16])
@pytest.mark.parametrize("devices", [1, 4])
def test_evaluation_is_the_exact_mean_over_examples(rows, devices):
    parallel = tiny.devices(devices)
    x = np.arange(rows, dtype=np.float32) ** 2
    means = passes.evaluate(
        tiny.toy_run([1.0], device_count=devices).state(),
        row_mean_step(parallel),
        {"x": x},
        batch_size=tiny.BATCH_SIZE,
        parallel=parallel,
    )
    assert means == {"loss": x.mean(dtype=np.float64)}


@pytest.mark.parametrize("rows", [1, 7, 8, 11])
@pytest.mark.parametrize(("devices", "mode"), [(1, "pmap"), (4, "pmap"), (4, "shard_map")])
def test_predictions_are_one_per_row_in_order(rows, devices, mode):
    parallel = tiny.devices(devices, mode=mode)

    def step(state, batch):
        return jax.lax.all_gather({"y": batch["x"] + state}, "data", tiled=True)

    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    result = passes.predict(
        parallel.replicate(jnp.ones(())),
        parallel.wrap(step),
        {"x": x},
        batch_size=tiny.BATCH_SIZE,
        parallel=parallel,
    )
    np.testing.assert_array_equal(result["y"], x + 1)


def test_progress_is_quiet_when_standard_error_is_no_terminal(tmp_path, capfd):
    tiny.toy_run([1.0]).fit(tmp_path, tiny.plan(epochs=1))
    assert "image" not in capfd.readouterr().err


def test_progress_is_shown_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    tiny.toy_run([1.0]).fit(tmp_path, tiny.plan(epochs=1))
    shown = capsys.readouterr().err
    assert "train" in shown and "40/40" in shown and "loss=" in shown
