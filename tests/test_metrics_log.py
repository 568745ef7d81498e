"""The metrics log of a run: JSON lines that a resumed run continues, and TensorBoard scalars."""

import json
import math

import pytest

from thermo_jax.training import metrics_log
from thermo_jax.training.metrics_log import METRICS, TIMING, MetricsLog, read_jsonl


def write_epochs(workdir, epochs, *, resume_step=0, seconds=1.0):
    log = MetricsLog(workdir, resume_step=resume_step)
    for epoch in epochs:
        log.write(
            step=5 * epoch,
            epoch=epoch,
            metrics={"train/loss": 1 / epoch, "val/loss": 2 / epoch},
            timing={"seconds": seconds * epoch},
        )
    log.close()


def test_every_epoch_is_a_line(tmp_path):
    write_epochs(tmp_path, [1, 2])
    assert read_jsonl(tmp_path / METRICS) == [
        {"step": 5, "epoch": 1, "train/loss": 1.0, "val/loss": 2.0},
        {"step": 10, "epoch": 2, "train/loss": 0.5, "val/loss": 1.0},
    ]


def test_times_are_in_a_file_of_their_own(tmp_path):
    for name, seconds in (("fast", 1.0), ("slow", 9.0)):
        (tmp_path / name).mkdir()
        write_epochs(tmp_path / name, [1, 2], seconds=seconds)
    fast, slow = ((tmp_path / name / METRICS).read_bytes() for name in ("fast", "slow"))
    assert fast == slow
    assert [row["seconds"] for row in read_jsonl(tmp_path / "slow" / TIMING)] == [9.0, 18.0]


def test_a_resumed_run_drops_the_lines_after_its_step(tmp_path):
    write_epochs(tmp_path, [1, 2, 3])
    whole = (tmp_path / METRICS).read_bytes()
    MetricsLog(tmp_path, resume_step=5).close()
    for name in (METRICS, TIMING):
        assert [row["epoch"] for row in read_jsonl(tmp_path / name)] == [1]
    write_epochs(tmp_path, [2, 3], resume_step=5)
    assert (tmp_path / METRICS).read_bytes() == whole


def test_a_new_run_starts_an_empty_record(tmp_path):
    write_epochs(tmp_path, [1, 2])
    MetricsLog(tmp_path).close()
    assert (tmp_path / METRICS).read_bytes() == b""


def test_files_that_contain_all_lines_are_not_written_again(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(step=5, epoch=1, metrics={"val/loss": 1.0}, timing={})
    log.flush()
    (tmp_path / METRICS).unlink()  # a save, which flushes, follows each epoch
    log.flush()
    log.close()
    assert not (tmp_path / METRICS).exists()


def test_a_record_that_ends_before_the_checkpoint_is_refused(tmp_path):
    write_epochs(tmp_path, [1])
    with pytest.raises(ValueError, match="metrics.jsonl does not reach step 10"):
        MetricsLog(tmp_path, resume_step=10)


def test_a_half_written_last_line_is_left_out_and_repaired(tmp_path):
    write_epochs(tmp_path, [1, 2])
    path = tmp_path / METRICS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [row["epoch"] for row in read_jsonl(path)] == [1]
    write_epochs(tmp_path, [2], resume_step=5)
    assert path.read_bytes() == whole


def test_numbers_that_are_not_finite_become_null(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(step=5, epoch=1, metrics={"a": math.nan, "b": math.inf, "c": 1.0}, timing={})
    log.close()
    text = (tmp_path / METRICS).read_text()
    assert json.loads(text) == {"step": 5, "epoch": 1, "a": None, "b": None, "c": 1.0}
    assert "NaN" not in text and "Infinity" not in text


def test_no_file_means_no_rows(tmp_path):
    assert read_jsonl(tmp_path / METRICS) == []


def test_tensorboard_gets_metrics_and_times(tmp_path):
    write_epochs(tmp_path, [1, 2])
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(b"val/loss") == 2 and content.count(b"seconds") == 2


def test_lines_are_written_once_a_second_and_by_flush(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: now[0])
    log, shown = MetricsLog(tmp_path), []
    for epoch, seconds in enumerate([0.0, 0.5, 1.0, 1.5], start=1):
        now[0] = seconds
        log.write(step=5 * epoch, epoch=epoch, metrics={"val/loss": 1.0}, timing={})
        shown.append(len(read_jsonl(tmp_path / METRICS)))
    assert shown == [1, 1, 3, 3]
    log.flush()
    assert len(read_jsonl(tmp_path / METRICS)) == len(read_jsonl(tmp_path / TIMING)) == 4
    log.close()
