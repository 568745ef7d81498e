"""Fuzzing for test_fuzz.py: damages files, and limits the time, memory and errors of its tests."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thermo_jax.errors import UserError, is_users

LONGEST = 20  # seconds that a case may take, on a busy machine
MOST_MEMORY = 1e9  # bytes by which the memory of the process may grow
NUMBERS = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80", b"1e999", b"nan"]
TOKENS = [b",", b";", b"\n", b"\r", b"\t", b"-", b".", b"[", b"{", b'"', b"\x00", b"\xef\xbb\xbf"]


def fuzz(cases: tuple[int, int], *needs: str, **strategies: st.SearchStrategy) -> Callable:
    """Runs a test on examples of `strategies`; `cases` are their numbers: (quick suite, all).

    The test's first argument is a folder; it also gets the fixtures named in `needs`.
    """

    def decorate(test: Callable) -> Callable:
        @pytest.mark.parametrize("scale", ["quick", pytest.param("all", marks=pytest.mark.slow)])
        def run(scale, tmp_path, request):
            count, calls = cases[scale == "all"], 0
            fixtures = {fixture: request.getfixturevalue(fixture) for fixture in needs}

            @settings(
                max_examples=count,
                database=None,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(**strategies)
            def each(**values):
                nonlocal calls
                calls += 1
                with time_limit():
                    test(tmp_path, **values, **fixtures)

            with memory_limit():
                each()
            assert calls >= count

        functools.update_wrapper(run, test, assigned=("__name__", "__doc__", "__module__"))
        del run.__wrapped__  # else pytest treats the test's arguments as fixtures
        return run

    return decorate


class NoEnd(BaseException):
    """Raised when the time is over; no Exception, so that readers of damaged files let it pass."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raises NoEnd after LONGEST seconds."""

    def stop(*_):
        raise NoEnd(f"no end after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def memory_limit() -> Iterator[None]:
    """Fails if the memory of the process grows by MOST_MEMORY or more."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before = _memory("VmRSS")
    yield
    added = _memory("VmHWM") - before
    assert added < MOST_MEMORY, f"{added / 1e9:.1f} GB"


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return 1024 * int(line.split()[1])


@contextlib.contextmanager
def only_user_errors(message: str = "") -> Iterator[None]:
    """Allows no error but a user's mistake: one line that contains `message`."""
    try:
        yield
    except (UserError, OSError) as error:
        assert is_users(error)
        assert str(error).strip() and message in str(error) and "\n" not in str(error)


@st.composite
def damaged(draw, seeds: list[bytes]) -> bytes:
    """Draws a file with one to six damaged places, half of them in its first 300 bytes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        reach = min(len(data), 300) if draw(st.booleans()) else len(data)
        start = draw(st.integers(0, reach))
        stop = min(len(data), start + draw(st.integers(1, 64)))
        how = draw(st.sampled_from(["cut", "drop", "repeat", "zero", "write", "insert", "flip"]))
        if how == "cut":
            del data[start:]
        elif how == "drop":
            del data[start:stop]
        elif how == "repeat":
            data[start:start] = data[start:stop] * draw(st.integers(1, 50))
        elif how == "zero":
            data[start:stop] = bytes(stop - start)
        elif how == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        else:
            piece = draw(st.sampled_from(NUMBERS + TOKENS) | st.binary(min_size=1, max_size=8))
            data[start : start + len(piece) * (how == "write")] = piece
    return bytes(data)
