"""The quick preset of the Table 1 program, and a function that writes only its fold files."""

from thermo_jax.configs import table1 as table1_config
from thermo_jax.data.dataset import open_dataset
from thermo_jax.programs import table1
from thermo_jax.programs.folds import make_folds
from thermo_jax.programs.folds import write_folds as save_folds


def quick(**fields):
    config = table1_config.get_config("quick")
    config.parallel.devices = 1
    config.downscale.heat = 2
    config.update(fields)
    return config


def write_folds(config, workdir):
    stages = list(table1.plan(config, workdir))
    dataset, splits = make_folds(config, stages=stages, open_dataset=open_dataset)
    save_folds(config, workdir, stages=stages, dataset=dataset, splits=splits)
