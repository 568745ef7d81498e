"""Program "export": trained decoders -> StableHLO or ONNX files for use without this package."""

from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from thermo_jax.errors import UserError
from thermo_jax.inference.export import export_onnx, export_stablehlo
from thermo_jax.inference.predictor import load_models
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import check_workdir, print_results, write_config

KNOWN_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # as JAX names them


def run(config: ConfigDict, workdir: str | Path) -> dict[str, list[str]]:
    """Writes one file and its description per model; returns {"files": their paths}."""
    config = settings.resolve(config)
    if config.format == "onnx":
        write, dtype = export_onnx, "float32"
    elif config.format == "stablehlo":
        write = partial(export_stablehlo, platforms=_platforms(config))
        dtype = config.model.dtype
    else:
        raise UserError(f"config.format={config.format!r} must be one of stablehlo, onnx")
    workdir = check_workdir(workdir, config)
    models = load_models(settings.paths(config, "models"), dtype=dtype)
    write_config(workdir, config)
    files = []
    for model in models:
        files += write(model, workdir / f"{model.name}.{config.format}")
    print_results(f"{len(files) // 2} models exported", files=files, workdir=workdir)
    return {"files": [str(file) for file in files]}


def _platforms(config: ConfigDict) -> tuple[str, ...]:
    if not config.platforms or not set(config.platforms) <= set(KNOWN_PLATFORMS):
        raise UserError(
            f"config.platforms={tuple(config.platforms)!r} must be among "
            f"{', '.join(KNOWN_PLATFORMS)} (a GPU is cuda or rocm)"
        )
    return tuple(config.platforms)
