"""The batches that the mapped steps read: rows of sets on the devices, or data of the host."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from thermo_jax.data import batches
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.resident import ExampleSet, ResidentSet, dispatch_rows, num_rows


def train_batches(
    train: ExampleSet,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    start_step: int,
    steps_per_dispatch: int,
    loader: str,
    parallel: DataParallel,
) -> Iterator[tuple[Any, int]]:
    """Yields the batch of each dispatch, and its number of steps, from `start_step` on.

    A dispatch is one call of a compiled program. For a set on the devices it makes up to
    `steps_per_dispatch` steps of one epoch; for host memory it makes one step.
    """
    count = num_rows(train)
    steps = batches.steps_per_epoch(count, batch_size)
    if isinstance(train, ResidentSet):
        rows_of = partial(batches.train_rows, count, batch_size, seed=seed, **_process())
        ranges = _dispatches(start_step, epochs * steps, steps=steps, most=steps_per_dispatch)
        rows = (
            (dispatch_rows(rows_of, dispatch, at_most=steps_per_dispatch), len(dispatch))
            for dispatch in ranges
        )
        return batches.prefetch(rows, lambda x: ((train, parallel.put_batch(x[0])), x[1]))
    host_batches = batches.train_batches(
        train,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        num_steps=max(epochs * steps - start_step, 0),
        loader=loader,
        **_process(),
    )
    return batches.prefetch(host_batches, lambda batch: (parallel.put_batch(batch), 1))


def _dispatches(start: int, end: int, *, steps: int, most: int) -> Iterator[range]:
    while start < end:
        stop = min(start + most, (start // steps + 1) * steps)
        yield range(start, stop)
        start = stop


def eval_batches(
    examples: ExampleSet,
    *,
    batch_size: int,
    loader: str = "numpy",
    parallel: DataParallel,
    whole: bool = False,
) -> Iterator[Any]:
    """Yields the arguments of the dispatches that together read every row once, in order.

    The last batch may be larger than the number of rows left. In host memory it is padded; on the
    devices, the steps ignore rows after the end of the set.

    Args:
      whole: one dispatch reads a whole set on the devices, see `resident.eval_steps`.
    """
    if isinstance(examples, ResidentSet):
        slots = np.arange(batch_size, dtype=np.int32)
        slots = slots[batches.process_slots(batch_size, **_process())]
        # If one dispatch reads the whole set, the host need not fetch its length from a device.
        count = 1 if whole else batches.num_eval_batches(num_rows(examples), batch_size)
        rows = ({"index": batch * batch_size + slots, "slot": slots} for batch in range(count))
        return batches.prefetch(rows, lambda own_rows: (examples, parallel.put_batch(own_rows)))
    host_batches = batches.eval_batches(
        examples, batch_size=batch_size, loader=loader, **_process()
    )
    return batches.prefetch(host_batches, parallel.put_batch)


def _process() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
