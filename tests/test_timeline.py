"""Where a run's time goes: its parts do not overlap, and its sessions add up."""

import json
import time

import jax
import jax.numpy as jnp
import pytest
import tiny_training as tiny

from thermo_jax.training import timeline


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, as a list of one number that the test changes."""
    now = [0.0]
    monkeypatch.setattr(timeline.time, "perf_counter", lambda: now[0])
    return now


def spent(times):
    return {part: seconds for part, seconds in times.items() if seconds}


def test_parts_do_not_overlap_and_the_rest_is_the_time_outside_of_them(clock):
    with timeline.record() as record:
        clock[0] += 1
        with timeline.part("data"):
            clock[0] += 10
            with timeline.part("steps"):
                clock[0] += 100
            clock[0] += 10
        clock[0] += 1
        with pytest.raises(KeyError), timeline.part("steps"):
            clock[0] += 1000
            raise KeyError
        record.switch()
    assert spent(record.seconds) == {"rest": 2, "data": 20, "steps": 1100}


def test_a_run_within_a_run_is_counted_separately(clock):
    with timeline.record() as outer:
        clock[0] += 1
        with timeline.record() as inner, timeline.part("steps"):
            clock[0] += 10
        clock[0] += 1
        outer.switch()
    assert spent(inner.seconds) == {"steps": 10}
    assert spent(outer.seconds) == {"rest": 2}


def test_compilation_is_subtracted_from_its_part_and_counted_once(clock):
    with timeline.record() as record, timeline.part("steps"):
        clock[0] += 3
        record.listen("/jax/core/compile/jaxpr_trace_duration", 1.0)  # a function within
        clock[0] += 2
        record.listen("/jax/core/compile/jaxpr_trace_duration", 4.0)  # the function around it
        record.listen("/jax/compilation_cache/compile_time_saved_sec", 100.0)  # not a compilation
        clock[0] += 5
        record.listen("/jax/core/compile/backend_compile_duration", 5.0)
    assert spent(record.seconds) == {"steps": 1, "compile": 9}


def test_jax_reports_its_compilations():
    with timeline.record() as record, timeline.part("steps"):
        jax.jit(lambda x: jnp.sin(x) + 12345.678)(jnp.ones(3)).block_until_ready()
    assert record.seconds["compile"] > 0 and record.seconds["steps"] >= 0


def test_nothing_is_recorded_outside_of_a_run(tmp_path):
    with timeline.part("steps"):
        pass
    timeline.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_sessions_of_a_run_add_up(tmp_path, clock):
    for _ in range(2):
        with timeline.record(), timeline.part("steps"):
            clock[0] += 1.5
            timeline.save(tmp_path)
            clock[0] += 1
            timeline.save(tmp_path)
    assert spent(timeline.read(tmp_path)) == {"steps": 5.0}
    assert set(json.loads((tmp_path / timeline.FILE).read_text())) == set(timeline.PARTS)


@pytest.mark.parametrize("text", ["", "[", "[]", '{"steps": "many"}'])
def test_a_damaged_file_is_read_as_empty(tmp_path, text):
    (tmp_path / timeline.FILE).write_text(text)
    assert timeline.read(tmp_path) == {}


def test_the_parts_of_a_training_run_add_up_to_its_whole_time(tmp_path):
    run = tiny.make_run(tiny.line_trainer())
    started = time.perf_counter()
    with timeline.record():
        run.fit(tmp_path, tiny.plan(epochs=2, checkpoint_minutes=60.0))
        timeline.save(tmp_path)
    total = time.perf_counter() - started
    times = timeline.read(tmp_path)
    assert sum(times.values()) == pytest.approx(total, abs=0.1)
    assert all(times[part] > 0 for part in ("compile", "data", "steps", "evaluation", "waiting"))


def test_a_run_that_is_interrupted_leaves_its_timeline(tmp_path):
    def stop(epoch):
        raise KeyboardInterrupt

    with timeline.record(), pytest.raises(KeyboardInterrupt):
        tiny.make_run(tiny.line_trainer()).fit(tmp_path, tiny.plan(epochs=2), on_epoch=stop)
    assert timeline.read(tmp_path)["steps"] > 0
