"""SIGTERM, which ends jobs and rented machines: a run saves, exits, and can be continued.

After the first signal, a run that trains stops when the current dispatch is finished. At any other
time, the program stops at once. A second signal ends the program immediately. While the program
shuts down, it ignores the signal.

A run of several processes differs. If one of them gets the signal, JAX informs the others, and all
stop after the same step of the training. While they do not train, the signal stops none of them.

What may be changed: messages. A thread must read the signal, because Python calls handlers only in
the main thread, which may be busy with a step for minutes. A handler must do nothing but `check`.
In `listen`, the pipe must exist before the handlers do. tests/test_preemption.py and
tests/test_kills.py send signals to programs that start, train, save or end.
"""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from thermo_jax.errors import EXIT_STOPPED, Stopped

_WAKE = signal.SIGUSR1  # interrupts the main thread even if it waits for something
_asked = threading.Event()
_deferred = threading.Event()


def listen() -> None:
    """Starts to listen for SIGTERM.

    The main thread must call this, and in a run of several processes only after `processes.join`.
    """
    if jax.process_count() > 1:
        return  # JAX listens for the signal itself
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python writes the signal's number to this pipe at once, but calls handlers later.
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(_WAKE, lambda *_: check())
    threading.Thread(target=_wait, args=(reading,), name="sigterm", daemon=True).start()
    for number in (signal.SIGTERM, _WAKE):
        # Otherwise, a signal while Python ends would mark a finished run as killed.
        atexit.register(signal.signal, number, signal.SIG_IGN)


def _wait(reading: int) -> None:
    while number := os.read(reading, 1):
        if number[0] == signal.SIGTERM:
            _ask()


def _ask() -> None:
    if _asked.is_set():
        os._exit(EXIT_STOPPED)
    _asked.set()
    os.write(2, b"thermo_jax: SIGTERM: saving, then exiting. A second SIGTERM exits at once.\n")
    if not _deferred.is_set():
        signal.pthread_kill(threading.main_thread().ident, _WAKE)


def asked() -> bool:
    """Returns whether this program was asked to stop."""
    return _asked.is_set()


def reached(steps: range) -> bool:
    """Returns whether the run must stop before these steps; all processes get the same answer.

    It must be called for every step, once and in order: JAX chooses a step that no process has
    reached yet.
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
    """Prevents interruptions of the block, which must call `check` or `reached` itself."""
    _deferred.set()
    try:
        yield
    finally:
        _deferred.clear()
    check()
