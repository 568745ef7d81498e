"""Where a training run is, and its best epoch: all that a checkpoint saves besides arrays."""

import dataclasses
import math

_EARLY_STOPPING = ("patience", "best_value", "best_step", "best_epoch", "epochs_without")


@dataclasses.dataclass(kw_only=True)
class Position:
    """Where a run is; saved with every checkpoint.

    Attributes:
      epochs: the largest number of epochs.
      patience: the run ends after this many epochs without a better value; 0 means never.
      best_value, best_step, best_epoch: the lowest value of an epoch so far (`loop.fit` says which
        value), and its time.
      epochs_without: the number of epochs since then.
      epoch: the number of finished epochs.
      history: metrics of the steps after these epochs, by name.
    """

    epochs: int
    patience: int
    best_value: float = math.inf
    best_step: int = 0
    best_epoch: int = 0
    epochs_without: int = 0
    epoch: int = 0
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, meta: dict, *, epochs: int, patience: int) -> "Position":
        """Returns the position that `meta` contains, with this run's epochs and patience."""
        fields = meta["early_stopping"] | {"epochs": epochs, "patience": patience}
        return cls(**fields, epoch=meta["epoch"], history=meta.get("history", {}))

    def add_value(self, value: float, *, step: int) -> bool:
        """Adds the value of the epoch that has just finished; returns whether it is the best."""
        if value < self.best_value:
            self.best_value, self.best_step, self.best_epoch = value, step, self.epoch
            self.epochs_without = 0
            return True
        self.epochs_without += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether all epochs have finished, or patience has run out."""
        return self.epoch >= self.epochs or 0 < self.patience <= self.epochs_without

    @property
    def steps_begun(self) -> int:
        """The number of steps after the finished epochs."""
        return len(next(iter(self.history.values()), []))

    def meta(self, *, step: int) -> dict:
        """Returns the position as JSON, for the checkpoint of this step.

        It is a copy, because it is written while the next steps add to the history.
        """
        return {
            "epoch": self.epoch,
            "history": {name: list(values) for name, values in self.history.items()},
            "finished": self.is_over,
            "best_step": self.best_step or step,
            "early_stopping": {name: getattr(self, name) for name in _EARLY_STOPPING},
        }
