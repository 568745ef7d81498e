"""Reports what a folder of thermograms contains and what is unusual there; trains nothing.

    python -m thermo_jax.main --config=configs/data_report.py --workdir=runs/data_report \
        --config.data.root=/data/dmr-ir

Preset: `phantom` (synthetic data instead of a folder).
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def _build() -> ConfigDict:
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "data_report"
    config.data = common.data("heat")
    config.flir = common.flir()
    return config


get_config = common.presets(_build, options={"phantom": common.phantom})
