"""The quick preset of the Table 1 program, and a function that writes only its fold files."""

from thermo_jax.configs import table1 as table1_config
from thermo_jax.data.dataset import open_dataset
from thermo_jax.programs import table1


def quick(**fields):
    config = table1_config.get_config("quick")
    config.parallel.devices = 1
    config.downscale.heat = 2
    config.update(fields)
    return config


def write_folds(config, workdir):
    stages = list(table1.plan(config, workdir))
    table1._begin(config, workdir, stages=stages, open_dataset=open_dataset)
