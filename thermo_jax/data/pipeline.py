"""Batches on their way to the device: tf.data, or plain NumPy where TensorFlow is not installed.

Both loaders give bit-identical batches in the same order, because both ask `batching.py` which
rows make a batch. The examples are held once, in host memory, as NumPy columns. tf.data gathers
from them in parallel, ahead of use; no second copy or graph constant (limited to 2 GB) is made.

TensorFlow is imported here and in `dmr_ir.py` only, inside functions, with the accelerators hidden.
"""

import collections
import contextlib
import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from thermo_jax.data import batching
from thermo_jax.errors import UserError

LOADERS = ("tf.data", "numpy")


def train_batches(
    columns: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    loader: str = "tf.data",
) -> Iterator[dict[str, np.ndarray]]:
    """`batching.train_batches` through the chosen loader.

    Raises:
      UserError: for an unknown loader, or TensorFlow missing.
      ValueError: for an impossible batch.
    """
    _check_loader(loader)
    process = {"process_index": process_index, "process_count": process_count}
    if loader == "numpy":
        return batching.train_batches(
            columns,
            batch_size=batch_size,
            seed=seed,
            num_steps=num_steps,
            start_step=start_step,
            **process,
        )
    num_rows = batching.check_columns(columns)
    batching.check_batch(num_rows, batch_size, **process)
    plan = functools.partial(batching.train_rows, num_rows, batch_size, seed=seed, **process)
    return _stream(columns, plan, range(start_step, start_step + num_steps))


def eval_batches(
    columns: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    loader: str = "tf.data",
) -> Iterator[dict[str, np.ndarray]]:
    """`batching.eval_batches` through the chosen loader; raises like `train_batches`."""
    _check_loader(loader)
    process = {"process_index": process_index, "process_count": process_count}
    if loader == "numpy":
        return batching.eval_batches(columns, batch_size=batch_size, **process)
    num_rows = batching.check_columns(columns)
    batching.check_batch(num_rows, batch_size, **process)
    plan = functools.partial(batching.eval_rows, num_rows, batch_size, **process)
    return _stream(columns, plan, range(batching.num_eval_batches(num_rows, batch_size)))


def prefetch(iterator: Iterable[Any], put: Callable[[Any], Any], *, size: int = 2) -> Iterator[Any]:
    """Yields `put(batch)` of every batch, with up to `size` of them started ahead of use.

    `put` moves a host batch to the device. That is asynchronous in JAX, so no thread is needed: the
    transfer of the next batches runs while the consumer works on this one. An error of the source
    or of `put` is raised after the batches that came before it; closing this iterator closes the
    source.
    """
    if size < 1:
        raise ValueError(f"size must be 1 or more, got {size}")
    return _prefetch(iter(iterator), put, size)


def _prefetch(source: Iterator[Any], put: Callable[[Any], Any], size: int) -> Iterator[Any]:
    ahead, error, done = collections.deque(), None, False
    try:
        while True:
            while not done and len(ahead) < size:
                try:
                    ahead.append(put(next(source)))
                except StopIteration:
                    done = True
                except Exception as caught:  # raised below, in its place
                    error, done = caught, True
            if not ahead:
                break
            yield ahead.popleft()
        if error is not None:
            raise error
    finally:
        ahead.clear()
        if hasattr(source, "close"):
            source.close()


def import_tensorflow() -> Any:
    """Imports TensorFlow with every accelerator hidden from it, so that JAX can have them.

    Raises:
      UserError: if TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only; it does not cover the import
    with _native_stderr_held_back():
        try:
            tf = importlib.import_module("tensorflow")
        except ImportError as error:
            raise UserError(
                "the tf.data loader needs TensorFlow, which cannot be imported "
                f"({error}): run `pip install tensorflow`, or choose the loader 'numpy'"
            ) from error
        for kind in ("GPU", "TPU"):
            # TensorFlow that is running already cannot give a device back.
            with contextlib.suppress(RuntimeError):
                tf.config.set_visible_devices([], kind)
    taken = [kind for kind in ("GPU", "TPU") if tf.config.get_visible_devices(kind)]
    if taken:
        logging.warning("TensorFlow was started before this program and holds: %s", taken)
    return tf


@contextlib.contextmanager
def _native_stderr_held_back() -> Iterator[None]:
    """Keeps what native code writes to file descriptor 2, and shows it only if the block fails.

    Importing TensorFlow writes up to ten lines there (an "error" for a missing CUDA driver, too)
    that no setting silences: https://github.com/tensorflow/tensorflow/issues/100442
    """
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(shown, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)


def _stream(
    columns: Mapping[str, np.ndarray], plan: Callable[..., batching.Rows], steps: range
) -> Iterator[dict[str, np.ndarray]]:
    """tf.data over the numbers of the batches; `plan(step=...)` tells the rows of each."""
    tf = import_tensorflow()
    names = [*columns, *batching.RESERVED]
    types = [column.dtype for column in columns.values()] + [np.int32, np.int32, np.float32]

    def read(step: np.ndarray) -> list[np.ndarray]:
        batch = batching.gather(columns, plan(step=int(step)))
        return [batch[name] for name in names]

    def fetch(step: Any) -> dict[str, Any]:
        values = tf.numpy_function(read, [step], [tf.as_dtype(type_) for type_ in types])
        return dict(zip(names, values, strict=True))

    dataset = tf.data.Dataset.range(steps.start, steps.stop)
    dataset = dataset.map(fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(2).as_numpy_iterator()


def _check_loader(loader: str) -> None:
    if loader not in LOADERS:
        raise UserError(f"unknown loader {loader!r}: choose one of {', '.join(LOADERS)}")
