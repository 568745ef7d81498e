"""Program "demo": encoder, classifier and segmenter in one run, each in a subfolder."""

import functools
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from thermo_jax.data.dataset import open_dataset
from thermo_jax.programs import settings
from thermo_jax.programs.stages import PROGRAMS
from thermo_jax.programs.workdir import check_workdir, write_config
from thermo_jax.training import timeline


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs the three stages; returns their results by stage."""
    workdir = check_workdir(workdir, config)
    stages = {}
    for name in PROGRAMS:
        stages[name] = config.stages[name].copy_and_resolve_references()
        if name != "encoder":
            stages[name].encoder.workdir = str(workdir / "encoder")
        check_workdir(workdir / name, settings.resolve(stages[name]))
    open_once = functools.cache(open_dataset)
    # Opened before anything is written, because the data may be unusable.
    open_once(settings.data_settings(stages["encoder"]))
    write_config(workdir, config)
    outcome = {}
    for number, (name, stage) in enumerate(stages.items(), start=1):
        logging.info("Stage %d of 3: %s", number, name)
        with timeline.record():
            outcome[name] = PROGRAMS[name].run(stage, workdir / name, open_dataset=open_once)
    return outcome
