"""Tables that stay on the devices: a step gathers its batch there, and the host sends row numbers.

    all examples of a run       -> one table, padded to one of a few sizes
    training, validation, test  -> sets: row numbers of the table
    (set, rows of a dispatch)   -> up to K batches on the device -> the metrics of each batch

A dispatch is one call of a compiled program; K is the largest number of its batches.

The number of a set's examples and the number of a dispatch's batches are values, not shapes. So one
compiled program serves every fold, every number of labelled patients, and every length of an epoch.

What may be changed: the sizes of tables (`padded_rows`) and the share of the memory. The shapes of
a dispatch's rows and the random numbers must stay: they may depend neither on the number of devices
nor on K. tests/test_resident.py compares resident training with training from host memory;
tests/test_compilations.py counts the programs that a study compiles.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from thermo_jax.data import batches
from thermo_jax.data.streamed import Column, host_memory_bytes
from thermo_jax.training.parallel import AXIS, DataParallel, gather

# The share of a device's memory that tables may use; the steps' own arrays need the rest.
_SHARE = 0.35
_LEAST_ROWS = 32
_SIZES = 4  # table sizes from one power of two to the next


class ResidentSet(NamedTuple):
    """Some examples of a table on the devices: a training, validation or test set.

    Attributes:
      columns: name -> [M, ...], the columns of all examples, which the sets of a run share.
      rows: int32 [M], the rows of the set's examples in the columns, followed by zeros.
      count: int32 [], the number of the set's examples.
    """

    columns: dict[str, jax.Array]
    rows: jax.Array
    count: jax.Array


# Columns with one leading axis of examples, in host memory or streamed, or a set on the devices.
ExampleSet = Mapping[str, Column] | ResidentSet


def num_rows(examples: ExampleSet) -> int:
    """Returns the number of a set's examples."""
    if isinstance(examples, ResidentSet):
        return int(jax.device_get(examples.count))
    return len(next(iter(examples.values())))


def padded_rows(count: int) -> int:
    """Returns the number of rows, on the devices, of a table of `count` examples.

    It is 32, 40, 48, 56, 64, 80, 96, ...: four sizes for each power of two, so that at most a fifth
    of a table of more than 32 examples is padding.
    """
    step = 2 ** max(math.ceil(math.log2(max(count, _LEAST_ROWS))) - 1, 0) // _SIZES
    return -(-max(count, _LEAST_ROWS) // step) * step


def place_sets(
    columns: Mapping[str, np.ndarray | jax.Array],
    sets: Mapping[str, Sequence[int] | np.ndarray],
    *,
    parallel: DataParallel,
) -> dict[str, ResidentSet]:
    """Copies a table to every device; returns its sets by name.

    Args:
      columns: name -> [N, ...] in host memory, or padded to [M, ...] and on the devices already.
      sets: name -> the set's rows in the columns.
    """
    placed = {name: _place(column, parallel) for name, column in columns.items()}
    size = len(next(iter(placed.values())))
    return {
        name: ResidentSet(
            placed,
            _place(np.asarray(rows, np.int32), parallel, size=size),
            parallel.replicate(np.int32(len(rows))),
        )
        for name, rows in sets.items()
    }


def _place(
    column: np.ndarray | jax.Array, parallel: DataParallel, *, size: int | None = None
) -> jax.Array:
    if isinstance(column, jax.Array):
        return parallel.place(column)
    padded = np.zeros((size or padded_rows(len(column)), *column.shape[1:]), column.dtype)
    padded[: len(column)] = column
    return parallel.place(padded)


# --------------------------------------------------------------------------------------------------
# Steps
# --------------------------------------------------------------------------------------------------


def predict_steps(step: Callable) -> Callable:
    """Returns `step(state, batch)` as a step whose batch is (a set, rows [B]).

    For rows after the end of the set, its results are those of arbitrary examples.
    """

    def steps(state: Any, batch: tuple[ResidentSet, dict]) -> Any:
        return step(state, _gather(*batch))

    return steps


def fill_steps(step: Callable) -> Callable:
    """Returns `step(state, batch) -> [B, ...]` as a step that writes its results into a column.

    Its arguments are the column [M, ...] and ((state, a set of all rows), rows [B]). It returns the
    column in the same memory.
    """

    def steps(column: jax.Array, batch: tuple[tuple[Any, ResidentSet], dict]) -> jax.Array:
        (state, examples), rows = batch
        return column.at[gather(rows["index"])].set(
            step(state, _gather(examples, rows)), mode="drop"
        )

    return steps


def train_steps(step: Callable, *, at_most: int, draw: Callable | None = None) -> Callable:
    """Returns a function that makes up to K steps.

    It is (state, (a set, rows [B, K])) -> (state, metrics [K]). Steps whose mask is zero are not
    run, and their metrics are zero. They must be the last ones.

    Args:
      at_most: K.
      draw: `draw(state, rows)` returns a step's random positions. They are drawn for all K steps
        together, so that the loop needs no kernels for random numbers.
    """

    def steps(state: Any, batch: tuple[ResidentSet, dict]) -> tuple[Any, dict]:
        examples, rows = batch
        rows = {name: jnp.moveaxis(x, -1, 0) for name, x in rows.items()}
        if draw is not None:
            numbers = state.step + jnp.arange(at_most, dtype=state.step.dtype)
            draw_step = jax.vmap(lambda number, rows: draw(state.replace(step=number), rows))
            rows["positions"] = draw_step(numbers, rows)

        def run_step(number, state: Any) -> tuple[Any, dict]:
            return step(state, _gather(examples, jax.tree.map(lambda x: x[number], rows)))

        return _repeat(run_step, state, times=(rows["mask"][:, 0] > 0).sum(), at_most=at_most)

    return steps


def eval_steps(step: Callable, *, whole: bool) -> Callable:
    """Returns a function that evaluates up to K batches.

    It is (state, (a set, rows [B])) -> sums [K]. The rows are those of the first batch. The other
    batches are the rows after these, until the end of the set. The sums of batches after the end
    are zero.

    Args:
      whole: True if the K batches are the whole set; otherwise K is 1.
    """

    def steps(state: Any, batch: tuple[ResidentSet, dict]) -> dict:
        examples, rows = batch
        size = len(rows["slot"]) * jax.lax.axis_size(AXIS)

        def run_step(number, state: Any) -> tuple[Any, dict]:
            index = rows["index"] + number * size
            real = index < examples.count
            own = {"index": jnp.where(real, index, 0), "slot": rows["slot"]}
            return state, step(state, _gather(examples, own | {"mask": real.astype(jnp.float32)}))

        if not whole:
            return _repeat(run_step, state, times=1, at_most=1)[1]
        times = (examples.count + size - 1) // size
        return _repeat(run_step, state, times=times, at_most=-(-len(examples.rows) // size))[1]

    return steps


def _repeat(
    run_step: Callable, state: Any, *, times: jax.Array | int, at_most: int
) -> tuple[Any, dict]:
    """Calls `run_step(number, state) -> (state, results)` `times` times; stacks the results [K]."""
    if at_most == 1:  # because XLA runs loops of training steps slowly on a CPU
        state, results = run_step(0, state)
        return state, {name: x[None] for name, x in results.items()}
    shapes = jax.eval_shape(run_step, jnp.zeros((), jnp.int32), state)[1]
    stacked = {name: jnp.zeros((at_most, *x.shape), x.dtype) for name, x in shapes.items()}

    def turn(number, carry):
        state, results = run_step(number, carry[0])
        return state, {name: carry[1][name].at[number].set(x) for name, x in results.items()}

    return jax.lax.fori_loop(0, times, turn, (state, stacked))


def _gather(examples: ResidentSet, rows: dict) -> dict:
    """Returns the batch: these rows of every column, and the row numbers themselves."""
    index = examples.rows.at[rows["index"]].get(mode="clip")
    return {name: x[index] for name, x in examples.columns.items()} | rows


def dispatch_rows(
    rows_of: Callable[..., batches.Rows], steps: range, *, at_most: int
) -> dict[str, np.ndarray]:
    """Returns the rows of one dispatch of these training steps, [B, K].

    If there are fewer than K steps, the mask of the others is zero.

    Args:
      rows_of: `rows_of(step=...)` returns the rows of a step, as `batches.train_rows` does.
      at_most: K.
    """
    rows_of_steps = [rows_of(step=step) for step in steps]
    padding = [(0, 0), (0, at_most - len(steps))]
    return {
        name: np.pad(np.stack([getattr(rows, name) for rows in rows_of_steps], axis=-1), padding)
        for name in batches.RESERVED
    }


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------


def budget_bytes(limit_gb: float, *, device: jax.Device) -> int:
    """Returns how many bytes the tables on one device may use.

    Args:
      limit_gb: the configured limit. If it is negative, the limit is a share of the memory of the
        device (of the host, if that is a CPU), or 0 if the device does not report its memory.
    """
    if limit_gb >= 0:
        return int(limit_gb * 1e9)
    if device.platform == "cpu":
        return int(_SHARE * host_memory_bytes())
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    if not memory:
        logging.warning(
            "%s does not report the size of its memory, so no data are kept there: set "
            "config.parallel.resident_gb to the number of GB that data may use.",
            device,
        )
    return int(_SHARE * memory)


def table_bytes(columns: Mapping[str, Column]) -> int:
    """Returns the memory that a table needs on every device, including padding."""
    return sum(
        padded_rows(len(column)) * column.dtype.itemsize * math.prod(column.shape[1:])
        for column in columns.values()
    )
