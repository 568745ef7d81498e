"""Compares one training step in each compute type on this device with float32 on the CPU.

Both start from the same state, images and random positions. An error is the norm of the difference
divided by the norm of the CPU's result. It should be near 1e-5 or less in float32, near 1e-3 in
TF32, and between .01 and .5 in bfloat16 (.5 for a U-Net's gradient).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import logging

from thermo_jax.benchmark.cases import BenchmarkSettings, Case, make_case
from thermo_jax.benchmark.measure import conditions
from thermo_jax.benchmark.tables import Row
from thermo_jax.data import batches
from thermo_jax.errors import UserError
from thermo_jax.models.operations import NATIVE, choose_operations
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.state import initialise


def precision_rows(settings: BenchmarkSettings, *, conv: str) -> Iterator[Row]:
    """One row per case and type, on the first device.

    Args:
      conv: how the device computes layers, one of `operations.NAMES`.
    Raises:
      UserError: JAX_PLATFORMS hides the CPU.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "the steps are compared with the CPU's, which JAX_PLATFORMS hides: unset it, or add "
            "',cpu' to it"
        ) from error
    device = jax.devices()[0]
    platform = device.platform
    operations = choose_operations(conv, platform=platform)
    make = partial(make_case, settings=settings, operations=operations, platform=platform)
    for name in settings.cases:
        logging.info("%s in %s", name, ", ".join(settings.dtypes))
        reference = make_case(name, settings, dtype="float32", operations=NATIVE)
        rows = batches.eval_rows(reference.batch_size, reference.batch_size, step=0)._asdict()
        columns = jax.jit(partial(reference.random_columns, reference.batch_size))()
        inputs = jax.device_get((initialise(reference.make_state), columns | rows))
        steps = [_lower(reference, *inputs, device=cpu)]
        for dtype in settings.dtypes:
            steps.append(_lower(make(name, dtype=dtype), *inputs, device=device))
        with ThreadPoolExecutor(1 if platform == "cpu" else len(steps)) as threads:
            expected, *results = threads.map(lambda step: step(), steps)
        for dtype, result in zip(settings.dtypes, results, strict=True):
            errors = {part: _error(value, expected[part]) for part, value in result.items()}
            yield {"case": name, "dtype": dtype, "errors": errors} | conditions()


def _lower(case: Case, state: Any, batch: dict[str, np.ndarray], *, device: jax.Device) -> Callable:
    """Traces a step; returns a function that compiles it and runs it once.

    That function returns the loss, the gradients, and the changes of the batch statistics. Several
    threads may call such functions, but a step must be traced in the main thread. Latents of the
    batch get the step's type.
    """
    batch = {name: x.astype(case.columns.get(name, x).dtype) for name, x in batch.items()}
    parallel = DataParallel([device], mode="shard_map")
    placed = parallel.replicate(state), parallel.put_batch(batch)
    lowered = parallel.wrap(case.step).lower(*placed)

    def result() -> dict[str, Any]:
        after, metrics = jax.device_get(lowered.compile()(*placed))
        (adam,) = (part for part in after.opt_state if hasattr(part, "mu"))
        change = jax.tree.map(np.subtract, after.batch_stats, state.batch_stats)
        # Adam's first average is the gradient, apart from a factor.
        return {"loss": metrics["loss"], "gradients": adam.mu, "statistics": change}

    return result


def _error(actual: Any, expected: Any) -> float:
    """The relative error of all leaves together."""
    x, y = (
        np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
        for tree in (actual, expected)
    )
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))
