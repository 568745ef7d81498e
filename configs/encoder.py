"""Pretrains a CUTS encoder without labels.

    python -m thermo_jax.main --config=configs/encoder.py:heat --workdir=runs/encoder_heat \
        --config.data.root=/data/dmr-ir

Presets: `gray`, `heat` (default) or `small` (configs/small.py: gray images of 60x80 pixels, 64
latents, minutes on a CPU), then any of `no_recon`, `no_contrastive` (the paper's ablations) and
`phantom` (synthetic data), joined by commas.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common, small


def _build(preset: str = "heat") -> ConfigDict:
    data_type = "gray" if preset == "small" else preset
    config = common.base("encoder", data_type=data_type)
    config.split.val_fraction = common.ENCODER_VAL_FRACTION  # the paper's 70:30

    # Channels of the first block, doubled three times: 16 gives 128 latents.
    config.model.num_kernels = 16
    # Side of the reconstructed patches, pixels, odd.
    config.model.patch_size = 5

    config.loss = ConfigDict()
    # Weight of the contrastive loss, from 0 to 1; the reconstruction loss has the remaining weight.
    config.loss.contrastive_weight = 0.01
    # "paper" (one logarithm per image) or "nt_xent" (the usual one, a logarithm per anchor).
    config.loss.form = "paper"
    # Temperature of the similarities.
    config.loss.temperature = 0.5
    # Patches sampled per image and step.
    config.loss.num_patches = 16

    config.augment = common.augment()
    config.train = common.train(batch_size=16, epochs=200, patience=10, learning_rate=1e-3)
    config.train.weight_decay = 1e-4  # the published value
    if preset == "small":
        small.encoder(config)
    return config


def _no_recon(config: ConfigDict) -> None:
    config.loss.contrastive_weight = 1.0


def _no_contrastive(config: ConfigDict) -> None:
    config.loss.contrastive_weight = 0.0


get_config = common.presets(
    _build,
    choices=("gray", "heat", "small"),
    options={"no_recon": _no_recon, "no_contrastive": _no_contrastive, "phantom": common.phantom},
)
