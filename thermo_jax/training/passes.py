"""One pass over a set with a trained model: losses, predictions, or a column of latents."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    state: Any,
    predict_step: Callable,
    examples: ExampleSet,
    *,
    keep: Callable[[dict, slice], dict] = lambda results, rows: results,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Returns the results of `predict_step` for all examples, in order and without padding.

    Args:
      keep: makes of a batch's results, and of its rows, what is kept in memory; default all.
      options: the other arguments of `predict_batches`.
    """
    batches = predict_batches(state, predict_step, examples, **options)
    kept = [keep(*batch) for batch in without_padding(batches, count=num_rows(examples))]
    return joined(kept)


def without_padding(
    batches: Iterable[dict[str, np.ndarray]], *, count: int
) -> Iterator[tuple[dict[str, np.ndarray], slice]]:
    """Yields the results of each batch for its examples, and their rows among all `count`."""
    start = 0
    for results in batches:
        size = len(next(iter(results.values())))
        rows = slice(start, min(start + size, count))
        yield {name: x[: rows.stop - start] for name, x in results.items()}, rows
        start += size


def joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns what was kept of all batches, as one array for each name."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
