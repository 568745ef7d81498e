"""Tiny runs whose data tables lie in device memory."""

import numpy as np
from tiny_training import Run

from thermo_jax.training import resident


def on_devices(run: Run, *, steps: int = 5) -> Run:
    """Returns the run with its tables in device memory and up to `steps` steps per dispatch."""
    wrap, trainer = run.parallel.wrap, run.trainer
    columns = {name: np.concatenate([x, run.validation[name]]) for name, x in run.train.items()}
    rows = {"train": range(20), "validation": range(20, 31)}
    sets = resident.place_sets(columns, rows, parallel=run.parallel)
    train_step = resident.train_steps(trainer.train_step, at_most=steps)
    return run._replace(
        train_step=wrap(train_step, donate_state=True, resident=True),
        eval_step=wrap(resident.eval_steps(trainer.eval_step, whole=steps > 1), resident=True),
        **sets,
    )
