"""What programs have in common: devices, plans and columns of a configuration, the last word."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import jax
import numpy as np
from absl import logging
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data import pipeline
from thermo_jax.data.examples import Examples
from thermo_jax.data.radiometry import find_colormap
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.files import digest
from thermo_jax.models import operations, precision
from thermo_jax.models.decoders import CHANNELS, HEADS
from thermo_jax.models.losses import CONTRASTIVE_LOSSES
from thermo_jax.programs import sources
from thermo_jax.programs.workdir import write_config
from thermo_jax.training import loop, processes, timeline
from thermo_jax.training.by_value import by_value
from thermo_jax.training.checkpoints import Checkpoints, has_checkpoint
from thermo_jax.training.parallel import MODES, DataParallel
from thermo_jax.training.resident import (
    Table,
    budget_bytes,
    eval_steps,
    fill_steps,
    place_sets,
    predict_steps,
    table_bytes,
    train_steps,
)

# An H200 takes about 1 ms for a step on heatmaps: enough of them to hide the host.
STEPS_PER_DISPATCH = 50
_COUNTS = (
    "data.downscale",
    "loss.num_patches",
    "model.num_kernels",
    "model.unet_width",
    "report.bootstrap",
    "train.batch_size",
    "train.epochs",
    "batch_size",
    "copy_mb",
    "downscale",
    "iterations",
    "matrix",
    "num_clusters",
    "num_kernels",
    "repeats",
    "steps_per_dispatch",
    "unet_width",
)
_CHOICES = {
    "data.loader": pipeline.LOADERS,
    "data.type": tuple(CHANNELS),
    "loss.form": tuple(CONTRASTIVE_LOSSES),
    "model.conv": operations.NAMES,
    "model.dtype": precision.NAMES,
    "model.head": HEADS,
    "parallel.mode": MODES,
    "conv": operations.NAMES,
    "mode": MODES,
    "encoder.type": tuple(CHANNELS),
    "encoder.kind": ("pretrained", "random", "none"),
    "split.protocol": sources.PROTOCOLS,
}
# JAX's keys hold 32 bits of it.
_SEED = ("from 0 to 4294967295", lambda value: 0 <= value < 2**32)
_SHARE = ("above 0 and below 1", lambda value: 0 < value < 1)
_RANGES = {
    "loss.contrastive_weight": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "loss.temperature": ("above 0", lambda value: value > 0),
    "model.patch_size": ("odd and at least 3", lambda value: value >= 3 and value % 2 == 1),
    "split.val_fraction": _SHARE,
    "encoder_val_fraction": _SHARE,
    "train.learning_rate": ("above 0", lambda value: value > 0),
    "seed": _SEED,
    "report.seed": _SEED,
    "split.seed": _SEED,
    "split.max_train_patients": ("at least 0", lambda value: value >= 0),
    "parallel.steps_per_dispatch": ("at least 0", lambda value: value >= 0),
    "train.checkpoint_minutes": ("at least 0", lambda value: value >= 0),
    "train.patience": ("at least 0", lambda value: value >= 0),
}


def resolve(config: ConfigDict) -> ConfigDict:
    """A configuration with its compute type chosen for this platform; checked first.

    Raises:
      UserError: as `check_fields`.
    """
    check_fields(config)
    resolved = config.copy_and_resolve_references()
    if "dtype" in resolved.get("model", {}):
        resolved.model.dtype = precision.choose_dtype(resolved.model.dtype, device=jax.devices()[0])
    return resolved


def check_fields(config: ConfigDict) -> None:
    """Raises UserError, naming the field, its value and what it may be, where no run can use it."""
    rules = dict(_RANGES)
    rules |= {name: ("at least 1", lambda value: value >= 1) for name in _COUNTS}
    rules |= {
        name: (f"one of {', '.join(names)}", lambda value, names=names: value in names)
        for name, names in _CHOICES.items()
    }
    for name, (expected, is_fine) in rules.items():
        section, _, field = name.rpartition(".")
        fields = config.get(section, {}) if section else config
        if field not in fields:
            continue
        value = fields[field]
        by_type = dict(value) if isinstance(value, ConfigDict) else {"": value}  # of images
        for part, each in by_type.items():
            if not is_fine(each):
                name += f".{part}" if part else ""
                raise UserError(f"config.{name}={each!r} must be {expected}")
    if "colormap" in config.get("data", {}):
        try:
            find_colormap(config.data.colormap)
        except ValueError as error:
            raise UserError(f"config.data.colormap: {error}") from error


def check_chosen(config: ConfigDict, field: str, known: Collection[str]) -> None:
    """Raises UserError where a field of several values has an unknown one, or none."""
    if not config[field] or not set(config[field]) <= set(known):
        raise UserError(
            f"config.{field}={config[field]!r}: choose one or more of {', '.join(known)}"
        )


def data_parallel(config: ConfigDict) -> DataParallel:
    """The devices and the wrapper that `config.parallel` asks for.

    Raises:
      UserError: more devices than there are, or fewer than several processes have; an unknown
        mode.
    """
    wanted, available = config.parallel.devices, jax.devices()
    if jax.process_count() > 1 and wanted not in (0, len(available)):
        raise UserError(
            f"config.parallel.devices={wanted}: a run of {jax.process_count()} processes takes all "
            f"of their {len(available)} devices; leave it at 0"
        )
    if not 0 <= wanted <= len(available):
        raise UserError(
            f"config.parallel.devices={wanted}: this machine has {len(available)} "
            f"{available[0].platform} device(s); 0 takes all"
        )
    return DataParallel(available[: wanted or None], mode=config.parallel.mode)


def plan(config: ConfigDict) -> loop.Plan:
    """The training plan of a configuration."""
    return loop.Plan(
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
        patience=config.train.patience,
        seed=config.seed,
        learning_rate=config.train.learning_rate,
        loader=config.data.loader,
        checkpoint_minutes=float(config.train.checkpoint_minutes),
        choose_by="errors"
        if (config.split.protocol, config.task) == (sources.PAPER, "classify")
        else "loss",
        steps_per_dispatch=_steps_per_dispatch(config),
    )


def _steps_per_dispatch(config: ConfigDict) -> int:
    chosen = config.parallel.steps_per_dispatch
    return chosen or (1 if jax.default_backend() == "cpu" else STEPS_PER_DISPATCH)


def wrap(
    parallel: DataParallel,
    step: Callable,
    config: ConfigDict,
    *,
    role: str,
    resident: bool,
    draw: Callable | None = None,
) -> Callable:
    """A per-device step over all devices, for sets that are on them or batches of host memory.

    It multiplies in the compute type of `config`, which is resolved. Equal steps (partials of equal
    functions and arguments) return the same wrapped function, so a study compiles each only once.

    Args:
      role: "train", "eval", "predict" or "fill", which say what the step does: see `resident.py`.
      draw: of a training step that has random positions, see `resident.train_steps`.
    """
    return _wrap(
        parallel,
        by_value(step),
        role=role,
        resident=resident,
        draw=by_value(draw) if draw else None,
        dtype=config.model.dtype,
        at_most=_steps_per_dispatch(config),
    )


@functools.lru_cache(maxsize=64)
def _wrap(parallel, step, *, role, resident, draw, dtype, at_most):
    step = precision.matmul_precision(dtype, platform=parallel.devices[0].platform)(step)
    if resident:
        step = {
            "train": partial(train_steps, at_most=at_most, draw=draw),
            "eval": partial(eval_steps, whole=at_most > 1),
            "predict": predict_steps,
            "fill": fill_steps,
        }[role](step)
    return parallel.wrap(step, donate_state=role in ("train", "fill"), resident=resident)


def fits(num_bytes: float, what: str, config: ConfigDict, *, parallel: DataParallel) -> bool:
    """Whether a table of this size may live on the devices; says so where it may not."""
    device = next(d for d in parallel.devices if d.process_index == jax.process_index())
    budget = budget_bytes(config.parallel.resident_gb, device=device)
    if num_bytes > budget:
        logging.info(
            "%s would take %.2f GB of every device, more than the %.2f GB that data may take "
            "(config.parallel.resident_gb).",
            what,
            num_bytes / 1e9,
            budget / 1e9,
        )
    return processes.all_true(bool(num_bytes <= budget))


def place_images(
    examples: Examples,
    parts: Mapping[str, Examples],
    config: ConfigDict,
    *targets: str,
    parallel: DataParallel,
) -> tuple[dict[str, Table], bool]:
    """Images and targets of parts of the examples, by role; on the devices where they fit there.

    Returns:
      Sets of one table on the devices or columns in host memory; whether it is the former.
    """
    table = columns(examples, "images", *targets)
    if not fits(table_bytes(table), "The images", config, parallel=parallel):
        return {role: columns(part, "images", *targets) for role, part in parts.items()}, False
    with timeline.part("data"):
        return place_sets(table, rows_by_role(examples, parts), parallel=parallel), True


def rows_by_role(examples: Examples, parts: Mapping[str, Examples]) -> dict[str, np.ndarray]:
    """Which rows of the examples are the parts."""
    return {role: examples.rows_of(part.names) for role, part in parts.items()}


def columns(examples: Examples, *names: str) -> dict[str, np.ndarray]:
    """Some columns of a table, as the batches take them."""
    return {name: examples.columns[name] for name in names}


def image_shape(examples: Examples) -> tuple[int, ...]:
    """(H, W, C) of the images."""
    return examples.columns["images"].shape[1:]


def check_not_empty(sets: Mapping[str, Examples], *, of: int) -> None:
    """Raises UserError, naming the set, where one has no image."""
    for name, part in sets.items():
        if not len(part):
            raise UserError(
                f"none of {of} usable images is of a {name} patient: choose other "
                "config.split.folds, fold or val_fraction, or add data"
            )


def fingerprint(sets: Mapping[str, Examples]) -> str:
    """Tells whether a run continues with the same images in the same sets."""
    return digest({name: [list(part.names), list(part.patients)] for name, part in sets.items()})


def paths(config: ConfigDict, field: str) -> list[str]:
    """The paths of a field that joins them by commas.

    Raises:
      UserError: there is none.
    """
    found = [part.strip() for part in config[field].split(",") if part.strip()]
    if not found:
        raise UserError(f"config.{field} is empty: give --config.{field}=<path>[,<path>...]")
    return found


def check_examples(workdir: Path, examples: str) -> None:
    """Raises UserError where the run that would continue in the workdir began with others.

    Args:
      examples: their fingerprint.
    """
    if has_checkpoint(workdir):
        with Checkpoints(workdir, read_only=True) as checkpoints:
            loop.check_examples(checkpoints.meta(), examples, workdir=workdir)


def begin(
    workdir: Path, config: ConfigDict, *, source: sources.Source, split: Split | None = None
) -> None:
    """What is written before the work: config.json, the data report, the patients of each set.

    Call it when all that may refuse the run has been checked: a refused one changes no file.
    """
    write_config(workdir, config)
    if processes.is_writer():
        source.write_report(workdir)
        if split is not None:
            split.save(workdir / sources.SPLIT)


def report(text: str, *, files: Sequence[Path], workdir: Path) -> None:
    """Prints the table of results and where everything is."""
    print(f"\n{text}")
    print(f"Written to {workdir}:")
    for path in files:
        print(f"  {Path(path).relative_to(workdir)}")
