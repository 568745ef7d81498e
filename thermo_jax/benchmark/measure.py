"""Times one case, the two ceilings of the device, and the host's share."""

import datetime
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from thermo_jax.benchmark.cases import Case
from thermo_jax.benchmark.compilation import Program, peak_bytes, random_table
from thermo_jax.data import batches
from thermo_jax.training.parallel import MODES, DataParallel
from thermo_jax.training.state import initialise

_CALLS = 10  # calls that are timed together, because a single call is too short


def matrix_ceiling(side: int, *, dtype: str, repeats: int) -> float:
    """TFLOP/s of a product of square matrices, the best of several measurements.

    The matrices are random, because GPUs multiply constants at a higher clock.
    """
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a, b: a @ b).lower(a, a).compile()
    times = _times(lambda: product(a, a), repeats=repeats, calls=_CALLS)
    return 2 * side**3 / min(times) / 1e12


def copy_ceiling(megabytes: int, *, repeats: int) -> float:
    """GB/s read and written by an element-wise pass over a large array, best of several."""
    x = jax.random.normal(jax.random.key(0), (megabytes * 2**20 // 4,))
    shift = jax.jit(lambda x: x + 1).lower(x).compile()
    return 2 * x.nbytes / min(_times(lambda: shift(x), repeats=repeats, calls=_CALLS)) / 1e9


def measure(program: Program, *, repeats: int) -> dict[str, Any]:
    """One row of the benchmark's table. Times are medians of dispatches, for one step.

    The first dispatch is not timed. `tflops` uses the operations counted by hand (SPEC section 6).
    `gb_per_s` uses the bytes that every program must move (`cases.PASSES`), because XLA's count of
    bytes omits loops and calls of libraries. `peak_bytes` is the most memory that the program needs
    on one device, including its table.
    """
    case = program.case
    times = _times(program.run, repeats=repeats)
    row = _timing([seconds / program.steps for seconds in times])
    images_per_s = 1e3 * case.batch_size / row["ms_per_step"]
    return {
        "case": case.name,
        "batch_size": case.batch_size,
        "images_per_s": images_per_s,
        **row,
        "compile_s": program.compile_s,
        "tflops": case.gflop_per_image and case.gflop_per_image * images_per_s / 1e3,
        "gb_per_s": case.gb_per_image and case.gb_per_image * images_per_s,
        "peak_bytes": peak_bytes(program.compiled),
    }


def measure_feeding(
    case: Case, *, parallel: DataParallel, steps_per_dispatch: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """A training step's time for each way to get its batch, and the share that the device waits.

    "streamed": each step has its own dispatch and a batch from host memory; "resident": each step
    gathers its batch on the device; "dispatched together": several such steps share one dispatch.
    The fastest time is used as the time of the device alone.
    """
    steps = steps_per_dispatch

    def timing(run: Callable[[], Any], *, calls: int) -> dict[str, float]:
        """The time of one step; `calls` calls of `run` make `steps_per_dispatch` steps."""
        times = _times(run, repeats=repeats, calls=calls)
        return _timing([calls * seconds / steps for seconds in times])

    def resident(together: int) -> dict[str, float]:
        program = Program(case, parallel=parallel, steps_per_dispatch=together)
        return timing(program.run, calls=steps // together)

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

        return timing(run, calls=steps)

    ways = {"streamed": streamed(), "resident": resident(1)}
    if steps > 1:
        ways["dispatched together"] = resident(steps)
    fastest = min(row["ms_per_step"] for row in ways.values())
    for way, row in ways.items():
        yield {"case": case.name, "way": way, **row, "waits": 1 - fastest / row["ms_per_step"]}


def measure_calls(num_arrays: int = 60, *, repeats: int) -> Iterator[dict[str, Any]]:
    """The time that Python and JAX need to call a step that does nothing, for each mode."""
    state = {str(i): np.zeros(8, np.float32) for i in range(num_arrays)}
    for mode in MODES:
        parallel = DataParallel(mode=mode)
        count = len(parallel.devices)
        function = parallel.wrap(lambda state, batch: state)
        batch = parallel.put_batch({"x": np.zeros(count, np.float32)})
        call = partial(function, parallel.replicate(state), batch)
        times = _times(call, repeats=repeats, calls=10 * _CALLS)
        yield {"case": f"a call with {num_arrays} arrays", "way": mode, **_timing(times)}


def versions() -> dict[str, str]:
    """Versions and device, on which the times depend; "flags" is XLA_FLAGS."""
    device = jax.devices()[0]
    return {
        "flags": os.environ.get("XLA_FLAGS", ""),
        "date": datetime.date.today().isoformat(),
        "jax": jax.__version__,
        "platform": device.platform,
        "device": device.device_kind,
    }


def _times(run: Callable[[], Any], *, repeats: int, calls: int = 1) -> list[float]:
    """Seconds per call in each of `repeats` rounds of `calls` calls, after one untimed call."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - started) / calls)
    return times


def _timing(seconds: list[float]) -> dict[str, float]:
    return {
        "ms_per_step": 1e3 * statistics.median(seconds),
        "ms_min": 1e3 * min(seconds),
        "ms_max": 1e3 * max(seconds),
    }
