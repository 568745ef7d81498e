"""The cases that a benchmark times: the project's own steps on random images.

    pretrain H       one encoder update        classify G/H, segment G/H   one decoder update
    encode H         frozen latents            predict H/H                 images -> label maps

A name may end with the number of images in a step, "pretrain H:64"; the default is in
`BenchmarkSizes`.
Decoders train on latents that were encoded once, as in a run whose latents fit on the device.
"encode and segment H/H" encodes in every step, as in a run whose latents do not fit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
# The number of values that all convolutions together write per pixel of the image, at the published
# widths; then how often each value must at least be read or written, forward and in training.
# Example: 110 MB per heatmap in bfloat16.
ENCODER_VALUES, UNET_VALUES = 240, 456
PASSES = 2, 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkSizes:
    """The sizes of all cases.

    Attributes:
      batch_size: "gray" and "heat" -> images in a step, over all devices.
      num_kernels: channels of the encoder's first block.
      unet_width: channels of the U-Net's first stage.
      downscale: images are smaller by this factor.
    """

    batch_size: Mapping[str, int]
    num_kernels: int
    unet_width: int
    downscale: int

    def for_devices(self, count: int) -> "BenchmarkSizes":
        """The sizes with a whole batch on each of `count` devices."""
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
      columns: the columns of a batch besides its rows: name -> (shape of one example, type).
      batch_size: images in a step, over all devices.
      gflop_per_image: counted by hand; None at other widths than the published ones.
      gb_per_image: GB that must at least be read and written, also counted by hand or None.
      draw: returns a step's random positions, see `resident.train_steps`; None if it has none.
    """

    name: str
    step: Callable
    train: bool
    make_state: Callable[[], Any]
    columns: dict[str, tuple[tuple[int, ...], Any]]
    batch_size: int
    gflop_per_image: float | None
    gb_per_image: float | None
    draw: Callable | None = None

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a batch, to compile the step without data."""
        rows = {"index": ((), jnp.int32), "slot": ((), jnp.int32), "mask": ((), jnp.float32)}
        return {
            name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype)
            for name, (shape, dtype) in (self.columns | rows).items()
        }

    def random_columns(self, count: int) -> dict[str, jax.Array]:
        """The columns of `count` different examples. Under `jit` they are made on the device."""
        columns = {}
        for number, (name, (shape, dtype)) in enumerate(self.columns.items()):
            key = jax.random.key(number)
            if name == "latents":
                # Shifted copies of one image's latents: a CPU needs seconds to draw all of them.
                latents = jax.random.normal(key, shape).astype(dtype)
                shift = jax.vmap(lambda by, latents=latents: jnp.roll(latents, by, axis=-2))
                columns[name] = shift(jnp.arange(count))
            else:
                high = {"labels": 2, "label_maps": 8}.get(name, 256)
                values = jax.random.randint(key, (count, *shape), 0, high, jnp.int32)
                columns[name] = values.astype(dtype)
        return columns


def find_case(name: str) -> tuple[str, Callable, list[str], int | None]:
    """Parses a case's name.

    Returns:
      The task, the function that makes its parts, the data types, and the images in a step or None.
    Raises:
      UserError: the name is unknown, or what follows its colon is not a number of images.
    """
    bare, colon, images = name.partition(":")
    task, _, letters = bare.rpartition(" ")
    try:
        types = [_TYPES[letter] for letter in letters.split("/")]
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
    sizes: BenchmarkSizes,
    *,
    dtype: str,
    operations: Operations,
    platform: str = "cpu",
) -> Case:
    """The case of a name.

    Args:
      name: with or without the number of images in a step.
      sizes: used unless the name contains another number of images.
      dtype: a compute type of `models/precision.py`, but not "auto".
      platform: the platform for which the step is compiled: "cpu", "gpu" or "tpu".
    Raises:
      UserError: the name is unknown.
    """
    task, make, types, images = find_case(name)
    data_type = types[-1]
    shape = tuple(side // sizes.downscale for side in SHAPES[data_type])
    (mflop, values), parts = make(types, shape, sizes, dtype, operations)
    gflop = gb = None
    if (sizes.num_kernels, sizes.unet_width) == (16, 64):
        pixels = float(np.prod(shape)) * (3 if types == ["gray", "heat"] else 1)
        gflop = mflop * pixels / 1e3
        gb = values * precision.array_dtype(dtype).itemsize * pixels / 1e9
    return Case(
        name=name.partition(":")[0],
        train=task not in ("encode", "predict"),
        batch_size=images or sizes.batch_size[data_type],
        gflop_per_image=gflop,
        gb_per_image=gb,
        **parts | {"step": precision.matmul_precision(dtype, platform=platform)(parts["step"])},
    )


# --------------------------------------------------------------------------------------------------
# Each maker returns a pair: the work per pixel as (MFLOP, values moved), and attributes of `Case`.
# --------------------------------------------------------------------------------------------------


def _pretrain(types, shape, sizes, dtype, operations):
    model = train_encoder.make_model(
        data_type=types[0], num_kernels=sizes.num_kernels, dtype=dtype, operations=operations
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
    columns = {"images": (image, np.uint8)}
    return work, {"step": step, "make_state": make_state, "columns": columns, "draw": draw}


def _frozen(data_type: str, sizes, dtype, operations) -> FrozenEncoder:
    facts = {"data_type": data_type, "num_kernels": sizes.num_kernels}
    return FrozenEncoder.abstract(facts, dtype=dtype, operations=operations)


def _encode(types, shape, sizes, dtype, operations):
    module = _frozen(types[0], sizes, dtype, operations).module
    step = partial(train_decoder.encode_step, encoder=module)
    make_state = partial(frozen.init, module, rng=jax.random.key(0))
    work = ENCODER_MFLOP[0], ENCODER_VALUES * PASSES[0]
    columns = {"images": ((*shape, module.channels), np.uint8)}
    return work, {"step": step, "make_state": make_state, "columns": columns}


def _decode(task, types, shape, sizes, dtype, operations, *, encoded=False, predict=False):
    encoder = _frozen(types[0], sizes, dtype, operations)
    image = (*shape, CHANNELS[types[-1]])
    decoder = train_decoder.make_decoder(
        task, width=sizes.unet_width, dtype=dtype, operations=operations
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
        return work, {"step": step, "make_state": make_state, "columns": images}
    inputs = {"latents": (latents.shape, latents.dtype)} if encoded else images
    target = {"labels": ((), np.int32)} if task == "classify" else {}
    target = target or {"label_maps": (GRAY_SHAPE, np.uint8)}
    mflop, values = UNET_MFLOP[1], UNET_VALUES * PASSES[1]
    if not encoded:
        mflop, values = mflop + ENCODER_MFLOP[0], values + ENCODER_VALUES * PASSES[0]
    step = partial(train_decoder.train_step, tx=tx, **models)
    columns = inputs | target
    return (mflop, values), {"step": step, "make_state": make_state, "columns": columns}


_MAKERS = {  # task -> (maker, number of data types in the name)
    "pretrain": (_pretrain, 1),
    "encode": (_encode, 1),
    "classify": (partial(_decode, "classify", encoded=True), 2),
    "segment": (partial(_decode, "segment", encoded=True), 2),
    "encode and classify": (partial(_decode, "classify"), 2),
    "encode and segment": (partial(_decode, "segment"), 2),
    "predict": (partial(_decode, "segment", predict=True), 2),
}
