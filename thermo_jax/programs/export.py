"""Program "export": trained decoders -> StableHLO files for use without this package."""

from pathlib import Path

from ml_collections import ConfigDict

from thermo_jax.inference.export import export_model
from thermo_jax.inference.predictor import load_models
from thermo_jax.programs import runs
from thermo_jax.programs.workdir import open_workdir


def run(config: ConfigDict, workdir: str | Path) -> dict[str, list[str]]:
    """Writes one file and its description per model; returns {"files": their paths}."""
    config = runs.resolve(config)
    workdir = open_workdir(workdir, config)
    files = []
    for model in load_models(runs.paths(config, "models"), dtype=config.model.dtype):
        file = workdir / f"{model.name}.stablehlo"
        files += export_model(model, file, platforms=tuple(config.platforms))
    runs.report(f"{len(files) // 2} models exported", files=files, workdir=workdir)
    return {"files": [str(file) for file in files]}
