"""The training loop of every trainer: epochs, validation, early stopping, checkpoints, resume.

    batches -> step, step, ... -> validation -> metrics -> checkpoint -> next epoch

It knows steps and batches, not models: `pretrain.py` and `finetune.py` give it both.
"""

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from thermo_jax.data import batching, pipeline
from thermo_jax.training import processes
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import MetricsLog
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.resident import Table, is_resident, steps_of_dispatch, train_rows
from thermo_jax.training.state import TrainState

_VALUES = {  # what is best where it is lowest
    "loss": lambda metrics: metrics["val/loss"],
    "errors": lambda metrics: 1 - metrics["val/accuracy"],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to train and how to read data.

    Attributes:
      batch_size: images in the global batch.
      epochs: at most this many.
      patience: stop after so many epochs without a better validation loss, 0 = never.
      seed: of the order of examples.
      loader: "tf.data" or "numpy".
      checkpoint_every: epochs between checkpoints; the best and the last are always saved.
      choose_by: the lowest validation "loss", or the fewest "errors", marks the best epoch.
      steps_per_dispatch: at most so many steps are given to the devices at once (resident tables
        only; an epoch is divided evenly).
    """

    batch_size: int
    epochs: int
    patience: int
    seed: int
    loader: str = "tf.data"
    checkpoint_every: int = 1
    choose_by: str = "loss"
    steps_per_dispatch: int = 1


@dataclasses.dataclass(kw_only=True)
class EarlyStopping:
    """The lowest validation value so far, and for how long there has been no better one."""

    patience: int
    best_value: float = math.inf
    best_step: int = 0
    best_epoch: int = 0
    epochs_without: int = 0

    def update(self, value: float, *, step: int, epoch: int) -> bool:
        """Takes an epoch's value; True if it is the best."""
        if value < self.best_value:
            self.best_value, self.best_step, self.best_epoch = value, step, epoch
            self.epochs_without = 0
            return True
        self.epochs_without += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.epochs_without


def fit(
    state: TrainState,
    *,
    train_step: Callable,
    eval_step: Callable,
    train: Table,
    validation: Table,
    plan: Plan,
    parallel: DataParallel,
    workdir: str | os.PathLike,
    encoder_of: Callable[[TrainState], dict],
    meta: dict,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> TrainState:
    """Trains, or continues from the workdir's latest checkpoint; returns the best model's state.

    That state holds no optimiser: it is there to be used.

    Args:
      state: the initial state, replicated.
      train_step, eval_step: wrapped by `parallel`; as `resident.py` says if the tables are there.
      train, validation: columns with one leading axis of examples; in host memory, or on the
        devices (`parallel.place`).
      encoder_of: the variables to hand over as the encoder.
      meta: JSON kept with every checkpoint; its "examples" say which ones are in which set, and a
        run continues only with the same.
      on_epoch: called with each finished epoch's number after its checkpoint is under way.
    Raises:
      FloatingPointError: the loss is no longer finite.
      ValueError: the checkpoint is of other examples or of another model; or several processes
        read different ones.
    """
    parallel.check_batch_size(plan.batch_size)
    if not processes.agree(meta["examples"]):
        raise ValueError(
            "the processes of this run read different images: give all of them the same data "
            "(config.data.root on a disk that all see, or equal copies)"
        )
    stopping = EarlyStopping(patience=plan.patience)
    steps = batching.steps_per_epoch(_num_rows(train), plan.batch_size)
    with Checkpoints(workdir) as checkpoints:
        epoch = 0
        if checkpoints.latest_step() is not None:
            saved = checkpoints.meta()
            if saved["examples"] != meta["examples"]:
                raise ValueError(
                    f"the data changed since the run in {workdir} began: its patients would be "
                    "dealt to other sets. Restore the data, or choose another --workdir"
                )
            stopping = EarlyStopping(**saved["early_stopping"])
            epoch = saved["epoch"]
            if stopping.should_stop or epoch >= plan.epochs:  # finished: its optimiser may be gone
                return checkpoints.restore_model(state, step=stopping.best_step)
            state = checkpoints.restore(state)
            logging.info("Continuing after epoch %d (step %d).", epoch, int(state.step))
        log = MetricsLog(workdir, resume_step=epoch * steps)
        dispatches = steps
        if is_resident(train):
            dispatches //= steps_of_dispatch(steps, at_most=plan.steps_per_dispatch)
        batches = _train_batches(
            train,
            plan=plan,
            parallel=parallel,
            start_step=epoch * steps,
            num_steps=max(plan.epochs - epoch, 0) * steps,
            steps=steps // dispatches,
        )
        images = plan.batch_size * steps  # of an epoch
        bar = _progress(total=plan.epochs * images, initial=epoch * images)
        with contextlib.closing(log), bar:
            while epoch < plan.epochs and not stopping.should_stop:
                epoch += 1
                started = time.perf_counter()
                state, metrics = _train_epoch(
                    state,
                    batches,
                    train_step,
                    dispatches=dispatches,
                    steps=steps,
                    plan=plan,
                    bar=bar,
                )
                seconds = time.perf_counter() - started
                result = evaluate(state, eval_step, validation, plan=plan, parallel=parallel)
                metrics |= {f"val/{name}": value for name, value in result.items()}
                step = epoch * steps
                _check_finite(metrics, step=step, workdir=workdir)
                value = _VALUES[plan.choose_by](metrics)
                improved = stopping.update(value, step=step, epoch=epoch)
                rate = images / seconds
                log.write(
                    step=step,
                    epoch=epoch,
                    metrics=metrics,
                    timing={"images_per_s": rate, "seconds": seconds},
                )
                _describe_epoch(epoch, metrics, rate=rate, improved=improved)
                last = stopping.should_stop or epoch == plan.epochs
                if improved or last or epoch % plan.checkpoint_every == 0:
                    checkpoints.save(
                        state,
                        encoder=encoder_of(state),
                        meta=meta
                        | {
                            "epoch": epoch,
                            "finished": last,
                            "best_step": stopping.best_step,
                            "early_stopping": dataclasses.asdict(stopping),
                        },
                        value=value,
                    )
                on_epoch(epoch)
        return checkpoints.restore_model(state, step=stopping.best_step)


def evaluate(
    state: TrainState,
    eval_step: Callable,
    columns: Table,
    *,
    plan: Plan,
    parallel: DataParallel,
) -> dict[str, float]:
    """Means over all examples, each weighted equally."""
    sums = [
        eval_step(state, batch) for batch in _eval_batches(columns, plan=plan, parallel=parallel)
    ]
    total = {
        k: float(np.sum([s[k] for s in jax.device_get(sums)], dtype=np.float64)) for k in sums[0]
    }
    count = total.pop("count")
    return {name: value / count for name, value in total.items()}


def predict(
    state: Any,
    predict_step: Callable,
    columns: Table,
    *,
    plan: Plan,
    parallel: DataParallel,
    on_devices: bool = False,
) -> dict[str, np.ndarray] | dict[str, jax.Array]:
    """Per-example results for every row of `columns`, in order, padding removed.

    Args:
      state: what `predict_step` reads, replicated: a `TrainState`, or an encoder's variables.
      on_devices: leave the results on every device; else they come as NumPy arrays.
    """
    fetch = (lambda row: row) if on_devices else jax.device_get
    rows = [
        fetch(predict_step(state, batch))
        for batch in _eval_batches(columns, plan=plan, parallel=parallel)
    ]
    count = _num_rows(columns)
    if on_devices:
        join = jax.jit(lambda parts: jnp.concatenate(parts)[:count])
        return {k: join([row.pop(k) for row in rows]) for k in list(rows[0])}
    return {k: np.concatenate([row[k] for row in rows])[:count] for k in rows[0]}


def _num_rows(columns: Table) -> int:
    return len(next(iter(columns.values())))


def _process() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def _train_batches(
    train: Table,
    *,
    plan: Plan,
    parallel: DataParallel,
    start_step: int,
    num_steps: int,
    steps: int,
):
    """What the wrapped training step takes, from `start_step` on; `steps` of them at a time."""
    common = {"seed": plan.seed, **_process()}
    if is_resident(train):
        rows_of = partial(batching.train_rows, _num_rows(train), plan.batch_size, **common)
        rows = train_rows(
            rows_of, start_step=start_step, num_dispatches=num_steps // steps, steps=steps
        )
        return pipeline.prefetch(rows, lambda rows: (train, parallel.put_batch(rows)))
    batches = pipeline.train_batches(
        train,
        batch_size=plan.batch_size,
        start_step=start_step,
        num_steps=num_steps,
        loader=plan.loader,
        **common,
    )
    return pipeline.prefetch(batches, parallel.put_batch)


def _eval_batches(columns: Table, *, plan: Plan, parallel: DataParallel):
    # A small table needs no full batch: the smallest one that the devices divide.
    devices = len(parallel.devices)
    needed = -(-_num_rows(columns) // devices) * devices
    batch_size = min(plan.batch_size, needed)
    if is_resident(columns):
        rows = (
            batching.eval_rows(_num_rows(columns), batch_size, step=step, **_process())._asdict()
            for step in range(batching.num_eval_batches(_num_rows(columns), batch_size))
        )
        return pipeline.prefetch(rows, lambda rows: (columns, parallel.put_batch(rows)))
    batches = pipeline.eval_batches(
        columns, batch_size=batch_size, loader=plan.loader, **_process()
    )
    return pipeline.prefetch(batches, parallel.put_batch)


def _train_epoch(state, batches, train_step, *, dispatches: int, steps: int, plan: Plan, bar: tqdm):
    history = []
    for _ in range(dispatches):
        state, metrics = train_step(state, next(batches))
        history.append(metrics)
        if not bar.disable and len(history) > 1:
            # The previous dispatch's loss: reading it does not wait for the one just begun.
            loss, step = np.mean(history[-2]["loss"]), bar.n // plan.batch_size
            bar.set_postfix(step=step, loss=f"{loss:.4f}", refresh=False)
        bar.update(plan.batch_size * steps // dispatches)
    history = jax.device_get(history)
    return state, {
        f"train/{k}": float(np.mean(np.concatenate([np.ravel(m[k]) for m in history])))
        for k in history[0]
    }


def _check_finite(metrics: dict[str, float], *, step: int, workdir: str | os.PathLike) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"{', '.join(bad)} is not finite at step {step}: training stopped; checkpoints of "
            f"earlier epochs, if any, are kept in {workdir}. Try a lower "
            "config.train.learning_rate, with another --workdir."
        )


def _describe_epoch(epoch: int, metrics: dict[str, float], *, rate: float, improved: bool) -> None:
    logging.info(
        "epoch %3d  train loss %.4f  validation loss %.4f  %.3g images/s%s",
        epoch,
        metrics["train/loss"],
        metrics["val/loss"],
        rate,
        "  (best)" if improved else "",
    )


def _progress(*, total: int, initial: int) -> tqdm:
    return tqdm(
        total=total,
        initial=initial,
        unit="image",
        desc="train",
        disable=not (sys.stderr.isatty() and processes.is_writer()),
        dynamic_ncols=True,
    )
