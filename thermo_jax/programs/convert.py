"""Program "convert": published PyTorch weights -> a workdir, or a workdir -> published weights.

import: state dict -> check of names and shapes -> a checkpoint like that of a finished run
export: the best model of a run -> state dict

PyTorch is used only to read and write the files. A file that contains more than tensors is refused,
because unpickling it could run code.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from thermo_jax.data.examples import image_shape
from thermo_jax.errors import MissingFileError, UserError
from thermo_jax.evaluation import results
from thermo_jax.inference.trained_models import load_model
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.published import check_published, from_published, to_published
from thermo_jax.programs import settings
from thermo_jax.programs.encoder import encoder_variables
from thermo_jax.programs.frozen_encoder import load_pretrained
from thermo_jax.programs.workdir import open_workdir, print_results
from thermo_jax.rivals.networks import UNET, architecture_of
from thermo_jax.training import train_decoder, train_encoder
from thermo_jax.training.checkpoints import FOLDER, Checkpoints, has_checkpoint, keep_best_model
from thermo_jax.training.state import TrainState

SUFFIX = ".pty"  # of the published files
Weights = dict[str, np.ndarray]


def run(config: ConfigDict, workdir: str | Path) -> dict[str, list[str]]:
    """Converts one model; returns {"files": [the path of the written file]}."""
    config = settings.resolve(config)
    convert = _import if config.direction == "import" else _export
    return {"files": [str(convert(config, workdir))]}


# --------------------------------------------------------------------------------------------------
# Import
# --------------------------------------------------------------------------------------------------


def _import(config: ConfigDict, workdir: str | Path):
    if not config.weights:
        raise UserError("config.weights is empty: give --config.weights=<a state dict, .pty>")
    if str(workdir) and has_checkpoint(workdir):
        raise UserError(f"{workdir} already contains a trained model: choose another --workdir")
    weights = read_state_dict(config.weights)
    is_encoder = "conv1.weight" in weights
    variables, encoder, meta = (_encoder if is_encoder else _decoder)(weights, config)
    file = Path(config.weights).expanduser()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    meta["imported"] = {"file": file.name, "sha256": digest}
    workdir = open_workdir(workdir, config)
    state = TrainState.create(
        jax.tree.map(jnp.asarray, variables), tx=optax.identity(), rng=jax.random.key(0)
    )
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(
            state,
            encoder=jax.tree.map(jnp.asarray, encoder),
            meta=meta | {"epoch": 0, "best_step": 0, "finished": True},
            value=0.0,
        )
    keep_best_model(workdir)
    use = "--config.encoder.workdir" if is_encoder else "--config.models"
    facts = {
        "file": config.weights,
        "sha256": digest,
        "model": f"{meta['config']['task']}, {meta['config']['data']['type']} images",
        "to be used as": f"{use}={workdir}",
    }
    text = results.facts_text("Imported weights", facts)
    print_results(text, files=[workdir / FOLDER], workdir=workdir)
    return workdir / FOLDER


def _encoder(weights: Weights, config: ConfigDict) -> tuple[dict, dict, dict]:
    """(variables, the encoder's variables, meta) of an encoder with its reconstruction."""
    num_kernels, channels = _shape(weights, "conv1.weight", axes=4, config=config)[:2]
    rows, _ = _shape(weights, "recon.recon.weight", axes=2, config=config)
    data_type = "gray" if channels == CHANNELS["gray"] else "heat"
    patch_size = math.isqrt(rows // channels)
    encoder_config = {
        "task": "encoder",
        "data": {"type": data_type, "downscale": config.downscale},
        "model": {"num_kernels": num_kernels, "patch_size": patch_size, "dtype": "float32"},
    }
    image_shape(data_type, downscale=config.downscale)  # raises if the factor does not fit
    check_published(weights, _encoder_shapes(encoder_config), file=config.weights)
    variables = from_published(weights)
    facts = {
        "data_type": data_type,
        "channels": CHANNELS[data_type],
        "num_kernels": num_kernels,
        "downscale": config.downscale,
        "data_fingerprint": None,  # the images on which it was trained are not known
        "seen_patients": None,
    }
    return variables, encoder_variables(variables), {"config": encoder_config, "encoder": facts}


def _decoder(weights: Weights, config: ConfigDict) -> tuple[dict, dict, dict]:
    """(variables, its encoder's variables, meta) of a published decoder."""
    width = _shape(weights, "unet.inc.double_conv.0.weight", axes=4, config=config)[0]
    if not config.encoder.workdir:
        raise UserError(
            f"{config.weights} contains a decoder: give --config.encoder.workdir=<workdir of the "
            "encoder that it uses>; import the encoder first"
        )
    encoder, _ = load_pretrained(config.encoder.workdir)
    facts = encoder.facts
    data_type = config.type or facts["data_type"]
    if data_type not in CHANNELS:
        raise UserError(f"config.type={data_type!r} must be one of {', '.join(CHANNELS)}")
    task = "classify" if "project.weight" in weights else "segment"
    decoder_config = {
        "task": task,
        "data": {"type": data_type, "colormap": config.colormap, "downscale": config.downscale},
        "encoder": {"type": facts["data_type"], "workdir": config.encoder.workdir},
        "model": {"unet_width": width, "head": "linear", "dtype": "float32"},
    }
    latents = encoder.latents(image_shape(data_type, downscale=config.downscale))
    decoder = train_decoder.make_decoder(task, width=width)
    shapes = train_decoder.abstract_variables(decoder, latents.shape)
    check_published(weights, shapes, file=config.weights)
    meta = {"config": decoder_config, "encoder": facts}
    return from_published(weights), encoder.variables, meta


def _shape(weights: Weights, name: str, *, axes: int, config: ConfigDict) -> tuple[int, ...]:
    """The shape of a tensor that determines the model's size."""
    if name not in weights:
        raise UserError(
            f"{config.weights} is not a published model: it contains no {name}, but "
            f"{', '.join(list(weights)[:3]) or 'nothing'}"
        )
    shape = weights[name].shape
    if len(shape) != axes or not all(shape):
        raise UserError(f"{config.weights}: {name} is {list(shape)}, expected {axes} axes")
    return shape


def _encoder_shapes(config: Mapping[str, Mapping]) -> dict:
    """Shapes of the variables of the model that an encoder's run trains."""
    data_type, sizes = config["data"]["type"], config["model"]
    model = train_encoder.make_model(
        data_type=data_type, patch_size=sizes["patch_size"], num_kernels=sizes["num_kernels"]
    )
    given = {"tx": optax.identity(), "image_shape": (16, 16, CHANNELS[data_type])}
    create_state = partial(train_encoder.create_state, model, **given)
    return jax.eval_shape(create_state, rng=jax.random.key(0)).variables


# --------------------------------------------------------------------------------------------------
# Export
# --------------------------------------------------------------------------------------------------


def _export(config: ConfigDict, workdir: str | Path):
    if not config.run:
        raise UserError("config.run is empty: give --config.run=<workdir of a trained model>")
    _torch()
    weights = to_published(_best_model(config.run))
    workdir = open_workdir(workdir, config)
    file = workdir / f"{Path(config.run).absolute().name}{SUFFIX}"
    write_state_dict(file, weights)
    print_results(f"{len(weights)} tensors exported", files=[file], workdir=workdir)
    return file


def _best_model(workdir: str) -> dict:
    """Variables of the best model of an encoder's or a decoder's run."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        meta = checkpoints.meta()
        if meta["config"]["task"] == "encoder":
            like = {"model": _encoder_shapes(meta["config"])}
            return checkpoints.variables(like, step=meta["best_step"])["model"]
        architecture = architecture_of(meta["config"]["model"])
        if architecture != UNET:
            raise UserError(
                f"{workdir} contains a decoder of architecture {architecture!r}, which has no "
                "published form: only a U-Net can be converted"
            )
    return load_model(workdir, dtype="float32").variables


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------


def read_state_dict(path: str | Path) -> Weights:
    """The tensors of a state dict, by name.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the file contains something other than tensors, or PyTorch is not installed.
    """
    torch = _torch()
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: name a state dict that torch.save wrote")
    try:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged files raise errors of many types
        raise UserError(
            f"{path} is no plain state dict: it is damaged, or reading it could run code, which is "
            "refused. Save it again with torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(tensors, Mapping):
        raise UserError(f"{path} contains a {type(tensors).__name__}, expected a state dict")
    return {str(name): _array(tensor, name=name, path=path) for name, tensor in tensors.items()}


def _array(tensor: Any, *, name: str, path: Path) -> np.ndarray:
    try:
        return tensor.detach().numpy()
    except (AttributeError, TypeError) as error:  # not a tensor, or bfloat16
        kind = getattr(tensor, "dtype", type(tensor).__name__)
        raise UserError(f"{path}: {name} is {kind}, expected a tensor of float32") from error


def write_state_dict(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as tensors that `torch.load(path, weights_only=True)` reads."""
    torch = _torch()
    with path.open("wb") as file:
        torch.save({name: torch.tensor(array) for name, array in weights.items()}, file)


def _torch():
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "state dicts need PyTorch, which is not installed: pip install 'thermo_jax[torch]'"
        ) from error
    return torch
