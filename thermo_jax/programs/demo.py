"""Program "demo": encoder, classifier and segmenter in one go, each in a subfolder."""

from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from thermo_jax.programs import decoder, encoder
from thermo_jax.programs.workdir import open_workdir


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs the three stages; returns their results by stage."""
    workdir = open_workdir(workdir, config)
    stages = config.stages
    outcome = {}
    for number, (name, program) in enumerate(
        (("encoder", encoder), ("classify", decoder), ("segment", decoder)), start=1
    ):
        logging.info("Stage %d of 3: %s", number, name)
        stage = stages[name].copy_and_resolve_references()
        if name != "encoder":
            stage.encoder.workdir = str(workdir / "encoder")
        outcome[name] = program.run(stage, workdir / name)
    return outcome
