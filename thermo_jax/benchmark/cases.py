"""The cases that a benchmark times: the project's own steps on random images.

    pretrain H       one encoder update        classify G/H, segment G/H   one decoder update
    encode H         frozen latents            predict H/H                 images -> label maps

A name may end with the number of images in a step, "pretrain H:64"; the default is in
`BenchmarkSettings`.
Decoders train on latents that were encoded once, as in a run whose latents fit on the device.
"encode and segment H/H" encodes in every step, as in a run whose latents do not fit. "augmented
pretrain H" and "augmented segment H/H" change the images in every step, and then encode them.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermo_jax.data.examples import image_shape
from thermo_jax.data.thermogram import GRAY_SHAPE
from thermo_jax.errors import UserError
from thermo_jax.models import frozen, precision
from thermo_jax.models.augmentation import OFF, AugmentSettings
from thermo_jax.models.frozen import FrozenEncoder
from thermo_jax.models.operations import Operations
from thermo_jax.training import train_decoder, train_encoder
from thermo_jax.training.optimizer import make_optimizer

_TYPES = {"G": "gray", "H": "heat"}
_FORWARD, _TRAINING = 0, 1
# Task -> what a step does with the encoder and with the U-Net.
_TASKS = {
    "pretrain": (_TRAINING, None),
    "encode": (_FORWARD, None),
    "classify": (None, _TRAINING),
    "segment": (None, _TRAINING),
    "encode and classify": (_FORWARD, _TRAINING),
    "encode and segment": (_FORWARD, _TRAINING),
    "augmented pretrain": (_TRAINING, None),
    "augmented classify": (_FORWARD, _TRAINING),
    "augmented segment": (_FORWARD, _TRAINING),
    "predict": (_FORWARD, _FORWARD),
}
# Counted by hand at the published widths, for the encoder and for the U-Net:
# MFLOP per pixel, forward and in training (SPEC section 6).
_MFLOP = (0.54, 1.62), (1.36, 4.1)
# Values per pixel that all convolutions of a network together write.
_VALUES = 240, 456
# How often each of these values must at least be read or written, forward and in training. For
# example, an encoder update in bfloat16 moves at least 110 MB per heatmap.
PASSES = 2, 12
# Every transform is on.
_AUGMENTATION = AugmentSettings(
    mirror=True,
    rotation=10.0,
    scale=0.15,
    stretch=0.1,
    shift=0.08,
    elastic=0.02,
    gamma=0.4,
    field=0.06,
    noise=0.02,
    blur=1.0,
    rectangles=3,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What is measured; configs/benchmark.py explains the fields, which have the same names."""

    cases: Sequence[str]
    dtypes: Sequence[str]
    batch_size: Mapping[str, int]
    num_kernels: int
    unet_width: int
    downscale: int
    raw_pixels: bool

    def for_devices(self, count: int) -> "BenchmarkSettings":
        """The settings with a whole batch on each of `count` devices."""
        batch_size = {data_type: count * size for data_type, size in self.batch_size.items()}
        return dataclasses.replace(self, batch_size=batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One step to time.

    Attributes:
      name: such as "pretrain H", without the number of images.
      step: `step(state, batch)` of one device.
      train: whether the step returns a new state, which is donated and passed to the next step.
      make_state: returns the state; under `jax.eval_shape` no array is made.
      columns: name -> shape and type of one example, for each column of a batch besides its rows.
      batch_size: images in a step, over all devices.
      gflop_per_image: counted by hand; None at other widths than the published ones.
      gb_per_image: GB that must at least be read and written, also counted by hand or None.
      draw: returns a step's random positions, see `resident.train_steps`; None if it has none.
    """

    name: str
    step: Callable
    train: bool
    make_state: Callable[[], Any]
    columns: dict[str, jax.ShapeDtypeStruct]
    batch_size: int
    gflop_per_image: float | None
    gb_per_image: float | None
    draw: Callable | None = None

    def random_columns(self, count: int) -> dict[str, jax.Array]:
        """The columns of `count` different examples. Under `jit` they are made on the device."""
        columns = {}
        for number, (name, example) in enumerate(self.columns.items()):
            key = jax.random.key(number)
            if name == "latents":
                # Shifted copies of one image's latents: a CPU needs seconds to draw all of them.
                latents = jax.random.normal(key, example.shape).astype(example.dtype)
                columns[name] = jax.vmap(partial(jnp.roll, latents, axis=-2))(jnp.arange(count))
            else:
                high = {"labels": 2, "label_maps": 8}.get(name, 256)
                values = jax.random.randint(key, (count, *example.shape), 0, high, jnp.int32)
                columns[name] = values.astype(example.dtype)
        return columns


def find_case(name: str) -> tuple[str, list[str], int | None]:
    """Parses a case's name.

    Returns:
      The task, the data types, and the images in a step or None.
    Raises:
      UserError: the name is unknown, or what follows its colon is not a number of images.
    """
    bare, colon, images = name.partition(":")
    task, _, letters = bare.rpartition(" ")
    types = [_TYPES.get(letter) for letter in letters.split("/")]
    networks = 1 if task in ("pretrain", "encode", "augmented pretrain") else 2
    if task not in _TASKS or len(types) != networks or None in types:
        raise UserError(
            f"config.cases: no case {name!r}; known are 'pretrain' and 'encode' with G or H, and "
            "'classify', 'segment', 'encode and classify', 'encode and segment' and 'predict' with "
            "a row such as G/H; 'augmented' may stand before 'pretrain', 'classify' and 'segment'"
        )
    if colon and not (images.isdecimal() and int(images)):
        raise UserError(
            f"config.cases: {name!r} must name 1 or more images a step after the colon, such as "
            f"'{bare}:16'"
        )
    return task, types, int(images) if colon else None


def make_case(
    name: str,
    settings: BenchmarkSettings,
    *,
    dtype: str,
    operations: Operations,
    platform: str = "cpu",
) -> Case:
    """The case of a name.

    Args:
      name: with or without the number of images in a step.
      settings: the sizes; a number of images in the name replaces the batch size.
      dtype: the compute type.
      platform: the platform for which the step is compiled: "cpu", "gpu" or "tpu".
    Raises:
      UserError: the name is unknown.
    """
    task, types, images = find_case(name)
    shape = image_shape(types[-1], downscale=settings.downscale)
    make = partial(_pretraining if task.endswith("pretrain") else _with_frozen_encoder, task)
    parts = make(types[0], shape, settings=settings, dtype=dtype, operations=operations)
    gflop = gb = None
    if (settings.num_kernels, settings.unet_width, settings.raw_pixels) == (16, 64, False):
        pixels = float(math.prod(shape[:2])) * (3 if types == ["gray", "heat"] else 1)
        used = [(network, way) for network, way in enumerate(_TASKS[task]) if way is not None]
        values = sum(_VALUES[network] * PASSES[way] for network, way in used)
        gflop = sum(_MFLOP[network][way] for network, way in used) * pixels / 1e3
        gb = values * precision.array_dtype(dtype).itemsize * pixels / 1e9
    return Case(
        name=name.partition(":")[0],
        train=_TRAINING in _TASKS[task],
        batch_size=images or settings.batch_size[types[-1]],
        gflop_per_image=gflop,
        gb_per_image=gb,
        **parts | {"step": precision.matmul_precision(dtype, platform=platform)(parts["step"])},
    )


def _pretraining(
    task: str, data_type: str, shape: tuple[int, ...], *, settings: BenchmarkSettings, **how: Any
) -> dict[str, Any]:
    """Attributes of the `Case`; `how` specifies the compute type and the operations."""
    model = train_encoder.make_model(data_type=data_type, num_kernels=settings.num_kernels, **how)
    tx = make_optimizer(1e-3, weight_decay=1e-4)
    loss = train_encoder.LossSettings()
    return {
        "step": partial(
            train_encoder.train_step,
            model=model,
            tx=tx,
            loss=loss,
            augmentation=_augmentation(task),
        ),
        "make_state": lambda: train_encoder.create_state(
            model, tx=tx, rng=jax.random.key(0), image_shape=shape
        ),
        "columns": {"images": jax.ShapeDtypeStruct(shape, np.uint8)},
        "draw": partial(train_encoder.draw, image_size=shape[:2], model=model, loss=loss),
    }


def _with_frozen_encoder(
    task: str,
    encoder_type: str,
    shape: tuple[int, ...],
    *,
    settings: BenchmarkSettings,
    **how: Any,
) -> dict[str, Any]:
    """Attributes of the `Case`; `how` specifies the compute type and the operations."""
    facts = {"data_type": encoder_type, "num_kernels": settings.num_kernels}
    if settings.raw_pixels:
        facts["kind"] = "none"
    encoder = FrozenEncoder.abstract(facts, **how)

    def init_encoder():
        return frozen.init(encoder.module, rng=jax.random.key(0))

    columns = {"images": jax.ShapeDtypeStruct(shape, np.uint8)}
    if task == "encode":
        step = partial(train_decoder.encode_step, encoder=encoder.module)
        return {"step": step, "make_state": init_encoder, "columns": columns}
    classifies = task.endswith("classify")
    decoder = train_decoder.make_decoder(
        "classify" if classifies else "segment", width=settings.unet_width, **how
    )
    tx = make_optimizer(1e-3)
    latents = encoder.latents(shape)
    is_encoded = task in ("classify", "segment")

    def make_state():
        return train_decoder.create_state(
            decoder,
            tx=tx,
            rng=jax.random.key(0),
            latents_shape=latents.shape,
            frozen={} if is_encoded else init_encoder(),
        )

    models = {"encoder": encoder.module, "decoder": decoder}
    if task == "predict":
        step = partial(train_decoder.predict_step, full_shape=GRAY_SHAPE, **models)
    else:
        step = partial(train_decoder.train_step, tx=tx, augmentation=_augmentation(task), **models)
        columns = {"latents": latents} if is_encoded else columns
        if classifies:
            columns["labels"] = jax.ShapeDtypeStruct((), np.int32)
        else:
            columns["label_maps"] = jax.ShapeDtypeStruct(GRAY_SHAPE, np.uint8)
    return {"step": step, "make_state": make_state, "columns": columns}


def _augmentation(task: str) -> AugmentSettings:
    return _AUGMENTATION if task.startswith("augmented") else OFF
