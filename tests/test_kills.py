"""A run that is killed many times at random moments ends bit for bit like an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from thermo_jax.training import preemption
from thermo_jax.training.checkpoints import FOLDER

ROOT = Path(__file__).resolve().parent.parent
KILLED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: preemption.EXIT_STOPPED}
# Seconds after SIGTERM by which a program must have ended, also on a busy machine.
PATIENCE = 20

DATA = ["--config.data.phantom_patients=12", "--config.parallel.devices=1"]
TINY = [*DATA, "--config.data.downscale=4", "--config.split.folds=3", "--config.train.batch_size=4"]
FLAGS = {
    "encoder": ["encoder:heat,phantom", *TINY, "--config.model.num_kernels=2"],
    "segment": ["segment:H/H,phantom", *TINY, "--config.model.unet_width=2"],
    "table1": ["table1:quick", *DATA, "--config.num_folds=1"],
}
TRAIN = {"encoder": "train", "segment": "train", "table1": "stages.segment.train"}
EVERY_EPOCH, SECONDS = "0", "0.03"  # minutes between checkpoints; 0.03 is 1.8 s


class Killer:
    """Starts programs, each with its own data cache, and kills them after a while."""

    def __init__(self, task: str, folder: Path, *, encoder: Path, minutes: str = EVERY_EPOCH):
        self.folder = folder
        self.codes = []  # exit codes of the killed programs
        self.flags = [f"--config={FLAGS[task][0]}", *FLAGS[task][1:]]
        self.flags.append(f"--config.{TRAIN[task]}.epochs=30")
        self.flags.append(f"--config.{TRAIN[task]}.checkpoint_minutes={minutes}")
        if task == "segment":
            self.flags.append(f"--config.encoder.workdir={encoder}")

    def start(self, name: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "thermo_jax.main", *self.flags]
        return subprocess.Popen(
            [*command, f"--workdir={self.folder / name}"],
            cwd=ROOT,
            env={**os.environ, "THERMO_JAX_CACHE_DIR": str(self.folder / f"{name}-cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, name: str) -> Path:
        program = self.start(name)
        text, _ = program.communicate(timeout=600)
        assert program.returncode == 0, text
        return self.folder / name

    def kill(self, name: str, how: signal.Signals, *, after: float) -> bool:
        """Return False if the program had finished before it could be killed."""
        program, killed = self.start(name), False
        try:
            text, _ = program.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            program.send_signal(how)
            text, _ = program.communicate(timeout=PATIENCE)
            killed = program.returncode != 0
            if killed:
                # Until the program handles SIGTERM, and prints, its exit code is the system's.
                assert program.returncode == KILLED[how] or not text.strip(), text
                self.codes.append(program.returncode)
        finally:
            program.kill()
        assert killed or program.returncode == 0, text
        return killed


def models(workdir: Path) -> dict[str, np.ndarray]:
    """All parameters and statistics of a workdir's best models, by path."""
    arrays = {}
    for folder in sorted(workdir.glob(f"**/{FOLDER}/*/model")):
        tree = ocp.StandardCheckpointer().restore(folder)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            arrays[f"{folder.relative_to(workdir)}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return arrays


def assert_same(workdir: Path, expected: Path):
    """Check that two runs' metrics files and best models are equal in every bit."""
    for file in expected.glob("**/metrics.jsonl"):
        assert (workdir / file.relative_to(expected)).read_bytes() == file.read_bytes()
    arrays, expected_arrays = models(workdir), models(expected)
    assert arrays.keys() == expected_arrays.keys()
    for path, values in expected_arrays.items():
        np.testing.assert_array_equal(arrays[path], values, err_msg=path)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return Killer("encoder", tmp_path_factory.mktemp("encoder"), encoder=Path()).finish("run")


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [EVERY_EPOCH, SECONDS])
@pytest.mark.parametrize("task", FLAGS)
def test_a_run_that_is_killed_many_times_ends_like_an_undisturbed_run(
    task, minutes, tmp_path, encoder
):
    kills, attempts = 12, 0
    rng = random.Random(task + minutes)
    killer = Killer(task, tmp_path, encoder=encoder, minutes=minutes)
    first = killer.finish("first")  # fills the compilation cache
    started = time.monotonic()
    expected = killer.finish("straight")
    duration = time.monotonic() - started
    assert models(expected)
    assert_same(first, expected)
    while kills:
        attempts += 1
        name = f"run{attempts}"
        while kills:
            how = rng.choice(list(KILLED))
            if not killer.kill(name, how, after=rng.uniform(0, duration)):
                break
            kills -= 1
        assert_same(killer.finish(name), expected)
    assert set(KILLED.values()) <= set(killer.codes)
