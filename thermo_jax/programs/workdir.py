"""A run's folder: one configuration, and whatever the run writes.

config.json      the resolved configuration and the versions that ran it
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
from ml_collections import ConfigDict

from thermo_jax.data.dataset import SPLIT_FILE, Dataset
from thermo_jax.data.examples import Examples
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.files import CONFIG, digest, folder_path, write_whole
from thermo_jax.training import loop, processes
from thermo_jax.training.checkpoints import Checkpoints, has_checkpoint

PICTURES = "pictures"
VERSIONED = ("thermo_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
# These change neither what is computed (but for rounding) nor the order of images: a run may
# continue with others.
FREE_FIELDS = (
    "data.loader",
    "data.prepared_dir",
    "train.checkpoint_minutes",
    "train.checkpoint_every",  # of earlier versions
    "parallel.mode",
    "parallel.devices",
    "parallel.resident_gb",
    "parallel.steps_per_dispatch",
    "model.conv",
    # A run that goes on carries its encoder, and knows its examples: both are compared.
    "encoder.workdir",
    "split.file",
    "report.bootstrap",
    "report.seed",
)
_FREE_ENDINGS = tuple(f".{name}" for name in FREE_FIELDS)
# Fields that were added to configurations since version 1 of config.json, each with the value that
# stands for what the code did before: runs of earlier versions continue. Name every new field here
# (but those of studies, whose stages alone are compared).
OLD_DEFAULTS: dict[str, Any] = {"train.checkpoint_minutes": 0}


def open_workdir(path: str | Path, config: ConfigDict) -> Path:
    """The folder, checked (`check_workdir`) and made this configuration's (`write_config`)."""
    workdir = check_workdir(path, config)
    write_config(workdir, config)
    return workdir


def check_workdir(path: str | Path, config: ConfigDict) -> Path:
    """The folder, which may be missing; nothing is written.

    Raises:
      UserError: no path, or it holds a run of another configuration.
    """
    workdir = workdir_path(path)
    begun = has_checkpoint(workdir)
    try:
        saved = saved_config(workdir)
    except ValueError:
        if begun:
            raise
        return workdir
    wanted = to_json(config)
    if not begun:
        # A run that failed before its first checkpoint left nothing that another one of its task
        # could spoil. Runs in subfolders look after themselves.
        saved, wanted = ({"task": each.get("task")} for each in (saved, wanted))
    different = _differences(saved, wanted)
    if different:
        raise UserError(
            f"{workdir} holds a run of another configuration ({'; '.join(different)}): choose "
            "another --workdir to start anew, or give the same configuration to continue"
        )
    return workdir


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Makes the folder and writes config.json, once all else that could refuse the run is checked.

    Raises:
      UserError: it is not the same folder for all processes of the run.
    """
    file = workdir / CONFIG
    text = json.dumps({"config": to_json(config), "versions": versions()}, indent=2) + "\n"
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
    """The folder's path, which may be missing; UserError if there is no path, or a file."""
    if not str(path):
        raise UserError("--workdir is missing: name a folder for the results, such as runs/first")
    workdir = folder_path(path)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={path} is a file: name a folder")
    return workdir


def saved_config(workdir: Path) -> dict[str, Any]:
    """The configuration of the run that the folder holds.

    Raises:
      UserError: there is none, or it is damaged.
    """
    file = workdir / CONFIG
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""  # buckets' errors differ
        return dict(json.loads(text)["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read, so that it is not known whose checkpoints are beside it: "
            "restore it, or choose another --workdir"
        ) from error


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def lacking_fields(saved: dict, new: dict) -> set[str]:
    """Names of the fields of a new configuration that a saved one does not have."""
    return dict(_flatten(new)).keys() - dict(_flatten(saved)).keys()


def _differences(saved: dict, new: dict) -> list[str]:
    have, want = dict(_flatten(saved)), dict(_flatten(new))
    for name in lacking_fields(saved, new):
        for field, value in OLD_DEFAULTS.items():
            if f".{name}".endswith(f".{field}"):
                have[name] = value
    return [
        f"config.{name} was {have.get(name)!r}, is {want.get(name)!r}"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name) and not f".{name}".endswith(_FREE_ENDINGS)
    ]


def _flatten(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --------------------------------------------------------------------------------------------------
# A run's beginning and end
# --------------------------------------------------------------------------------------------------


def fingerprint(examples: Examples, sets: Mapping[str, np.ndarray]) -> str:
    """Identifies the images of each set: a run continues only with the same ones.

    Args:
      sets: name -> rows of the examples.
    """
    return digest(
        {
            name: [[column[row] for row in rows] for column in (examples.names, examples.patients)]
            for name, rows in sets.items()
        }
    )


def check_continues(workdir: Path, examples: str) -> None:
    """Raises UserError if the run that would continue in the workdir has other examples.

    Args:
      examples: their fingerprint.
    """
    if has_checkpoint(workdir):
        with Checkpoints(workdir, read_only=True) as checkpoints:
            loop.check_examples(checkpoints.meta(), examples, workdir=workdir)


def begin(
    workdir: Path, config: ConfigDict, *, dataset: Dataset, split: Split | None = None
) -> None:
    """Writes config.json, the data report and the patients of each set.

    To be called after all checks that may refuse the run: a refused run changes no file.
    """
    write_config(workdir, config)
    if processes.is_writer():
        dataset.write_report(workdir)
        if split is not None:
            split.save(workdir / SPLIT_FILE)


def print_results(text: str, *, files: Sequence[Path], workdir: Path) -> None:
    """Prints the table of results and the names of the files that were written."""
    print(f"\n{text}")
    print(f"Written to {workdir}:")
    for path in files:
        print(f"  {Path(path).relative_to(workdir)}")
