"""One pass over a set with a trained model: losses, predictions, or a column of latents."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from thermo_jax.training import feeding, preemption, timeline
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.resident import ExampleSet, num_rows, place_sets
from thermo_jax.training.state import TrainState


def evaluate(
    state: TrainState,
    eval_step: Callable,
    examples: ExampleSet,
    *,
    batch_size: int,
    loader: str = "numpy",
    whole: bool = False,
    parallel: DataParallel,
) -> dict[str, float]:
    """Returns the means of the losses over all examples, with equal weights.

    Args:
      whole: one dispatch reads a whole set on the devices, see `resident.eval_steps`.
    Raises:
      Stopped: the run was asked to stop (`preemption.py`).
    """
    sums = []
    batches = feeding.eval_batches(
        examples, batch_size=batch_size, loader=loader, parallel=parallel, whole=whole
    )
    with timeline.part("evaluation"), jax.transfer_guard("disallow"):
        for batch in batches:
            sums.append(eval_step(state, batch))
            jax.block_until_ready(sums[-2:-1])  # at most one dispatch waits, as in training
            preemption.check()
        sums = jax.device_get(sums)
    total = {name: _sum(np.concatenate([np.ravel(s[name]) for s in sums])) for name in sums[0]}
    count = total.pop("count")
    return {name: value / count for name, value in total.items()}


def _sum(values: np.ndarray) -> float:
    """Returns the exact sum, so that it does not depend on the number of batches of a dispatch."""
    finite = np.isfinite(values).all()  # fsum raises an error for infinities of both signs
    return (math.fsum if finite else sum)(values.tolist())


def predict_batches(
    state: Any,
    predict_step: Callable,
    examples: ExampleSet,
    *,
    batch_size: int,
    loader: str = "numpy",
    parallel: DataParallel,
) -> Iterator[Any]:
    """Yields the results of `predict_step` for one batch after another, in host memory.

    The last batch may be padded.

    Args:
      state: a `TrainState`, or an encoder's variables; replicated.
    """
    batches = feeding.eval_batches(
        examples, batch_size=batch_size, loader=loader, parallel=parallel
    )
    while True:
        with timeline.part("evaluation"), jax.transfer_guard("disallow"):
            batch = next(batches, None)
            if batch is None:
                return
            results = jax.device_get(predict_step(state, batch))
        yield results


def predict(
    state: Any, predict_step: Callable, examples: ExampleSet, **options: Any
) -> dict[str, np.ndarray]:
    """Returns the results of `predict_step` for all examples, in order and without padding.

    Its arguments are those of `predict_batches`.
    """
    rows = list(predict_batches(state, predict_step, examples, **options))
    return {k: np.concatenate([row[k] for row in rows])[: num_rows(examples)] for k in rows[0]}


def fill(
    column: jax.Array,
    fill_step: Callable,
    state: Any,
    columns: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    parallel: DataParallel,
) -> jax.Array:
    """Returns `column` with the results of a step for all rows of `columns`.

    The columns are on the devices only during this call.

    Args:
      column: on the devices, [M, ...] with M from `resident.padded_rows`; it is donated.
      fill_step: see `resident.fill_steps`.
      state: the variables that the step reads, replicated.
    """
    every = range(num_rows(columns))
    examples = place_sets(columns, {"every": every}, parallel=parallel)["every"]
    for _, rows in feeding.eval_batches(examples, batch_size=batch_size, parallel=parallel):
        with jax.transfer_guard("disallow"):
            column = jax.block_until_ready(fill_step(column, ((state, examples), rows)))
    return column
