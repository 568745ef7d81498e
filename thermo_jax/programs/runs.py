"""What programs have in common: devices, plans and columns of a configuration, the last word."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from thermo_jax.data.examples import Examples
from thermo_jax.evaluation import results
from thermo_jax.training.checkpoints import FOLDER
from thermo_jax.training.loop import Plan
from thermo_jax.training.metrics_log import METRICS
from thermo_jax.training.parallel import DataParallel


def data_parallel(config: ConfigDict) -> DataParallel:
    """The devices and the wrapper that `config.parallel` asks for.

    Raises:
      ValueError: more devices than there are, or an unknown mode.
    """
    wanted, available = config.parallel.devices, jax.devices()
    if not 0 <= wanted <= len(available):
        raise ValueError(
            f"config.parallel.devices={wanted}: this machine has {len(available)} "
            f"{available[0].platform} device(s); 0 takes all"
        )
    return DataParallel(available[: wanted or None], mode=config.parallel.mode)


def plan(config: ConfigDict) -> Plan:
    """The training plan of a configuration."""
    return Plan(
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
        patience=config.train.patience,
        seed=config.seed,
        loader=config.data.loader,
        checkpoint_every=config.train.checkpoint_every,
    )


def columns(examples: Examples, *names: str) -> dict[str, np.ndarray]:
    """Some columns of a table, as the batches take them."""
    return {name: examples.columns[name] for name in names}


def image_shape(examples: Examples) -> tuple[int, ...]:
    """(H, W, C) of the images."""
    return examples.columns["images"].shape[1:]


def report(outcome: dict, *, files: Sequence[Path], workdir: Path) -> None:
    """Prints the table of results and where everything is."""
    print(f"\n{results.results_table(outcome)}")
    print(f"Written to {workdir}:")
    for path in [*files, workdir / METRICS, workdir / FOLDER]:
        print(f"  {Path(path).relative_to(workdir)}")
