"""Where a training run is, and its best epoch: all that a checkpoint saves besides arrays."""

import dataclasses
import math


@dataclasses.dataclass(kw_only=True)
class EarlyStopping:
    """The lowest validation value so far, and the number of epochs since then."""

    patience: int
    best_value: float = math.inf
    best_step: int = 0
    best_epoch: int = 0
    epochs_without: int = 0

    def update(self, value: float, *, step: int, epoch: int) -> bool:
        """Adds an epoch's value; returns whether it is the best."""
        if value < self.best_value:
            self.best_value, self.best_step, self.best_epoch = value, step, epoch
            self.epochs_without = 0
            return True
        self.epochs_without += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.epochs_without


@dataclasses.dataclass(kw_only=True)
class Position:
    """Where a run is; saved with every checkpoint.

    Attributes:
      stopping: the best epoch, and the number of epochs since then.
      epoch: the number of finished epochs.
      history: metrics of the steps after these epochs, by name.
    """

    stopping: EarlyStopping
    epoch: int = 0
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, meta: dict, *, patience: int) -> "Position":
        """Returns the position that `meta` contains, with this run's patience."""
        stopping = EarlyStopping(**meta["early_stopping"] | {"patience": patience})
        return cls(stopping=stopping, epoch=meta["epoch"], history=meta.get("history", {}))

    @property
    def steps_begun(self) -> int:
        """The number of steps after the finished epochs."""
        return len(next(iter(self.history.values()), []))

    def meta(self, *, step: int, finished: bool) -> dict:
        """Returns the position as JSON, for the checkpoint of this step.

        It is a copy, because it is written while the next steps add to the history.
        """
        return {
            "epoch": self.epoch,
            "history": {name: list(values) for name, values in self.history.items()},
            "finished": finished,
            "best_step": self.stopping.best_step or step,
            "early_stopping": dataclasses.asdict(self.stopping),
        }
