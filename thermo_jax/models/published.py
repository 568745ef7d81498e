"""Translates the names and layouts of the published PyTorch weights to Flax variables and back.

This file contains only names, shapes and axis orders (SPEC section 8). Convolutions are OIHW in
PyTorch and HWIO in Flax, linear layers [out, in] and [in, out]. `num_batches_tracked` is ignored
when reading and written as 0, because PyTorch's own batch norm does not use it either.
"""

from collections.abc import Mapping

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from thermo_jax.errors import UserError

_HEAD = {"project.weight": "head_weight", "project.bias": "head_bias"}
_LEAVES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
_COUNT = "num_batches_tracked"
_DOUBLE_CONV = {0: "conv1", 1: "batch_norm1", 3: "conv2", 4: "batch_norm2"}


def _modules() -> dict[str, tuple[str, ...]]:
    """Returns published module -> path in Flax; both without the "unet" of a decoder."""
    modules = {"recon.recon": ("reconstruction", "linear"), "outc.conv": ("out",)}
    stages = {"inc": "in"}
    for number in range(1, 5):
        modules |= {
            f"{layer}{number}": ("encoder", f"{layer}{number}") for layer in ("conv", "batch_norm")
        }
        stages[f"down{number}.maxpool_conv.1"] = f"down{number}"
        stages[f"up{number}.conv"] = f"up{number}"
    for published, stage in stages.items():
        for number, layer in _DOUBLE_CONV.items():
            modules[f"{published}.double_conv.{number}"] = (stage, layer)
    return modules


_MODULES = _modules()


def from_published(weights: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Returns {"params": ..., "batch_stats": ...} of published names and arrays.

    The variables are those of `models.cuts.Cuts`, of `models.decoders.Classifier` or `Segmenter`,
    or of `models.unet.UNet` if the names have no prefix "unet".

    Raises:
      ValueError: a name that no published model has.
    """
    leaves = {}
    for name, array in weights.items():
        array = np.asarray(array)
        module, _, leaf = name.removeprefix("unet.").rpartition(".")
        prefix = ("unet",) if name.startswith("unet.") else ()
        if leaf == _COUNT:
            continue
        if name in _HEAD:
            leaves["params", _HEAD[name]] = array.reshape(()) if array.ndim == 1 else array.T
            continue
        if module not in _MODULES or leaf not in _LEAVES:
            raise ValueError(f"{name!r} is no weight of the published encoder or U-Net.")
        collection, leaf = _LEAVES[leaf]
        path = (collection, *prefix, *_MODULES[module], "kernel" if array.ndim >= 2 else leaf)
        leaves[path] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return unflatten_dict(leaves)


def to_published(variables: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    """Returns published names and arrays of {"params": ..., "batch_stats": ...}.

    It is the inverse of `from_published`.

    Raises:
      UserError: the head of a pooled classifier, which no published model has.
    """
    heads = {head: name for name, head in _HEAD.items()}
    modules = {path: module for module, path in _MODULES.items()}
    leaf_names = {leaf: name for name, (_, leaf) in _LEAVES.items()} | {"kernel": "weight"}
    weights: dict[str, np.ndarray] = {}
    for (_, *path, leaf), array in flatten_dict(variables).items():
        array = np.asarray(array)
        if leaf == "head_weight" and array.ndim != 2:
            raise UserError("a pooled classifier has no published form: its head has one weight")
        if leaf in heads:
            weights[heads[leaf]] = array.reshape(1) if leaf == "head_bias" else array.T
            continue
        prefix = "unet." if path[0] == "unet" else ""
        module = modules.get(tuple(path[1:] if prefix else path))
        if module is None:
            raise ValueError(f"{'/'.join([*path, leaf])} is no variable of the published models")
        name = f"{prefix}{module}.{leaf_names[leaf]}"
        weights[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        if leaf == "var":
            weights[f"{prefix}{module}.{_COUNT}"] = np.zeros((), np.int64)
    return weights


def check_published(weights: Mapping[str, np.ndarray], like: Mapping, *, file: str) -> None:
    """Raises UserError, which names the file, if a name, shape or type is not the model's.

    Args:
      like: the model's variables, as arrays or as shapes and types.
    """
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), like)
    expected = to_published(zeros)

    def describe(array: np.ndarray | None) -> str:
        return "absent" if array is None else f"{array.dtype}{list(array.shape)}"

    for name in dict.fromkeys([*expected, *weights]):
        given, wanted = describe(weights.get(name)), describe(expected.get(name))
        if given != wanted and not name.endswith(_COUNT):
            raise UserError(f"{file}: {name} is {given}, expected {wanted}")
