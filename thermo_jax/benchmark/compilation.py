"""Compiles one case, to run it on random data or, without any data, to count its operations.

A benchmark compiles a case, times it and writes its row before it compiles the next one. On a GPU,
XLA tries algorithms on the device while it compiles. If several cases were compiled at once, this
would save little time, disturb measurements that run at the same time, and lose all rows of a run
that is stopped.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

from thermo_jax.benchmark.cases import Case
from thermo_jax.data import batches
from thermo_jax.training import resident
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.state import initialise


class Program:
    """A compiled case with a table of examples and a state of its own on every device.

    Attributes:
      case: the case that is compiled.
      steps: training steps in a call; 1 for inference.
      num_devices: the devices that share a step.
      compiled: the program, over all devices.
      compile_s: the seconds that the compiler took.
    """

    def __init__(self, case: Case, *, parallel: DataParallel, steps_per_dispatch: int):
        self.case, self.num_devices = case, len(parallel.devices)
        self.steps = steps_per_dispatch if case.train else 1
        columns = random_table(case)
        count = len(next(iter(columns.values())))
        if case.train:
            rows_of = partial(batches.train_rows, count, case.batch_size, seed=0)
            rows = resident.dispatch_rows(rows_of, range(self.steps), at_most=self.steps)
            steps = resident.train_steps(case.step, at_most=self.steps, draw=case.draw)
        else:
            rows = batches.eval_rows(count, case.batch_size, step=0)._asdict()
            steps = resident.predict_steps(case.step)
        examples = resident.place_sets(columns, {"all": range(count)}, parallel=parallel)["all"]
        self._batch = examples, parallel.put_batch(rows)
        self._state = parallel.replicate(initialise(case.make_state))
        function = parallel.wrap(steps, donate_state=case.train, resident=True)
        lowered = function.lower(self._state, self._batch)
        started = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - started

    def run(self) -> Any:
        """Starts the next steps; returns their results without waiting for them."""
        result = self.compiled(self._state, self._batch)
        if self.case.train:
            self._state = result[0]
        return result


def random_table(case: Case) -> dict[str, jax.Array]:
    """Random examples of two batches, so that consecutive steps gather different examples."""
    return jax.jit(partial(case.random_columns, 2 * case.batch_size))()


def lower_step(case: Case, devices: Sequence[Any]) -> jax.stages.Lowered:
    """One step over the devices, in XLA's language; needs neither data nor the devices."""
    parallel = DataParallel(devices, mode="shard_map")
    function = parallel.wrap(case.step, donate_state=case.train)
    columns = jax.eval_shape(partial(case.random_columns, case.batch_size))
    rows = batches.eval_rows(case.batch_size, case.batch_size, step=0)._asdict()
    return function.lower(jax.eval_shape(case.make_state), columns | rows)


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Arguments, results and temporaries of a compiled program, on one device."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def flops(case: Case) -> float | None:
    """XLA's count of the operations of one step before optimisation; None if there is no count.

    The step is counted for the CPU, because JAX counts nothing for CUDA and TPU; so there is no
    count if JAX_PLATFORMS hides the CPU. Make the case with XLA's own convolution: in the
    loops of other convolutions, XLA would count only one turn.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
    cost = lower_step(case, [cpu]).cost_analysis()
    return cost and cost["flops"]


def why_too_large(error: jax.errors.JaxRuntimeError) -> str:
    """The error's message if the step does not fit the device's memory; raises any other error."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    return str(error).splitlines()[0][:200]
