"""launch/gpu_check.sh on the CPU, and the table that it prints."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny_training as tiny
from conftest import ROOT

from thermo_jax.benchmark import check
from thermo_jax.training.xla_flags import ONE_GRAPH, XLA_GRAPHS

SCRIPT = ROOT / "launch" / "gpu_check.sh"


def start(*arguments, **environment) -> subprocess.CompletedProcess:
    environment = os.environ | tiny.QUICK_COMPILATION | {"PYTHON": sys.executable} | environment
    command = ["bash", SCRIPT, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def speed(case: str, images: int, per_s: float, *, framework: str = "thermo_jax", **about) -> dict:
    times = {"ms_per_step": 1e3 * images / per_s, "ms_min": 1.0, "ms_max": 2.0}
    row = {"case": case, "batch_size": images, "images_per_s": per_s, "framework": framework}
    row |= {"dtype": "bfloat16", "platform": "gpu", "device": "NVIDIA H200", "copy_gb_per_s": 4000}
    return row | times | {"share_of_matrix": 0.5, "flags": ONE_GRAPH, "how": "plain loop"} | about


def goals(*rows: dict) -> dict[str, list[str]]:
    """Returns {quantity: [measured value, goal, "reached", "missed" or "-"]}."""
    lines = check.table(rows).split("GOALS\n")[1].splitlines()
    fields = (line.replace("NOT reached", "missed").split() for line in lines)
    return {" ".join(words[:-4]): [words[-4], *words[-2:]] for words in fields}


def test_goals_are_compared_with_the_last_and_fastest_measurement():
    compared = goals(
        speed("pretrain H", 64, 90000.0),  # measured again below
        speed("pretrain H", 64, 13000.0),
        speed("pretrain H", 64, 11000.0, flags=XLA_GRAPHS),
        speed("pretrain H", 16, 9000.0),
        speed("segment H/H", 64, 5000.0, share_of_matrix=0.39),
        speed("pretrain H", 64, 10000.0, framework="torch", flags=None),
        speed("segment H/H", 64, 4000.0, framework="torch", flags=None),
    )
    assert compared == {
        "heatmap pretraining, images/s": ["1.3e+04", "1.2e+04", "reached"],
        "gray pretraining, images/s": ["-", "700", "-"],
        "U-Net H/H, % of the matrix ceiling": ["39", "40", "missed"],
        "pretrain H, 64 images a step, x PyTorch": ["1.3", "1.3", "reached"],
        "segment H/H, 64 images a step, x PyTorch": ["1.25", "1.3", "missed"],
    }


def test_another_gpu_has_goals_that_fit_its_memory():
    row = speed("pretrain G", 16, 500.0, device="NVIDIA H100 80GB HBM3", copy_gb_per_s=2150)
    assert goals(row)["gray pretraining, images/s (an H200's x 0.50)"] == ["500", "350", "reached"]


def test_a_part_is_reported_with_the_last_line_that_it_wrote(tmp_path):
    log, file = tmp_path / "log.txt", str(tmp_path / "rows.jsonl")
    log.write_text("of another part\nTraceback\nValueError: no GPU\n\n")
    parts = [
        ("PyTorch", "12", "failed with exit code 1", str(log), "16"),
        ("golden vectors", "3", "skipped, pytest is not installed", os.devnull, "0"),
    ]
    for arguments in parts:
        assert check.main("part", file, *arguments) == 0
    first, second = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (first["seconds"], first["said"], second["said"]) == (12, "ValueError: no GPU", "")
    assert check.main("table", file) == 1  # a skipped part is no failure
    table = check.table([first, second])
    assert "12 s  failed with exit code 1: ValueError: no GPU" in table


def test_a_real_runs_wall_time_is_shown_beside_the_devices_time(tmp_path):
    config = {"config": {"train": {"batch_size": 16}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    epochs = [{"step": 5, "seconds": 30.0}, {"step": 10, "seconds": 0.5}]
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    (tmp_path / "timeline.json").write_text('{"compile": 28.04, "steps": 2.5}')
    row = check.run("pretrain H", "40", str(tmp_path))
    table = check.table([row, speed("pretrain H", 16, 4000.0)])
    line, parts = table.split("REAL RUNS\n")[1].splitlines()[1:3]
    assert parts.split(": ")[1] == "compile 28.0, steps 2.5"
    # A step has 16 images, which take 4 ms at 4000 images/s; there are 10 steps.
    assert line.split()[2:] == ["16", "2", "10", "40", "30.0", "100", "4", "0.04"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quick"], "name the cases"),
        (["quick", "pretrain H"], "must name a case and its images a step"),
        (["--tinny"], "--tinny is unknown"),
        (["--out"], "--out needs a value"),
    ],
)
def test_a_mistake_ends_with_one_line(tmp_path, arguments, message):
    done = start(*arguments, OUT=str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU here")
def test_without_a_gpu_the_script_says_how_to_run_it_on_the_cpu(tmp_path):
    done = start("--out", tmp_path / "out")
    assert done.returncode == 2 and "--tiny" in done.stderr
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named_if_there_are_no_wheels(tmp_path):
    python = tmp_path / "python"  # a Python without packages
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    done = start("--tiny", "--out", tmp_path, "--wheels", tmp_path / "no", PYTHON=str(python))
    assert done.returncode == 2
    assert "Python lacks absl-py beartype" in done.stderr and "gpu_check.sh pack" in done.stderr


@pytest.fixture(scope="module")
def tripwire(tmp_path_factory) -> str:
    """A folder for PYTHONPATH with which importing TensorFlow fails."""
    folder = tmp_path_factory.mktemp("tripwire")
    for name in ("tensorflow", "tensorflow_datasets"):
        (folder / f"{name}.py").write_text("raise SystemExit('TensorFlow was imported')\n")
    return str(folder)


def shown_files():
    """Lists the checkout without hidden files, which other tests may create at the same time."""
    paths = (*ROOT.iterdir(), *(ROOT / "thermo_jax").iterdir())
    return sorted(path for path in paths if path.name[0] not in "._")


@pytest.mark.slow
def test_all_parts_run_on_the_cpu_without_tensorflow(tmp_path, tripwire):
    before = shown_files()
    done = start("--tiny", OUT=str(tmp_path), PYTHONPATH=tripwire)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").open()]
    outcomes = {row["part"]: row["outcome"] for row in rows if "part" in row}
    assert len(outcomes) == 7
    pytorch = outcomes.pop("PyTorch")
    assert pytorch in ("done", "skipped, torch is not installed")
    assert set(outcomes.values()) == {"done"}
    assert [row["run"] for row in rows if "run" in row] == ["pretrain H", "segment H/H"]
    ours = [row for row in rows if row.get("framework") == "thermo_jax" and "compile_s" in row]
    assert [row["case"] for row in ours] == 2 * ["pretrain H", "segment H/H"]
    assert [row["flags"] for row in ours] == 2 * [""] + 2 * [XLA_GRAPHS]
    assert [row["flags"] for row in rows if "kernels" in row] == [XLA_GRAPHS]
    assert {row["dtype"] for row in rows if "errors" in row} >= {"float32", "bfloat16"}
    assert done.stdout == (tmp_path / "table.txt").read_text()
    assert shown_files() == before


@pytest.mark.slow
def test_quick_runs_the_named_cases_only(tmp_path):
    done = start("--tiny", "quick", "encode H:2", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").open()]
    assert [row["case"] for row in rows if "case" in row] == ["encode H", "encode H"]
    outcomes = [row["outcome"] for row in rows if "part" in row]
    assert outcomes == ["done", "skipped, PyTorch has none of these cases"]
