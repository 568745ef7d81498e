"""Segmentation from few labelled patients: a CUTS encoder against random weights and raw pixels.

    python -m thermo_jax.main --config=configs/few_shot.py:heat --workdir=runs/few_shot \
        --config.data.root=/data/dmr-ir

Presets: `gray`, `heat` (default) or `small` (gray, with the recipe of configs/small.py: from the
segmenter that comes with thermo_jax, and from random weights), then optionally `phantom`, or
`smoke` (phantom, reduced, on a CPU in minutes), joined by commas. The same command continues after
an interruption.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common, encoder, segment, small


def _build(preset: str = "heat") -> ConfigDict:
    recipe = "small" if preset == "small" else ""
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "few_shot"
    # Seed of the encoder, and the first seed of the segmenters.
    config.seed = 0
    # Data type of the images: "gray" or "heat".
    config.type = "gray" if recipe else preset
    # Numbers of labelled patients to train on, 0 = all; larger sets include the smaller ones.
    config.patients = (1, 2, 5, 10, 20, 0)
    # Encoders: "pretrained" (CUTS), "random" (frozen initial weights), "none" (raw pixels); and
    # "shipped": raw pixels, and the segmenter starts from the one that comes with thermo_jax. This
    # needs gray images and its stages.segment.model.unet_width: those of the preset small.
    config.kinds = ("pretrained", "random", "none")
    config.fine_tune = ConfigDict()
    # Steps of the kind "shipped"; for the other kinds see stages.segment.train.
    config.fine_tune.steps = small.FINE_TUNE["steps"]
    # Highest learning rate of the kind "shipped"; for the other kinds see stages.segment.train.
    config.fine_tune.learning_rate = small.FINE_TUNE["learning_rate"]
    # Of the kind "shipped": True keeps a share of the first weights in the moving average of the
    # weights, which stages.segment.train.ema must then switch on.
    config.fine_tune.average_with_init = bool(recipe)
    # Segmenters for each kind of encoder and number of patients. Each has its own initial weights
    # and random choice of labelled patients.
    config.repeats = 3
    # The fold of config.split that is the test set.
    config.fold = 0
    stages = {"encoder": encoder.get_config(recipe), "segment": segment.get_config(recipe)}
    common.stages(config, **stages)
    if recipe:
        small.study(config)
        config.update({"kinds": ("shipped", "none")})
    return config


def _smoke(config: ConfigDict) -> None:
    common.phantom(config)
    config.patients = (1, 5, 0)
    config.repeats = 2
    config.data.phantom_patients = 60
    config.downscale.update({"gray": 16, "heat": 4})
    config.batch_size.update({"gray": 8, "heat": 8})
    config.stages.encoder.model.num_kernels = 8
    config.stages.encoder.train.epochs = 15
    config.stages.segment.model.unet_width = 16
    config.stages.segment.train.epochs = 30


get_config = common.presets(
    _build,
    choices=("gray", "heat", "small"),
    options={"phantom": common.phantom, "smoke": _smoke},
)
