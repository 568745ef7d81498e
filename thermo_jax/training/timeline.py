"""How a run's time divides into parts: the table "Where the time went" of its report.

    with timeline.record():                 # around a run
        with timeline.part("data"):         # around a part of the run, anywhere in the program
            ...
        timeline.save(workdir)              # writes timeline.json

Every second belongs to one part only. If a part starts within another one, or JAX compiles a
program, the outer part's clock stops meanwhile. A stage of a study records a timeline of its own,
and its time is not part of the study's. If a run is continued, its sessions are added up; of one
that was killed, only the time until its last checkpoint is known.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator

import jax
from absl import logging

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
    """Seconds by part of one session of a run."""

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running = ["rest"]
        self._since = time.perf_counter()
        self._compiled: list[tuple[float, float]] = []  # start and end of each compilation
        self._earlier: dict[str, float] | None = None

    def switch(self) -> None:
        """Adds the time since the last call to the part that is running."""
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block belongs to another timeline."""
        self.switch()
        try:
            yield
        finally:
            self._since = time.perf_counter()

    def listen(self, event: str, seconds: float, **_: object) -> None:
        """Counts a compilation that JAX reports when it ends.

        A function that is traced within another one is reported before it, and counted once. What
        other threads compile is not counted, because the run does not wait for it.
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
        """Seconds by part until now, over all sessions of the run in this folder."""
        self.switch()
        if self._earlier is None:
            self._earlier = read(workdir)
        return {name: self.seconds[name] + self._earlier.get(name, 0.0) for name in PARTS}


_recording: list[Timeline] = []


@contextlib.contextmanager
def record() -> Iterator[Timeline]:
    """Records a timeline of the block, to which the functions of this module add."""
    with _recording[-1].paused() if _recording else contextlib.nullcontext():
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
    """The time of the block belongs to this part of the run; no effect outside of `record`."""
    with _recording[-1].part(name) if _recording else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def saved_in(workdir: str | os.PathLike) -> Iterator[None]:
    """Writes the run's timeline at the end of the block, also after an error."""
    try:
        yield
    finally:
        try:
            save(workdir)
        except OSError as error:  # what ended the block matters more
            logging.warning("%s is not written: %s", folder_path(workdir) / FILE, error)


def save(workdir: str | os.PathLike) -> None:
    """Writes the run's timeline until now; no effect outside of `record`."""
    if _recording and processes.is_writer():
        rounded = {name: round(x, 3) for name, x in _recording[-1].total(workdir).items()}
        write_whole(folder_path(workdir) / FILE, json.dumps(rounded, indent=2) + "\n")


def read(workdir: str | os.PathLike) -> dict[str, float]:
    """Seconds by part of a run; {} if its file is missing or damaged."""
    path = folder_path(workdir) / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {name: float(found[name]) for name in PARTS if name in found}
    except (ValueError, TypeError, RecursionError):
        return {}
