"""The parts of a run's time: the table "Where the time went" of its report.

    with timeline.record():                 # around a run
        with timeline.part("data"):         # around a part of the run, anywhere in the program
            ...
        timeline.save(workdir)              # writes timeline.json

Every second belongs to one part only: while a part is inside another one, or JAX compiles a
program, the clock of the outer part stops. A stage of a study records its own timeline, and its
time is not counted in the study's. The sessions of a run that was continued are added up. If a
session was killed, only its time until the last checkpoint is known.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator

import jax

from thermo_jax.files import folder_path, write_whole
from thermo_jax.training import processes

FILE = "timeline.json"
PARTS = {  # the name in the file -> the name in the report
    "compile": "compiling programs",
    "data": "reading and preparing data",
    "steps": "training steps",
    "evaluation": "validation and prediction",
    "saving": "copying models for checkpoints",
    "waiting": "waiting for checkpoints",
    "rest": "the rest: scores, pictures, reports",
}
_COMPILATION = "/jax/core/compile/"  # JAX's events for tracing, lowering and compiling


class Timeline:
    """The seconds of each part of one session of a run."""

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running = ["rest"]
        self.since = time.perf_counter()  # when the clock of the part was last read
        self._compiled: list[tuple[float, float]] = []  # start and end of each compilation
        self._earlier: dict[str, float] | None = None

    def switch(self) -> None:
        """Adds the time since the last call to the part that is running."""
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self.since
        self.since = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The time of the block belongs to this part."""
        self.switch()
        self._running.append(name)
        try:
            yield
        finally:
            self.switch()
            self._running.pop()

    def listen(self, event: str, seconds: float, **_: object) -> None:
        """Counts a compilation that JAX reports when it ends.

        If an inner function is traced inside an outer one, JAX reports first the inner time, and
        then the outer time, which includes the inner one. The inner time is counted only once.
        Compilations in other threads are not counted, because the run does not wait for them.
        """
        mine = _recording[-1] is self and threading.current_thread() is threading.main_thread()
        if not (mine and event.startswith(_COMPILATION)):
            return
        self.switch()
        start, new = self.since - seconds, seconds
        while self._compiled and self._compiled[-1][0] >= start:
            first, last = self._compiled.pop()
            new -= last - first
        self._compiled.append((start, self.since))
        self.seconds[self._running[-1]] -= new
        self.seconds["compile"] += new

    def total(self, workdir: str | os.PathLike) -> dict[str, float]:
        """Returns the seconds of each part until now, in all sessions of the run in this folder."""
        self.switch()
        if self._earlier is None:
            self._earlier = read(workdir)
        return {name: self.seconds[name] + self._earlier.get(name, 0.0) for name in PARTS}


_recording: list[Timeline] = []


@contextlib.contextmanager
def record() -> Iterator[Timeline]:
    """Records a timeline of the block; the functions of this module use the innermost one."""
    outer = _recording[-1] if _recording else None
    if outer:
        outer.switch()
    timeline = Timeline()
    _recording.append(timeline)
    jax.monitoring.register_event_duration_secs_listener(timeline.listen)
    try:
        yield timeline
    finally:
        jax.monitoring.unregister_event_duration_listener(timeline.listen)
        _recording.pop()
        if outer:
            outer.since = time.perf_counter()  # the time of this block is not the outer one's


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """The time of the block belongs to this part of the run; no effect outside of `record`."""
    with _recording[-1].part(name) if _recording else contextlib.nullcontext():
        yield


def save(workdir: str | os.PathLike) -> None:
    """Writes the run's timeline until now; no effect outside of `record`."""
    if _recording and processes.is_writer():
        rounded = {name: round(x, 3) for name, x in _recording[-1].total(workdir).items()}
        write_whole(folder_path(workdir) / FILE, json.dumps(rounded, indent=2) + "\n")


def read(workdir: str | os.PathLike) -> dict[str, float]:
    """Returns the seconds of each part of a run; {} if its file is missing or damaged."""
    path = folder_path(workdir) / FILE
    try:
        seconds = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {name: float(seconds[name]) for name in PARTS if name in seconds}
    except (ValueError, TypeError, RecursionError):
        return {}
