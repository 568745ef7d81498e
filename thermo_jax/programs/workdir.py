"""The workdir: the folder to which a run writes everything, with one configuration.

config.json      the resolved configuration, and the versions of the packages
metrics.jsonl, timing.jsonl, timeline.json, tensorboard/, checkpoints/, pictures/
results.txt, results.json, predictions.csv
.lock            see lock.py
"""

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from etils.epath import Path
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from thermo_jax.data.dataset import SPLIT_FILE, Dataset
from thermo_jax.data.examples import Examples
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.files import CONFIG, digest, folder_path, saved_config, write_whole
from thermo_jax.training import loop, processes
from thermo_jax.training.checkpoints import Checkpoints, has_checkpoint

PICTURES = "pictures"
VERSIONED = ("thermo_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
# Fields that a continued run may change: they change neither the results (except by rounding) nor
# the order of images.
FREE_FIELDS = (
    "data.loader",
    "data.prepared_dir",
    "data.memory_gb",
    "data.streamed",
    "train.checkpoint_minutes",
    "train.checkpoint_every",  # of earlier versions
    "parallel.mode",
    "parallel.devices",
    "parallel.resident_gb",
    "parallel.steps_per_dispatch",
    "model.conv",
    # These paths may change; the encoder and the images are compared with the checkpoint instead.
    "encoder.workdir",
    "split.file",
    "report.bootstrap",
    "report.seed",
)
# Fields that were added to configurations since version 1 of config.json, each with the value for
# which the code does the same as before, so that runs of earlier versions can continue. Add every
# new field here, except those of a study itself (only its stages are compared).
OLD_DEFAULTS: dict[str, Any] = {
    "train.checkpoint_minutes": 0,
    "data.render": "auto",
    "data.unit": "auto",
    "data.phantom_version": 1,
    "data.memory_gb": -1.0,
    "data.streamed": False,
    "data.endless": False,
    "flir.emissivity": 0.0,
    "train.steps": 0,
    "train.weight_decay": 0.0,
    "train.warmup": 0.0,
    "train.schedule": "constant",
    "train.ema": 0.0,
    "loss.dice": 0.0,
    "loss.nipple_weight": 2.0,
    "model.architecture": "unet",
    "model.area": "full",
    "model.temperatures": "removed",
    "model.mirror_average": False,
    "augment.mirror": False,
    "augment.rotation": 0.0,
    "augment.scale": 0.0,
    "augment.stretch": 0.0,
    "augment.shift": 0.0,
    "augment.elastic": 0.0,
    "augment.gamma": 0.0,
    "augment.field": 0.0,
    "augment.noise": 0.0,
    "augment.blur": 0.0,
    "augment.rectangles": 0,
    "init_from": "",
    "average_with_init": False,
}


def open_workdir(path: str | Path, config: ConfigDict) -> Path:
    """Calls `check_workdir`, then `write_config`; returns the folder."""
    workdir = check_workdir(path, config)
    write_config(workdir, config)
    return workdir


def check_workdir(path: str | Path, config: ConfigDict) -> Path:
    """Returns the folder, which may be missing. Nothing is written.

    Raises:
      UserError: the path is empty, or the folder contains a run of another configuration.
    """
    workdir = workdir_path(path)
    saved, wanted, begun = saved_config(workdir), to_json(config), has_checkpoint(workdir)
    if begun and saved is None:
        raise UserError(
            f"{workdir / CONFIG} cannot be read, so the configuration of the checkpoints beside it "
            "is unknown: restore it, or choose another --workdir"
        )
    if saved is None:
        return workdir
    if not begun or saved.get("task") != wanted["task"]:
        # Without a checkpoint to protect, only the task must agree. (Runs in subfolders are checked
        # separately.) The fields of two tasks are not compared.
        saved, wanted = ({"task": fields.get("task")} for fields in (saved, wanted))
    different = _differences(saved, wanted)
    if different:
        raise UserError(
            f"{workdir} contains a run of another configuration ({'; '.join(different)}): choose "
            "another --workdir to start anew, or give the same configuration to continue"
        )
    return workdir


def write_config(workdir: Path, config: ConfigDict, **facts: Any) -> None:
    """Makes the folder and writes config.json: the configuration, the versions, and the facts.

    It is called after every check that may refuse the run: a refused run changes no file.

    Raises:
      UserError: the path is not the same folder for all processes of the run.
    """
    file = workdir / CONFIG
    content = {"config": to_json(config), "versions": versions(), **facts}
    text = json.dumps(content, indent=2) + "\n"
    processes.wait("all have read the workdir")
    if processes.is_writer():
        (workdir / PICTURES).mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    processes.wait("the workdir is written")
    if not processes.all_true(file.is_file() and file.read_text(encoding="utf-8") == text):
        raise UserError(
            f"{workdir} is not one folder for all {jax.process_count()} processes of this run: "
            "choose a --workdir on a disk that all of them see"
        )


def workdir_path(path: str | Path) -> Path:
    """The folder's path. Raises UserError if the path is empty or is a file."""
    if not str(path):
        raise UserError("--workdir is missing: name a folder for the results, such as runs/first")
    workdir = folder_path(path)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={path} is a file: name a folder")
    return workdir


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def versions() -> dict[str, str]:
    """Versions of the packages that influence the results."""
    installed = {}
    for name in VERSIONED:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def _differences(saved: dict, new: dict) -> list[str]:
    have, want = flatten_dict(saved, sep="."), flatten_dict(new, sep=".")
    have = {name: value for name, value in OLD_DEFAULTS.items() if name in want} | have
    return [
        f"config.{name} was {have.get(name)!r}, is {want.get(name)!r}"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name) and name not in FREE_FIELDS
    ]


# --------------------------------------------------------------------------------------------------
# A run's beginning and end
# --------------------------------------------------------------------------------------------------


def begin_training(
    workdir: Path,
    config: ConfigDict,
    *,
    dataset: Dataset,
    split: Split,
    examples: Examples,
    sets: Mapping[str, np.ndarray],
) -> str:
    """Does what `begin` does, for a run that may continue; returns a digest of its images.

    Args:
      sets: the rows of the examples, by the name of their set.
    Raises:
      UserError: the run in the workdir began with other images in its sets.
    """
    examples_id = digest(
        {
            name: [examples.names[rows].tolist(), examples.patients[rows].tolist()]
            for name, rows in sets.items()
        }
    )
    if has_checkpoint(workdir):
        with Checkpoints(workdir, read_only=True) as checkpoints:
            loop.check_examples(checkpoints.meta(), examples_id, workdir=workdir)
    begin(workdir, config, dataset=dataset, split=split)
    return examples_id


def begin(
    workdir: Path, config: ConfigDict, *, dataset: Dataset, split: Split | None = None
) -> None:
    """Calls `write_config`, then writes the data report and the patients of each set."""
    write_config(workdir, config)
    if processes.is_writer():
        dataset.write_report(workdir)
        if split is not None:
            split.save(workdir / SPLIT_FILE)


def print_results(text: str, *, files: Sequence[Path], workdir: Path) -> None:
    """Prints the table of results and the names of the files that were written."""
    names = [f"  {Path(path).relative_to(workdir)}" for path in files]
    print("", text, f"Written to {workdir}:", *names, sep="\n")
