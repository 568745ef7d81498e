"""One training step in each compute type on this device, beside float32 on the CPU.

Both start from the same state, images and random positions. The errors are norms of differences
over the norm of what the CPU found: float32 should be near 1e-5 or better, TF32 near 1e-3,
bfloat16 between .01 and .5 (a U-Net's gradient).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.benchmark.cases import Case, make_case
from thermo_jax.benchmark.measure import versions
from thermo_jax.data import batches
from thermo_jax.errors import UserError
from thermo_jax.models.operations import NATIVE, choose_operations
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.state import initialise

REFERENCE = "float32"


def compare_all(config: ConfigDict) -> Iterator[dict[str, Any]]:
    """One row per case and type, on the first device.

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
    own = {"operations": choose_operations(config.conv, platform=device.platform)}
    own["platform"] = device.platform
    steps = []
    for name in config.cases:
        logging.info("%s in %s", name, ", ".join(config.dtypes))
        case = make_case(name, config, dtype=REFERENCE, operations=NATIVE)
        inputs = _inputs(case)
        steps.append(_Step.of(case, *inputs, device=cpu))
        for dtype in config.dtypes:
            case = make_case(name, config, dtype=dtype, **own)
            steps.append(_Step.of(case, *inputs, device=device))
    with ThreadPoolExecutor(1 if device.platform == "cpu" else len(steps)) as threads:
        results = threads.map(_Step.result, steps)
        for name in config.cases:
            expected = next(results)
            for dtype in config.dtypes:
                errors = {what: _error(x, expected[what]) for what, x in next(results).items()}
                yield {"case": name, "dtype": dtype, "errors": errors} | versions()


def _inputs(case: Case) -> tuple[Any, dict[str, np.ndarray]]:
    """A state and a batch in host memory; latents are of the reference's type."""
    rows = batches.eval_rows(case.batch_size, case.batch_size, step=0)._asdict()
    columns = jax.jit(partial(case.random_columns, case.batch_size))()
    return jax.device_get((initialise(case.make_state), columns | rows))


class _Step(NamedTuple):
    """A step that is to be compiled and run once."""

    lowered: jax.stages.Lowered
    before: Any  # the state, in host memory
    state: Any  # the same on the device
    batch: dict[str, jax.Array]

    @classmethod
    def of(cls, case: Case, state: Any, batch: dict[str, np.ndarray], *, device: jax.Device):
        """Traced here, because what a thread traces is its own."""
        types = {name: dtype for name, (_, dtype) in case.columns.items()}
        batch = {name: x.astype(types.get(name, x.dtype)) for name, x in batch.items()}
        parallel = DataParallel([device], mode="shard_map")
        placed = parallel.replicate(state), parallel.put_batch(batch)
        return cls(parallel.wrap(case.step).lower(*placed), state, *placed)

    def result(self) -> dict[str, Any]:
        """The step's loss, gradients, and changes of the batch statistics."""
        after, metrics = jax.device_get(self.lowered.compile()(self.state, self.batch))
        (adam,) = (part for part in after.opt_state if hasattr(part, "mu"))
        change = jax.tree.map(np.subtract, after.batch_stats, self.before.batch_stats)
        # Adam's first average is the gradient, but for a factor.
        return {"loss": metrics["loss"], "gradients": adam.mu, "statistics": change}


def _error(actual: Any, expected: Any) -> float:
    """Relative, of all leaves together."""
    x, y = (
        np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
        for tree in (actual, expected)
    )
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for reading."""
    lines = [f"{'one step against the CPU':<26}{'type':<15}{'loss':>9}{'gradients':>11}"]
    lines[0] += f"{'statistics':>12}"
    lines += [
        f"{row['case']:<26}{row['dtype']:<15}{errors['loss']:>9.1e}{errors['gradients']:>11.1e}"
        f"{errors['statistics']:>12.1e}"
        for row in rows
        if (errors := row.get("errors"))
    ]
    return "\n".join(lines)
