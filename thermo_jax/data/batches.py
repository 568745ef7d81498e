"""Batches: which rows they contain, and the two loaders that read them, tf.data and NumPy.

Training reads an endless stream of rows: seeded permutations of all rows, one after the other. The
stream is cut into full batches, which may contain the end of one permutation and the start of the
next (SPEC section 2, "Epochs"). A batch can be computed from its number alone, so a resumed run
continues exactly. Evaluation reads every row once, in order; its last batch is padded and masked.

A batch contains the rows of every column, and also
    index  int32 [B]    number of the row
    slot   int32 [B]    position in the *global* batch. The random key of an example depends on
                        its slot, so results do not depend on the number of processes or devices.
    mask   float32 [B]  1 for an example, 0 for padding

Both loaders give bit-identical batches in the same order, of columns in memory and of streamed ones
(`streamed.py`). tf.data takes rows in parallel and ahead of use, without a second copy of a column
in memory. TensorFlow is imported only here, inside
functions, and it cannot use the accelerators.
"""

import collections
import concurrent.futures
import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from thermo_jax.data.streamed import Column, is_streamed
from thermo_jax.data.workers import pool_map
from thermo_jax.errors import UserError

LOADERS = ("tf.data", "numpy")
LOADER_CHOICES = ("auto", *LOADERS)
MIN_STEPS_PER_EPOCH = 5  # else, 18 images in batches of 16 would be 2 updates
BATCHES_AHEAD = 2  # of streamed columns


def choose_loader(name: str) -> str:
    """The loader that one of LOADER_CHOICES means on this machine.

    "auto" is "tf.data" if TensorFlow and TFDS are installed, and "numpy" if not.

    Raises:
      UserError: `name` is "tf.data", but one of them is not installed.
    """
    if name == "numpy":
        return name
    needed = {"tensorflow": "TensorFlow", "tensorflow_datasets": "TFDS"}
    absent = [title for module, title in needed.items() if not importlib.util.find_spec(module)]
    if not absent:
        return "tf.data"
    if name == "tf.data":
        raise UserError(
            f"the tf.data loader needs {' and '.join(absent)}, which is not installed: run "
            "`pip install tensorflow tensorflow-datasets`, or leave config.data.loader at 'auto'"
        )
    logging.log_first_n(
        logging.INFO, "loader numpy, because %s is not installed", 1, " and ".join(absent)
    )
    return "numpy"


class Rows(NamedTuple):
    """The rows of one batch that one process reads (see the top of this file)."""

    index: np.ndarray
    slot: np.ndarray
    mask: np.ndarray


RESERVED = Rows._fields


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Number of full batches in an epoch: max(ceil(num_rows / batch_size), 5)."""
    return max(num_eval_batches(num_rows, batch_size), MIN_STEPS_PER_EPOCH)


def num_eval_batches(num_rows: int, batch_size: int) -> int:
    """Number of batches that contain every row once: ceil(num_rows / batch_size)."""
    return -(-num_rows // batch_size)


def batch_indices(num_rows: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """Rows (int64 [batch_size]) of batch `step` of the endless stream of seeded permutations.

    The stream joins `np.random.default_rng((seed, k)).permutation(num_rows)` for k = 0, 1, ...;
    batch `step` is its elements `[step * batch_size, (step + 1) * batch_size)`.
    """
    start, stop = step * batch_size, (step + 1) * batch_size
    first, last = start // num_rows, (stop - 1) // num_rows
    stream = [_permutation(num_rows, seed, k) for k in range(first, last + 1)]
    return np.concatenate(stream)[start - first * num_rows : stop - first * num_rows]


@functools.lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int, k: int) -> np.ndarray:
    permutation = np.random.default_rng((seed, k)).permutation(num_rows)
    permutation.setflags(write=False)  # all callers share it
    return permutation


def train_rows(num_rows: int, batch_size: int, *, seed: int, step: int, **process: int) -> Rows:
    """The rows of training batch `step` that one process reads (see `process_slots`)."""
    index = batch_indices(num_rows, batch_size, seed=seed, step=step)
    return _rows(index, np.ones(batch_size, np.float32), **process)


def eval_rows(num_rows: int, batch_size: int, *, step: int, **process: int) -> Rows:
    """The rows of evaluation batch `step` that one process reads; padding repeats row 0."""
    index = np.arange(step * batch_size, (step + 1) * batch_size)
    mask = (index < num_rows).astype(np.float32)
    return _rows(np.where(mask, index, 0), mask, **process)


def _rows(index: np.ndarray, mask: np.ndarray, **process: int) -> Rows:
    part = process_slots(len(index), **process)
    slot = np.arange(len(index), dtype=np.int32)
    return Rows(index.astype(np.int32)[part], slot[part], mask[part])


def process_slots(batch_size: int, *, process_index: int = 0, process_count: int = 1) -> slice:
    """Positions of the global batch that one process reads.

    Args:
      process_index: 0 to process_count - 1.
      process_count: how many processes share the global batch.
    Raises:
      UserError: the batch cannot be divided evenly among the processes.
    """
    if batch_size % process_count:
        lower = batch_size // process_count * process_count
        fits = " or ".join(str(size) for size in (lower, lower + process_count) if size)
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {process_count} processes: "
            f"choose a multiple of {process_count}, such as {fits}"
        )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def take_rows(columns: Mapping[str, Column], rows: Rows) -> dict[str, np.ndarray]:
    """The batch of these rows: their values of every column, and index, slot and mask."""
    return {name: column[rows.index] for name, column in columns.items()} | rows._asdict()


def train_batches(
    columns: Mapping[str, Column],
    *,
    batch_size: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    loader: str = "numpy",
    **process: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields training batches `start_step` to `start_step + num_steps - 1`.

    Args:
      columns: arrays with one leading axis of examples; they may be streamed.
      batch_size: examples in the global batch; this process gets batch_size / process_count.
      start_step: number of the first batch; a resumed run passes the number of steps already done.
      loader: one of LOADERS.
      process: `process_index` and `process_count`, as in `process_slots`.
    Raises:
      UserError: TensorFlow is missing, or `process_slots` raises it.
      ValueError: no batch can be made of these columns and numbers.
    """
    num_rows = _check_batch(columns, batch_size, **process)
    rows_of = functools.partial(train_rows, num_rows, batch_size, seed=seed, **process)
    return _load(columns, rows_of, range(start_step, start_step + num_steps), loader=loader)


def eval_batches(
    columns: Mapping[str, Column],
    *,
    batch_size: int,
    loader: str = "numpy",
    **process: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every row once, in order; the last batch is padded (mask 0) to `batch_size`.

    Arguments and errors are those of `train_batches`.
    """
    num_rows = _check_batch(columns, batch_size, **process)
    rows_of = functools.partial(eval_rows, num_rows, batch_size, **process)
    return _load(columns, rows_of, range(num_eval_batches(num_rows, batch_size)), loader=loader)


def _check_batch(columns: Mapping[str, Column], batch_size: int, **process: int) -> int:
    """Returns the number of rows; raises the errors of `train_batches` before the first batch."""
    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths:
        raise ValueError("there are no columns to make batches of")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"all columns must have the same number of rows, got {lengths}")
    if taken := sorted(lengths.keys() & RESERVED):
        raise ValueError(f"column names {taken} are used by the batches themselves: rename them")
    num_rows = next(iter(lengths.values()))
    if num_rows < 1:
        raise ValueError("the table is empty: there is nothing to make batches of")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    process_slots(batch_size, **process)
    return num_rows


def _load(
    columns: Mapping[str, Column], rows_of: Callable[..., Rows], steps: range, *, loader: str
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of these steps; `rows_of(step=...)` returns the rows of a step."""

    def read(step: int) -> dict[str, np.ndarray]:
        return take_rows(columns, rows_of(step=step))

    ahead = BATCHES_AHEAD if is_streamed(columns) else 0
    if loader == "numpy":
        return _read_ahead(read, steps, ahead=ahead) if ahead else map(read, steps)
    tf = import_tensorflow()
    names = [*columns, *RESERVED]
    types = [column.dtype for column in columns.values()] + [np.int32, np.int32, np.float32]
    errors: dict[int, Exception] = {}  # by step

    def read_values(step: np.ndarray) -> list[np.ndarray]:
        try:
            batch = read(int(step))
        except Exception as error:  # TensorFlow would replace it by one of its own
            errors[int(step)] = error
            raise
        return [batch[name] for name in names]

    def fetch(step: Any) -> dict[str, Any]:
        values = tf.numpy_function(read_values, [step], [tf.as_dtype(dtype) for dtype in types])
        return dict(zip(names, values, strict=True))

    batches = tf.data.Dataset.range(steps.start, steps.stop)
    # Each batch that is read ahead is in memory. Its rows are read in parallel in any case.
    parallel_calls = ahead or tf.data.AUTOTUNE
    batches = batches.map(fetch, num_parallel_calls=parallel_calls, deterministic=True)
    return _with_own_errors(batches.prefetch(2).as_numpy_iterator(), errors)


def _with_own_errors(batches: Iterator[Any], errors: Mapping[int, Exception]) -> Iterator[Any]:
    """The same batches; raises the first step's error in place of TensorFlow's error about it."""
    try:
        yield from batches
    except Exception as error:
        if not errors:
            raise
        raise errors[min(errors)] from error


def _read_ahead(read: Callable[[int], Any], steps: range, *, ahead: int) -> Iterator[Any]:
    """Yields `read(step)` of each step; threads read some steps in advance."""
    with concurrent.futures.ThreadPoolExecutor(ahead) as threads:
        yield from pool_map(threads, read, steps, ahead=ahead)


def prefetch(iterator: Iterable[Any], put: Callable[[Any], Any]) -> Iterator[Any]:
    """Yields `put(batch)` of every batch, after it called `put` for the batch that follows.

    `put` moves a host batch to the device. JAX does this in the background, while the caller uses
    an earlier batch. An error in `iterator` or `put` is raised after all earlier batches were
    yielded. Closing this generator also closes `iterator`.
    """
    source, ahead = iter(iterator), collections.deque()
    try:
        for batch in map(put, source):
            ahead.append(batch)
            if len(ahead) == 2:
                yield ahead.popleft()
    except Exception:
        yield from ahead
        raise
    else:
        yield from ahead
    finally:
        if hasattr(source, "close"):
            source.close()


def import_tensorflow() -> Any:
    """Imports TensorFlow, and prevents it from using the accelerators, which JAX needs.

    Raises:
      UserError: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # only errors are logged after the import
    with _native_stderr_hidden():
        try:
            tf = importlib.import_module("tensorflow")
        except ImportError as error:
            raise UserError(
                "the tf.data loader needs TensorFlow, which cannot be imported "
                f"({error}): run `pip install tensorflow`, or choose the loader 'auto' or 'numpy'"
            ) from error
        for kind in ("GPU", "TPU"):
            # If TensorFlow is already running, it cannot release a device.
            with contextlib.suppress(RuntimeError):
                tf.config.set_visible_devices([], kind)
    taken = [kind for kind in ("GPU", "TPU") if tf.config.get_visible_devices(kind)]
    if taken:
        logging.warning("TensorFlow was started before this program and uses: %s", taken)
    return tf


@contextlib.contextmanager
def _native_stderr_hidden() -> Iterator[None]:
    """Hides what native code writes to standard error, and shows it only if the block fails.

    Importing TensorFlow writes up to ten lines (such as an "error" for a missing CUDA driver) that
    no setting silences: https://github.com/tensorflow/tensorflow/issues/100442
    """
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(shown, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)
