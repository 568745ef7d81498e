"""Tables that live on the devices: a step gathers its batch there, and the host only counts.

    all examples of a run -> one table, padded to a size of a few -> sets: row numbers of the table
    (set, rows of a dispatch) -> up to K batches on the device -> metrics of each

Neither the number of a set's examples nor that of a dispatch's batches is a shape: one compiled
program serves every fold, every number of labelled patients and every epoch, whatever its length.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from thermo_jax.data import batching
from thermo_jax.training.parallel import AXIS, DataParallel, gather

# Share of a device's memory for tables: the rest is for the steps' own arrays.
_SHARE = 0.35
_LEAST_ROWS = 32  # of a table
_SIZES = 4  # of tables, between one power of two and the next


class ResidentSet(NamedTuple):
    """Some examples of a table on the devices: a training, validation or test set.

    Attributes:
      columns: of all examples, [M, ...], shared by the sets of a run.
      rows: int32 [M], the set's examples as rows of the columns; zeros behind them.
      count: int32 [], how many these are.
    """

    columns: dict[str, jax.Array]
    rows: jax.Array
    count: jax.Array


# Columns with one leading axis of examples in host memory, or a set on the devices.
Table = Mapping[str, np.ndarray] | ResidentSet


def num_rows(table: Table) -> int:
    """How many examples a table has."""
    if isinstance(table, ResidentSet):
        return int(jax.device_get(table.count))
    return len(next(iter(table.values())))


def padded_rows(count: int) -> int:
    """How many rows a table of `count` examples takes on the devices: one of a few sizes.

    At least 32; above, a quarter of a power of two is the step, so that at most a fifth is padding.
    """
    step = 2 ** max(math.ceil(math.log2(max(count, _LEAST_ROWS))) - 1, 0) // _SIZES
    return -(-max(count, _LEAST_ROWS) // step) * step


def place_sets(
    columns: Mapping[str, np.ndarray | jax.Array],
    sets: Mapping[str, Sequence[int] | np.ndarray],
    *,
    parallel: DataParallel,
) -> dict[str, ResidentSet]:
    """A table on every device, and its sets, by name.

    Args:
      columns: one leading axis of examples. Those on the devices already are padded already.
      sets: rows of the columns.
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
    """`step(state, batch)` -> the same of (a set, rows [B] of it).

    What it gives for rows behind the set is of some example.
    """

    def steps(state: Any, batch: tuple[ResidentSet, dict]) -> Any:
        return step(state, _gather(*batch))

    return steps


def fill_steps(step: Callable) -> Callable:
    """Per-example results of `step(state, batch)`, [B, ...] -> written into a column [M, ...].

    `(column, ((state, a set of all rows), rows [B])) -> column`, in its own memory.
    """

    def steps(column: jax.Array, batch: tuple[tuple[Any, ResidentSet], dict]) -> jax.Array:
        (state, examples), rows = batch
        return column.at[gather(rows["index"])].set(
            step(state, _gather(examples, rows)), mode="drop"
        )

    return steps


def train_steps(step: Callable, *, at_most: int, draw: Callable | None = None) -> Callable:
    """A training step -> the steps of a dispatch: (a set, rows [B, K]) -> metrics [K].

    The steps are those whose mask is not zero: the first of K. Behind theirs, metrics are zero.

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


def eval_steps(step: Callable, *, at_most: int) -> Callable:
    """Sums over a batch -> those of the batches of a dispatch: (a set, rows [B]) -> sums [K].

    The rows are those of the first batch; up to K follow each other, as far as the set goes. Behind
    theirs, sums are zero.

    Args:
      at_most: K.
    """

    def steps(state: Any, batch: tuple[ResidentSet, dict]) -> dict:
        examples, rows = batch
        size = len(rows["slot"]) * jax.lax.axis_size(AXIS)

        def one(number, state: Any) -> tuple[Any, dict]:
            index = rows["index"] + number * size
            real = index < examples.count
            own = {"index": jnp.where(real, index, 0), "slot": rows["slot"]}
            return state, step(state, _gather(examples, own | {"mask": real.astype(jnp.float32)}))

        first = rows["index"][0] - rows["slot"][0]
        left = (examples.count - first + size - 1) // size
        return _repeat(one, state, times=jnp.minimum(left, at_most), at_most=at_most)[1]

    return steps


def _repeat(one: Callable, state: Any, *, times: jax.Array, at_most: int) -> tuple[Any, dict]:
    """`one(number, state)` so many times; what it returns beside the state is stacked, [K]."""
    if at_most == 1:
        state, found = one(0, state)
        return state, {name: x[None] for name, x in found.items()}
    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32), state)[1]
    stacked = {name: jnp.zeros((at_most, *x.shape), x.dtype) for name, x in shapes.items()}

    def turn(number, carry):
        state, found = one(number, carry[0])
        return state, {name: carry[1][name].at[number].set(x) for name, x in found.items()}

    return jax.lax.fori_loop(0, times, turn, (state, stacked))


def _gather(examples: ResidentSet, rows: dict) -> dict:
    """The batch: rows of every column, and what the rows are themselves."""
    index = examples.rows.at[rows["index"]].get(mode="clip")
    return {name: x[index] for name, x in examples.columns.items()} | rows


def train_rows(
    plan: Callable[..., batching.Rows], steps: range, *, at_most: int
) -> dict[str, np.ndarray]:
    """Rows of a dispatch of these training steps, [B, K]; their mask is zero behind them.

    Args:
      plan: `plan(step=...)` tells the rows of a step, as `batching.train_rows` does.
      at_most: K.
    """
    batches = [plan(step=step) for step in steps]
    padding = [(0, 0), (0, at_most - len(batches))]
    return {
        name: np.pad(np.stack([getattr(rows, name) for rows in batches], axis=-1), padding)
        for name in batching.RESERVED
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
    """What a table takes on every device, padding included."""
    return sum(
        padded_rows(len(column)) * column.itemsize * math.prod(column.shape[1:])
        for column in columns.values()
    )
