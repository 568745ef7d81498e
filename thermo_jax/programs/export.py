"""Program "export": trained decoders -> files to run without this package, or of weights for it."""

from functools import partial
from pathlib import Path

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from thermo_jax.data.dataset import PHANTOM
from thermo_jax.inference.export import export_onnx, export_stablehlo
from thermo_jax.inference.provenance import scores_of
from thermo_jax.inference.trained_models import Model, load_models
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import check_workdir, print_results, write_config
from thermo_jax.training.weights_file import SHIPPED, write_weights

# What a file of weights says about its run: keys of the checkpoint's meta.
DESCRIBED = ("config", "encoder", "trained_on", "imported", "date", "version")
SCORES = ("classification", "segmentation")  # of these results, the measures
# A file of weights is shared. So it contains no path of this machine: these fields of the
# configuration become "", unless they have one of the values that are no paths.
CONFIGURED_PATHS = ("data.root", "data.prepared_dir", "split.file", "encoder.workdir", "init_from")
NOT_PATHS = (PHANTOM, SHIPPED)
# Nor does it contain names of patients: these facts about the encoder are left out.
PATIENT_FACTS = ("data_fingerprint", "seen_patients")


def run(config: ConfigDict, workdir: str | Path) -> dict[str, list[str]]:
    """Writes the files of each model; returns {"files": their paths}."""
    config = settings.resolve(config)
    dtype = "float32"
    if config.format == "onnx":
        write = export_onnx
    elif config.format == "safetensors":
        write = export_weights
    else:
        write = partial(export_stablehlo, platforms=tuple(config.platforms))
        dtype = config.model.dtype
    workdir = check_workdir(workdir, config)
    models = load_models(settings.paths(config, "models"), dtype=dtype)
    write_config(workdir, config)
    files = []
    for model in models:
        files += write(model, workdir / f"{model.name}.{config.format}")
    print_results(f"{len(models)} models exported", files=files, workdir=workdir)
    return {"files": [str(file) for file in files]}


def export_weights(model: Model, path: str | Path) -> list[Path]:
    """Writes a file of weights, which also contains the scores of the run; returns its path."""
    meta = {name: model.meta[name] for name in DESCRIBED if name in model.meta}
    meta["encoder"] = {k: fact for k, fact in meta["encoder"].items() if k not in PATIENT_FACTS}
    fields = flatten_dict(meta["config"], sep=".", keep_empty_nodes=True)
    paths = {name: "" for name in CONFIGURED_PATHS if fields.get(name, PHANTOM) not in NOT_PATHS}
    meta["config"] = unflatten_dict(fields | paths, sep=".")
    variables = {"model": model.variables, "encoder": model.encoder.variables}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {k: measures for k, measures in scores_of(model).items() if k in SCORES}
    write_weights(path, variables, meta | {"scores": scores})
    return [path]
