"""The kernels with the longest times in a step, from one dispatch under JAX's profiler."""

import collections
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from thermo_jax.benchmark.compilation import Program

SHOWN = 15  # kernels in a row
_NAME_LENGTH = 120
# Events in a profile of the CPU that are not kernels.
_NO_KERNELS = ("end: ", "ThreadpoolListener", "ThunkExecutor")


def profile(program: Program) -> dict[str, Any]:
    """A row of the biggest kernels: [name, calls per step, microseconds per step], on one device.

    On the CPU the kernels are XLA's operations. A loop is then listed as well as the operations in
    it, so their time counts twice. The row has no kernels if the profile is empty.
    """
    jax.block_until_ready(program.run())
    calls, busy = collections.Counter(), collections.Counter()
    for name, nanoseconds in _trace(program.run):
        calls[name] += 1
        busy[name] += nanoseconds
    per_step = program.steps * program.num_devices
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
