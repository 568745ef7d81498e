"""Makes plain settings from a configuration; no other module does so.

A `ConfigDict` stays in `programs/`. The other subpackages receive plain values, or small frozen
dataclasses that are made here: what to read, how to train, where to place.
"""

from pathlib import Path

import jax
import optax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from thermo_jax.configs.rules import RULES, SCALES, celsius_range
from thermo_jax.data.batches import choose_loader, steps_per_epoch
from thermo_jax.data.dataset import PAPER, DataSettings, SplitSettings
from thermo_jax.data.radiometry import find_colormap
from thermo_jax.errors import UserError
from thermo_jax.models import precision
from thermo_jax.models.augmentation import AugmentSettings
from thermo_jax.models.operations import Operations, choose_operations
from thermo_jax.rivals.networks import check_architecture, look_of, sees_whole_images
from thermo_jax.training.loop import TrainingPlan
from thermo_jax.training.optimizer import make_optimizer
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.placement import Placement
from thermo_jax.training.weights_file import SHIPPED

# A step on heatmaps takes about 1 ms on an H200: with this many steps in a dispatch, the
# host prepares the next dispatch before the device needs it.
STEPS_PER_DISPATCH = 50


def resolve(config: ConfigDict) -> ConfigDict:
    """Calls `check_fields`; returns a copy with this machine's `model.dtype` and `data.loader`."""
    check_fields(config)
    resolved = config.copy_and_resolve_references()
    if "dtype" in resolved.get("model", {}):
        resolved.model.dtype = precision.choose_dtype(resolved.model.dtype, device=jax.devices()[0])
    if "loader" in resolved.get("data", {}):
        resolved.data.loader = choose_loader(resolved.data.loader)
    return resolved


def check_fields(config: ConfigDict) -> None:
    """Raises UserError, naming the field, its value and the rule, if a value breaks a rule."""
    for name, value in flatten_dict(config.to_dict(), sep=".").items():
        parts = name.split(".")
        # The rule with the section comes first, also for "stages.segment.train.epochs". The last
        # part may be a data type: a study's batch_size has a value for each.
        names = (*(".".join(parts[start:]) for start in range(len(parts))), *reversed(parts))
        rule = next((RULES[part] for part in names if part in RULES), None)
        if rule and not rule[1](value):
            raise UserError(f"config.{name}={value!r} must be {rule[0]}")
        if name in ("colormap", "data.colormap"):
            try:
                find_colormap(value)
            except ValueError as error:
                raise UserError(f"config.{name}: {error}") from error
    for part in (config, *config.get("stages", {}).values()):
        if "architecture" in part.get("model", {}):
            check_architecture(part.model.architecture, task=part.task)
    _check_looks(config)
    if "train" in config and config.train.patience and choose_by(config) == "last":
        raise UserError(
            f"config.train.patience={config.train.patience} must be 0 with "
            "config.split.val_fraction=0: without validation patients, no epoch is chosen"
        )
    if config.get("average_with_init") and not (config.init_from and config.train.ema):
        raise UserError(
            "config.average_with_init=True needs config.init_from, with whose weights to average, "
            "and config.train.ema"
        )


def _check_looks(config: ConfigDict) -> None:
    """Raises UserError if a network would look at something that its program cannot show it."""
    for task, stage in config.get("stages", {}).items():
        model = stage.model.to_dict()
        if not sees_whole_images(model):
            area, temperatures = look_of(model)
            raise UserError(
                f"config.stages.{task}.model.area={area!r} and temperatures={temperatures!r} must "
                "be 'full' and 'removed': what rivals look at is chosen by config.areas and "
                "config.temperatures of configs/comparators.py"
            )
    model = config.model.to_dict() if "model" in config else {}
    if not sees_whole_images(model) and config.data.type != "gray":
        area, temperatures = look_of(model)
        raise UserError(
            f"config.model.area={area!r} and config.model.temperatures={temperatures!r} need "
            f"config.data.type='gray', not {config.data.type!r}: set them to 'full' and 'removed'"
        )


def data_settings(config: ConfigDict) -> DataSettings:
    """What to read, with this machine's loader, also if the configuration is not resolved.

    Raises:
      UserError: endless phantoms are configured for other images than those that are rendered.
    """
    wanted = {"task": "segment", "data.root": "phantom", "data.type": "gray"}
    wanted |= {"data.phantom_version": 2}
    given = flatten_dict(config.to_dict(), sep=".")
    if config.data.endless and any(given.get(name) != value for name, value in wanted.items()):
        needs = ", ".join(f"config.{name}={value}" for name, value in wanted.items())
        raise UserError(f"config.data.endless=True needs {needs}")
    return DataSettings(
        **{**config.data, "loader": choose_loader(config.data.loader)},
        emissivity=config.flir.emissivity,
        seed=config.seed if config.data.shuffle_labels else 0,
    )


def split_settings(config: ConfigDict) -> SplitSettings:
    """Which patients are for training, validation and testing."""
    return SplitSettings(**config.split)


def augment_settings(config: ConfigDict) -> AugmentSettings:
    """How much the images of each training step are changed at random."""
    return AugmentSettings(**config.augment)


def choose_by(config: ConfigDict) -> str:
    """How a training run chooses its best epoch, see `TrainingPlan`."""
    # In the paper's protocol, a decoder is validated on the test patients.
    if config.split.protocol == PAPER and config.task != "encoder":
        return "errors" if config.task == "classify" else "loss"
    return "loss" if config.split.val_fraction else "last"


def training_plan(config: ConfigDict, *, num_images: int) -> TrainingPlan:
    """How to train on so many images."""
    epochs = config.train.epochs
    if config.train.steps:
        epochs = -(-config.train.steps // steps_per_epoch(num_images, config.train.batch_size))
    return TrainingPlan(
        batch_size=config.train.batch_size,
        epochs=epochs,
        patience=config.train.patience,
        seed=config.seed,
        learning_rate=config.train.learning_rate,
        loader=config.data.loader,
        checkpoint_minutes=float(config.train.checkpoint_minutes),
        choose_by=choose_by(config),
        steps_per_dispatch=_steps_per_dispatch(config),
    )


def optimizer(config: ConfigDict, *, num_images: int) -> optax.GradientTransformation:
    """How to update parameters, in a training on so many images."""
    train = config.train
    varies = train.warmup > 0 or train.schedule != "constant"
    epochs = training_plan(config, num_images=num_images).epochs
    decay = train.weight_decay
    if not decay and config.task != "encoder":
        decay = None  # an encoder always used AdamW, whose saved state has another form than Adam's
    return make_optimizer(
        train.learning_rate,
        weight_decay=decay,
        warmup=train.warmup,
        schedule=train.schedule,
        # Without a schedule, all numbers of images share one optimiser and its compiled programs.
        num_steps=epochs * steps_per_epoch(num_images, train.batch_size) if varies else 0,
    )


def placement(config: ConfigDict) -> Placement:
    """Where to place steps and examples.

    Args:
      config: resolved.
    Raises:
      UserError: this machine has fewer devices, or several processes would not use all of theirs.
    """
    wanted, available = config.parallel.devices, jax.devices()
    if jax.process_count() > 1 and wanted not in (0, len(available)):
        raise UserError(
            f"config.parallel.devices={wanted}: a run of {jax.process_count()} processes uses all "
            f"of their {len(available)} devices; leave it at 0"
        )
    if not 0 <= wanted <= len(available):
        raise UserError(
            f"config.parallel.devices={wanted}: this machine has {len(available)} "
            f"{available[0].platform} device(s); 0 uses all"
        )
    return Placement(
        parallel=DataParallel(available[: wanted or None], mode=config.parallel.mode),
        dtype=config.model.dtype,
        resident_gb=config.parallel.resident_gb,
        steps_per_dispatch=_steps_per_dispatch(config),
    )


def operations(config: ConfigDict, placement: Placement) -> Operations:
    """How layers are computed on these devices."""
    return choose_operations(config.model.conv, platform=placement.parallel.devices[0].platform)


def _steps_per_dispatch(config: ConfigDict) -> int:
    on_cpu = jax.default_backend() == "cpu"
    return config.parallel.steps_per_dispatch or (1 if on_cpu else STEPS_PER_DISPATCH)


def temperature_scale(config: ConfigDict) -> str | tuple[float, float]:
    """`config.scale`: "patient", "thermogram", or the lowest and highest temperature, degrees C."""
    return config.scale if config.scale in SCALES else celsius_range(config.scale)


def model_paths(config: ConfigDict) -> list[str]:
    """The models that a program applies: those in `config.models`, else the package's own."""
    return paths(config, "models") if config.models else [SHIPPED]


def paths(config: ConfigDict, field: str) -> list[str]:
    """The paths in a field that separates them by commas. Raises UserError if there is none.

    One path may contain a comma if it exists.
    """
    if config[field] and Path(config[field]).expanduser().exists():
        return [config[field]]
    given = [path.strip() for path in config[field].split(",") if path.strip()]
    if not given:
        raise UserError(f"config.{field} is empty: give --config.{field}=<path>[,<path>...]")
    return given
