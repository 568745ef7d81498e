"""When a run saves its model, and how it saves while training continues.

    an epoch is the best so far -> its state is copied on the devices
    a save is due               -> the best state (if it is new), then the latest -> thread -> disk

If the run is killed before both are on disk, it continues from the previous checkpoint and reaches
the same result. In a run of several processes, the main threads of all processes start each save
together, and Orbax writes in the background. They save the best state first, and the latest state
after a later epoch, when the best one is on disk.

What may be changed: when a save is due. What must stay: the best state is written before the latest
one, and the metrics before both; and all processes decide the same, because each one waits for the
others. tests/test_saving.py and tests/test_processes.py would catch a mistake.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
from absl import logging

from thermo_jax.errors import DivergedError
from thermo_jax.training import preemption, processes, timeline
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import MetricsLog
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.state import TrainState

_OF_ALL_PROCESSES = (DivergedError, preemption.Stopped)  # errors that all processes raise together


class Snapshot(NamedTuple):
    """A state that no training step will overwrite, with the facts that its checkpoint records."""

    state: TrainState
    step: int
    meta: dict
    value: float


class Saver(contextlib.AbstractContextManager):
    """Saves a run's best and latest states.

    Use it as a context manager. At the end it waits until Orbax has accepted the last save. If an
    error ends the block, it first saves the best state, if that is new.

    Attributes:
      best: the best state of this session; None before the first one. It is one
        `without_training` after its save was started.
      latest: the step of the last state whose save was started.

    Args:
      checkpoints: writes the states.
      log: the metrics. They are written before each checkpoint, because a run cannot continue
        from a checkpoint if the files of metrics end before its step.
      minutes: the least time between two saves. 0 means that a save is due after every epoch, and
        that each save waits for the previous one.
      encoder_of: returns the variables to save as the encoder.
      step: the step of the latest checkpoint on disk; 0 if there is none.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        log: MetricsLog,
        parallel: DataParallel,
        minutes: float,
        encoder_of: Callable[[TrainState], dict],
        step: int,
    ):
        self.best: Snapshot | None = None
        self._best_is_new = False
        self._checkpoints, self._log, self._parallel = checkpoints, log, parallel
        self._seconds, self._encoder_of = 60 * minutes, encoder_of
        self.latest = step
        self._last_time = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future | None = None
        self._pending: list[Snapshot] = []  # several processes save them one by one

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        try:
            # In a run of several processes, all of them must save together, but an error may occur
            # in this one only. A stop, or a number that is not finite, occurs in all of them.
            if kind and jax.process_count() > 1 and not issubclass(kind, _OF_ALL_PROCESSES):
                return
            if kind:
                self._save([])
            self._wait()
        finally:
            self._thread.shutdown()
            try:
                timeline.save(self._checkpoints.directory.parent)
            except OSError as error:  # not raised, because it would hide an error of the block
                logging.warning("The timeline of the run is not written: %s", error)

    def keep_best(self, state: TrainState, *, step: int, meta: dict, value: float) -> None:
        """Copies the best state so far, on its devices."""
        with timeline.part("saving"):
            self.best = Snapshot(self._parallel.copy(state), step, meta, value)
            self._best_is_new = True

    def is_due(self) -> bool:
        """Returns whether it is time to save. Call it after every epoch.

        In a run of several processes, the first one decides.

        Raises:
          OSError: an earlier save failed.
        """
        if not self._seconds:
            return True
        elapsed = time.monotonic() - self._last_time >= self._seconds
        if jax.process_count() > 1:
            is_idle = not self._checkpoints.is_writing()
            if not self._pending:
                return processes.first_says(is_idle and elapsed)
            if processes.first_says(is_idle):
                self._write([self._pending.pop(0)])
            return False
        if self._writing and self._writing.done():
            self._wait()
        return elapsed and not self._writing

    def save(self, state: TrainState, *, step: int, meta: dict, value: float) -> None:
        """Starts to save the latest state, and before it the best one if that is new.

        Raises:
          OSError: an earlier save failed.
        """
        if self._best_is_new and self.best.step == step:
            self._save([])
        else:
            with timeline.part("saving"):
                latest = Snapshot(self._parallel.copy(state), step, meta, value)
            self._save([latest])

    def _save(self, latest: Sequence[Snapshot]) -> None:
        snapshots = [self.best] * self._best_is_new + [*latest]
        if not snapshots:
            return
        self._wait()
        with timeline.part("saving"):
            self._log.flush()
            timeline.save(self._checkpoints.directory.parent)
            self.latest, self._last_time = snapshots[-1].step, time.monotonic()
            if self._best_is_new:  # only the snapshot that is saved needs the optimiser
                self.best = self.best._replace(state=self.best.state.without_training())
                self._best_is_new = False
            if jax.process_count() > 1:
                self._pending = snapshots
                self._write([self._pending.pop(0)])
            else:
                self._writing = self._thread.submit(self._write, snapshots)

    def _write(self, snapshots: Sequence[Snapshot]) -> None:
        for state, _, meta, value in snapshots:
            self._checkpoints.save(state, encoder=self._encoder_of(state), meta=meta, value=value)

    def _wait(self) -> None:
        with timeline.part("waiting"):
            if self._writing:
                writing, self._writing = self._writing, None
                writing.result()
            while self._pending:
                self._write([self._pending.pop(0)])
