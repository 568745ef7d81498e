"""A run of several processes gives the numbers of one process, also after interruptions."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_training as tiny
from conftest import FAKE_DEVICES

from thermo_jax import main
from thermo_jax.configs import table1
from thermo_jax.training import preemption, processes
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import METRICS, read_jsonl

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

TIMEOUT = 200
TRAINING = str(Path(__file__).with_name("tiny_program.py"))


@pytest.fixture
def joined(monkeypatch):
    """The arguments of each call of `jax.distributed.initialize`; without Slurm and TPU."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **kwargs: calls.append(kwargs))
    monkeypatch.setattr(processes, "_has_tpu", lambda: False)
    for name in (*processes.EXPLICIT, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return calls


def set_explicit(monkeypatch, address="10.0.0.1:1234", count="2", index="1"):
    for name, value in zip(processes.EXPLICIT, (address, count, index), strict=True):
        monkeypatch.setenv(name, value)


def test_a_single_process_joins_no_others(joined):
    processes.join()
    assert joined == []


def test_three_variables_describe_the_processes(joined, monkeypatch):
    set_explicit(monkeypatch)
    processes.join()
    (call,) = joined
    assert call["coordinator_address"] == "10.0.0.1:1234"
    assert (call["num_processes"], call["process_id"]) == (2, 1)


@pytest.mark.parametrize("missing", processes.EXPLICIT)
def test_a_missing_variable_is_named(joined, monkeypatch, missing):
    set_explicit(monkeypatch)
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=f"but not {missing}: set all three"):
        processes.join()


@pytest.mark.parametrize(("count", "index"), [("two", "1"), ("2", "2"), ("2", "-1")])
def test_an_impossible_number_is_refused(joined, monkeypatch, count, index):
    set_explicit(monkeypatch, count=count, index=index)
    with pytest.raises(ValueError, match=f"JAX_PROCESS_ID={index} and JAX_NUM_PROCESSES={count}"):
        processes.join()


def test_a_slurm_step_of_several_tasks_is_joined_and_a_single_task_is_not(joined, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    processes.join()
    assert joined == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    processes.join()
    assert joined == [{}]


def test_a_tpu_without_other_hosts_is_used_alone(joined, monkeypatch):
    def find_no_hosts(**kwargs):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(processes, "_has_tpu", lambda: True)
    processes.join()
    assert joined == [{}]
    monkeypatch.setattr(jax.distributed, "initialize", find_no_hosts)
    processes.join()


def test_programs_that_run_in_one_process_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="'table1' runs in one process"):
        main.run(table1.get_config("smoke"), tmp_path)


def test_programs_that_need_a_local_folder_say_so():
    with pytest.raises(ValueError, match="gs://b/x: only encoder, classify, segment write to a"):
        main.run(table1.get_config("smoke"), "gs://b/x")


class Pair:
    """Two processes of two CPU devices each that run the same command."""

    def __init__(self, *command: str, **variables: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        shared = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": f"{FAKE_DEVICES}=2",
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, *command],
                env=os.environ | shared | variables | {"JAX_PROCESS_ID": str(index)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in range(2)
        ]

    def outputs(self) -> list[str]:
        """Wait until both processes have succeeded; return what they printed."""
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in self.processes]
        assert [process.returncode for process in self.processes] == [0, 0], "\n".join(outputs)
        return outputs

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *exc_info) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("trainer", "loader"),
    [("line", "numpy"), pytest.param("encoder", "tf.data", marks=pytest.mark.slow)],
)
def test_two_processes_stopped_killed_and_resumed_match_one_process(tmp_path, trainer, loader):
    one, two = tmp_path / "one", tmp_path / "two"
    command = (TRAINING, trainer, str(two), loader, "float64")
    # One process gets SIGTERM, and both stop. JAX notices after a second, so the run is endless.
    # The clocks of two processes differ, so the first one decides when to save: every .06 s.
    with Pair(*command, "100000", "SIGTERM", "1", CHECKPOINT_MINUTES="0.001") as pair:
        for process in pair.processes:
            output, _ = process.communicate(timeout=TIMEOUT)
            assert process.returncode == preemption.EXIT_STOPPED, output
    with Checkpoints(two, read_only=True) as checkpoints:
        begun = checkpoints.latest_step() // 5 + 1
        epochs = begun + 1
    with Pair(*command, str(epochs), "SIGKILL", str(begun)) as pair:  # kills the second one
        pair.processes[1].wait(TIMEOUT)
        assert pair.processes[1].returncode == -signal.SIGKILL, pair.processes[1].communicate()
    with Pair(*command, str(epochs)) as pair:
        first, second = pair.outputs()
    assert f"Continuing after epoch {begun - 1} " in first
    assert "epoch" not in second  # only the first one prints

    with jax.enable_x64(True):
        run = tiny.make_run(tiny.TRAINERS[trainer](dtype="float64"), device_count=4)
        expected = run.fit(one, tiny.plan(epochs=epochs))
        with Checkpoints(two, read_only=True) as checkpoints:
            best = checkpoints.meta()["best_step"]
            model = checkpoints.restore(run.state(), step=best, optimizer=False)
    rows, expected_rows = (read_jsonl(folder / METRICS) for folder in (two, one))
    assert len(rows) == len(expected_rows) == epochs
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-9)
    for left, right in zip(
        jax.tree.leaves(model.variables), jax.tree.leaves(expected.variables), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-9)


def program(preset: str, workdir: Path, **fields: object) -> list[str]:
    """Command of a tiny run: 30x40 heatmaps of 12 phantom patients."""
    tiny_fields = {
        "data.phantom_patients": 12,
        "data.downscale": 4,
        "split.folds": 3,
        "train.batch_size": 4,
        "train.epochs": 2,
    }
    flags = [f"--config.{name}={value}" for name, value in (tiny_fields | fields).items()]
    command = ["-m", "thermo_jax.main", f"--config={preset},phantom", f"--workdir={workdir}"]
    return command + flags


def test_a_mistake_ends_all_processes_with_its_message(tmp_path):
    command = program("segment:H/H", tmp_path, **{"encoder.workdir": "/nowhere"})
    with Pair(*command) as pair:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in pair.processes]
        assert [process.returncode for process in pair.processes] == [main.EXIT_USER_ERROR] * 2
    for output in outputs:
        assert output.splitlines()[-1].startswith("thermo_jax: /nowhere/checkpoints does not exist")


@pytest.mark.slow
def test_programs_give_the_same_with_two_processes_as_with_one(tmp_path):
    pretrained, two, one = (tmp_path / name for name in ("encoder", "two", "one"))
    streamed = {"model.num_kernels": 2, "parallel.resident_gb": 0}
    # Sums in another order round differently, and Adam would amplify that, so its steps are tiny.
    # Wrong batches, statistics or sums would change the losses all the same.
    kept = {"encoder.workdir": pretrained, "model.unet_width": 2, "train.learning_rate": 1e-5}
    cache = {"THERMO_JAX_CACHE_DIR": str(tmp_path / "cache")}
    with Pair(*program("encoder:heat", pretrained, **streamed), **cache) as pair:
        first, second = pair.outputs()
        assert "Written to" in first and "Written to" not in second
    with Pair(*program("segment:H/H", two, **kept, **{"data.streamed": True}), **cache) as pair:
        pair.outputs()
    subprocess.run(
        # Without `resident_gb`, latents would be computed once, and rounded differently.
        [
            sys.executable,
            *program(
                "segment:H/H", one, **kept, **{"parallel.devices": 4, "parallel.resident_gb": 0}
            ),
        ],
        env=os.environ | cache,
        check=True,
        timeout=TIMEOUT,
    )
    rows, expected_rows = (read_jsonl(folder / METRICS) for folder in (two, one))
    assert len(rows) == len(expected_rows) == 2
    # One of the 24,000 pixels may change its class.
    for row, expected in zip(rows, expected_rows, strict=True):
        accuracy, expected_accuracy = (r.pop("train/accuracy") for r in (row, expected))
        assert accuracy == pytest.approx(expected_accuracy, abs=2 / 24_000)
        assert row == pytest.approx(expected, rel=1e-5)
    assert (two / "predictions.csv").read_text().count("\n") == (
        one / "predictions.csv"
    ).read_text().count("\n")
