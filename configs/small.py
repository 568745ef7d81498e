"""The recipe `small` (SPEC section 10): for few images and modest machines.

The presets `small` of encoder.py, classify.py, segment.py, table1.py and few_shot.py use it. Gray
images of 60x80 pixels, a narrow U-Net on raw pixels, augmentation, AdamW with a warm-up and a
cosine, a moving average of the weights, no validation patients. The same recipe reads latents with
`--config.encoder.kind=pretrained --config.encoder.workdir=...` (CUTS, from encoder.py:small) or
`--config.encoder.kind=random` (untrained).
"""

from typing import Any

from ml_collections import ConfigDict

DOWNSCALE = 8  # gray images of 60x80 pixels
NUM_KERNELS = 8  # 64 latents
_STEPS = 300
_AUGMENT: dict[str, Any] = {}  # fields of `config.augment` that differ from "off"


def encoder(config: ConfigDict) -> None:
    """Changes the fields of an encoder's run."""
    _common(config)
    config.model.num_kernels = NUM_KERNELS


def decoder(config: ConfigDict) -> None:
    """Changes the fields of a classifier's or segmenter's run."""
    _common(config)
    config.encoder.kind = "none"
    config.encoder.num_kernels = NUM_KERNELS  # of the kind "random"
    config.model.unet_width = 16
    config.model.mirror_average = True
    config.train.learning_rate = 3e-3
    if config.task == "classify":
        config.model.head = "pooled"
    else:
        config.loss.dice = 1.0


def study(config: ConfigDict) -> None:
    """Changes the fields that the stages of a study share."""
    config.downscale.gray = DOWNSCALE
    config.split.val_fraction = 0.0
    config.encoder_val_fraction = 0.0


def _common(config: ConfigDict) -> None:
    config.data.downscale = DOWNSCALE
    config.split.val_fraction = 0.0
    config.train.update({"patience": 0, "steps": _STEPS, "weight_decay": 1e-4})
    config.train.update({"warmup": 0.1, "schedule": "cosine", "ema": 0.99})
    if "augment" in config:
        config.augment.update(_AUGMENT)
