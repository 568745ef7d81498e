"""Finds the trained decoders among folders and files."""

import os
from pathlib import Path

from thermo_jax.data.file_listing import walk
from thermo_jax.errors import ClosedFolderError, MissingFileError
from thermo_jax.files import folder_path, is_remote
from thermo_jax.inference.inputs import Paths
from thermo_jax.training import weights_file
from thermo_jax.training.checkpoints import FOLDER, Checkpoints, has_checkpoint

DECODERS = ("classify", "segment")


def find_models(paths: Paths) -> list[Path]:
    """The workdirs of trained decoders among these folders and all below them.

    Files of weights (`training/weights_file.py`) are returned as they are; "shipped" names the one
    of the package.

    Raises:
      FileNotFoundError: a path has no trained decoder.
      PermissionError: a folder below a path cannot be read, so that its model would be missing.
    """
    workdirs: list[Path] = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        if weights_file.is_weights_file(path):
            workdirs.append(weights_file.weights_path(path))
            continue
        decoders = [f for f in _folders(path) if has_checkpoint(f) and _task(f) in DECODERS]
        if not decoders:
            raise MissingFileError(
                f"{path} contains no trained decoder: give the --workdir of a run of "
                "configs/classify.py or configs/segment.py, a folder that contains several, a "
                f"{weights_file.SUFFIX} file, or {weights_file.SHIPPED!r}"
            )
        workdirs += decoders
    return list(dict.fromkeys(workdirs))


def _folders(path: str | os.PathLike) -> list[Path]:
    """A folder and all folders below it; of a bucket, only the folder itself."""
    root = folder_path(path)
    if is_remote(root) or not root.is_dir():
        return [root]
    folders: list[Path] = []
    closed: list[Path] = []
    for folder, subfolders, _ in walk(Path(root), closed=closed):
        folders.append(folder)
        if folder.name == FOLDER:
            subfolders.clear()  # checkpoints, which a run may be replacing
    if closed:
        raise ClosedFolderError(
            f"{closed[0]} cannot be read, so that a model of the ensemble may be missing: check "
            "its permissions, or name each model's folder in config.models"
        )
    return folders


def _task(workdir: Path) -> str:
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.meta()["config"]["task"]
