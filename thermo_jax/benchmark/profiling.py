"""Which kernels take a step's time: one dispatch under JAX's profiler."""

import collections
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from thermo_jax.benchmark import measure
from thermo_jax.benchmark.compilation import Program
from thermo_jax.training.parallel import DataParallel

SHOWN = 15  # kernels in a row
_NAME_LENGTH = 120
_NO_KERNELS = (
    "end: ",
    "ThreadpoolListener",
    "ThunkExecutor",
)  # marks that the CPU's profile has between them


def profile(program: Program, *, parallel: DataParallel) -> dict[str, Any]:
    """A row of the biggest kernels: [name, calls a step, microseconds a step], by one device.

    On the CPU these are XLA's operations, a loop beside those in it. A profile in which there is
    nothing gives no kernels.
    """
    run = measure.start(program, parallel=parallel)
    jax.block_until_ready(run())
    calls, busy = collections.Counter(), collections.Counter()
    for name, nanoseconds in _trace(run):
        calls[name] += 1
        busy[name] += nanoseconds
    per_step = program.steps * len(parallel.devices)
    return {
        "case": program.case.name,
        "batch_size": program.case.batch_size,
        "kernels_per_step": calls.total() / per_step,
        "busy_us_per_step": busy.total() / 1e3 / per_step,
        "kernels": [
            [name[:_NAME_LENGTH], calls[name] / per_step, nanoseconds / 1e3 / per_step]
            for name, nanoseconds in busy.most_common(SHOWN)
        ],
    }


def _trace(run: Callable[[], Any]) -> Iterator[tuple[str, float]]:
    """(name, nanoseconds) of every kernel of a call."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(run())
        for file in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
                prefix = "Stream" if plane.name.startswith("/device:GPU") else "tf_XLA"
                for line in plane.lines:
                    if line.name.startswith(prefix):
                        for event in line.events:
                            if not event.name.startswith(_NO_KERNELS):
                                yield event.name, event.duration_ns


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for reading, a paragraph each; "" without any."""
    parts = []
    for row in rows:
        if "busy_us_per_step" not in row:
            continue
        title = f"{row['case']}, {row['batch_size']} images a step: "
        title += f"{row['kernels_per_step']:.4g} kernels and {row['busy_us_per_step']:.4g} us "
        lines = [f"{title}a step; the biggest:", f"{'us/step':>10}{'calls/step':>12}  kernel"]
        lines += [f"{took:>10.4g}{calls:>12.3g}  {name}" for name, calls, took in row["kernels"]]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
