"""Orbax checkpoints: a run continues exactly from its own, and other runs load its encoder.

A checkpoint has four items:

    model     parameters and batch statistics, or their moving average
    training  step, optimiser, random key, and the variables if "model" is an average: needed to
              continue
    encoder   variables of the trained encoder, or of the frozen encoder that a decoder reads
    meta      JSON: position in the run, early stopping, facts about the encoder, the data's digest

A run keeps its latest and its best checkpoint. When its results are written, it keeps only the best
model and the latest meta (`keep_best_model`). The step determines the batch, so the data need no
position of their own.
"""

import contextlib
import errno
import logging as python_logging
import os
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from thermo_jax.errors import MissingFileError, UnwrittenError, UserError, is_users
from thermo_jax.files import digest, folder_path, is_remote
from thermo_jax.training import processes
from thermo_jax.training.state import TrainState

FOLDER = "checkpoints"
BEST_OF = "validation_value"
_DIGEST = "digest"  # a field of the meta: the digest of its other fields
_OF_ORBAX = re.compile(r"/orbax/|\.orbax-checkpoint-tmp/")
_STORAGE_STATUS = re.compile(
    "(RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|"
    "FAILED_PRECONDITION|NOT_FOUND|ABORTED|DATA_LOSS): "
)
_COMMITTED = "commit_success.txt"  # the last file of a checkpoint that Orbax writes


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Returns False, and does not ask JAX, which must be asked in the order of the steps.

        Orbax would ask about the step that it has just saved in the background. JAX could then
        choose a step that the training has already passed, and SIGTERM would never stop the run.
        Only `preemption.reached` may ask.
        """
        return False


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one workdir. Leaving the context waits for the last save."""

    def __init__(self, workdir: str | os.PathLike, *, read_only: bool = False):
        self.directory = folder_path(workdir) / FOLDER
        if read_only and not self.directory.is_dir():
            raise MissingFileError(
                f"{self.directory} does not exist: {workdir} is not the workdir of a training run"
            )
        logging.get_absl_logger().addFilter(_not_orbax)
        # asyncio logs a task's exception if nobody read it before the task is garbage collected.
        python_logging.getLogger("asyncio").addFilter(_not_orbaxs_task)
        managers = ocp.checkpoint_managers
        # Orbax sorts the checkpoints in descending order of (value, step), and keeps the last one.
        # It has the lowest value; of equal values, that of the earliest step.
        best = managers.BestN(get_metric_fn=_rank, reverse=True, n=1)
        options = ocp.CheckpointManagerOptions(
            read_only=read_only,
            create=not read_only,
            # Orbax writes the metrics to disk only if there is a `best_fn`. Without them, a run
            # that continues would never delete its earlier checkpoints.
            best_fn=_rank,
            preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(1), best]),
        )
        handlers = {
            item: ocp.StandardCheckpointHandler() for item in ("model", "training", "encoder")
        }
        handlers["meta"] = ocp.JsonCheckpointHandler()
        with self._reading():
            self._manager = _Manager(self.directory, options=options, item_handlers=handlers)

    def __exit__(self, *exc_info) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def wait(self) -> None:
        """Waits until the last save is complete.

        Raises:
          OSError: it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns errors of the storage into an UnwrittenError.

        Orbax has several types of error for a full disk, and may raise them some saves later.
        """
        try:
            yield
        except (OSError, ValueError) as error:
            reason = _storage_failure(error)
            if reason is None:
                raise  # a bug, because the storage has not failed
            raise UnwrittenError(
                f"{self.directory}: a checkpoint cannot be written ({reason}). Earlier checkpoints "
                "are complete: solve this problem, and the same command continues"
            ) from error

    @contextlib.contextmanager
    def _reading(self, step: int | None = None) -> Iterator[None]:
        """Turns the errors of all types that Orbax raises for a damaged file into a UserError."""
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            if is_users(error):
                raise
            where = (
                f"a checkpoint in {self.directory}" if step is None else self.directory / str(step)
            )
            raise UserError(
                f"{where} cannot be read. It is damaged, or other versions of the libraries wrote "
                f"it ({_short(error)}): restore it, or move its folder away to continue from an "
                "earlier checkpoint, if there is one"
            ) from error

    def is_writing(self) -> bool:
        """Returns whether a save is in progress."""
        return self._manager.is_saving_in_progress()

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints."""
        return list(self._manager.all_steps())

    def save(self, state: TrainState, *, encoder: dict, meta: dict, value: float) -> None:
        """Saves in the background.

        Args:
          meta: JSON.
          value: the checkpoint with the lowest value is the best one.
        Raises:
          OSError: this checkpoint or an earlier one cannot be written.
        """
        step = int(state.step)
        with self._writing():
            replaces = step in self.steps()
            if replaces:  # a run that was stopped between training and evaluation saved it
                self._manager.delete(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    # The frozen encoder is the item "encoder", not a second copy in the state.
                    model=ocp.args.StandardSave(state.variables),
                    training=ocp.args.StandardSave(_training(state)),
                    encoder=ocp.args.StandardSave(encoder),
                    meta=ocp.args.JsonSave(meta | {_DIGEST: digest(meta)}),
                ),
                metrics={BEST_OF: float(value), "step": step},
            )
            if replaces:  # until then, there is no complete checkpoint of this step
                self._manager.wait_until_finished()

    def meta(self, step: int | None = None) -> dict:
        """Returns the meta of `step` (default: the latest)."""
        step = self._require(step)
        with self._reading(step):
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=args).meta
            if "config" not in meta or meta.pop(_DIGEST, digest(meta)) != digest(meta):
                raise ValueError("its meta is not what was saved")
        return meta

    def restore(
        self, like: TrainState, *, step: int | None = None, optimizer: bool = True
    ) -> TrainState:
        """Returns the state of `step` (default: the latest), with shapes and places as in `like`.

        Args:
          optimizer: False returns a state without one; a finished run's checkpoints have none.
        Raises:
          UserError: the checkpoint contains other shapes or types.
        """
        step = self._require(step)
        items = {"model": like.variables}
        if like.frozen:
            items["encoder"] = like.frozen
        if optimizer:
            items["training"] = _training(like)
        else:
            like = like.without_training()
        restored = self._restore_items(items, step=step)
        training = restored.get("training", {"step": np.asarray(step, like.step.dtype)})
        variables = restored["model"]
        if like.averaged:
            variables = training.pop("variables") | {"averaged": variables}
        state = like.replace(**variables, **training, frozen=restored.get("encoder", {}))
        return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), state, like)

    def variables(self, like: dict[str, dict], *, step: int) -> dict[str, dict]:
        """Returns the variables in the items "model" or "encoder" of `step`, as NumPy arrays.

        Args:
          like: item -> variables with the same shapes.
        Raises:
          UserError: the checkpoint contains other shapes or types.
        """
        return jax.tree.map(np.asarray, self._restore_items(like, step=step))

    def _require(self, step: int | None) -> int:
        self.wait()
        step = self.latest_step() if step is None else step
        if step is None:
            raise MissingFileError(
                f"{self.directory} contains no complete checkpoint: train first, or choose the "
                "workdir of a run that was trained"
            )
        return step

    def _restore_items(self, items: dict[str, Any], *, step: int) -> dict[str, Any]:
        with self._reading(step):
            metadata = self._manager.item_metadata(step)
            saved = {name: _leaves(metadata[name]) for name in items}
        for name, like in items.items():
            _compare(saved[name], _leaves(like), where=f"{self.directory}/{step}/{name}")
        args = {name: ocp.args.StandardRestore(_abstract(like)) for name, like in items.items()}
        with self._reading(step):
            return dict(self._manager.restore(step, args=ocp.args.Composite(**args)).items())


def _rank(metrics: dict) -> tuple[float, int]:
    return metrics[BEST_OF], metrics["step"]


def _training(state: TrainState) -> dict:
    item = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    return item | ({"variables": state.trained_variables} if state.averaged else {})


def _abstract(tree: Any) -> Any:
    """Returns the shapes and places to restore; NumPy arrays replace shapes without a place."""

    def target(x):
        sharding = getattr(x, "sharding", None)
        if sharding is None:  # Orbax restores a shape only by as many processes as saved it
            return np.empty(x.shape, x.dtype)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(target, tree)


def _leaves(tree: Any) -> dict[tuple, tuple]:
    """Returns (shape, type) by path, of arrays or of Orbax's metadata of arrays."""
    # Empty nodes keep the places of the others in a tuple, such as that of AdamW with a schedule.
    tree = ocp.utils.serialize_tree(getattr(tree, "tree", tree), keep_empty_nodes=True)
    return {
        ocp.utils.tuple_path_from_keypath(path): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }


def _compare(saved: dict[tuple, tuple], here: dict[tuple, tuple], *, where: str) -> None:
    """Raises UserError at the first difference. Orbax would cast types without a message."""

    def describe(leaf: tuple | None) -> str:
        return f"{leaf[1]}{list(leaf[0])}" if leaf else "absent"

    for path in sorted(saved.keys() | here.keys()):
        if saved.get(path) != here.get(path):
            raise UserError(
                f"{where} does not fit this configuration: {'/'.join(path)} is "
                f"{describe(saved.get(path))} in the checkpoint, {describe(here.get(path))} here. "
                "Use the configuration that made it, or another --workdir."
            )


def _not_orbax(record: python_logging.LogRecord) -> bool:
    """Hides messages of Orbax, because its errors are raised as well."""
    return "orbax" not in record.pathname


def _not_orbaxs_task(record: python_logging.LogRecord) -> bool:
    """Hides asyncio's messages about Orbax's tasks.

    The path of a file of Orbax is in the message or, of tasks that were gathered, in the traceback.
    That of a write without a task contains the folder of an unfinished checkpoint.
    """
    trace = traceback.format_exception(*record.exc_info) if record.exc_info else []
    return not any(_OF_ORBAX.search(text) for text in (record.getMessage(), *trace))


def _storage_failure(error: OSError | ValueError) -> str | None:
    """Returns the message of the disk or bucket, None if the error has another cause."""
    text = str(error)
    full = os.strerror(errno.ENOSPC)
    if full in text:
        return full
    # TensorStore raises ValueErrors that begin with the status of the file system or bucket.
    if isinstance(error, OSError) or _STORAGE_STATUS.match(text):
        return _short(error)
    return None


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def has_checkpoint(workdir: str | os.PathLike) -> bool:
    """Returns whether a run in this folder has saved a checkpoint."""
    steps = folder_path(workdir) / FOLDER
    return steps.is_dir() and any(
        # In a bucket, the folder of an incomplete checkpoint has its final name already.
        step.name.isdigit() and (not is_remote(step) or (step / _COMMITTED).exists())
        for step in steps.iterdir()
    )


def check_validated(meta: dict, *, workdir: str | os.PathLike) -> None:
    """Raises UserError if a run was stopped before the end of its first epoch."""
    if "early_stopping" in meta and not meta["early_stopping"]["best_step"]:
        raise UserError(
            f"the run in {workdir} was stopped in its first epoch, before its model was validated: "
            "continue it with its own command first"
        )


def keep_best_model(workdir: str | os.PathLike) -> None:
    """Deletes from a finished run the optimiser, the latest model and older checkpoints.

    If it is interrupted at any time, the run can still be used, and another call deletes the rest.

    What may be changed: the list of items that are kept, and error messages. Never delete the best
    model or the latest meta, nor anything of a run whose meta does not say "finished".
    tests/test_checkpoints.py shows which files remain; tests/test_kills.py kills the program here.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        latest, meta = checkpoints.latest_step(), checkpoints.meta()
        if not meta["finished"]:
            raise ValueError(f"{workdir}: the run has not finished, and needs its optimiser")
        if not processes.is_writer():
            return
        unneeded = {latest: ["model", "training", "encoder"]}
        unneeded[meta["best_step"]] = ["training"]
        # There are older checkpoints if a run was killed between saving and deleting.
        for step in set(checkpoints.steps()) - unneeded.keys():
            (checkpoints.directory / str(step)).rmtree()
        for step, items in unneeded.items():
            for item in items:
                (checkpoints.directory / str(step) / item).rmtree(missing_ok=True)


def load_encoder(workdir: str | os.PathLike, *, like: Callable[[dict], dict]) -> tuple[dict, dict]:
    """Returns the encoder of a workdir, its variables as NumPy arrays, and the run's meta.

    Args:
      workdir: of an encoder's run, or of a decoder's run, which contains its frozen encoder.
      like: `like(meta)` returns variables with the shapes of the run that has this meta.
    Raises:
      FileNotFoundError: the workdir contains no checkpoint.
      UserError: the checkpoint's shapes differ from those of its own meta.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        meta = checkpoints.meta()
        if meta["config"]["task"] == "encoder":
            check_validated(meta, workdir=workdir)
        variables = checkpoints.variables({"encoder": like(meta)}, step=meta["best_step"])
        return variables["encoder"], meta
