"""A trained decoder and its frozen encoder as one file of weights (safetensors), to be shared.

    write_weights("segmenter.safetensors", {"model": ..., "encoder": ...}, meta)
    variables, meta = read_weights("segmenter.safetensors")

The file contains float32 arrays, and JSON that describes them: the configuration of the run, the
facts about the encoder, digests. Reading it runs no code. The package contains such a file, see
`shipped/MODEL_CARD.md`; its name in configurations is "shipped".
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from thermo_jax import __version__
from thermo_jax.data.examples import image_shape
from thermo_jax.data.radiometry import find_colormap
from thermo_jax.data.thermogram import VIEW_NAMES
from thermo_jax.errors import MissingFileError, UserError, first_line, is_users
from thermo_jax.files import digest, write_whole
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.decoders import HEADS
from thermo_jax.rivals.networks import ARCHITECTURES
from thermo_jax.rivals.registry import AREAS, TEMPERATURES
from thermo_jax.training.checkpoints import Checkpoints

SUFFIX = ".safetensors"
SHIPPED = "shipped"  # in configurations, the file that comes with the package
SHIPPED_FILE = pathlib.Path(__file__).parent.parent / "shipped" / f"segmenter{SUFFIX}"
FORMAT = 1  # increase it when older versions of this package cannot use new files
_KEY = "thermo_jax"  # the only one: safetensors writes several in an order that varies
_LARGEST = 1024  # widths above this are no model's
_REMEDY = f"give a file that --config=configs/export.py:{SUFFIX[1:]} wrote"


def is_weights_file(source: str | os.PathLike) -> bool:
    """Returns whether this names a file of weights (or `SHIPPED`), and not a workdir."""
    return str(source) == SHIPPED or str(source).endswith(SUFFIX)


def weights_path(source: str | os.PathLike) -> pathlib.Path:
    """Returns the path of a file of weights; `SHIPPED` means the file of the package.

    Raises:
      FileNotFoundError: there is no such file.
    """
    path = SHIPPED_FILE if str(source) == SHIPPED else pathlib.Path(source).expanduser().absolute()
    if path.is_file():
        return path
    if path == SHIPPED_FILE:
        raise MissingFileError(
            f"{path} is missing: this installation of thermo_jax has no model of its own. Install "
            "thermo_jax again, or name a trained model, such as --config.models=<workdir>"
        )
    raise MissingFileError(f"{path} does not exist: {_REMEDY}")


def write_weights(path: str | os.PathLike, variables: Mapping[str, Any], meta: dict) -> str:
    """Writes the file, and returns the digest of the weights. Equal arguments give equal bytes.

    Args:
      variables: "model" and "encoder", each with "params" and "batch_stats" of float32 arrays.
      meta: JSON with the run's "config" and the facts about its "encoder".
    """
    arrays = _arrays(variables)
    if other := {str(array.dtype) for array in arrays.values()} - {"float32"}:
        raise ValueError(f"{path}: weights must be float32, not {', '.join(sorted(other))}")
    weights_id = weights_digest(variables)
    meta = meta | {"thermo_jax": __version__, "weights_sha256": weights_id}
    described = {"format": FORMAT, "digest": digest(meta), "meta": meta}
    from safetensors.numpy import save

    write_whole(path, save(arrays, {_KEY: json.dumps(described, sort_keys=True)}))
    return weights_id


def read_weights(path: str | os.PathLike) -> tuple[dict, dict]:
    """Returns what `write_weights` got: the variables as NumPy arrays, and the meta.

    The meta also contains "thermo_jax", the version that wrote the file, and "weights_sha256".

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the file is damaged, or was not written by `write_weights`.
    """
    path = weights_path(path)
    arrays, text = _read(path)
    try:
        described = json.loads(text or "null")
        file_format, meta = described["format"], described["meta"]
        is_whole, weights_id = described["digest"] == digest(meta), meta["weights_sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} is no model of thermo_jax: {_REMEDY}") from error
    if file_format != FORMAT:
        raise UserError(
            f"{path} has format {file_format!r:.20}, this version of thermo_jax reads format "
            f"{FORMAT}: install the version that wrote the file"
        )
    variables = unflatten_dict(arrays, sep="/")
    if not is_whole or weights_id != weights_digest(variables):
        raise UserError(f"{path} is damaged (its digest does not fit): copy it again")
    _check_meta(meta, path=path)
    return variables, meta


def weights_digest(variables: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of names, shapes and numbers, which does not depend on the meta."""
    sha = hashlib.sha256()
    for name, array in sorted(_arrays(variables).items()):
        sha.update(f"{name} {array.shape}\n".encode())
        sha.update(array.astype("<f4").tobytes())
    return sha.hexdigest()


@contextlib.contextmanager
def open_decoder(
    source: str | os.PathLike,
) -> Iterator[tuple[dict, Callable[[dict[str, Any]], dict[str, Any]]]]:
    """Opens the best model of a run's workdir, or a file of weights.

    Returns the meta and a function: `variables(like)` returns the items "model" and "encoder" as
    NumPy arrays, or raises UserError if their shapes are not those of `like`.
    """
    if is_weights_file(source):
        path = weights_path(source)
        saved, meta = read_weights(path)
        yield meta, partial(_fitting, saved, path=path)
    else:
        with Checkpoints(source, read_only=True) as checkpoints:
            meta = checkpoints.meta()
            yield meta, partial(checkpoints.variables, step=meta["best_step"])


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str | None]:
    """The arrays by name, and the JSON text that describes them, None if there is none."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # errors of many types, also for types that NumPy lacks
        if isinstance(error, MemoryError) or is_users(error):
            raise
        raise UserError(
            f"{path} is damaged or is no file of safetensors ({first_line(error)}): {_REMEDY}"
        ) from error
    if other := {str(array.dtype) for array in arrays.values()} - {"float32"}:
        raise UserError(f"{path} contains {', '.join(sorted(other))}, expected float32: {_REMEDY}")
    return arrays, text


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves by path, such as "model/params/unet/in/conv1/kernel"."""
    return flatten_dict(dict(variables), sep="/")


def _arrays(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    # safetensors writes the memory of an array in the order in which it lies.
    return {name: np.array(leaf, order="C") for name, leaf in _flat(variables).items()}


def _fitting(
    variables: dict[str, Any], like: dict[str, Any], *, path: pathlib.Path
) -> dict[str, Any]:
    """The same variables, if names and shapes are those of `like`."""
    saved, wanted = (
        {name: tuple(leaf.shape) for name, leaf in _flat(tree).items()}
        for tree in (variables, like)
    )
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise UserError(
                f"{path} does not contain the model that it describes: {name} is "
                f"{saved.get(name, 'absent')} instead of {wanted.get(name, 'absent')}: {_REMEDY}"
            )
    return variables


def _is_width(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST


def _is_colormap(value: Any) -> bool:
    try:
        return isinstance(value, str) and find_colormap(value) is not None
    except ValueError:
        return False


def _are_views(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v in VIEW_NAMES for v in value)


def _is_training(value: Any) -> bool:
    """Whether it has the form that `programs/initial_decoder.trained_on` returns.

    Files of earlier versions lack "images" and "sick".
    """
    return value is None or (
        isinstance(value, list)
        and all(
            seen is None
            or isinstance(seen, dict)
            and isinstance(seen.get("synthetic"), bool)
            and isinstance(seen.get("data"), str)
            and _are_texts(seen.get("patients"))
            and _are_texts(seen.get("images", []))
            and type(seen.get("sick", 0)) is int
            for seen in value
        )
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


_TYPES = tuple(CHANNELS)
# Fields of the meta that determine the model: what they must be. None stands for an absent field.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "config.task": ("classify or segment", lambda v: v in ("classify", "segment")),
    "config.data.type": ("gray or heat", lambda v: v in _TYPES),
    "config.data.downscale": (f"from 1 to {_LARGEST}", _is_width),
    "config.data.colormap": ("a colour map of matplotlib", _is_colormap),
    "config.data.views": ("a list of views", lambda v: v is None or _are_views(v)),
    "config.data.mirrored": ("true or false", lambda v: v is None or isinstance(v, bool)),
    "config.model.architecture": (
        f"one of {', '.join(ARCHITECTURES)}",
        lambda v: v is None or v in ARCHITECTURES,
    ),
    "config.model.area": (" or ".join(AREAS), lambda v: v is None or v in AREAS),
    "config.model.temperatures": (
        " or ".join(TEMPERATURES),
        lambda v: v is None or v in TEMPERATURES,
    ),
    "config.model.unet_width": (f"from 1 to {_LARGEST}", _is_width),
    "config.model.head": (" or ".join(HEADS), lambda v: v is None or v in HEADS),
    "config.model.mirror_average": ("true or false", lambda v: v is None or isinstance(v, bool)),
    "config.encoder.num_kernels": ("a width", lambda v: v is None or _is_width(v)),
    "encoder.data_type": ("gray or heat", lambda v: v in _TYPES),
    "encoder.kind": ("random, none or absent", lambda v: v in (None, "random", "none")),
    "encoder.num_kernels": ("a width", lambda v: v is None or _is_width(v)),
    "version": ("a version", lambda v: v is None or isinstance(v, str) and len(v) < 40),
    "date": ("a date", lambda v: v is None or isinstance(v, str) and len(v) == 10),
    "trained_on": ("a list of data sets with their patients", _is_training),
}


def _check_meta(meta: Any, *, path: pathlib.Path) -> None:
    """Raises UserError, which names the file and the field, for values that no run writes."""
    sections = [("config",), ("config", "encoder"), ("encoder",)]
    if not all(isinstance(_value(meta, names), dict) for names in sections):
        raise UserError(f"{path} does not describe its model: {_REMEDY}")
    for name, (expected, is_right) in _FIELDS.items():
        value = _value(meta, name.split("."))
        if not is_right(value):
            raise UserError(f"{path}: {name} is {value!r:.60}, expected {expected}: {_REMEDY}")
    data, facts = meta["config"]["data"], meta["encoder"]
    widths = (facts.get("num_kernels"), meta["config"]["encoder"].get("num_kernels"))
    if facts.get("kind") != "none" and widths == (None, None):
        raise UserError(f"{path}: encoder.num_kernels is absent: {_REMEDY}")
    try:
        image_shape(data["type"], downscale=data["downscale"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _value(meta: Any, names: Sequence[str]) -> Any:
    """The value of a field in sections, None if it or a section is absent."""
    for name in names:
        meta = meta.get(name) if isinstance(meta, dict) else None
    return meta
