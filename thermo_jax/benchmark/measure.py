"""Timing of one case, of the two ceilings beside it, and of what the host costs."""

import datetime
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from thermo_jax.benchmark.cases import Case
from thermo_jax.benchmark.compilation import Program, place, prepare, table_maker
from thermo_jax.data import batches
from thermo_jax.training.parallel import MODES, DataParallel
from thermo_jax.training.state import initialise

_CALLS = 10  # in a row, to time what is short


def matrix_ceiling(side: int, *, dtype: str, repeats: int) -> float:
    """TFLOP/s of a product of random square matrices, the best of some.

    Random, because GPUs multiply constants at a higher clock.
    """
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a, b: a @ b).lower(a, a).compile()
    times = _times(lambda: product(a, a), repeats=repeats, calls=_CALLS)
    return 2 * side**3 / min(times) / 1e12


def copy_ceiling(megabytes: int, *, repeats: int) -> float:
    """GB/s read and written by an element-wise pass over a large array, the best of some."""
    x = jax.random.normal(jax.random.key(0), (megabytes * 2**20 // 4,))
    shift = jax.jit(lambda x: x + 1).lower(x).compile()
    return 2 * x.nbytes / min(_times(lambda: shift(x), repeats=repeats, calls=_CALLS)) / 1e9


def measure(program: Program, *, parallel: DataParallel, repeats: int) -> dict[str, Any]:
    """One row of the benchmark's table; times are of a whole step, medians of dispatches.

    The first dispatch is not timed. `tflops` is of the operations counted by hand (SPEC section 6);
    `gb_per_s` is made of what no program can do without (`cases.PASSES`), because XLA's account of
    bytes leaves out loops and calls of libraries; `peak_bytes` is what one device holds at most
    while the program runs, tables included.
    """
    case, run = program.case, start(program, parallel=parallel)
    row = _timing([seconds / program.steps for seconds in _times(run, repeats=repeats)])
    seconds = row["ms_per_step"] / 1e3
    gflop = case.gflop_per_image and case.gflop_per_image * case.batch_size
    gb = case.gb_per_image and case.gb_per_image * case.batch_size
    return {
        "case": case.name,
        "batch_size": case.batch_size,
        "images_per_s": case.batch_size / seconds,
        **row,
        "compile_s": program.compile_s,
        "tflops": gflop and gflop / 1e3 / seconds,
        "gb_per_s": gb and gb / seconds,
        "peak_bytes": peak_bytes(program.compiled),
    }


def start(program: Program, *, parallel: DataParallel) -> Callable[[], Any]:
    """A function that makes the program's next steps, with a table and a state of its own."""
    batch = place(program.make_columns(), parallel=parallel), program.rows
    state = parallel.replicate(program.initial)

    def run():
        nonlocal state
        result = program.compiled(state, batch)
        if program.case.train:
            state = result[0]
        return result

    return run


def measure_feeding(
    case: Case, *, parallel: DataParallel, steps_per_dispatch: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """A training step's time by how it is fed, and the share of it in which the device waits.

    "streamed": a batch of host memory and a dispatch for each step; "resident": gathered on the
    device; "dispatched together": and several steps at once. The fastest is taken as the device's
    own time.
    """
    steps = steps_per_dispatch

    def timing(function: Callable, inputs: Iterator, *, calls: int) -> dict[str, float]:
        """Of as many calls as make `steps` steps."""
        state = parallel.replicate(initialise(case.make_state))

        def run():
            nonlocal state
            for batch in itertools.islice(inputs, calls):
                state, _ = function(state, batch)
            return state

        return _timing([seconds / steps for seconds in _times(run, repeats=repeats)])

    def streamed() -> dict[str, float]:
        inputs = batches.prefetch(
            batches.train_batches(
                jax.device_get(table_maker(case)()),
                batch_size=case.batch_size,
                seed=0,
                num_steps=steps * (repeats + 1),
            ),
            parallel.put_batch,
        )
        function = parallel.wrap(case.step, donate_state=True)
        return timing(function, inputs, calls=steps)

    def gathered(together: int) -> dict[str, float]:
        function, rows = prepare(case, parallel=parallel, steps=together)
        batch = place(table_maker(case)(), parallel=parallel), rows
        return timing(function, itertools.repeat(batch), calls=steps // together)

    ways = {"streamed": streamed(), "resident": gathered(1)}
    if steps > 1:
        ways["dispatched together"] = gathered(steps)
    own = min(row["ms_per_step"] for row in ways.values())
    for way, row in ways.items():
        yield {"case": case.name, "way": way, **row, "waits": 1 - own / row["ms_per_step"]}


def measure_calls(num_arrays: int = 60, *, repeats: int) -> Iterator[dict[str, Any]]:
    """What Python and JAX cost in each call of a step that does nothing, by wrapper."""
    state = {str(i): np.zeros(8, np.float32) for i in range(num_arrays)}
    for mode in MODES:
        parallel = DataParallel(mode=mode)
        count = len(parallel.devices)
        function = parallel.wrap(lambda state, batch: state)
        batch = parallel.put_batch({"x": np.zeros(count, np.float32)})
        call = partial(function, parallel.replicate(state), batch)
        times = _times(call, repeats=repeats, calls=10 * _CALLS)
        yield {"case": f"a call with {num_arrays} arrays", "way": mode, **_timing(times)}


def peak_bytes(compiled: Any) -> int:
    """Arguments, results and temporaries of a compiled program, on one device."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def flops(case: Case) -> float | None:
    """XLA's count of the operations of one step, not optimised; None if it does not count.

    Counted for the CPU: through PJRT's C interface (CUDA, TPU) there is no such count, and none
    where JAX_PLATFORMS hides the CPU. Make the case with XLA's own convolution: of a loop one turn
    would be counted.
    """
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
    function = DataParallel([device], mode="shard_map").wrap(case.step)
    lowered = function.lower(jax.eval_shape(case.make_state), case.abstract_batch())
    cost = lowered.cost_analysis()
    return cost and cost["flops"]


def why_too_large(error: jax.errors.JaxRuntimeError) -> str:
    """What a step says that failed for the device's memory; another error is raised again."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    return str(error).splitlines()[0][:200]


def versions() -> dict[str, str]:
    """What the figures depend on; "flags" are XLA's, as the environment sets them."""
    device = jax.devices()[0]
    return {
        "flags": os.environ.get("XLA_FLAGS", ""),
        "date": datetime.date.today().isoformat(),
        "jax": jax.__version__,
        "platform": device.platform,
        "device": device.device_kind,
    }


def _times(run: Callable[[], Any], *, repeats: int, calls: int = 1) -> list[float]:
    """Seconds of a call, for each time that `calls` of them were made, after one that is not."""
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
