"""What launch/gpu_check.sh writes, a JSON line each, and the table that it prints at the end.

    python -m thermo_jax.benchmark.check machine FILE
    python -m thermo_jax.benchmark.check part FILE NAME SECONDS OUTCOME LOG OFFSET
    python -m thermo_jax.benchmark.check run FILE NAME SECONDS WORKDIR
    python -m thermo_jax.benchmark.check table FILE

The benchmarks write their own lines to the same file.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_VERSIONED = ("jax", "jaxlib", "flax", "torch", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
_ASKED = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "temperature.gpu")
_H200_COPY = 4300  # GB/s read and written, as measured on one
_FAILED = ("stopped", "failed", "not started")  # how an outcome begins


def machine() -> dict[str, Any]:
    """What the figures depend on, besides the code."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        gpus = ""
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "machine": gpus or "no GPU",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def part(name: str, seconds: str, outcome: str, log: str, offset: str) -> dict[str, Any]:
    """How a part ended; the last line that it wrote to the log, from a byte on."""
    with open(log, "rb") as file:
        file.seek(int(offset))
        lines = file.read().decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return {
        "part": name,
        "seconds": int(seconds),
        "outcome": outcome,
        "said": said[-1][:200] if said else "",
    }


def run(name: str, seconds: str, workdir: str) -> dict[str, Any]:
    """A real run's times, of its workdir; the first epoch includes compilation."""
    config = json.loads((Path(workdir) / "config.json").read_text())["config"]
    epochs = [json.loads(line) for line in (Path(workdir) / "timing.jsonl").open()]
    later = epochs[1:]
    return {
        "run": name,
        "batch_size": config["train"]["batch_size"],
        "wall_s": int(seconds),
        "epochs": len(epochs),
        "steps": epochs[-1]["step"],
        "first_epoch_s": epochs[0]["seconds"],
        "later_epochs_s": sum(epoch["seconds"] for epoch in later),
        "later_steps": epochs[-1]["step"] - epochs[0]["step"],
        "timeline": json.loads((Path(workdir) / "timeline.json").read_text()),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Everything for reading, the goals last."""
    from thermo_jax.benchmark import compare, profiling, tables  # they import JAX

    profiles = profiling.table(rows)
    parts = [
        profiles and f"BIGGEST KERNELS\n{profiles}",
        *(f"MACHINE\n{_machine_line(row)}" for row in rows if "machine" in row),
        "SPEED\n" + tables.throughput_table([row for row in rows if "busy_us_per_step" not in row]),
        "PRECISION: relative errors\n" + compare.table(rows),
        "REAL RUNS\n" + "\n".join(_run_lines(rows)),
        "PARTS\n" + "\n".join(_part_lines(rows)),
        f"GOALS{_caveat(rows)}\n" + "\n".join(_goal_lines(rows)),
    ]
    return "\n\n".join(each for each in parts if each)


def _machine_line(row: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return f"{row['machine']}; {row['cores']} cores, Python {row['python']}, {versions}"


def _measured(rows: Sequence[dict[str, Any]], framework: str) -> dict[tuple[str, int], dict]:
    """(case, images a step) -> the fastest row of the last measurement of each kind."""
    last = {}
    for row in rows:
        if row.get("framework") == framework and "images_per_s" in row:
            last[row["case"], row["batch_size"], row["dtype"], row.get("flags")] = row
    best = {}
    for (case, images, *_), row in last.items():
        known = best.get((case, images))
        if known is None or row["images_per_s"] > known["images_per_s"]:
            best[case, images] = row
    return best


def _run_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    measured = _measured(rows, "thermo_jax")
    yield (
        f"{'run':<14}{'batch':>6}{'epochs':>8}{'steps':>7}{'wall s':>8}{'1st epoch s':>13}"
        f"{'later ms/step':>15}{'device ms/step':>16}{'device s':>10}"
    )
    for row in rows:
        if "run" not in row:
            continue
        later = row["later_steps"] and 1e3 * row["later_epochs_s"] / row["later_steps"]
        line = f"{row['run']:<14}{row['batch_size']:>6}{row['epochs']:>8}{row['steps']:>7}"
        line += f"{row['wall_s']:>8}{row['first_epoch_s']:>13.1f}{later:>15.4g}"
        if timed := measured.get((row["run"], row["batch_size"])):
            device = timed["ms_per_step"]
            line += f"{device:>16.4g}{device * row['steps'] / 1e3:>10.3g}"
        yield line
        parts = (f"{name} {seconds:.1f}" for name, seconds in row["timeline"].items())
        yield f"  seconds of the run: {', '.join(parts)}"
    yield "wall: the whole process, from its start to its report; device: the benchmark's ms/step"


def _part_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        if "part" in row:
            is_news = row["outcome"] != "done" or " passed" in row["said"]
            said = f": {row['said']}" if row["said"] and is_news else ""
            yield f"{row['part']:<34}{row['seconds']:>5} s  {row['outcome']}{said}"[:150]


def _goal_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    ours, theirs = _measured(rows, "thermo_jax"), _measured(rows, "torch")

    def best(name: str, field: str, factor: float = 1) -> float | None:
        found = [row.get(field) or 0 for (case, _), row in ours.items() if case == name]
        return max(found) * factor if found else None

    scale, why = _scale(list(ours.values()))
    goals = [
        (f"heatmap pretraining, images/s{why}", 12000 * scale, best("pretrain H", "images_per_s")),
        (f"gray pretraining, images/s{why}", 700 * scale, best("pretrain G", "images_per_s")),
        ("U-Net H/H, % of the matrix ceiling", 40, best("segment H/H", "share_of_matrix", 100)),
    ]
    for (case, images), row in ours.items():
        if other := theirs.get((case, images)):
            ratio = row["images_per_s"] / other["images_per_s"]
            goals.append((f"{case}, {images} images a step, x PyTorch", 1.3, ratio))
    for what, goal, found in goals:
        reached = "-" if found is None else "reached" if found >= goal else "NOT reached"
        number = f"{'-':>10}" if found is None else f"{found:>10.4g}"
        yield f"{what:<50}{number}   goal {goal:>8.4g}   {reached}"


def _caveat(rows: Sequence[dict[str, Any]]) -> str:
    on_gpu = any(row.get("platform") == "gpu" for row in rows)
    return "" if on_gpu else ", which say nothing here: these figures are no GPU's"


def _scale(rows: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """The goals are an H200's; another GPU's are smaller as its memory is slower."""
    row = next((row for row in rows if row.get("platform") == "gpu"), None)
    if row is None or "H200" in row["device"]:
        return 1, ""
    scale = min(1, row["copy_gb_per_s"] / _H200_COPY)
    return scale, f" (an H200's x {scale:.2f})"


def _read(file: str) -> list[dict[str, Any]]:
    path = Path(file)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def main(command: str, file: str, *arguments: str) -> int:
    """Writes one line, or prints the table; returns 1 if a part failed."""
    if command == "table":
        rows = _read(file)
        print(table(rows))
        return int(any(row.get("outcome", "").startswith(_FAILED) for row in rows))
    row = {"machine": machine, "part": part, "run": run}[command](*arguments)
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
