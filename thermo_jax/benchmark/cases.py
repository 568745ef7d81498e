"""What is timed: the product's own steps on random images, named like "segment G/H".

    pretrain H       one encoder update        classify G/H, segment G/H   one decoder update
    encode H         frozen latents            predict H/H                 images -> label maps

A number of images may follow, "pretrain H:64"; else it is that of `config.batch_size`.
Decoders train on latents that were encoded once, as in a run where they fit on the device;
"encode and segment H/H" encodes in every step, as where they do not.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from thermo_jax.data.thermogram import GRAY_SHAPE, HEAT_SHAPE
from thermo_jax.errors import UserError
from thermo_jax.models import frozen, precision
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.frozen import FrozenEncoder
from thermo_jax.models.operations import Operations
from thermo_jax.training import train_decoder, train_encoder

_TYPES = {"G": "gray", "H": "heat"}
SHAPES = {"gray": GRAY_SHAPE, "heat": HEAT_SHAPE}
# MFLOP per pixel, counted by hand at the published widths (SPEC section 6): forward, training.
ENCODER_MFLOP, UNET_MFLOP = (0.54, 1.62), (1.36, 4.1)
# Values that all convolutions leave per pixel of the image, at the published widths, and how often
# each must be read or written at least, forward and in training: 110 MB a heatmap in bfloat16.
ENCODER_VALUES, UNET_VALUES = 240, 456
PASSES = 2, 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to time.

    Attributes:
      name: such as "pretrain H", without a number of images.
      step: per device, `step(state, batch)`.
      train: whether it returns a new state, which is donated and fed back.
      make_state: makes the state; under `jax.eval_shape` no array is made.
      draw: what gives a step's random positions, see `resident.train_steps`; None without.
      columns: what a batch holds besides its rows, name -> (shape of one example, type).
      batch_size: images a step, over all devices.
      gflop_per_image: by hand; None at other widths than the published ones.
      gb_per_image: to be read and written at least, by hand; None likewise.
    """

    name: str
    step: Callable
    train: bool
    make_state: Callable[[], Any]
    draw: Callable | None
    columns: dict[str, tuple[tuple[int, ...], Any]]
    batch_size: int
    gflop_per_image: float | None
    gb_per_image: float | None

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of one streamed batch, to compile the step without data."""
        rows = {"index": ((), jnp.int32), "slot": ((), jnp.int32), "mask": ((), jnp.float32)}
        return {
            name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype)
            for name, (shape, dtype) in (self.columns | rows).items()
        }

    def random_columns(self, count: int) -> dict[str, jax.Array]:
        """`count` examples, all different. Under `jit` they are made on the device."""
        table = {}
        for place, (name, (shape, dtype)) in enumerate(self.columns.items()):
            key = jax.random.key(place)
            if name == "latents":  # of one image's random numbers: a CPU needs seconds for each
                one = jax.random.normal(key, shape).astype(dtype)
                roll = jax.vmap(lambda example, one=one: jnp.roll(one, example, axis=-2))
                table[name] = roll(jnp.arange(count))
            else:
                high = {"labels": 2, "label_maps": 8}.get(name, 256)
                drawn = jax.random.randint(key, (count, *shape), 0, high, jnp.int32)
                table[name] = drawn.astype(dtype)
        return table


def find_case(name: str) -> tuple[str, Callable, list[str], int | None]:
    """(task, what makes its case, data types, images a step if it has them) of a case's name.

    Raises:
      UserError: an unknown name, or no number of images.
    """
    bare, colon, images = name.partition(":")
    task, _, what = bare.rpartition(" ")
    try:
        types = [_TYPES[letter] for letter in what.split("/")]
        make, count = _MAKERS[task]
    except KeyError:
        types, count = [], -1
    if len(types) != count:
        raise UserError(
            f"config.cases: no case {name!r}; known are 'pretrain' and 'encode' with G or H, and "
            "'classify', 'segment', 'encode and classify', 'encode and segment' and 'predict' with "
            "a row such as G/H"
        )
    if colon and not (images.isdecimal() and int(images)):
        raise UserError(
            f"config.cases: {name!r} must name 1 or more images a step after the colon, such as "
            f"'{bare}:16'"
        )
    return task, make, types, int(images) if colon else None


def make_case(
    name: str,
    config: ConfigDict,
    *,
    dtype: str,
    operations: Operations,
    platform: str = "cpu",
) -> Case:
    """A case by name, at the sizes of a benchmark's configuration.

    Args:
      name: with or without a number of images.
      dtype: compute type, as in `config.model.dtype`, but not "auto".
      platform: "cpu", "gpu" or "tpu": what the step is compiled for.
    Raises:
      UserError: an unknown name.
    """
    task, make, types, images = find_case(name)
    data_type = types[-1]
    shape = tuple(side // config.downscale for side in SHAPES[data_type])
    parts = make(types, shape, config, dtype, operations)
    gflop = gb = None
    if (config.num_kernels, config.unet_width) == (16, 64):
        pixels = float(np.prod(shape)) * (3 if types == ["gray", "heat"] else 1)
        mflop, values = parts.work
        gflop = mflop * pixels / 1e3
        gb = values * precision.array_dtype(dtype).itemsize * pixels / 1e9
    return Case(
        name=name.partition(":")[0],
        step=precision.matmul_precision(dtype, platform=platform)(parts.step),
        train=task not in ("encode", "predict"),
        make_state=parts.make_state,
        draw=parts.draw,
        columns=parts.columns,
        batch_size=images or config.batch_size[data_type],
        gflop_per_image=gflop,
        gb_per_image=gb,
    )


class _Parts(NamedTuple):
    """What differs from case to case; `work` is MFLOP and values moved, per pixel."""

    step: Callable
    make_state: Callable[[], Any]
    columns: dict[str, tuple[tuple[int, ...], Any]]
    work: tuple[float, float]
    draw: Callable | None = None


def _pretrain(types, shape, config, dtype, operations):
    model = train_encoder.make_model(
        data_type=types[0], num_kernels=config.num_kernels, dtype=dtype, operations=operations
    )
    tx = train_encoder.make_optimizer(1e-3, 1e-4)
    image = (*shape, CHANNELS[types[0]])
    loss = train_encoder.LossSettings()
    step = partial(train_encoder.train_step, model=model, tx=tx, loss=loss)
    draw = partial(train_encoder.draw, image_size=shape, model=model, loss=loss)
    make_state = partial(
        train_encoder.create_state, model, tx=tx, rng=jax.random.key(0), image_shape=image
    )
    work = ENCODER_MFLOP[1], ENCODER_VALUES * PASSES[1]
    return _Parts(step, make_state, {"images": (image, np.uint8)}, work, draw)


def _frozen(data_type: str, config, dtype, operations) -> FrozenEncoder:
    facts = {"data_type": data_type, "num_kernels": config.num_kernels}
    return FrozenEncoder.abstract(facts, dtype=dtype, operations=operations)


def _encode(types, shape, config, dtype, operations):
    module = _frozen(types[0], config, dtype, operations).module
    step = partial(train_decoder.encode_step, encoder=module)
    make_state = partial(frozen.init, module, rng=jax.random.key(0))
    work = ENCODER_MFLOP[0], ENCODER_VALUES * PASSES[0]
    images = {"images": ((*shape, module.channels), np.uint8)}
    return _Parts(step, make_state, images, work)


def _decode(task, types, shape, config, dtype, operations, *, encoded=False, predict=False):
    encoder = _frozen(types[0], config, dtype, operations)
    image = (*shape, CHANNELS[types[-1]])
    decoder = train_decoder.make_decoder(
        task, width=config.unet_width, dtype=dtype, operations=operations
    )
    tx = train_decoder.make_optimizer(1e-3)
    latents = encoder.latents(image)

    def make_state():
        return train_decoder.create_state(
            decoder,
            tx=tx,
            rng=jax.random.key(0),
            latents_shape=latents.shape,
            frozen={} if encoded else frozen.init(encoder.module, rng=jax.random.key(0)),
        )

    models = {"encoder": encoder.module, "decoder": decoder}
    images = {"images": (image, np.uint8)}
    if predict:
        step = partial(train_decoder.predict_step, full_shape=GRAY_SHAPE, **models)
        work = ENCODER_MFLOP[0] + UNET_MFLOP[0], (ENCODER_VALUES + UNET_VALUES) * PASSES[0]
        return _Parts(step, make_state, images, work)
    inputs = {"latents": (latents.shape, latents.dtype)} if encoded else images
    target = {"labels": ((), np.int32)} if task == "classify" else {}
    target = target or {"label_maps": (GRAY_SHAPE, np.uint8)}
    mflop, values = UNET_MFLOP[1], UNET_VALUES * PASSES[1]
    if not encoded:
        mflop, values = mflop + ENCODER_MFLOP[0], values + ENCODER_VALUES * PASSES[0]
    step = partial(train_decoder.train_step, tx=tx, **models)
    return _Parts(step, make_state, inputs | target, (mflop, values))


_MAKERS = {  # task -> (maker, number of data types in the name)
    "pretrain": (_pretrain, 1),
    "encode": (_encode, 1),
    "classify": (partial(_decode, "classify", encoded=True), 2),
    "segment": (partial(_decode, "segment", encoded=True), 2),
    "encode and classify": (partial(_decode, "classify"), 2),
    "encode and segment": (partial(_decode, "segment"), 2),
    "predict": (partial(_decode, "segment", predict=True), 2),
}
