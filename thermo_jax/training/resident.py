"""Tables that live on the devices: a step gathers its batch there, and the host only counts.

A resident batch is a pair (columns, rows): the whole table on every device, and the rows of the
batch, `batching.Rows` as a dict. Several training steps make one dispatch: their rows are stacked
on the last axis, `[B, K]`, and `scan_steps` runs the K steps on the device.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from thermo_jax.data import batching

# Columns with one leading axis of examples, in host memory or on the devices.
Table = Mapping[str, np.ndarray | jax.Array]

# Share of a device's memory for tables: the rest is for the steps' own arrays, and for twice the
# latents while they are put together.
_SHARE = 0.35


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


def table_bytes(*tables: Table) -> int:
    """Size of some tables."""
    return sum(column.nbytes for table in tables for column in table.values())


def is_resident(columns: Table) -> bool:
    """Whether a table lives on the devices."""
    return all(isinstance(column, jax.Array) for column in columns.values())


def gather_batch(step: Callable) -> Callable:
    """`step(state, batch)` -> the same on a resident batch, rows `[B]`."""

    def gathered(state: Any, batch: tuple[dict, dict]) -> Any:
        columns, rows = batch
        return step(state, _gather(columns, rows))

    return gathered


def scan_steps(step: Callable, *, draw: Callable | None = None) -> Callable:
    """A training step -> the K steps of a resident batch, rows `[B, K]`; metrics are `[K]`.

    Args:
      draw: `draw(state, rows)` gives a step's random positions. They are drawn for all K steps
        together, so that random numbers cost no kernels in the loop.
    """

    def scanned(state: Any, batch: tuple[dict, dict]) -> tuple[Any, dict]:
        columns, rows = batch
        rows = {name: jnp.moveaxis(x, -1, 0) for name, x in rows.items()}
        if draw is not None:
            steps = state.step + jnp.arange(len(rows["index"]), dtype=state.step.dtype)
            each = jax.vmap(lambda step, rows: draw(state.replace(step=step), rows))
            rows["positions"] = each(steps, rows)
        if len(rows["index"]) == 1:  # XLA's CPU backend runs loops more slowly
            state, metrics = step(state, _gather(columns, jax.tree.map(lambda x: x[0], rows)))
            return state, {name: value[None] for name, value in metrics.items()}
        return jax.lax.scan(lambda state, rows: step(state, _gather(columns, rows)), state, rows)

    return scanned


def _gather(columns: dict, rows: dict) -> dict:
    return {name: x[rows["index"]] for name, x in columns.items()} | rows


def steps_of_dispatch(steps_per_epoch: int, *, at_most: int) -> int:
    """The largest number of steps that divides an epoch, so that one program serves all."""
    return max(k for k in range(1, max(at_most, 1) + 1) if steps_per_epoch % k == 0)


def train_rows(
    plan: Callable[..., batching.Rows], *, start_step: int, num_dispatches: int, steps: int
) -> Iterator[dict[str, np.ndarray]]:
    """Rows of dispatches of `steps` training steps each, `[B, K]`.

    Args:
      plan: `plan(step=...)` tells the rows of a step, as `batching.train_rows` does.
    """
    for dispatch in range(num_dispatches):
        first = start_step + dispatch * steps
        batches = [plan(step=step) for step in range(first, first + steps)]
        yield {
            name: np.stack([getattr(rows, name) for rows in batches], axis=-1)
            for name in batching.RESERVED
        }
