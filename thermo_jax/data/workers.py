"""Maps a function over many files in parallel: by threads, or by processes if there are many."""

import collections
import concurrent.futures
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import tqdm
from absl import logging

from thermo_jax.errors import UserError

# Starting a process takes as long as reading about 100 files.
_LEAST_ITEMS_FOR_PROCESSES = 500
_LOG_SECONDS = 30
_IDLE_SECONDS = 30  # after which a process ends that has nothing to do, as if its parent was killed


def ordered_map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    description: str,
    by_processes: bool = False,
) -> Generator[Any, None, None]:
    """Like `map`, but workers compute results in advance, and the progress is shown.

    Close the generator (`contextlib.closing`) if you may not use all results.

    Args:
      by_processes: True if results are small and Python itself does much of the work, such as
        parsing text, which threads cannot do at the same time. Few items are given to threads in
        any case.
    Raises:
      UserError: a process was killed.
    """
    many = by_processes and len(items) >= _LEAST_ITEMS_FOR_PROCESSES
    worker_map = process_map if many and num_processes() > 1 else _thread_map
    results = worker_map(function, items)
    return with_progress(results, total=len(items), description=description)


def _thread_map(function: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
    workers = min(8, os.cpu_count() or 1)  # files may be large: 64 MB each
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        yield from pool_map(pool, function, items, ahead=2 * workers)


def process_map(function: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
    """Like `map`, but processes compute results in advance. Threads do, if there are no processes.

    The processes do not import the program that uses them, as multiprocessing's do.

    Raises:
      UserError: a process was killed.
    """
    from joblib.externals import loky  # here, because the import is slow

    workers = num_processes()
    try:
        context = loky.backend.get_context()
        stop = context.Event()
        pool = loky.ProcessPoolExecutor(
            workers,
            timeout=_IDLE_SECONDS,
            context=context,
            initializer=_begin,
            initargs=(stop, os.getpid()),
        )
    except (ImportError, OSError, NotImplementedError) as error:  # a system without semaphores
        logging.info("threads are used instead of processes, because %s", error)
        yield from _thread_map(function, items)
        return
    try:
        yield from pool_map(pool, function, items, ahead=2 * workers)
    except loky.BrokenProcessPool as error:
        raise UserError(
            "a process that reads files was killed, perhaps because the machine has too little "
            "memory: run the same command again, which continues"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True)


class EndedError(RuntimeError):
    """The results of a process are no longer wanted."""


_is_ended: Callable[[], bool] = bool  # in the main process, it never ends


def _begin(stop: Any, parent: int) -> None:
    """Begins a process of `process_map`."""
    global _is_ended
    _is_ended = lambda: stop.is_set() or os.getppid() != parent  # noqa: E731
    # A stopped job sends signals to all of its processes. The parent ends this one.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


def check_wanted() -> None:
    """Raises `EndedError` in a process of `process_map` that was ended, or whose parent was killed.

    A function that takes longer than seconds should call it again and again.
    """
    if _is_ended():
        raise EndedError


def pool_map(
    pool: concurrent.futures.Executor,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    ahead: int,
) -> Generator[Any, None, None]:
    """Like `map`; at most `ahead` results wait in memory."""
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def num_processes() -> int:
    """How many processors this process may use."""
    from joblib.externals import loky

    return loky.cpu_count()


def with_progress(
    results: Iterable[Any],
    *,
    total: int,
    description: str,
    done: int = 0,
    size_of: Callable[[Any], int] = lambda result: 1,
) -> Generator[Any, None, None]:
    """Yields the results, and shows how many there are: a terminal has a bar, a log has lines.

    Args:
      results: they are closed at the end, if they are a generator.
      total: how many items there are.
      done: how many were done before.
      size_of: how many items a result stands for.
    """
    last = time.monotonic()
    # disable=None hides the bar if standard error is no terminal; delay hides it for 2 s.
    bar = tqdm.tqdm(desc=description, total=total, initial=done, disable=None, delay=2)
    with bar, contextlib.ExitStack() as stack:
        if hasattr(results, "close"):
            stack.callback(results.close)
        for result in results:
            done += size_of(result)
            bar.update(size_of(result))
            if not sys.stderr.isatty() and time.monotonic() - last > _LOG_SECONDS:
                logging.info("%s: %d of %d", description, done, total)
                last = time.monotonic()
            yield result
