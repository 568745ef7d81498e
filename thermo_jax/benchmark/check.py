"""Writes the JSON lines of launch/gpu_check.sh, and prints its table at the end.

    python -m thermo_jax.benchmark.check machine FILE
    python -m thermo_jax.benchmark.check part FILE NAME SECONDS OUTCOME LOG OFFSET
    python -m thermo_jax.benchmark.check run FILE NAME SECONDS WORKDIR
    python -m thermo_jax.benchmark.check table FILE

The benchmarks write their own lines to the same file.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from operator import itemgetter
from pathlib import Path
from typing import Any

from thermo_jax.benchmark import tables

_VERSIONED = ("jax", "jaxlib", "flax", "torch", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
_ASKED = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "temperature.gpu")
_H200_COPY = 4300  # GB/s read and written, measured
_RUN = (
    "run {run} | batch {batch_size:d} | epochs {epochs:d} | steps {steps:d} | wall s {wall_s:d} | "
    "1st epoch s {first_epoch_s:.1f} | later ms/step {later_ms:.4g} | "
    "device ms/step {device_ms:.4g} | device s {device_s:.3g}"
)
_FAILED = ("stopped", "failed", "not started")  # the beginning of an outcome


def machine() -> dict[str, Any]:
    """Facts on which the times depend, such as the GPU and the versions of packages."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        gpus = ""
    versions = {}
    for name in _VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "machine": gpus or "no GPU",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def part_row(name: str, seconds: str, outcome: str, log: str, offset: str) -> dict[str, Any]:
    """How a part ended, and the last line after byte `offset` of its log."""
    with open(log, "rb") as file:
        file.seek(int(offset))
        text = file.read().decode(errors="replace")
    said = text.strip().split("\n")[-1].strip()[:200]
    return {"part": name, "seconds": int(seconds), "outcome": outcome, "said": said}


def run(name: str, seconds: str, workdir: str) -> dict[str, Any]:
    """The times of a real run, from its workdir; the first epoch includes compilation."""
    config = json.loads((Path(workdir) / "config.json").read_text())["config"]
    epochs = [json.loads(line) for line in (Path(workdir) / "timing.jsonl").open()]
    return {
        "run": name,
        "batch_size": config["train"]["batch_size"],
        "wall_s": int(seconds),
        "epochs": len(epochs),
        "steps": epochs[-1]["step"],
        "first_epoch_s": epochs[0]["seconds"],
        "later_epochs_s": sum(epoch["seconds"] for epoch in epochs[1:]),
        "later_steps": epochs[-1]["step"] - epochs[0]["step"],
        "timeline": json.loads((Path(workdir) / "timeline.json").read_text()),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table of all rows, with the goals at its end."""
    on_gpu = any(row.get("platform") == "gpu" for row in rows)
    goals = "GOALS" if on_gpu else "GOALS, which mean nothing here: nothing was measured on a GPU"
    parts = {
        "BIGGEST KERNELS": tables.text(rows, "kernels"),
        "MACHINE": "\n".join(_machine_line(row) for row in rows if "machine" in row),
        "SPEED": tables.text(rows, "feeding", "speed"),
        "PRECISION: relative errors": tables.text(rows, "precision"),
        "REAL RUNS": _run_table(rows),
        "PARTS": "\n".join(_part_line(row) for row in rows if "part" in row),
        goals: "\n".join(_goal_lines(rows)),
    }
    return "\n\n".join(f"{title}\n{text}" for title, text in parts.items() if text)


def _machine_line(row: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return f"{row['machine']}; {row['cores']} cores, Python {row['python']}, {versions}"


def _fastest(rows: Sequence[dict[str, Any]], framework: str) -> dict[tuple[str, int], dict]:
    """(case, images in a step) -> the fastest row.

    If there are several rows of a type with the same XLA_FLAGS, only the last one counts.
    """
    last = {}
    for row in rows:
        if row.get("framework") == framework and "images_per_s" in row:
            last[row["case"], row["batch_size"], row["dtype"], row.get("flags")] = row
    fastest = {}
    for (case, images, *_), row in last.items():
        rivals = fastest.get((case, images), row), row
        fastest[case, images] = max(rivals, key=itemgetter("images_per_s"))
    return fastest


def _run_table(rows: Sequence[dict[str, Any]]) -> str:
    fastest = _fastest(rows, "thermo_jax")
    runs = []
    for row in rows:
        if "run" in row:
            ms = fastest.get((row["run"], row["batch_size"]), {}).get("ms_per_step")
            later = row["later_steps"] and 1e3 * row["later_epochs_s"] / row["later_steps"]
            total = ms and ms * row["steps"] / 1e3
            runs.append(row | {"later_ms": later, "device_ms": ms, "device_s": total})
    note = "wall: the whole process, from its start to its report; device: the benchmark's ms/step"
    return f"{tables.text_table(_RUN, runs, below=_run_parts)}\n{note}"


def _run_parts(row: dict[str, Any]) -> list[str]:
    parts = (f"{name} {seconds:.1f}" for name, seconds in row["timeline"].items())
    return [f"  seconds of the run: {', '.join(parts)}"]


def _part_line(row: dict[str, Any]) -> str:
    is_news = row["outcome"] != "done" or " passed" in row["said"]
    said = f": {row['said']}" if row["said"] and is_news else ""
    return f"{row['part']:<34}{row['seconds']:>5} s  {row['outcome']}{said}"[:150]


def _goal_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    ours, theirs = _fastest(rows, "thermo_jax"), _fastest(rows, "torch")

    def best(name: str, field: str, factor: float = 1) -> float | None:
        values = [row.get(field) or 0 for (case, _), row in ours.items() if case == name]
        return max(values) * factor if values else None

    scale, note = _scale(list(ours.values()))
    goals = [
        (f"heatmap pretraining, images/s{note}", 12000 * scale, best("pretrain H", "images_per_s")),
        (f"gray pretraining, images/s{note}", 700 * scale, best("pretrain G", "images_per_s")),
        ("U-Net H/H, % of the matrix ceiling", 40, best("segment H/H", "share_of_matrix", 100)),
    ]
    for (case, images), row in ours.items():
        if other := theirs.get((case, images)):
            ratio = row["images_per_s"] / other["images_per_s"]
            goals.append((f"{case}, {images} images a step, x PyTorch", 1.3, ratio))
    for name, goal, value in goals:
        reached = "-" if value is None else "reached" if value >= goal else "NOT reached"
        number = "-" if value is None else f"{value:.4g}"
        yield f"{name:<50}{number:>10}   goal {goal:>8.4g}   {reached}"


def _scale(rows: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """The (factor, note) for the goals, which are for an H200: slower memory lowers them."""
    row = next((row for row in rows if row.get("platform") == "gpu"), None)
    if row is None or "H200" in row["device"]:
        return 1, ""
    scale = min(1, row["copy_gb_per_s"] / _H200_COPY)
    return scale, f" (an H200's x {scale:.2f})"


def main(command: str, file: str, *arguments: str) -> int:
    """Writes one line, or prints the table; returns 1 if a part failed."""
    if command == "table":
        rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
        print(table(rows))
        return int(any(row.get("outcome", "").startswith(_FAILED) for row in rows))
    row = {"machine": machine, "part": part_row, "run": run}[command](*arguments)
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
