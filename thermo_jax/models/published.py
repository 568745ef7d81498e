"""Names and layouts of the published PyTorch weights, as Flax variables.

Only names, shapes and axis orders are known here (SPEC section 8): convolutions are OIHW there and
HWIO here, linear layers [out, in] there and [in, out] here. `num_batches_tracked` is ignored.
"""

import re
from collections.abc import Mapping

import numpy as np

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


def from_published(weights: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Published names and arrays -> {"params": ..., "batch_stats": ...}.

    The encoder's tree is that of `models.cuts.Cuts`, a decoder's that of `models.unet.UNet`.

    Raises:
      ValueError: a name that no published model has.
    """
    variables: dict[str, dict] = {}
    for name, array in weights.items():
        if name.endswith("num_batches_tracked"):
            continue
        collection, path = _location(name, np.ndim(array))
        node = variables.setdefault(collection, {})
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = _to_flax_layout(np.asarray(array))
    return variables


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


def _to_flax_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array
