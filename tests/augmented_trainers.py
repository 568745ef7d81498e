"""Tiny trainers whose training steps change their images, or render others."""

from functools import partial

import tiny_training as tiny

from thermo_jax.models.augmentation import AugmentSettings

SETTINGS = AugmentSettings(mirror=True, rotation=10.0, elastic=0.03, field=0.05, noise=0.05)


def augmented(trainer: tiny.Trainer) -> tiny.Trainer:
    """The same trainer with augmentation."""
    return trainer._replace(train_step=partial(trainer.train_step, augmentation=SETTINGS))


def endless(trainer: tiny.Trainer) -> tiny.Trainer:
    """The same trainer, which renders new phantoms in each step."""
    return trainer._replace(train_step=partial(trainer.train_step, endless=True))
