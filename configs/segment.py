"""Trains a segmenter (7 regions and background) on a frozen encoder.

    python -m thermo_jax.main --config=configs/segment.py:H/H --workdir=runs/segment_HH \
        --config.data.root=/data/dmr-ir --config.encoder.workdir=runs/encoder_heat

Presets: a row of Table 1 as encoder/decoder, `G/G`, `G/H`, `H/G` or `H/H` (default). Or, on gray
pixels without an encoder (configs/small.py): `small` (for few images and a CPU), `fine_tune` (for
them, too, from the model that comes with thermo_jax) or `shipped` (the run that made that
model, on phantoms alone; launch/train_shipped.sh). Then optionally `phantom`, joined by a comma.
Keep config.split as in the encoder's run: the test patients are then unseen by the encoder, too.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common, small

_RECIPES = {"small": small.decoder, "fine_tune": small.fine_tune, "shipped": small.shipped}


def _build(preset: str = "H/H") -> ConfigDict:
    config = common.decoder("segment", preset="G/G" if preset in _RECIPES else preset)
    config.augment = common.augment()
    config.loss = ConfigDict()
    # Weight of the soft Dice loss, which is added to the cross-entropy; 0 is the published loss.
    config.loss.dice = 0.0
    # Weight of the two nipples' classes in the cross-entropy; that of the others is 1.
    config.loss.nipple_weight = 2.0
    config.train = common.train(batch_size=16, epochs=200, patience=30, learning_rate=5e-3)
    if preset in _RECIPES:
        _RECIPES[preset](config)
    return config


get_config = common.presets(
    _build, choices=(*common.ROWS, *_RECIPES), options={"phantom": common.phantom}
)
