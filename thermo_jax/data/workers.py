"""Maps a function over many files in parallel: by threads, or by processes if there are many."""

import collections
import concurrent.futures
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import joblib
import tqdm
from absl import logging
from joblib.externals.loky import get_reusable_executor

# Starting a process takes as long as reading about 100 files.
_LEAST_ITEMS_FOR_PROCESSES = 500
_LOG_SECONDS = 30


def ordered_map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    description: str,
    by_processes: bool = False,
) -> Iterator[Any]:
    """Like `map`, but workers compute results in advance, and the progress is shown.

    Args:
      by_processes: True if results are small and Python itself does much of the work, such as
        parsing text, which threads cannot do at the same time. Few items are given to threads in
        any case.
    """
    enough = len(items) >= _LEAST_ITEMS_FOR_PROCESSES
    workers = _processes_map if by_processes and enough else _threads_map
    return with_progress(workers(function, items), total=len(items), description=description)


def _threads_map(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """At most two results per thread wait in memory."""
    workers = min(8, os.cpu_count() or 1)  # files may be large: 64 MB each
    ahead: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _processes_map(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    calls = (joblib.delayed(function)(item) for item in items)
    yield from _in_processes(calls, return_as="generator")


def unordered_calls(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[Any]:
    """Calls a function in processes; yields its results as they come."""
    calls = (joblib.delayed(function)(*args) for args in arguments)
    # No call waits in a process: each is long.
    options = {"batch_size": 1, "pre_dispatch": "n_jobs"}
    yield from _in_processes(calls, return_as="generator_unordered", **options)


def _in_processes(calls: Iterable[Any], **options: Any) -> Iterator[Any]:
    """joblib's processes do not import the program that uses them, unlike multiprocessing's."""
    results = joblib.Parallel(n_jobs=num_processes(), backend="loky", **options)(calls)
    try:
        for result in results:  # noqa: UP028 ("yield from" would close the results itself)
            yield result
    finally:
        with warnings.catch_warnings():  # that calls were cancelled
            warnings.simplefilter("ignore", UserWarning)
            results.close()
        # They would wait for other calls, each with 150 MB, for five minutes.
        get_reusable_executor().shutdown(wait=True)


def num_processes() -> int:
    """How many processors this process may use."""
    return joblib.cpu_count()


def with_progress(
    results: Iterable[Any],
    *,
    total: int,
    description: str,
    done: int = 0,
    size_of: Callable[[Any], int] = lambda result: 1,
) -> Iterator[Any]:
    """Yields the results, and shows how many there are: a terminal has a bar, a log has lines.

    Args:
      total: how many items there are.
      done: how many were done before.
      size_of: how many items a result stands for.
    """
    last = time.monotonic()
    # disable=None hides the bar if standard error is no terminal; delay hides it for 2 s.
    bar = tqdm.tqdm(desc=description, total=total, initial=done, disable=None, delay=2)
    with bar:
        for result in results:
            done += size_of(result)
            bar.update(size_of(result))
            if not sys.stderr.isatty() and time.monotonic() - last > _LOG_SECONDS:
                logging.info("%s: %d of %d", description, done, total)
                last = time.monotonic()
            yield result
