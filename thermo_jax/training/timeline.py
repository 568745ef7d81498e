"""Where a run's time goes: its parts, as its report shows them.

    with timeline.record():                 # a run
        with timeline.part("data"):         # what is done in it, anywhere in the program
            ...
        timeline.save(workdir)              # timeline.json, added up over the sessions of a run

Parts exclude each other: within another part, or while a program is compiled, a part's clock stands
still. A run within a run (a stage of a study) has a timeline of its own, and its time counts there.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator

import jax

from thermo_jax.training import processes
from thermo_jax.training.paths import folder_path

FILE = "timeline.json"
PARTS = {  # the key in the file -> what a reader sees
    "compile": "compiling programs",
    "data": "reading and preparing data",
    "steps": "training steps",
    "evaluation": "validation and prediction",
    "saving": "handing over checkpoints",
    "waiting": "waiting for checkpoints",
    "rest": "the rest: scores, pictures, reports",
}
_COMPILATION = "/jax/core/compile/"  # JAX's names of what it takes to make a program


class Timeline:
    """Seconds by part, of one session of a run."""

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running = ["rest"]
        self._since = time.perf_counter()
        self._compiled: list[tuple[float, float]] = []  # from when to when
        self._earlier: dict[str, float] | None = None

    def switch(self) -> None:
        """What has passed since the last call goes to the part that runs."""
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The block is this part."""
        self.switch()
        self._running.append(name)
        try:
            yield
        finally:
            self.switch()
            self._running.pop()

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """The block belongs to another timeline."""
        self.switch()
        try:
            yield
        finally:
            self._since = time.perf_counter()

    def listen(self, event: str, seconds: float, **_: object) -> None:
        """Takes JAX's word of how long it worked on a program, until now.

        Programs contain programs; another thread's do not hold up the run.
        """
        mine = _recording[-1] is self and threading.current_thread() is threading.main_thread()
        if not (mine and event.startswith(_COMPILATION)):
            return
        self.switch()
        start, new = self._since - seconds, seconds
        while self._compiled and self._compiled[-1][0] >= start:
            first, last = self._compiled.pop()
            new -= last - first
        self._compiled.append((start, self._since))
        self.seconds[self._running[-1]] -= new
        self.seconds["compile"] += new

    def total(self, workdir: str | os.PathLike) -> dict[str, float]:
        """Seconds by part of all sessions of the run in this folder, until now."""
        self.switch()
        if self._earlier is None:
            self._earlier = read(workdir)
        return {name: self.seconds[name] + self._earlier.get(name, 0.0) for name in PARTS}


_recording: list[Timeline] = []


@contextlib.contextmanager
def record() -> Iterator[Timeline]:
    """A timeline of the block, for the functions of this module."""
    with _recording[-1].standing_still() if _recording else contextlib.nullcontext():
        timeline = Timeline()
        _recording.append(timeline)
        jax.monitoring.register_event_duration_secs_listener(timeline.listen)
        try:
            yield timeline
        finally:
            jax.monitoring.unregister_event_duration_listener(timeline.listen)
            _recording.pop()


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """The block is this part of the run; without effect where none is recorded."""
    with _recording[-1].part(name) if _recording else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def saved_in(workdir: str | os.PathLike) -> Iterator[None]:
    """Whatever ends the block, the run's timeline is written."""
    try:
        yield
    finally:
        save(workdir)


def save(workdir: str | os.PathLike) -> None:
    """Writes the run's timeline so far, if one is recorded."""
    if _recording and processes.is_writer():
        rounded = {name: round(x, 3) for name, x in _recording[-1].total(workdir).items()}
        path = folder_path(workdir) / FILE
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


def read(workdir: str | os.PathLike) -> dict[str, float]:
    """Seconds by part of a run; {} where its file is missing or damaged."""
    path = folder_path(workdir) / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {name: float(found[name]) for name in PARTS if name in found}
    except (ValueError, TypeError, RecursionError):
        return {}
