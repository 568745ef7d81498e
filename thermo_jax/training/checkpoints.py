"""Orbax checkpoints: exact resume, the best model, and the hand-over of a frozen encoder.

A checkpoint has four items:

    model     parameters and batch statistics
    training  step, optimiser, random key: what it takes to go on
    encoder   the encoder's variables: the trained one's, or the frozen one that a decoder reads
    meta      JSON: position in the run, early stopping, what the encoder is, the data's fingerprint

The latest and the best are kept; of a finished run, once its results are written, the best model
and the latest meta (`keep_best_model`). Batches are a function of the step, so the step is also the
data's position.
"""

import contextlib
import errno
import logging as python_logging
import os
import re
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
_DIGEST = "digest"  # in the meta, of the rest of it: arrays have checksums of their own
_STORAGE_STATUS = re.compile(
    "(RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|"
    "FAILED_PRECONDITION|NOT_FOUND|ABORTED|DATA_LOSS): "
)
_COMMITTED = "commit_success.txt"  # Orbax ends with it


class Checkpoints:
    """The checkpoints of one workdir. Use as a context manager: leaving waits for the last save."""

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
        # Descending: the last one has the lowest value, the first of its equals.
        best = managers.BestN(get_metric_fn=_rank, reverse=True, n=1)
        options = ocp.CheckpointManagerOptions(
            read_only=read_only,
            create=not read_only,
            # Only with `best_fn` does Orbax write the metrics to disk; without them a resumed run
            # would keep the checkpoints it found forever.
            best_fn=_rank,
            preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(1), best]),
        )
        handlers = {
            item: ocp.StandardCheckpointHandler() for item in ("model", "training", "encoder")
        }
        handlers["meta"] = ocp.JsonCheckpointHandler()
        with self._reading():
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_handlers=handlers
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def wait(self) -> None:
        """Until the last save is complete.

        Raises:
          OSError: it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Orbax reports a full disk by several types of error, and some saves later."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = _storage_failure(error)
            if reason is None:
                raise  # not the storage's, so a bug
            raise UnwrittenError(
                f"{self.directory}: a checkpoint cannot be written ({reason}). Earlier ones are "
                "whole: put that right, and the same command continues"
            ) from error

    @contextlib.contextmanager
    def _reading(self, step: int | None = None) -> Iterator[None]:
        """Orbax raises whatever it stumbles over in a damaged file."""
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
                f"{where} cannot be read, and is damaged unless other versions wrote it "
                f"({_short(error)}): restore it, or move its folder away to go on from an earlier "
                "one, if there is one"
            ) from error

    def is_writing(self) -> bool:
        """Whether a save is under way."""
        return self._manager.is_saving_in_progress()

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Steps of all checkpoints."""
        return list(self._manager.all_steps())

    def save(self, state: TrainState, *, encoder: dict, meta: dict, value: float) -> None:
        """Saves in the background; `meta` must be JSON; the lowest `value` is the best.

        Raises:
          OSError: this one or an earlier one cannot be written.
        """
        with self._writing():
            self._save(state, encoder=encoder, meta=meta, value=value)

    def _save(self, state: TrainState, *, encoder: dict, meta: dict, value: float) -> None:
        step = int(state.step)
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
        if replaces:
            self._manager.wait_until_finished()  # until then there is neither the old nor the new

    def meta(self, step: int | None = None) -> dict:
        """The meta of `step` (default: the latest)."""
        step = self._require(step)
        with self._reading(step):
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=args).meta
            if "config" not in meta or meta.pop(_DIGEST, digest(meta)) != digest(meta):
                raise ValueError("its meta is not what was saved")
        return meta

    def restore(self, like: TrainState, *, step: int | None = None) -> TrainState:
        """The state of `step` (default: the latest), shaped and placed like `like`.

        Raises:
          UserError: the checkpoint holds other shapes or types.
        """
        step = self._require(step)
        return self._restore(like, step=step, items={"training": _training(like)})

    def restore_model(self, like: TrainState, *, step: int) -> TrainState:
        """The model of `step` and its frozen encoder, without an optimiser: to use, not to train.

        Raises:
          UserError: the checkpoint holds other shapes or types.
        """
        here = jax.device_put(np.asarray(step, like.step.dtype), like.step.sharding)
        like = like.replace(opt_state=(), step=here)
        return self._restore(like, step=self._require(step), items={})

    def _restore(self, like: TrainState, *, step: int, items: dict[str, Any]) -> TrainState:
        items = items | {"model": like.variables}
        if like.frozen:
            items["encoder"] = like.frozen
        restored = self._restore_items(step, items)
        state = like.replace(
            **restored["model"],
            **restored.get("training", {}),
            frozen=restored.get("encoder", {}),
        )
        return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), state, like)

    def encoder(self, like: dict, *, step: int | None = None) -> dict:
        """The encoder's variables of the best step, as NumPy arrays; `like` gives the shapes."""
        step = self._require(step if step is not None else self.meta()["best_step"])
        restored = self._restore_items(step, {"encoder": like})["encoder"]
        return jax.tree.map(np.asarray, restored)

    def model(self, like: dict, *, frozen: dict, step: int) -> tuple[dict, dict]:
        """(the model's, its encoder's) variables of `step`, as NumPy arrays; shapes are given.

        Raises:
          UserError: the checkpoint holds other shapes or types.
        """
        found = self._restore_items(self._require(step), {"model": like, "encoder": frozen})
        found = jax.tree.map(np.asarray, found)
        return found["model"], found["encoder"]

    def _require(self, step: int | None) -> int:
        self.wait()
        step = self.latest_step() if step is None else step
        if step is None:
            raise MissingFileError(
                f"{self.directory} holds no complete checkpoint: train first, or choose the "
                "workdir of a run that has"
            )
        return step

    def _restore_items(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        with self._reading(step):
            saved = self._manager.item_metadata(step)
            found = {name: _leaves(saved[name]) for name in items}
        for name, like in items.items():
            _compare(found[name], _leaves(like), where=f"{self.directory}/{step}/{name}")
        args = {name: ocp.args.StandardRestore(_abstract(like)) for name, like in items.items()}
        with self._reading(step):
            return dict(self._manager.restore(step, args=ocp.args.Composite(**args)).items())


def _rank(metrics: dict) -> tuple[float, int]:
    return metrics[BEST_OF], metrics["step"]


def _training(state: TrainState) -> dict:
    return {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}


def _abstract(tree: Any) -> Any:
    """What Orbax restores into: arrays placed like those given, NumPy arrays for shapes alone."""

    def target(x):
        sharding = getattr(x, "sharding", None)
        if sharding is None:  # else Orbax wants as many processes as those that saved it
            return np.empty(x.shape, x.dtype)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(target, tree)


def _leaves(tree: Any) -> dict[tuple, tuple]:
    """(shape, type) by path, of arrays or of what Orbax knows of them."""
    tree = ocp.utils.serialize_tree(getattr(tree, "tree", tree), keep_empty_nodes=False)
    return {
        ocp.utils.tuple_path_from_keypath(path): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _compare(have: dict[tuple, tuple], want: dict[tuple, tuple], *, where: str) -> None:
    """Orbax casts types silently and is long-winded about shapes: compare first, in one line."""
    for path in sorted(have.keys() | want.keys()):
        if have.get(path) != want.get(path):
            raise UserError(
                f"{where} does not fit this configuration: {'/'.join(path)} is "
                f"{_describe(have.get(path))} in the checkpoint, {_describe(want.get(path))} here. "
                "Use the configuration that made it, or another --workdir."
            )


def _describe(leaf: tuple | None) -> str:
    return f"{leaf[1]}{list(leaf[0])}" if leaf else "absent"


def _not_orbax(record: python_logging.LogRecord) -> bool:
    """What matters of its errors is raised."""
    return "orbax" not in record.pathname


def _not_orbaxs_task(record: python_logging.LogRecord) -> bool:
    """The same of what asyncio logs, which names the task's file."""
    return "/orbax/" not in record.getMessage()


def _storage_failure(error: OSError | ValueError) -> str | None:
    """What the disk or bucket said; None where the error is none of theirs."""
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
    """Whether a run in this folder has saved something."""
    steps = folder_path(workdir) / FOLDER
    return steps.is_dir() and any(
        # In a bucket, a folder that is being written has its final name already.
        step.name.isdigit() and (not is_remote(step) or (step / _COMMITTED).exists())
        for step in steps.iterdir()
    )


def check_validated(meta: dict, *, workdir: str | os.PathLike) -> None:
    """Raises UserError where a run was stopped before the end of its first epoch."""
    if "early_stopping" in meta and not meta["early_stopping"]["best_step"]:
        raise UserError(
            f"the run in {workdir} was stopped in its first epoch, and no model of it was ever "
            "validated: continue it with its own command first"
        )


def keep_best_model(workdir: str | os.PathLike) -> None:
    """Frees what a finished run no longer needs: the optimiser, the latest model, older ones.

    Whenever it is interrupted, what is left can be used, and freed by another call.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        latest, meta = checkpoints.latest_step(), checkpoints.meta()
        if not meta["finished"]:
            raise ValueError(f"{workdir}: the run has not finished, and needs its optimiser")
        drop = {latest: ["model", "training", "encoder"]}
        drop[meta["best_step"]] = ["training"]
        if not processes.is_writer():
            return
        # Older ones stay where a run was killed between saving and deleting.
        for step in set(checkpoints.steps()) - drop.keys():
            (checkpoints.directory / str(step)).rmtree()
        for step, items in drop.items():
            for item in items:
                (checkpoints.directory / str(step) / item).rmtree(missing_ok=True)


def load_encoder(workdir: str | os.PathLike, *, like: Callable[[dict], dict]) -> tuple[dict, dict]:
    """The encoder handed over by a workdir: (variables as NumPy arrays, meta).

    Args:
      workdir: of an encoder run, or of a decoder run (which carries its frozen encoder).
      like: meta -> variables of the right shapes.
    Raises:
      FileNotFoundError: no checkpoint there.
      UserError: it holds other shapes than its own meta says.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        meta = checkpoints.meta()
        if meta["config"]["task"] == "encoder":
            check_validated(meta, workdir=workdir)
        return checkpoints.encoder(like(meta)), meta
