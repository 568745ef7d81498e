"""Program "export": trained decoders -> StableHLO or ONNX files for use without this package."""

from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from thermo_jax.inference.export import export_onnx, export_stablehlo
from thermo_jax.inference.predictor import load_models
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import check_workdir, print_results, write_config


def run(config: ConfigDict, workdir: str | Path) -> dict[str, list[str]]:
    """Writes one file and its description per model; returns {"files": their paths}."""
    config = settings.resolve(config)
    if config.format == "onnx":
        write, dtype = export_onnx, "float32"
    else:
        write = partial(export_stablehlo, platforms=tuple(config.platforms))
        dtype = config.model.dtype
    workdir = check_workdir(workdir, config)
    models = load_models(settings.paths(config, "models"), dtype=dtype)
    write_config(workdir, config)
    files = []
    for model in models:
        files += write(model, workdir / f"{model.name}.{config.format}")
    print_results(f"{len(files) // 2} models exported", files=files, workdir=workdir)
    return {"files": [str(file) for file in files]}
