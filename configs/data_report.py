"""Says what is in a folder of thermograms, and everything odd about it; trains nothing.

    python -m thermo_jax.main --config=configs/data_report.py --workdir=runs/data_report \
        --config.data.root=/data/dmr-ir
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def get_config(argument: str = "") -> ConfigDict:
    """The configuration; its only preset is "phantom"."""
    return common.parse_preset(
        argument,
        choices=(),
        default="",
        options={"phantom": common.phantom},
        build=_build,
        file="data_report.py",
    )


def _build(_: str) -> ConfigDict:
    config = ConfigDict()
    # What to run.
    config.task = "data_report"
    config.data = common.data("heat")
    return config
