"""What the values of fields must be: rules, which are checked before a run reads any data."""

from collections.abc import Callable, Sequence
from typing import Any

from thermo_jax.configs.common import ROWS
from thermo_jax.data.batches import LOADER_CHOICES
from thermo_jax.data.dataset import SPLIT_PROTOCOLS
from thermo_jax.data.layouts import LAYOUTS, RENDER_CHOICES
from thermo_jax.data.phantom import VERSIONS
from thermo_jax.data.radiometry import UNIT_CHOICES
from thermo_jax.models import operations, precision
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.decoders import HEADS
from thermo_jax.models.losses import CONTRASTIVE_LOSSES
from thermo_jax.rivals.networks import ARCHITECTURES
from thermo_jax.rivals.pretrained import SOURCES
from thermo_jax.rivals.registry import AREAS, BY_NAME, OURS, TEMPERATURES
from thermo_jax.training.optimizer import SCHEDULES
from thermo_jax.training.parallel import MODES

_KINDS = ("pretrained", "random", "none")  # of encoders
Rule = tuple[str, Callable[[Any], bool]]  # what a value must be, and a function that checks it


def _one_of(names: Sequence[str]) -> Rule:
    return f"one of {', '.join(names)}", lambda value: value in names


def _some_of(names: Sequence[str]) -> Rule:
    known = set(names)
    expected = f"one or more of {', '.join(names)}, each at most once"
    return expected, lambda value: value and known >= set(value) and len(set(value)) == len(value)


SCALES = ("patient", "thermogram")  # of the colours of temperatures in reports


def celsius_range(text: str) -> tuple[float, float] | None:
    """The numbers of a range such as "24..36"; None if the text is none."""
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        return None
    return (low, high) if -100 <= low < high <= 200 else None


def _are_counts(numbers: Sequence) -> bool:
    return bool(numbers) and all(isinstance(number, int) and number >= 0 for number in numbers)


_COUNT: Rule = ("at least 1", lambda value: value >= 1)
_NOT_NEGATIVE: Rule = ("at least 0", lambda value: value >= 0)
_UP_TO_1: Rule = ("from 0 to 1", lambda value: 0 <= value <= 1)
_POSITIVE: Rule = ("above 0", lambda value: value > 0)
_SHARE: Rule = ("at least 0 and below 1", lambda value: 0 <= value < 1)
_SEED: Rule = ("from 0 to 4294967295", lambda value: 0 <= value < 2**32)  # JAX's keys are 32 bits
# What the values of fields must be. A name with its section ("data.type") is the rule of this one
# field. A name alone is the rule of every field with this name that has no rule with its section.
RULES: dict[str, Rule] = {
    "areas": _some_of(AREAS),
    "batch_size": _COUNT,
    "candidates": _COUNT,
    "conv": _one_of(operations.NAMES),
    "copy_mb": _COUNT,
    "direction": _one_of(("import", "export")),
    "downscale": _COUNT,
    "dtypes": _some_of(precision.NAMES[1:]),  # without "auto"
    "encoder_val_fraction": _SHARE,
    "format": _one_of(("stablehlo", "onnx", "safetensors")),
    "iterations": _COUNT,
    "kinds": _some_of((*_KINDS, "shipped")),
    "matrix": _COUNT,
    "mode": _one_of(MODES),
    "num_clusters": _COUNT,
    "num_kernels": _COUNT,
    "ours": (
        f"none or more of {', '.join(OURS)}, each at most once",
        lambda value: set(value) <= set(OURS) and len(set(value)) == len(value),
    ),
    "patients": ("numbers of patients from 1, or 0 for all", _are_counts),
    "platforms": _some_of(("cpu", "cuda", "rocm", "tpu")),  # JAX's names
    "repeats": _COUNT,
    "rivals": _some_of(tuple(BY_NAME)),
    "row": _one_of(ROWS),
    "rows": _some_of(ROWS),
    "scale": (
        f"one of {', '.join(SCALES)}, or a range in degrees C such as 24..36",
        lambda value: value in SCALES or celsius_range(value) is not None,
    ),
    "seed": _SEED,
    "shuffles": _NOT_NEGATIVE,
    "steps_per_dispatch": _COUNT,
    "tasks": _some_of(("classify", "segment")),
    "temperatures": _some_of(TEMPERATURES),
    "unet_width": _COUNT,
    "augment.rotation": ("from 0 to 180", lambda value: 0 <= value <= 180),
    "augment.scale": _UP_TO_1,
    "augment.stretch": _UP_TO_1,
    "augment.shift": _UP_TO_1,
    "augment.elastic": _UP_TO_1,
    "augment.gamma": _UP_TO_1,
    "augment.field": _UP_TO_1,
    "augment.noise": _UP_TO_1,
    "augment.blur": ("from 0 to 10", lambda value: 0 <= value <= 10),
    "augment.rectangles": ("from 0 to 20", lambda value: 0 <= value <= 20),
    "data.layout": _one_of(LAYOUTS),
    "data.loader": _one_of(LOADER_CHOICES),
    "data.phantom_version": ("1 or 2", lambda value: value in VERSIONS),
    "data.render": _one_of(RENDER_CHOICES),
    "data.type": _one_of(tuple(CHANNELS)),
    "data.unit": _one_of(UNIT_CHOICES),
    "encoder.kind": _one_of(_KINDS),
    "encoder.type": _one_of(tuple(CHANNELS)),
    "fine_tune.learning_rate": _POSITIVE,
    "fine_tune.steps": _COUNT,
    "flir.emissivity": _UP_TO_1,
    "loss.contrastive_weight": _UP_TO_1,
    "loss.dice": _NOT_NEGATIVE,
    "loss.form": _one_of(tuple(CONTRASTIVE_LOSSES)),
    "loss.nipple_weight": _POSITIVE,
    "loss.num_patches": _COUNT,
    "loss.temperature": _POSITIVE,
    "model.architecture": _one_of(ARCHITECTURES),
    "model.area": _one_of(AREAS),
    "model.dtype": _one_of(precision.NAMES),
    "model.head": _one_of(HEADS),
    "model.temperatures": _one_of(TEMPERATURES),
    "model.patch_size": ("odd and at least 3", lambda value: value >= 3 and value % 2 == 1),
    "parallel.steps_per_dispatch": _NOT_NEGATIVE,
    "report.bootstrap": _COUNT,
    "split.max_train_patients": _NOT_NEGATIVE,
    "split.protocol": _one_of(SPLIT_PROTOCOLS),
    "split.val_fraction": _SHARE,
    "train.checkpoint_minutes": _NOT_NEGATIVE,
    "train.ema": _SHARE,
    "train.epochs": _COUNT,
    "train.learning_rate": _POSITIVE,
    "train.patience": _NOT_NEGATIVE,
    "train.schedule": _one_of(SCHEDULES),
    "train.steps": _NOT_NEGATIVE,
    "train.warmup": _SHARE,
    "train.weight_decay": _NOT_NEGATIVE,
    "weights.source": _one_of(SOURCES),
}
