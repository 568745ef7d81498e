"""Times one case and its kernels, the two ceilings of the device, and the host's share."""

import collections
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from thermo_jax.benchmark.cases import Case
from thermo_jax.benchmark.compilation import Program, peak_bytes, random_table
from thermo_jax.benchmark.tables import Row
from thermo_jax.data import batches
from thermo_jax.training.parallel import MODES, DataParallel
from thermo_jax.training.state import initialise

_CALLS = 10  # calls that are timed together, because a single call is too short
MOST_KERNELS = 15  # that a row lists
# Events in a profile of the CPU that are not kernels.
_NO_KERNELS = ("end: ", "ThreadpoolListener", "ThunkExecutor")


def matrix_ceiling(side: int, *, dtype: str, repeats: int) -> float:
    """TFLOP/s of a product of square matrices, the best of several measurements.

    The matrices are random, because GPUs multiply constants at a higher clock.
    """
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a, b: a @ b).lower(a, a).compile()
    times = _times(lambda: product(a, a), repeats=repeats, calls=_CALLS)
    return 2 * side**3 / times["ms_min"] / 1e9


def copy_ceiling(megabytes: int, *, repeats: int) -> float:
    """GB/s read and written by an element-wise pass over a large array, best of several."""
    x = jax.random.normal(jax.random.key(0), (megabytes * 2**20 // 4,))
    shift = jax.jit(lambda x: x + 1).lower(x).compile()
    return 2 * x.nbytes / _times(lambda: shift(x), repeats=repeats, calls=_CALLS)["ms_min"] / 1e6


def timed_rows(
    case: Case, *, profiled: bool, parallel: DataParallel, steps_per_dispatch: int, repeats: int
) -> Iterator[Row]:
    """The row of a case and, if it is `profiled`, a second one of its biggest kernels.

    Times are those of one step, medians over dispatches except the first one. `tflops` uses
    the operations counted by hand (SPEC section 6). `gb_per_s` uses the bytes that every program
    must move (`cases.PASSES`), because XLA's count of bytes omits loops and calls of libraries.
    `peak_bytes` is the most memory that the program needs on one device, including its table.
    """
    program = Program(case, parallel=parallel, steps_per_dispatch=steps_per_dispatch)
    times = _times(program.run, repeats=repeats, steps=program.steps)
    images_per_s = 1e3 * case.batch_size / times["ms_per_step"]
    yield {
        "case": case.name,
        "batch_size": case.batch_size,
        "images_per_s": images_per_s,
        **times,
        "compile_s": program.compile_s,
        "tflops": case.gflop_per_image and case.gflop_per_image * images_per_s / 1e3,
        "gb_per_s": case.gb_per_image and case.gb_per_image * images_per_s,
        "peak_bytes": peak_bytes(program.compiled),
    }
    if profiled:
        yield profile(program)


def profile(program: Program) -> Row:
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
            [name[:120], calls[name] / per_step, nanoseconds / 1e3 / per_step]
            for name, nanoseconds in busy.most_common(MOST_KERNELS)
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


def measure_feeding(
    case: Case, *, parallel: DataParallel, steps_per_dispatch: int, repeats: int
) -> Iterator[Row]:
    """A training step's time for each way to get its batch, and the share of it spent waiting.

    "streamed": each step has its own dispatch and a batch from host memory; "resident": each step
    gathers its batch on the device; "dispatched together": several such steps share one dispatch.
    The fastest time is used as the time of the device alone.
    """
    steps = steps_per_dispatch

    def resident(together: int) -> dict[str, float]:
        program = Program(case, parallel=parallel, steps_per_dispatch=together)
        return _times(program.run, repeats=repeats, calls=steps // together, steps=steps)

    def streamed() -> dict[str, float]:
        inputs = batches.prefetch(
            batches.train_batches(
                jax.device_get(random_table(case)),
                batch_size=case.batch_size,
                seed=0,
                num_steps=1 + steps * repeats,
            ),
            parallel.put_batch,
        )
        function = parallel.wrap(case.step, donate_state=True)
        state = parallel.replicate(initialise(case.make_state))

        def run():
            nonlocal state
            state, _ = function(state, next(inputs))
            return state

        return _times(run, repeats=repeats, calls=steps)

    ways = {"streamed": streamed(), "resident": resident(1)}
    if steps > 1:
        ways["dispatched together"] = resident(steps)
    fastest = min(row["ms_per_step"] for row in ways.values())
    for way, row in ways.items():
        yield {"case": case.name, "way": way, **row, "waits": 1 - fastest / row["ms_per_step"]}


def measure_calls(*, repeats: int) -> Iterator[Row]:
    """The time that Python and JAX need to call a step that does nothing, for each mode."""
    state = {str(number): np.zeros(8, np.float32) for number in range(60)}
    for mode in MODES:
        parallel = DataParallel(mode=mode)
        function = parallel.wrap(lambda state, batch: state)
        batch = parallel.put_batch({"x": np.zeros(len(parallel.devices), np.float32)})
        call = partial(function, parallel.replicate(state), batch)
        times = _times(call, repeats=repeats, calls=10 * _CALLS)
        yield {"case": f"a call with {len(state)} arrays", "way": mode, **times}


def conditions() -> dict[str, str]:
    """Versions and device, on which the times depend; "flags" is XLA_FLAGS."""
    device = jax.devices()[0]
    return {
        "flags": os.environ.get("XLA_FLAGS", ""),
        "date": datetime.date.today().isoformat(),
        "jax": jax.__version__,
        "platform": device.platform,
        "device": device.device_kind,
    }


def _times(
    run: Callable[[], Any], *, repeats: int, calls: int = 1, steps: int | None = None
) -> dict[str, float]:
    """Milliseconds per step in `repeats` rounds, after one untimed call: median, least and most.

    A round is `calls` calls, which together make `steps` steps (the default is one step a call).
    """
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        times.append(1e3 * (time.perf_counter() - started) / (steps or calls))
    return {"ms_per_step": statistics.median(times), "ms_min": min(times), "ms_max": max(times)}
