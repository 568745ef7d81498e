"""Which rows make which batch: pure NumPy index arithmetic, and the loader built on it.

Training reads an endless stream: seeded permutations of the table, one after the other, cut into
full batches that run on from one permutation into the next (SPEC section 2, "Epochs"). Any batch of
that stream can be computed from its number alone, so a resumed run continues exactly. Evaluation
reads every row once, in order; the last batch is padded and masked.

A batch is the rows of every column plus
    index  int32 [B]    row in the table
    slot   int32 [B]    position in the *global* batch (the random key of an example folds it in, so
                        that results do not depend on how many processes or devices share the batch)
    mask   float32 [B]  1 for an example, 0 for padding

`pipeline.py` streams the same batches through tf.data; nothing here needs TensorFlow.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from thermo_jax.errors import UserError

MIN_STEPS_PER_EPOCH = 5  # 18 images would otherwise make 2 updates an epoch
RESERVED = ("index", "slot", "mask")


class Rows(NamedTuple):
    """The rows of one batch that one process reads (see the module's text)."""

    index: np.ndarray
    slot: np.ndarray
    mask: np.ndarray


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Number of full batches called an epoch: max(ceil(num_rows / batch_size), 5)."""
    return max(num_eval_batches(num_rows, batch_size), MIN_STEPS_PER_EPOCH)


def num_eval_batches(num_rows: int, batch_size: int) -> int:
    """Number of batches that hold every row once: ceil(num_rows / batch_size)."""
    _check_sizes(num_rows, batch_size)
    return -(-num_rows // batch_size)


def batch_indices(num_rows: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """Rows of batch `step` of the endless stream of seeded permutations.

    The stream joins `np.random.default_rng((seed, k)).permutation(num_rows)` for k = 0, 1, ...;
    batch `step` is its elements `[step * batch_size, (step + 1) * batch_size)`.

    Returns:
      int64 [batch_size], in `range(num_rows)`.
    Raises:
      ValueError: for an empty table, a batch size below 1, a negative seed or step.
    """
    _check_sizes(num_rows, batch_size)
    if seed < 0 or step < 0:
        raise ValueError(f"seed and step must be 0 or more, got seed={seed}, step={step}")
    start, stop = step * batch_size, (step + 1) * batch_size
    first, last = start // num_rows, (stop - 1) // num_rows
    stretch = [_permutation(num_rows, seed, k) for k in range(first, last + 1)]
    return np.concatenate(stretch)[start - first * num_rows : stop - first * num_rows]


@functools.lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int, k: int) -> np.ndarray:
    permutation = np.random.default_rng((seed, k)).permutation(num_rows)
    permutation.setflags(write=False)  # it is shared by all callers
    return permutation


def train_rows(
    num_rows: int,
    batch_size: int,
    *,
    seed: int,
    step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Rows:
    """This process's part of training batch `step`; B = batch_size / process_count."""
    mine = process_slots(batch_size, process_index=process_index, process_count=process_count)
    index = batch_indices(num_rows, batch_size, seed=seed, step=step)
    return _rows(index, np.ones(batch_size, np.float32), mine)


def eval_rows(
    num_rows: int, batch_size: int, *, step: int, process_index: int = 0, process_count: int = 1
) -> Rows:
    """This process's part of evaluation batch `step`; padding repeats row 0 with mask 0."""
    if not 0 <= step < num_eval_batches(num_rows, batch_size):
        raise ValueError(f"no evaluation batch {step}: {num_rows} rows, batch size {batch_size}")
    mine = process_slots(batch_size, process_index=process_index, process_count=process_count)
    index = np.arange(step * batch_size, (step + 1) * batch_size)
    real = index < num_rows
    return _rows(np.where(real, index, 0), real.astype(np.float32), mine)


def process_slots(batch_size: int, *, process_index: int, process_count: int) -> slice:
    """Positions of the global batch that one process reads.

    Raises:
      UserError: if the processes do not divide the batch.
      ValueError: if there is no such process.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} is not one of {process_count} processes")
    if batch_size % process_count:
        lower = batch_size // process_count * process_count
        fits = " or ".join(str(size) for size in (lower, lower + process_count) if size)
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {process_count} processes: "
            f"choose a multiple of {process_count}, such as {fits}"
        )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def gather(columns: Mapping[str, np.ndarray], rows: Rows) -> dict[str, np.ndarray]:
    """The batch: `rows` of every column, and the rows' own index, slot and mask."""
    batch = {name: np.take(column, rows.index, axis=0) for name, column in columns.items()}
    return batch | rows._asdict()


def train_batches(
    columns: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields training batches `start_step` to `start_step + num_steps - 1`.

    Args:
      columns: arrays with one leading axis of examples.
      batch_size: examples in the global batch; this process gets batch_size / process_count.
      seed: seed of the order of examples.
      num_steps: how many batches to yield.
      start_step: number of the first one; a resumed run passes the steps already done.
      process_index: which process this is.
      process_count: how many processes share the global batch.
    """
    num_rows = check_columns(columns)
    process = {"process_index": process_index, "process_count": process_count}
    check_batch(num_rows, batch_size, **process)
    steps = range(start_step, start_step + num_steps)
    plan = functools.partial(train_rows, num_rows, batch_size, seed=seed, **process)
    return (gather(columns, plan(step=step)) for step in steps)


def eval_batches(
    columns: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every row once, in order; the last batch is padded (mask 0) to `batch_size`."""
    num_rows = check_columns(columns)
    process = {"process_index": process_index, "process_count": process_count}
    check_batch(num_rows, batch_size, **process)
    steps = range(num_eval_batches(num_rows, batch_size))
    plan = functools.partial(eval_rows, num_rows, batch_size, **process)
    return (gather(columns, plan(step=step)) for step in steps)


def check_columns(columns: Mapping[str, np.ndarray]) -> int:
    """Number of rows of a table of equally long columns; ValueError if it is not one."""
    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths:
        raise ValueError("there are no columns to make batches of")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"all columns must have the same number of rows, got {lengths}")
    taken = sorted(set(lengths) & set(RESERVED))
    if taken:
        raise ValueError(f"column names {taken} are used by the batches themselves: rename them")
    return next(iter(lengths.values()))


def check_batch(num_rows: int, batch_size: int, *, process_index: int, process_count: int) -> None:
    """Raises the ValueError of an impossible batch now, rather than at the first batch."""
    _check_sizes(num_rows, batch_size)
    process_slots(batch_size, process_index=process_index, process_count=process_count)


def _check_sizes(num_rows: int, batch_size: int) -> None:
    if num_rows < 1:
        raise ValueError("the table is empty: there is nothing to make batches of")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")


def _rows(index: np.ndarray, mask: np.ndarray, mine: slice) -> Rows:
    slot = np.arange(len(index), dtype=np.int32)
    return Rows(index.astype(np.int32)[mine], slot[mine], mask[mine])
