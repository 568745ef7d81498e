"""Tiny trainings for the tests: 16x24 images, narrow models, and a toy without a model.

These tests mostly wait for compilation, so programs are few, small and barely optimised.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from compiling import QUICK_COMPILATION as QUICK_COMPILATION
from compiling import compile_quickly as compile_quickly
from compiling import quick_compilation as quick_compilation
from ml_collections import ConfigDict

from thermo_jax.configs import classify, segment
from thermo_jax.models import cuts, decoders
from thermo_jax.models.cuts import scale_images
from thermo_jax.models.frozen import FrozenEncoder
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.unet import DoubleConv
from thermo_jax.training import loop, optimizer, placement, train_decoder, train_encoder
from thermo_jax.training import state as training_state
from thermo_jax.training.parallel import DataParallel, masked_sums, pmean
from thermo_jax.training.resident import num_rows
from thermo_jax.training.state import TrainState, example_keys, initialise

HEIGHT, WIDTH = 16, 24
BATCH_SIZE = 8
CHANNELS = cuts.CHANNELS
TARGETS = {"classify": "labels", "segment": "label_maps"}


def columns(
    count: int, *, data_type: str = "heat", seed: int = 0, height: int = HEIGHT, width: int = WIDTH
) -> dict[str, np.ndarray]:
    """A table of smooth pictures with noise, so that patches are similar to some neighbours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 8
    phase = rng.uniform(0, 6, (count, 3, 1, 1, CHANNELS[data_type]))
    y, x = y[..., None], x[..., None]
    waves = np.sin(y + phase[:, 0]) + np.sin(x + phase[:, 1]) + np.sin(x - y + phase[:, 2])
    noise = rng.uniform(-12, 12, waves.shape)
    return {
        "images": np.clip(127.5 + 38 * waves + noise, 0, 255).astype(np.uint8),
        "labels": (np.arange(count) % 2).astype(np.int32),
        "label_maps": rng.integers(0, 8, (count, 2 * height, 2 * width), dtype=np.uint8),
    }


def batch_of(table: dict[str, np.ndarray], *, start: int = 0) -> dict[str, np.ndarray]:
    """Eight rows of a table as one batch."""
    rows = slice(start, start + BATCH_SIZE)
    return {name: column[rows] for name, column in table.items()} | {
        "index": np.arange(start, start + BATCH_SIZE, dtype=np.int32),
        "slot": np.arange(BATCH_SIZE, dtype=np.int32),
        "mask": np.ones(BATCH_SIZE, np.float32),
    }


def devices(count: int = 1, *, mode: str = "pmap") -> DataParallel:
    """The first `count` devices."""
    return DataParallel(jax.devices()[:count], mode=mode)


def cast(tree: Any, dtype: str) -> Any:
    """Return NumPy arrays, where every floating-point leaf has type `dtype`."""

    def convert(x):
        x = np.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(convert, tree)


class Trainer(NamedTuple):
    """What `loop.fit` needs of a trainer; the steps are not wrapped yet."""

    state: TrainState
    train_step: Callable
    eval_step: Callable
    column_names: tuple[str, ...]
    encoder_of: Callable[[TrainState], dict]


def encoder_trainer(
    *,
    tx: optax.GradientTransformation | None = None,
    dtype: str = "float32",
    operations: Operations = NATIVE,
    **loss: Any,
) -> Trainer:
    """The shipped encoder, shrunk; `loss` changes its loss settings."""
    settings = train_encoder.LossSettings(**{"num_patches": 4} | loss)
    model = train_encoder.make_model(
        data_type="heat", num_kernels=2, dtype=dtype, operations=operations
    )
    tx = tx or optimizer.make_optimizer(1e-3, weight_decay=1e-4)
    shape = (HEIGHT, WIDTH, 3)
    create_state = partial(train_encoder.create_state, model, tx=tx, image_shape=shape)
    state = initialise(create_state, rng=jax.random.key(1))
    return Trainer(
        state=cast(state, dtype),
        train_step=partial(train_encoder.train_step, model=model, tx=tx, loss=settings),
        eval_step=partial(train_encoder.eval_step, model=model, loss=settings),
        column_names=("images",),
        encoder_of=lambda state: {name: tree["encoder"] for name, tree in state.variables.items()},
    )


def line_trainer(*, dtype: str = "float32") -> Trainer:
    """A minimal trainer that works like the shipped ones, for tests that are not about the model.

    It fits a line to the images' brightness, with shared statistics, random numbers and Adam.
    """
    tx = optax.adam(0.1)
    variables = {
        "params": {"slope": jnp.zeros(()), "offset": jnp.zeros(())},
        "batch_stats": {"brightness": jnp.zeros(())},
    }

    def losses(variables, batch, keys):
        x = jnp.asarray(batch["images"], variables["params"]["slope"].dtype).mean((1, 2, 3)) / 255
        noise = jax.vmap(lambda key: jax.random.uniform(key, dtype=x.dtype))(keys)
        centered = x - variables["batch_stats"]["brightness"]
        line = variables["params"]["slope"] * centered + variables["params"]["offset"]
        return (line - jnp.sin(9 * x) - noise) ** 2, x

    def train_step(state, batch):
        keys = example_keys(state.rng, state.step, examples=batch["slot"])

        def loss_fn(params):
            values, x = losses(state.trained_variables | {"params": params}, batch, keys)
            return values.mean(), x.mean()

        (loss, x), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        grads, loss, x = pmean((grads, loss, x))
        stats = {"brightness": 0.9 * state.batch_stats["brightness"] + 0.1 * x}
        return state.apply_gradients(grads, tx=tx, batch_stats=stats), {"loss": loss}

    def eval_step(state, batch):
        keys = example_keys(state.rng, train_encoder.VALIDATION, examples=batch["index"])
        return masked_sums({"loss": losses(state.variables, batch, keys)[0]}, batch["mask"])

    state = cast(TrainState.create(variables, tx=tx, rng=jax.random.key(1)), dtype)
    return Trainer(state, train_step, eval_step, ("images",), lambda state: state.variables)


TRAINERS = {"encoder": encoder_trainer, "line": line_trainer}


def decoder_config(task: str, row: str = "H/H", *, dtype: str = "float32") -> ConfigDict:
    """The shipped decoder configuration, shrunk."""
    config = {"classify": classify, "segment": segment}[task].get_config(row)
    config.model.unet_width = 2
    config.model.dtype = dtype
    return config


@cache
def frozen_encoder(data_type: str, *, dtype: str = "float32") -> FrozenEncoder:
    """A tiny encoder; its batch statistics fit the images, as if trained."""
    frozen = FrozenEncoder.abstract({"data_type": data_type, "num_kernels": 2}, dtype=dtype)
    encoder = frozen.module
    images = scale_images(jnp.asarray(columns(8, data_type=data_type, seed=2)["images"]))

    @jax.jit
    def make(rng):
        variables = encoder.init(rng, images, train=False)
        _, updates = encoder.apply(variables, images, train=True, mutable=["batch_stats"])
        # Undoes the running average's decay of 0.9 from the initial statistics.
        undo = lambda new, old: (new - 0.9 * old) / 0.1  # noqa: E731
        return variables | jax.tree.map(undo, updates, {"batch_stats": variables["batch_stats"]})

    return frozen.with_variables(cast(make(jax.random.key(2)), dtype))


def decoder_trainer(
    task: str,
    row: str = "H/H",
    *,
    tx: optax.GradientTransformation | None = None,
    dtype: str = "float32",
    operations: Operations = NATIVE,
) -> Trainer:
    """A decoder on a frozen encoder; `row` is encoder/decoder as in Table 1."""
    config = decoder_config(task, row, dtype=dtype)
    encoder = frozen_encoder(config.encoder.type, dtype=dtype)
    decoder = make_decoder(config, operations=operations)
    tx = tx or optimizer.make_optimizer(config.train.learning_rate)
    shape = encoder.latents((HEIGHT, WIDTH, CHANNELS[config.data.type])).shape
    create_state = partial(train_decoder.create_state, decoder, tx=tx, latents_shape=shape)
    state = initialise(create_state, rng=jax.random.key(3), frozen=encoder.variables)
    models = {"encoder": encoder.module, "decoder": decoder}
    return Trainer(
        state=cast(state, dtype),
        train_step=partial(train_decoder.train_step, tx=tx, **models),
        eval_step=partial(train_decoder.eval_step, **models),
        column_names=("images", TARGETS[task]),
        encoder_of=lambda state: state.frozen,
    )


def make_decoder(config: ConfigDict, *, operations: Operations = NATIVE) -> Any:
    """The decoder of a configuration."""
    return train_decoder.make_decoder(
        config.task,
        width=config.model.unet_width,
        head=config.model.get("head", "linear"),
        dtype=config.model.dtype,
        operations=operations,
    )


class ShallowUNet(nn.Module):
    """A U-Net of one stage, with XLA's own convolutions, for tests that are not about the U-Net."""

    num_outputs: int
    width: int = 2
    operations: Operations = NATIVE

    @nn.compact
    def __call__(self, latents, *, train: bool):
        dtype, axis_name = self.operations.dtype, self.operations.axis_name
        operations = dataclasses.replace(NATIVE, dtype=dtype, axis_name=axis_name)
        x = DoubleConv(self.width, self.width, operations=operations)(latents, train=train)
        return nn.Conv(self.num_outputs, (1, 1), dtype=dtype, name="out")(x)


@contextlib.contextmanager
def shallow_decoders(shallow: bool = True):
    """Decoders that are made and traced in this context use the shallow U-Net."""
    deep = decoders.UNet
    decoders.UNet = ShallowUNet if shallow else deep
    _forget_programs()
    try:
        yield
    finally:
        decoders.UNet = deep
        _forget_programs()


def shallow_unets():
    """A module's fixture: all its decoders use the shallow U-Net."""
    with shallow_decoders():
        yield


def _forget_programs() -> None:
    """Clear caches: a decoder equals one with the other U-Net, and would share its programs."""
    placement._map_step.cache_clear()
    training_state._compiled.cache_clear()


def plan(*, epochs: int = 3, loader: str = "numpy", **changes: Any) -> loop.TrainingPlan:
    """A plan whose epoch has 5 steps for up to 40 images."""
    fields = {"batch_size": BATCH_SIZE, "patience": 0, "seed": 0, "learning_rate": 1e-3}
    fields |= changes
    return loop.TrainingPlan(epochs=epochs, loader=loader, **fields)


META = {"encoder": {"data_type": "heat"}, "examples": "0123", "config": {"task": "encoder"}}


class Run(NamedTuple):
    """A trainer whose steps are wrapped (so that they compile once), and its data."""

    trainer: Trainer
    parallel: DataParallel
    train_step: Callable
    eval_step: Callable
    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]

    def state(self) -> TrainState:
        """A new initial state."""
        return self.parallel.replicate(self.trainer.state)

    def fit(self, workdir: Path, plan: loop.TrainingPlan, **changes: Any) -> TrainState:
        """`loop.fit` on this run's data."""
        workdir.mkdir(exist_ok=True)
        arguments = {
            "train_step": self.train_step,
            "eval_step": self.eval_step,
            "train": self.train,
            "validation": self.validation,
            "names": [f"{number}.jpg" for number in range(num_rows(self.train))],
            "parallel": self.parallel,
            "encoder_of": self.trainer.encoder_of,
            "meta": META,
        }
        return loop.fit(self.state(), workdir=workdir, plan=plan, **arguments | changes).state


def make_run(trainer: Trainer, *, device_count: int = 1, mode: str = "pmap") -> Run:
    """A run on 20 training and 11 validation images, which have half the size without a decoder."""
    parallel = devices(device_count, mode=mode)
    size = {"height": HEIGHT, "width": WIDTH}
    if trainer.column_names == ("images",):
        size = {"height": HEIGHT // 2, "width": WIDTH // 2}  # too small for the U-Net only
    tables = [columns(20, seed=0, **size), columns(11, seed=1, **size)]
    train, validation = ({k: t[k] for k in trainer.column_names} for t in tables)
    return Run(
        trainer=trainer,
        parallel=parallel,
        train_step=parallel.wrap(trainer.train_step, donate_state=True),
        eval_step=parallel.wrap(trainer.eval_step),
        train=train,
        validation=validation,
    )


def toy_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    """The training step of `toy_run`."""
    mean = pmean(batch["images"].mean())
    params = state.params | {"w": state.params["w"] + mean}
    stats = {"seen": state.batch_stats["seen"] + 1}
    new = state.replace(step=state.step + 1, params=params, batch_stats=stats)
    return new, {"loss": mean}


@cache
def wrapped_toy_step(device_count: int) -> tuple[DataParallel, Callable]:
    """Wrap the toy step once, so that it is compiled once."""
    parallel = devices(device_count)
    return parallel, parallel.wrap(toy_step, donate_state=True)


def toy_run(losses: list[float], *, device_count: int = 1, **parameters: Any) -> Run:
    """A run without a model: epoch n's validation loss is `losses[n - 1]`.

    Its one parameter adds up the means of the images seen, and so depends on every batch.
    """
    state = TrainState.create(
        {"params": {"w": jnp.zeros(())} | parameters, "batch_stats": {"seen": jnp.zeros(())}},
        tx=optax.identity(),
        rng=jax.random.key(0),
    )

    def eval_step(state, batch):
        step, mask = jax.device_get((state.step, batch["mask"]))
        return {"loss": losses[step // 5 - 1] * mask.sum(), "count": mask.sum()}

    trainer = Trainer(
        state=state,
        train_step=toy_step,
        eval_step=eval_step,
        column_names=("images",),
        encoder_of=lambda state: {"params": {"w": state.params["w"]}},
    )
    table = {"images": np.random.default_rng(0).random((20, 2)).astype(np.float32)}
    parallel, step = wrapped_toy_step(device_count)
    return Run(trainer, parallel, step, eval_step, table, table)


def assert_same_tree(left: Any, right: Any) -> None:
    """Check that structure, types and bits are equal."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    pairs = zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True)
    for (path, a), b in pairs:
        name = jax.tree_util.keystr(path)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
