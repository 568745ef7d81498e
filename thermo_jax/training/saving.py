"""When a run saves, and how: training goes on while a thread writes.

    an epoch is better -> its state is copied on the devices
    a save is due      -> the best state (if it is new), then the latest -> thread -> disk

Until both are on disk a run that is killed goes on from what was saved before, to the same result.
Several processes take part in each save, and do so in their main threads; Orbax then writes in the
background.
"""

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from thermo_jax.errors import DivergedError
from thermo_jax.training import processes, timeline
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import MetricsLog
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.state import TrainState


class Snapshot(NamedTuple):
    """A state that no step takes any more, and what a checkpoint says of it."""

    state: TrainState
    step: int
    meta: dict
    value: float


class Saver:
    """Saves a run's best and latest states. Leaving it waits until the last ones are handed over.

    Attributes:
      best: of this session, None before the first.
      latest: step of the last state that was handed over.

    Args:
      checkpoints: where to.
      log: metrics, which are written before the checkpoint that they reach up to.
      minutes: between saves; 0 = whenever it is asked, which waits for the one before.
      encoder_of: the variables to hand over as the encoder.
      step: of the latest checkpoint, 0 without.
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
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._writing: concurrent.futures.Future | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        try:
            # What was best is not lost with what failed since. Of several processes all must fail.
            if kind and (issubclass(kind, DivergedError) or jax.process_count() == 1):
                self._save([])
            self._wait()
        finally:
            self._thread.shutdown()

    def keep_best(self, state: TrainState, *, step: int, meta: dict, value: float) -> None:
        """Copies the state, on its devices: it is the best so far."""
        with timeline.part("saving"):
            self.best = Snapshot(self._parallel.copy(state), step, meta, value)
            self._best_is_new = True

    def is_due(self) -> bool:
        """Whether it is time to save; the same for all processes.

        Raises:
          OSError: an earlier save failed.
        """
        if not self._seconds:
            return True
        if self._writing and self._writing.done():
            self._wait()
        due = not self._writing and time.monotonic() - self._last_time >= self._seconds
        return processes.first_says(due)

    def save(self, state: TrainState, *, step: int, meta: dict, value: float) -> None:
        """Begins to save the latest state, and the best one before it if that is new.

        Raises:
          OSError: an earlier save failed.
        """
        if self._best_is_new and self.best.step == step:
            self.best = self.best._replace(meta=meta)  # which may tell the run's end
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
            self.latest, self._last_time = snapshots[-1].step, time.monotonic()
            self._best_is_new = False
            if jax.process_count() > 1:
                self._write(snapshots)
            else:
                self._writing = self._thread.submit(self._write, snapshots)

    def _write(self, snapshots: Sequence[Snapshot]) -> None:
        for state, _, meta, value in snapshots:
            self._checkpoints.save(state, encoder=self._encoder_of(state), meta=meta, value=value)

    def _wait(self) -> None:
        if self._writing:
            writing, self._writing = self._writing, None
            with timeline.part("waiting"):
                writing.result()

    def best_model(self) -> Any:
        """The best state of this session without its optimiser; None if an earlier one's is."""
        return self.best and self.best.state.replace(opt_state=())
