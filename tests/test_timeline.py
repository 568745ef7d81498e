"""Where a run's time goes: parts that exclude each other, sessions that add up."""

import json
import time

import jax
import jax.numpy as jnp
import pytest
import tiny_training as tiny

from thermo_jax.training import timeline


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [0.0]
    monkeypatch.setattr(timeline.time, "perf_counter", lambda: now[0])
    return now


def spent(found):
    return {part: seconds for part, seconds in found.items() if seconds}


def test_parts_exclude_each_other_and_the_rest_is_what_no_part_took(clock):
    with timeline.record() as found:
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
        found.switch()
    assert spent(found.seconds) == {"rest": 2, "data": 20, "steps": 1100}


def test_a_run_within_a_run_counts_for_itself(clock):
    with timeline.record() as outer:
        clock[0] += 1
        with timeline.record() as inner, timeline.part("steps"):
            clock[0] += 10
        clock[0] += 1
        outer.switch()
    assert spent(inner.seconds) == {"steps": 10}
    assert spent(outer.seconds) == {"rest": 2}


def test_compilation_is_taken_from_the_part_it_happens_in_and_counted_once(clock):
    with timeline.record() as found, timeline.part("steps"):
        clock[0] += 3
        found.listen("/jax/core/compile/jaxpr_trace_duration", 1.0)  # a function within
        clock[0] += 2
        found.listen("/jax/core/compile/jaxpr_trace_duration", 4.0)  # the function around it
        found.listen("/jax/compilation_cache/compile_time_saved_sec", 100.0)  # no such thing
        clock[0] += 5
        found.listen("/jax/core/compile/backend_compile_duration", 5.0)
    assert spent(found.seconds) == {"steps": 1, "compile": 9}


def test_jax_tells_what_it_compiles():
    with timeline.record() as found, timeline.part("steps"):
        jax.jit(lambda x: jnp.sin(x) + 12345.678)(jnp.ones(3)).block_until_ready()
    assert found.seconds["compile"] > 0 and found.seconds["steps"] >= 0


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
def test_a_damaged_file_tells_nothing(tmp_path, text):
    (tmp_path / timeline.FILE).write_text(text)
    assert timeline.read(tmp_path) == {}


def test_a_training_runs_parts_are_its_whole_time(tmp_path):
    run = tiny.make_run(tiny.line_trainer())
    started = time.perf_counter()
    with timeline.record():
        run.fit(tmp_path, tiny.plan(epochs=2, checkpoint_minutes=60.0))
        timeline.save(tmp_path)
    total = time.perf_counter() - started
    found = timeline.read(tmp_path)
    assert sum(found.values()) == pytest.approx(total, abs=0.1)
    assert all(found[part] > 0 for part in ("compile", "data", "steps", "evaluation", "waiting"))


def test_a_run_that_is_interrupted_leaves_its_timeline(tmp_path):
    def stop(epoch):
        raise KeyboardInterrupt

    with timeline.record(), pytest.raises(KeyboardInterrupt):
        tiny.make_run(tiny.line_trainer()).fit(tmp_path, tiny.plan(epochs=2), on_epoch=stop)
    assert timeline.read(tmp_path)["steps"] > 0
