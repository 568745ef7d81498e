"""Where a run's steps and examples are: on which devices, in which memory, in which number type."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
from absl import logging

from thermo_jax.data.streamed import Column, is_streamed, subset
from thermo_jax.models import precision
from thermo_jax.training import processes, timeline
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.partials import by_value
from thermo_jax.training.resident import (
    ExampleSet,
    budget_bytes,
    eval_steps,
    fill_steps,
    place_sets,
    predict_steps,
    table_bytes,
    train_steps,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a run's steps and examples are.

    Attributes:
      parallel: the devices.
      dtype: the compute type, one of `models/precision.py`; never "auto".
      resident_gb: how many GB of examples each device may keep; negative means 35 % of its memory.
      steps_per_dispatch: the largest number of training steps in one dispatch to the devices.
    """

    parallel: DataParallel
    dtype: str = "float32"
    resident_gb: float = -1.0
    steps_per_dispatch: int = 1

    def map_step(
        self, step: Callable, *, role: str, resident: bool, draw: Callable | None = None
    ) -> Callable:
        """Returns a step of one device, mapped over all of them and compiled when first called.

        Equal steps (partials of equal functions and arguments) give the same function, so that a
        study compiles it only once.

        Args:
          role: "train", "eval", "predict" or "fill", see `resident.py`.
          resident: True if the step reads sets on the devices, False for batches of host memory.
          draw: draws the random positions of a training step, see `resident.train_steps`.
        """
        return _map_step(
            self, by_value(step), role=role, resident=resident, draw=draw and by_value(draw)
        )

    def fits(self, num_bytes: int, name: str, *, columns: Mapping[str, Column]) -> bool:
        """Returns whether data fit on each device. If not, a log message says so.

        Args:
          num_bytes: the size of the data.
          name: of the data, for the message.
          columns: those from which the data are made. If one is streamed, they do not fit.
        """
        process = jax.process_index()
        device = next(d for d in self.parallel.devices if d.process_index == process)
        budget = budget_bytes(self.resident_gb, device=device)
        streamed = is_streamed(columns)
        if num_bytes > budget and not streamed:
            logging.info(
                "%s would need %.2f GB on every device, more than the %.2f GB that data may use "
                "(config.parallel.resident_gb).",
                name,
                num_bytes / 1e9,
                budget / 1e9,
            )
        # Processes may have memories of different sizes.
        return processes.all_true(bool(num_bytes <= budget) and not streamed)

    def place(
        self, columns: Mapping[str, Column], sets: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, ExampleSet], bool]:
        """Returns sets of examples, on the devices if the columns fit there, else on the host.

        Args:
          columns: name -> [N, ...], of all examples.
          sets: name -> the set's rows.
        Returns:
          The sets by name; whether they are on the devices.
        """
        if not self.fits(table_bytes(columns), "The images", columns=columns):
            parts = {
                set_name: {name: subset(column, rows) for name, column in columns.items()}
                for set_name, rows in sets.items()
            }
            return parts, False
        with timeline.part("data"):
            return place_sets(columns, sets, parallel=self.parallel), True


@functools.lru_cache(maxsize=64)
def _map_step(placement: Placement, step, *, role, resident, draw) -> Callable:
    parallel, at_most = placement.parallel, placement.steps_per_dispatch
    platform = parallel.devices[0].platform
    step = precision.matmul_precision(placement.dtype, platform=platform)(step)
    if resident:
        step = {
            "train": partial(train_steps, at_most=at_most, draw=draw),
            "eval": partial(eval_steps, whole=at_most > 1),
            "predict": predict_steps,
            "fill": fill_steps,
        }[role](step)
    return parallel.wrap(step, donate_state=role in ("train", "fill"), resident=resident)
