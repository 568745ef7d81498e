"""Tables that stay on the devices: a step gathers its batch there, and the host sends row numbers.

    all examples of a run       -> one table, padded to one of a few sizes
    training, validation, test  -> sets: row numbers of the table
    (set, rows of a dispatch)   -> up to K batches on the device -> the metrics of each batch

The number of a set's examples and the number of a dispatch's batches are values, not shapes. So one
compiled program serves every fold, every number of labelled patients, and every length of an epoch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from thermo_jax.data import batches
from thermo_jax.training.parallel import AXIS, DataParallel, gather

# Share of a device's memory for tables: the rest is for the steps' own arrays.
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


# Columns with one leading axis of examples in host memory, or a set on the devices.
ExampleSet = Mapping[str, np.ndarray] | ResidentSet


def num_rows(examples: ExampleSet) -> int:
    """How many examples a set has."""
    if isinstance(examples, ResidentSet):
        return int(jax.device_get(examples.count))
    return len(next(iter(examples.values())))


def padded_rows(count: int) -> int:
    """The size on the devices of a table of `count` examples.

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
    """`step(state, batch)` -> a step that takes (a set, rows [B]) as its batch.

    For rows behind the end of the set, it returns results of arbitrary examples.
    """

    def steps(state: Any, batch: tuple[ResidentSet, dict]) -> Any:
        return step(state, _gather(*batch))

    return steps


def fill_steps(step: Callable) -> Callable:
    """`step(state, batch) -> [B, ...]` -> a step that writes these results into a column [M, ...].

    It takes (column, ((state, a set of all rows), rows [B])) and returns the column in the same
    memory.
    """

    def steps(column: jax.Array, batch: tuple[tuple[Any, ResidentSet], dict]) -> jax.Array:
        (state, examples), rows = batch
        return column.at[gather(rows["index"])].set(
            step(state, _gather(examples, rows)), mode="drop"
        )

    return steps


def train_steps(step: Callable, *, at_most: int, draw: Callable | None = None) -> Callable:
    """A training step -> up to K training steps: (state, (a set, rows [B, K])) -> metrics [K].

    It makes the steps whose mask is not zero, which must be the first ones. The metrics of the
    others are zero.

    Args:
      at_most: K.
      draw: `draw(state, rows)` gives a step's random positions. They are drawn for all K steps
        together, so that random numbers cost no kernels in the loop.
    """

    def steps(state: Any, batch: tuple[ResidentSet, dict]) -> tuple[Any, dict]:
        examples, rows = batch
        rows = {name: jnp.moveaxis(x, -1, 0) for name, x in rows.items()}
        if draw is not None:
            numbers = state.step + jnp.arange(at_most, dtype=state.step.dtype)
            each = jax.vmap(lambda number, rows: draw(state.replace(step=number), rows))
            rows["positions"] = each(numbers, rows)

        def one(number, state: Any) -> tuple[Any, dict]:
            return step(state, _gather(examples, jax.tree.map(lambda x: x[number], rows)))

        return _repeat(one, state, times=(rows["mask"][:, 0] > 0).sum(), at_most=at_most)

    return steps


def eval_steps(step: Callable, *, whole: bool) -> Callable:
    """Sums over a batch -> the sums over K batches: (a set, rows [B]) -> sums [K].

    The rows are those of the first batch. The next batches follow it until the set ends; the sums
    that remain are zero.

    Args:
      whole: K batches are enough for the whole set; otherwise K is 1.
    """

    def steps(state: Any, batch: tuple[ResidentSet, dict]) -> dict:
        examples, rows = batch
        size = len(rows["slot"]) * jax.lax.axis_size(AXIS)

        def one(number, state: Any) -> tuple[Any, dict]:
            index = rows["index"] + number * size
            real = index < examples.count
            own = {"index": jnp.where(real, index, 0), "slot": rows["slot"]}
            return state, step(state, _gather(examples, own | {"mask": real.astype(jnp.float32)}))

        if not whole:
            return _repeat(one, state, times=1, at_most=1)[1]
        times = (examples.count + size - 1) // size
        return _repeat(one, state, times=times, at_most=-(-len(examples.rows) // size))[1]

    return steps


def _repeat(one: Callable, state: Any, *, times: jax.Array | int, at_most: int) -> tuple[Any, dict]:
    """Calls `one(number, state)` so many times; stacks what it returns beside the state, [K]."""
    if at_most == 1:  # XLA's CPU backend runs loops of training steps more slowly
        state, found = one(0, state)
        return state, {name: x[None] for name, x in found.items()}
    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32), state)[1]
    stacked = {name: jnp.zeros((at_most, *x.shape), x.dtype) for name, x in shapes.items()}

    def turn(number, carry):
        state, found = one(number, carry[0])
        return state, {name: carry[1][name].at[number].set(x) for name, x in found.items()}

    return jax.lax.fori_loop(0, times, turn, (state, stacked))


def _gather(examples: ResidentSet, rows: dict) -> dict:
    """The batch: these rows of every column, and the row numbers themselves."""
    index = examples.rows.at[rows["index"]].get(mode="clip")
    return {name: x[index] for name, x in examples.columns.items()} | rows


def dispatch_rows(
    rows_of: Callable[..., batches.Rows], steps: range, *, at_most: int
) -> dict[str, np.ndarray]:
    """The rows of a dispatch of some training steps, [B, K]; the mask of the other steps is zero.

    Args:
      rows_of: `rows_of(step=...)` returns the rows of a step, as `batches.train_rows` does.
      at_most: K.
    """
    each_step = [rows_of(step=step) for step in steps]
    padding = [(0, 0), (0, at_most - len(each_step))]
    return {
        name: np.pad(np.stack([getattr(rows, name) for rows in each_step], axis=-1), padding)
        for name in batches.RESERVED
    }


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------


def budget_bytes(limit_gb: float, *, device: jax.Device) -> int:
    """How many bytes of tables one device may hold.

    Args:
      limit_gb: the configured limit, or a negative number for a share of the device's memory (of
        the host's, on the CPU; nothing, with a warning, on another device that does not tell it).
    """
    if limit_gb >= 0:
        return int(limit_gb * 1e9)
    if device.platform == "cpu":
        return int(_SHARE * host_memory_bytes())
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    if not memory:
        logging.warning(
            "%s does not tell how much memory it has, so that no data are kept there: set "
            "config.parallel.resident_gb to what they may take.",
            device,
        )
    return int(_SHARE * memory)


def host_memory_bytes() -> int:
    """The machine's memory; 8 GB where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemTotal"))
    except (OSError, StopIteration):
        return 8 * 10**9


def table_bytes(columns: Mapping[str, np.ndarray]) -> int:
    """The memory that a table takes on every device, including padding."""
    return sum(
        padded_rows(len(column)) * column.itemsize * math.prod(column.shape[1:])
        for column in columns.values()
    )
