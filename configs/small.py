"""The recipe `small` (SPEC section 10): for few images and modest machines.

The presets `small` of encoder.py, classify.py, segment.py, table1.py and few_shot.py use it, and so
do the presets `fine_tune` and `shipped`. It has gray images of 60x80 pixels, a narrow U-Net
on raw pixels, augmentation, AdamW with a warm-up and a cosine, a moving average of the weights, and
no validation patients. The U-Net reads latents instead of pixels with
`--config.encoder.kind=pretrained --config.encoder.workdir=...` (CUTS, from encoder.py:small) or
`--config.encoder.kind=random` (untrained).
"""

from typing import Any

from ml_collections import ConfigDict

DOWNSCALE = 8  # gray images of 60x80 pixels
NUM_KERNELS = 8  # 64 latents
# A segmenter's mIoU no longer grew after about 300 steps. The learning rates below are usual ones
# for AdamW, and were not tuned further.
_STEPS = 300
# Fields of `config.augment` that are on.
_AUGMENT: dict[str, Any] = {
    "mirror": True,
    "rotation": 10.0,
    "scale": 0.12,
    "stretch": 0.08,
    "shift": 0.06,
    "elastic": 0.012,
    "gamma": 0.4,
    "field": 0.06,
    "noise": 0.02,
    "blur": 0.6,
}
# A classifier of few patients soon learns them by heart: in trials with another small network, its
# AUROC was .89 after 60 steps, .85 after 200 and .84 after 30 (72 patients). Its levels are changed
# little, because the diagnosis changes them, too.
_CLASSIFIER_STEPS = 60
_CLASSIFIER_AUGMENT = {"elastic": 0.0, "gamma": 0.0, "field": 0.0, "blur": 0.0, "noise": 0.01}
_SHIPPED_STEPS = 600  # on the choosing patients, nothing improved after 300 to 450
# Of a segmenter that starts from the model that ships. With 17 or 18 real training images (five
# folds, no share of the first weights), accuracy was .891 after 100 steps, .885 after 200 and .883
# after 300. That share changed mIoU from .636 to .660 with 5 training images, and hardly with 17.
FINE_TUNE = {"steps": 100, "learning_rate": 1e-3}
# Phantoms look alike: their levels are changed more than those of real images.
_SHIPPED_AUGMENT = _AUGMENT | {"gamma": 0.7, "field": 0.08, "blur": 0.8, "rectangles": 1}


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
        config.train.update({"steps": _CLASSIFIER_STEPS, "learning_rate": 2e-3})
        config.train.update({"weight_decay": 5e-2, "ema": 0.98})
        config.augment.update(_CLASSIFIER_AUGMENT)
    else:
        config.loss.dice = 1.0


def fine_tune(config: ConfigDict) -> None:
    """Changes the fields of a segmenter's run that starts from the model that ships."""
    decoder(config)
    config.init_from = "shipped"
    config.average_with_init = True
    config.train.update(FINE_TUNE)


def shipped(config: ConfigDict) -> None:
    """Changes the fields of the run that makes the model that ships: new phantoms in each step."""
    decoder(config)
    config.data.update({"root": "phantom", "phantom_version": 2, "endless": True})
    config.loss.nipple_weight = 4.0  # with the published 2, nipples were missed
    config.train.steps = _SHIPPED_STEPS
    config.augment.update(_SHIPPED_AUGMENT)


def study(config: ConfigDict) -> None:
    """Changes the fields that the stages of a study share."""
    config.downscale.gray = DOWNSCALE
    config.split.val_fraction = 0.0
    config.encoder_val_fraction = 0.0


def _common(config: ConfigDict) -> None:
    config.data.downscale = DOWNSCALE
    config.split.val_fraction = 0.0
    config.train.update({"patience": 0, "steps": _STEPS, "weight_decay": 1e-2})
    config.train.update({"warmup": 0.1, "schedule": "cosine", "ema": 0.99})
    config.augment.update(_AUGMENT)
