"""Compiles many cases before the first is timed: one after another into XLA's language, which
Python does, and from there together, in threads, which XLA does.

On a GPU, XLA tries algorithms on the device while it compiles; nothing must be timed beside that.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import jax
import numpy as np

from thermo_jax.benchmark.cases import Case
from thermo_jax.data import batches
from thermo_jax.training import resident
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.state import initialise

_AT_ONCE = 8  # what is tried on the device takes some of its memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A case that is ready to be timed.

    Attributes:
      case: what is timed.
      steps: training steps in a call; 1 of inference.
      compiled: `compiled(state, (set, rows))`, over all devices.
      make_columns: compiled, too; makes the table on a device.
      rows: of the set, which is the whole table, for each step.
      initial: the initial state, in host memory where JAX has the CPU.
      compile_s: seconds that the compiler took, beside the others.
    """

    case: Case
    steps: int
    compiled: jax.stages.Compiled
    make_columns: Callable[[], dict[str, jax.Array]]
    rows: dict[str, jax.Array]
    initial: Any
    compile_s: float


def compile_all(
    cases: Sequence[Case], *, parallel: DataParallel, steps_per_dispatch: int
) -> list[Future[Program]]:
    """A finished future of each case; its `result()` raises what the compiler raised."""
    on_cpu = parallel.devices[0].platform == "cpu"  # where XLA itself compiles in threads
    together = 1 if on_cpu else min(_AT_ONCE, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=together) as threads:
        futures = []
        for case in cases:
            steps = steps_per_dispatch if case.train else 1
            function, rows = prepare(case, parallel=parallel, steps=steps)
            columns, state = table_maker(case), jax.eval_shape(case.make_state)
            batch = parallel.abstract(whole_set(jax.eval_shape(columns))), rows
            lowered = function.lower(parallel.abstract(state), batch)
            about = {"case": case, "steps": steps, "rows": rows}
            futures.append(threads.submit(_compile, lowered, columns.lower(), **about))
        wait(futures)
    return futures


def whole_set(columns: dict) -> resident.ResidentSet:
    """Shapes of a table and of all of its rows as a set."""
    count = len(next(iter(columns.values())))
    rows, number = (jax.ShapeDtypeStruct(shape, np.int32) for shape in ((count,), ()))
    return resident.ResidentSet(columns, rows, number)


def place(columns: dict[str, jax.Array], *, parallel: DataParallel) -> resident.ResidentSet:
    """A table on every device, and all of its rows as a set."""
    count = len(next(iter(columns.values())))
    return resident.place_sets(columns, {"all": range(count)}, parallel=parallel)["all"]


def _compile(lowered: jax.stages.Lowered, columns: jax.stages.Lowered, *, case: Case, **about: Any):
    started = time.perf_counter()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - started
    return Program(
        case=case,
        compiled=compiled,
        make_columns=columns.compile(),
        initial=initialise(case.make_state),
        compile_s=compile_s,
        **about,
    )


def prepare(case: Case, *, parallel: DataParallel, steps: int) -> tuple[Callable, dict]:
    """The case over all devices, and the rows that its `steps` steps take from a table."""
    count = table_rows(case)
    if case.train:
        rows_of = partial(batches.train_rows, count, case.batch_size, seed=0)
        rows = resident.dispatch_rows(rows_of, range(steps), at_most=steps)
        wrapped = resident.train_steps(case.step, at_most=steps, draw=case.draw)
    else:
        rows = batches.eval_rows(count, case.batch_size, step=0)._asdict()
        wrapped = resident.predict_steps(case.step)
    function = parallel.wrap(wrapped, donate_state=case.train, resident=True)
    return function, parallel.put_batch(rows)


def table_rows(case: Case) -> int:
    """Examples in a case's table: two batches, so that every step gathers others."""
    return 2 * case.batch_size


def table_maker(case: Case) -> Callable:
    """A jitted function of no argument that makes the table."""
    return jax.jit(partial(case.random_columns, table_rows(case)))
