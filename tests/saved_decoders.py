"""Saves decoders with random weights in the same form as a training run."""

import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import tiny_training as tiny

from thermo_jax.configs import common
from thermo_jax.models import decoders
from thermo_jax.programs.workdir import to_json
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.optimizer import make_optimizer
from thermo_jax.training.state import TrainState

DOWNSCALE = {"heat": 4, "gray": 16}  # 30x40 pixels

frozen_encoder = functools.cache(tiny.frozen_encoder)


@partial(jax.jit, static_argnames=("decoder", "unet"))
def init(key, latents, *, decoder, unet):
    """Returns a decoder's random variables; compiled once per kind of decoder and `unet`."""
    return decoder.init(key, latents, train=False)


def save_decoder(
    workdir: Path,
    task: str,
    row: str = "H/H",
    *,
    seed: int = 0,
    finished: bool = True,
    mirror_average: bool = False,
    **data: Any,
) -> Path:
    """Writes a checkpoint with random weights, as the last epoch of a run does.

    Args:
      data: fields of `config.data` that differ from the shipped ones.
    """
    config = tiny.decoder_config(task, row)
    config.model.mirror_average = mirror_average
    config.data = common.data(config.data.type)
    config.data.update(data)
    config.data.downscale = DOWNSCALE[config.data.type]
    encoder = frozen_encoder(config.encoder.type)
    decoder = tiny.make_decoder(config)
    shape = encoder.latents((30, 40, tiny.CHANNELS[config.data.type])).shape
    latents = jax.numpy.zeros((1, *shape))
    variables = init(jax.random.key(seed), latents, decoder=decoder, unet=decoders.UNet)
    tx = make_optimizer(config.train.learning_rate)
    state = TrainState.create(variables, tx=tx, rng=jax.random.key(0), frozen=encoder.variables)
    meta = {
        "config": to_json(config),
        "encoder": encoder.facts,
        "best_step": 0,
        "finished": finished,
        "epoch": 3,
    }
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state, encoder=encoder.variables, meta=meta, value=0.0)
    return workdir
