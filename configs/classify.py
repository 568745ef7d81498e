"""Trains a healthy/sick classifier on a frozen encoder.

    python -m thermo_jax.main --config=configs/classify.py:H/H --workdir=runs/classify_HH \
        --config.data.root=/data/dmr-ir --config.encoder.workdir=runs/encoder_heat

Presets: a row of Table 1 as encoder/decoder, `G/G`, `G/H`, `H/G` or `H/H` (default), or `small`
(configs/small.py: for few images and a CPU, on gray pixels without an encoder). Then optionally
`phantom`, joined by a comma. Keep config.split as in the encoder's run: the test patients are then
unseen by the encoder, too.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common, small


def _build(preset: str = "H/H") -> ConfigDict:
    config = common.decoder("classify", preset="G/G" if preset == "small" else preset)
    # "linear" over all pixels (published), or "pooled" (mean over pixels, any image size).
    config.model.head = "linear"
    # What the network sees, for comparison with configs/comparators.py: "full", the whole image, or
    # "breasts", the two breasts as the segmenter that comes with thermo_jax finds them.
    config.model.area = "full"
    # "removed": gray levels between each image's own minimum and maximum. "kept": temperatures on
    # one scale for all images, which needs their matrices. A model that sees anything but "full"
    # and "removed" is scored in its own run only; no other program accepts it.
    config.model.temperatures = "removed"
    config.augment = common.augment()
    config.train = common.train(batch_size=16, epochs=70, patience=0, learning_rate=5e-3)
    if preset == "small":
        small.decoder(config)
    return config


get_config = common.presets(
    _build, choices=(*common.ROWS, "small"), options={"phantom": common.phantom}
)
