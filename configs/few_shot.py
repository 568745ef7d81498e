"""Segmentation from few labelled patients: a CUTS encoder against random weights and raw pixels.

    python -m thermo_jax.main --config=configs/few_shot.py:heat --workdir=runs/few_shot \
        --config.segment.data.root=/data/dmr-ir --config.encoder.data.root=/data/dmr-ir

Presets: `gray` or `heat` (default), then optionally `phantom`, or `smoke` (phantom, reduced, on a
CPU in minutes), joined by commas. The same command continues after an interruption.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common, encoder, segment


def get_config(argument: str = "") -> ConfigDict:
    """The configuration of a preset such as "heat,phantom"."""
    return common.parse_preset(
        argument,
        choices=("gray", "heat"),
        default="heat",
        options={"phantom": _phantom, "smoke": _smoke},
        build=_build,
        file="few_shot.py",
    )


def _build(data_type: str) -> ConfigDict:
    row = {"gray": "G/G", "heat": "H/H"}[data_type]
    config = ConfigDict()
    # What to run.
    config.task = "few_shot"
    # Numbers of labelled patients to train on, 0 = all; more of them include the fewer.
    config.patients = (1, 2, 5, 10, 20, 0)
    # Encoders: "pretrained" (CUTS), "random" (frozen initial weights), "none" (raw pixels).
    config.kinds = ("pretrained", "random", "none")
    # Segmenters trained for each point, with seeds 0, 1, ...
    config.seeds = 3
    # The encoder's run, and the segmenters'.
    config.encoder = encoder.get_config(data_type)
    config.segment = segment.get_config(row)
    return config


def _phantom(config: ConfigDict) -> None:
    common.phantom(config.encoder)
    common.phantom(config.segment)


def _smoke(config: ConfigDict) -> None:
    _phantom(config)
    config.patients = (1, 5, 0)
    config.seeds = 2
    for stage in (config.encoder, config.segment):
        stage.data.downscale = 4
        stage.data.phantom_patients = 60
        stage.train.checkpoint_every = 20
    config.encoder.model.num_kernels = 8
    config.encoder.train.epochs = 15
    config.segment.model.unet_width = 16
    config.segment.train.batch_size = 8
    config.segment.train.epochs = 40
