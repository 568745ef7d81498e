"""SIGTERM, with which machines and jobs are taken away: a run saves, leaves, and can be continued.

The first one is obeyed after the dispatch in progress where a run trains, at once elsewhere; a
second one ends the program on the spot. While a program shuts down it is ignored. Of several
processes JAX tells all when one got the signal, and all stop after the same step; where they do not
train, they do not listen.
"""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
_WAKE = signal.SIGUSR1  # interrupts the main thread, whatever it waits for
_asked = threading.Event()
_deferred = threading.Event()


class Stopped(SystemExit):
    """The run was asked to stop, and has saved what it had."""

    def __init__(self):
        super().__init__(EXIT_STOPPED)


def listen() -> None:
    """From now on SIGTERM is obeyed as this module says.

    To be called by the main thread, after several processes have found each other.
    """
    if jax.process_count() > 1:
        return  # JAX listens itself
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python's own handlers wait for the main thread, which may be within a step for minutes.
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(_WAKE, lambda *_: check())
    threading.Thread(target=_wait, args=(reading,), name="sigterm", daemon=True).start()
    for number in (signal.SIGTERM, _WAKE):
        # Python's end gives them back to the system: a finished run would count as killed.
        atexit.register(signal.signal, number, signal.SIG_IGN)


def _wait(reading: int) -> None:
    while number := os.read(reading, 1):
        if number[0] == signal.SIGTERM:
            _ask()


def _ask() -> None:
    if _asked.is_set():
        os._exit(EXIT_STOPPED)
    _asked.set()
    os.write(2, b"thermo_jax: SIGTERM: saving, then leaving. A second one: leaving at once.\n")
    if not _deferred.is_set():
        signal.pthread_kill(threading.main_thread().ident, _WAKE)


def asked() -> bool:
    """Whether this program was asked to stop."""
    return _asked.is_set()


def reached(steps: range) -> bool:
    """Whether the run must stop before these steps; the same for all its processes.

    Every step must be asked for once, in order: JAX names a step that no process has passed.
    """
    if jax.process_count() > 1 and any(
        [multihost_utils.reached_preemption_sync_point(step) for step in steps]
    ):
        _asked.set()
    return _asked.is_set()


def check() -> None:
    """Raises Stopped if the run was asked to stop."""
    if _asked.is_set():
        raise Stopped


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """What is in this context is not interrupted: it looks itself whether it must stop."""
    _deferred.set()
    try:
        yield
    finally:
        _deferred.clear()
    check()
