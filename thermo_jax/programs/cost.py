"""What a stage of a study costs: seconds, seconds of the processor, memory.

If a stage was interrupted, only the session that finished it is counted.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from thermo_jax.files import write_whole
from thermo_jax.training import timeline

FILE = "cost.json"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
_ON_DEVICE = ("steps", "evaluation")  # parts of the timeline in which the host waits for devices


@contextlib.contextmanager
def measured(folder: Path) -> Iterator[dict[str, Any]]:
    """Measures the block and writes cost.json to the folder; the block may add facts.

    "seconds" are those of the clock; "cpu_seconds" those of all threads of the process;
    "device_seconds" those in which it waited for an accelerator, None without one; "peak_gb" is the
    largest memory of the process during the block, None if the system does not say.
    """
    facts: dict[str, Any] = {}
    can_measure = _forget_peak()
    earlier = _device_seconds(folder)  # timelines add the sessions of a run
    started, cpu = time.perf_counter(), time.process_time()
    yield facts
    on_device = round(_device_seconds(folder) - earlier, 3)
    cost = {
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "device_seconds": None if jax.default_backend() == "cpu" else on_device,
        "peak_gb": _peak_gb() if can_measure else None,
    }
    write_whole(folder / FILE, json.dumps(cost | facts, indent=2) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """What `measured` wrote; {} if there is no such file."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _device_seconds(folder: Path) -> float:
    parts = timeline.read(folder)
    return sum(parts.get(part, 0.0) for part in _ON_DEVICE)


def _forget_peak() -> bool:
    """Sets the process's peak memory to its present memory; whether the system can do so."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return _STATUS.is_file()


def _peak_gb() -> float:
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(kilobytes) * 1024 / 1e9, 3)
