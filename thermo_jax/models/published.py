"""Names and layouts of the published PyTorch weights, as Flax variables and back.

Only names, shapes and axis orders are known here (SPEC section 8): convolutions are OIHW there and
HWIO here, linear layers [out, in] there and [in, out] here. `num_batches_tracked` is ignored, and
written as 0, which PyTorch's own batch norm does not use.
"""

import re
from collections.abc import Mapping

import numpy as np

from thermo_jax.errors import UserError

_LEAF = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
_UNET_STAGE = re.compile(
    r"(?:unet\.)?(inc|down\d|up\d)\.(?:maxpool_conv\.1\.|conv\.)?double_conv\.([0134])"
)
_UNET_LAYERS = {"0": "conv1", "1": "batch_norm1", "3": "conv2", "4": "batch_norm2"}
_UNET_NUMBERS = {layer: number for number, layer in _UNET_LAYERS.items()}
_PUBLISHED_STAGE = {"in": "inc", "down": "{}.maxpool_conv.1", "up": "{}.conv"}
_PUBLISHED_LEAF = {leaf: name for name, (_, leaf) in _LEAF.items()} | {
    "kernel": "weight",
    "scale": "weight",
}
_HEAD = {"project.weight": "head_weight", "project.bias": "head_bias"}


def from_published(weights: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Published names and arrays -> {"params": ..., "batch_stats": ...}.

    The encoder's tree is that of `models.cuts.Cuts`, a decoder's that of `models.unet.UNet`, with
    the classifier's head beside it: `decoder_from_published` makes it a decoder's.

    Raises:
      ValueError: a name that no published model has.
    """
    variables: dict[str, dict] = {"params": {}} if set(_HEAD) & set(weights) else {}
    for name, array in weights.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name in _HEAD:
            head = np.asarray(array)
            shaped = head.reshape(()) if head.ndim == 1 else head.T
            variables["params"][_HEAD[name]] = shaped
            continue
        collection, path = _location(name, np.ndim(array))
        node = variables.setdefault(collection, {})
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = _to_flax_layout(np.asarray(array))
    return variables


def decoder_from_published(weights: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """A decoder's weights as the variables of `models.decoders.Classifier` or `Segmenter`.

    Raises:
      ValueError: a name that no published model has.
    """
    variables = from_published(weights)
    heads = {
        name: variables["params"].pop(name)
        for name in _HEAD.values()
        if name in variables["params"]
    }
    decoder = {collection: {"unet": tree} for collection, tree in variables.items()}
    decoder["params"] |= heads
    return decoder


def to_published(variables: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    """The inverse of both: {"params": ..., "batch_stats": ...} -> published names and arrays.

    Takes the variables of `models.cuts.Cuts`, `models.unet.UNet`, or a decoder.

    Raises:
      UserError: a variable that no published model has, such as the pooled classifier's head.
    """
    weights: dict[str, np.ndarray] = {}
    for tree in variables.values():
        for path, leaf in _leaves(tree):
            name = _published_name(path)
            array = np.asarray(leaf)
            if path[-1] == "head_weight" and array.ndim != 2:
                raise UserError(
                    "a pooled classifier has no published form: its head has no weights"
                )
            weights[name] = array.reshape(1) if path[-1] == "head_bias" else _to_torch_layout(array)
            if path[-1] == "var":
                module = name.rpartition(".")[0]
                weights[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
    return weights


def check_published(weights: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Compares names, shapes and types with those of `expected` (`to_published`'s).

    Raises:
      ValueError: names the first tensor that is not as expected.
    """
    for name in dict.fromkeys([*expected, *weights]):
        found, wanted = (_kind(arrays.get(name)) for arrays in (weights, expected))
        if found != wanted and not name.endswith("num_batches_tracked"):
            raise ValueError(f"{name} is {found}, expected {wanted}")


def _kind(array: np.ndarray | None) -> str:
    return "absent" if array is None else f"{array.dtype}{list(array.shape)}"


def _leaves(tree: Mapping, path: tuple[str, ...] = ()):
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _published_name(path: tuple[str, ...]) -> str:
    if path[0] == "unet":
        return f"unet.{_published_name(path[1:])}"
    heads = {ours: name for name, ours in _HEAD.items()}
    if path[-1] in heads:
        return heads[path[-1]]
    *modules, leaf = path
    stage = re.fullmatch(r"(in|down|up)\d?", modules[0]) if len(modules) == 2 else None
    if modules[0] == "encoder":
        module = modules[1]
    elif modules == ["reconstruction", "linear"]:
        module = "recon.recon"
    elif modules == ["out"]:
        module = "outc.conv"
    elif stage and modules[1] in _UNET_NUMBERS:
        parent = _PUBLISHED_STAGE[stage[1]].format(modules[0])
        module = f"{parent}.double_conv.{_UNET_NUMBERS[modules[1]]}"
    else:
        raise ValueError(f"{'/'.join(path)} is no variable of the published models")
    return f"{module}.{_PUBLISHED_LEAF[leaf]}"


def _location(name: str, ndim: int) -> tuple[str, tuple[str, ...]]:
    module, _, leaf = name.rpartition(".")
    path = _module_path(module)
    if path is None or leaf not in _LEAF:
        raise ValueError(f"{name!r} is no weight of the published encoder or U-Net.")
    collection, leaf_name = _LEAF[leaf]
    return collection, (*path, "kernel" if ndim >= 2 else leaf_name)


def _module_path(module: str) -> tuple[str, ...] | None:
    if re.fullmatch(r"(?:conv|batch_norm)[1-4]", module):
        return ("encoder", module)
    if module == "recon.recon":
        return ("reconstruction", "linear")
    if match := _UNET_STAGE.fullmatch(module):
        stage = "in" if match[1] == "inc" else match[1]
        return (stage, _UNET_LAYERS[match[2]])
    if re.fullmatch(r"(?:unet\.)?outc\.conv", module):
        return ("out",)
    return None


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array


def _to_flax_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array
