"""Timing of one case, of the two ceilings beside it, and of what the host costs."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from thermo_jax.benchmark.cases import Case
from thermo_jax.data import batching, pipeline
from thermo_jax.training import resident
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.state import initialise


def matrix_ceiling(side: int, *, dtype: str, repeats: int) -> float:
    """TFLOP/s of a product of square matrices, the best of some."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a, b: a @ b).lower(a, a).compile()
    return 2 * side**3 / min(_times(lambda: product(a, a), repeats=repeats)) / 1e12


def copy_ceiling(megabytes: int, *, repeats: int) -> float:
    """GB/s read and written by an element-wise pass over a large array, the best of some."""
    x = jnp.ones(megabytes * 2**20 // 4, jnp.float32)
    shift = jax.jit(lambda x: x + 1).lower(x).compile()
    return 2 * x.nbytes / min(_times(lambda: shift(x), repeats=repeats)) / 1e9


def measure(
    case: Case, *, parallel: DataParallel, steps_per_dispatch: int, repeats: int
) -> dict[str, Any]:
    """One row of the benchmark's table; times are of a whole step, medians of dispatches.

    The first dispatch is not timed, and compilation is timed apart. `tflops_xla` is XLA's own count
    of the program before it is optimised, `tflops` that of SPEC section 6; `gb_per_s` is made of
    what no program can do without (`cases.PASSES`), because XLA's account of bytes leaves out loops
    and calls of libraries; `peak_bytes` is what one device holds at most while the program runs,
    tables included.
    """
    steps = steps_per_dispatch if case.train else 1
    function, batch = prepare(case, parallel=parallel, steps=steps)
    state = parallel.replicate(initialise(case.make_state))
    started = time.perf_counter()
    compiled = function.lower(state, batch).compile()
    compile_s = time.perf_counter() - started
    operations = flops(case, state, parallel=parallel)

    def run():
        nonlocal state
        result = compiled(state, batch)
        if case.train:
            state = result[0]
        return result

    times = [seconds / steps for seconds in _times(run, repeats=repeats)]
    median = statistics.median(times)
    gflop = case.gflop_per_image and case.gflop_per_image * case.batch_size
    gb = case.gb_per_image and case.gb_per_image * case.batch_size
    return {
        "case": case.name,
        "batch_size": case.batch_size,
        "images_per_s": case.batch_size / median,
        "ms_per_step": 1e3 * median,
        "ms_min": 1e3 * min(times),
        "ms_max": 1e3 * max(times),
        "compile_s": compile_s,
        "tflops": gflop and gflop / 1e3 / median,
        "tflops_xla": operations * len(parallel.devices) / 1e12 / median,
        "gb_per_s": gb and gb / median,
        "peak_bytes": peak_bytes(compiled),
    }


def prepare(case: Case, *, parallel: DataParallel, steps: int) -> tuple[Callable, Any]:
    """The case over all devices, and a resident batch of `steps` steps for it."""
    count = 2 * case.batch_size
    columns = parallel.place(case.random_columns(count))
    if case.train:
        plan = partial(batching.train_rows, count, case.batch_size, seed=0)
        rows = next(resident.train_rows(plan, start_step=0, num_dispatches=1, steps=steps))
        wrapped = resident.scan_steps(case.step)
    else:
        rows = batching.eval_rows(count, case.batch_size, step=0)._asdict()
        wrapped = resident.gather_batch(case.step)
    function = parallel.wrap(wrapped, donate_state=case.train, resident=True)
    return function, (columns, parallel.put_batch(rows))


def measure_feeding(
    case: Case, *, parallel: DataParallel, steps_per_dispatch: int, repeats: int
) -> dict[str, Any]:
    """Milliseconds of a training step by how it is fed, and the share in which the device waits.

    "streamed": a batch of host memory and a dispatch for each step; "resident": gathered on the
    device; "dispatched together": and several steps at once. The last is taken as the device's own
    time.
    """
    steps = steps_per_dispatch * repeats
    columns = case.random_columns(2 * case.batch_size)
    plain = parallel.wrap(case.step, donate_state=True)

    def streamed() -> float:
        state = parallel.replicate(initialise(case.make_state))
        batches = pipeline.prefetch(
            batching.train_batches(
                columns, batch_size=case.batch_size, seed=0, num_steps=steps + 1
            ),
            parallel.put_batch,
        )
        state, _ = plain(state, next(batches))
        jax.block_until_ready(state)
        started = time.perf_counter()
        for batch in batches:
            state, _ = plain(state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / steps

    def gathered(together: int) -> float:
        function, batch = prepare(case, parallel=parallel, steps=together)
        state = parallel.replicate(initialise(case.make_state))
        state, _ = function(state, batch)
        jax.block_until_ready(state)
        started = time.perf_counter()
        for _ in range(steps // together):
            state, _ = function(state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / (steps // together * together)

    seconds = {
        "streamed": streamed(),
        "resident": gathered(1),
        "dispatched together": gathered(steps_per_dispatch),
    }
    own = seconds["dispatched together"]
    return {
        f"feeding {case.name}": {
            name: {"ms_per_step": 1e3 * value, "waits": max(0.0, 1 - own / value)}
            for name, value in seconds.items()
        }
    }


def peak_bytes(compiled: Any) -> int:
    """Arguments, results and temporaries of a compiled program, on one device."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def flops(case: Case, state: Any, *, parallel: DataParallel) -> float:
    """XLA's count of operations of one step on one device, not optimised.

    Of a loop it would count one turn, so that there is none.
    """
    function = DataParallel(parallel.devices, mode="shard_map").wrap(case.step)
    return function.lower(state, case.abstract_batch()).cost_analysis()["flops"]


def _times(run: Callable[[], Any], *, repeats: int) -> list[float]:
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return times


def versions() -> dict[str, str]:
    """What the figures depend on."""
    device = jax.devices()[0]
    return {"jax": jax.__version__, "platform": device.platform, "device": device.device_kind}
