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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from thermo_jax.data import batching, pipeline
from thermo_jax.errors import DivergedError, UserError
from thermo_jax.training import preemption, processes
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import MetricsLog
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.position import EarlyStopping, Position
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
      learning_rate: the optimiser's, told where it may be to blame.
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
    learning_rate: float
    loader: str = "tf.data"
    checkpoint_every: int = 1
    choose_by: str = "loss"
    steps_per_dispatch: int = 1


def fit(
    state: TrainState,
    *,
    train_step: Callable,
    eval_step: Callable,
    train: Table,
    validation: Table,
    names: Sequence[str],
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
      names: of the training examples, for messages.
      encoder_of: the variables to hand over as the encoder.
      meta: JSON kept with every checkpoint; its "examples" say which ones are in which set, and a
        run continues only with the same.
      on_epoch: called with each finished epoch's number after its checkpoint is under way.
    Raises:
      FloatingPointError: a loss is not finite; nothing of that epoch is saved.
      Stopped: the run was asked to stop (`preemption.py`); it has saved, within the epoch too.
      UserError: the checkpoint is of other examples or of another model; or several processes
        read different ones.
    """
    parallel.check_batch_size(plan.batch_size)
    if not processes.agree(meta["examples"]):
        raise UserError(
            "the processes of this run read different images: give all of them the same data "
            "(config.data.root on a disk that all see, or equal copies)"
        )
    at = Position(stopping=EarlyStopping(patience=plan.patience))
    steps = batching.steps_per_epoch(_num_rows(train), plan.batch_size)
    with Checkpoints(workdir) as checkpoints:
        if checkpoints.latest_step() is not None:
            at = _saved_position(checkpoints, meta, plan=plan, workdir=workdir)
            if at.stopping.should_stop or at.epoch >= plan.epochs:
                # Finished: its optimiser may be gone.
                return checkpoints.restore_model(state, step=at.stopping.best_step)
            state = checkpoints.restore(state)
            logging.info("Continuing after epoch %d (step %d).", at.epoch, int(state.step))

        def save(*, value: float, finished: bool = False) -> None:
            step = at.epoch * steps + at.steps_begun
            position = at.meta(step=step, finished=finished)
            checkpoints.save(state, encoder=encoder_of(state), meta=meta | position, value=value)
            nonlocal saved
            saved = step

        saved = int(state.step)

        batches, per_dispatch = _train_batches(
            train, plan=plan, parallel=parallel, start_step=at.epoch * steps + at.steps_begun
        )
        log = MetricsLog(workdir, resume_step=at.epoch * steps)
        bar = _progress(plan, steps=steps, done=at.epoch * steps + at.steps_begun)
        with contextlib.closing(log), bar, preemption.deferred():
            while at.epoch < plan.epochs and not at.stopping.should_stop:
                started, begun = time.perf_counter(), at.steps_begun
                state = _train_epoch(
                    state, batches, train_step, at, steps=steps, per_dispatch=per_dispatch, bar=bar
                )
                seconds = time.perf_counter() - started
                _check_steps(at, first_step=at.epoch * steps, names=names, plan=plan)
                try:
                    preemption.check()
                    result = evaluate(state, eval_step, validation, plan=plan, parallel=parallel)
                except preemption.Stopped:
                    if at.epoch * steps + at.steps_begun > saved:
                        save(value=sys.float_info.max)  # never the best
                    raise
                metrics = {f"train/{name}": float(np.mean(x)) for name, x in at.history.items()}
                metrics |= {f"val/{name}": value for name, value in result.items()}
                at.epoch, at.history = at.epoch + 1, {}
                step = at.epoch * steps
                _check_finite(result, where="in validation", updates=step, names=names, plan=plan)
                value = _VALUES[plan.choose_by](metrics)
                improved = at.stopping.update(value, step=step, epoch=at.epoch)
                rate = plan.batch_size * (steps - begun) / seconds
                log.write(
                    step=step,
                    epoch=at.epoch,
                    metrics=metrics,
                    timing={"images_per_s": rate, "seconds": seconds},
                )
                _describe_epoch(at.epoch, metrics, rate=rate, improved=improved)
                last = at.stopping.should_stop or at.epoch == plan.epochs
                if improved or last or at.epoch % plan.checkpoint_every == 0:
                    save(value=value, finished=last)
                on_epoch(at.epoch)
        return checkpoints.restore_model(state, step=at.stopping.best_step)


def _saved_position(
    checkpoints: Checkpoints, meta: dict, *, plan: Plan, workdir: str | os.PathLike
) -> Position:
    saved = checkpoints.meta()
    check_examples(saved, meta["examples"], workdir=workdir)
    return Position.of(saved, patience=plan.patience)


def check_examples(meta: dict, examples: str, *, workdir: str | os.PathLike) -> None:
    """Raises UserError where a checkpoint's `meta` tells of others, or of the same in other sets.

    Args:
      examples: as in the meta of `fit`.
    """
    if meta["examples"] != examples:
        raise UserError(
            f"the data changed since the run in {workdir} began: its patients would be dealt to "
            "other sets (or it is an encoder's run of an earlier version, which also trained on "
            "images of unknown patients). Restore the data, or choose another --workdir"
        )


def evaluate(
    state: TrainState,
    eval_step: Callable,
    columns: Table,
    *,
    plan: Plan,
    parallel: DataParallel,
) -> dict[str, float]:
    """Means over all examples, each weighted equally; raises Stopped as `fit` does."""
    sums = []
    for batch in _eval_batches(columns, plan=plan, parallel=parallel):
        sums.append(eval_step(state, batch))
        jax.block_until_ready(sums[-2:-1])  # as in training
        preemption.check()
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


def _train_batches(train: Table, *, plan: Plan, parallel: DataParallel, start_step: int):
    """What the wrapped training step takes, from `start_step` on; how many steps each time."""
    num_rows = _num_rows(train)
    steps = batching.steps_per_epoch(num_rows, plan.batch_size)
    num_steps = max(plan.epochs * steps - start_step, 0)
    common = {"seed": plan.seed, **_process()}
    if is_resident(train):
        # So that dispatches end where epochs do.
        divided = math.gcd(steps, start_step)
        per_dispatch = steps_of_dispatch(divided, at_most=plan.steps_per_dispatch)
        rows_of = partial(batching.train_rows, num_rows, plan.batch_size, **common)
        rows = train_rows(
            rows_of,
            start_step=start_step,
            num_dispatches=num_steps // per_dispatch,
            steps=per_dispatch,
        )
        batches = pipeline.prefetch(rows, lambda rows: (train, parallel.put_batch(rows)))
        return batches, per_dispatch
    batches = pipeline.train_batches(
        train,
        batch_size=plan.batch_size,
        start_step=start_step,
        num_steps=num_steps,
        loader=plan.loader,
        **common,
    )
    return pipeline.prefetch(batches, parallel.put_batch), 1


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


def _train_epoch(
    state: TrainState,
    batches,
    train_step: Callable,
    at: Position,
    *,
    steps: int,
    per_dispatch: int,
    bar: tqdm,
) -> TrainState:
    """The rest of an epoch, or what there is time for; adds the steps' metrics to the history."""
    found, begun = [], at.steps_begun
    while begun + per_dispatch * len(found) < steps:
        step = at.epoch * steps + begun + per_dispatch * len(found)
        if preemption.reached(range(step, step + per_dispatch)):
            break
        state, metrics = train_step(state, next(batches))
        found.append(metrics)
        # The device has one dispatch ahead, and no more: a run that must stop waits for that.
        jax.block_until_ready(found[-2:-1])
        if not bar.disable and len(found) > 1:
            loss = np.mean(found[-2]["loss"])
            step = at.epoch * steps + begun + per_dispatch * (len(found) - 1)
            bar.set_postfix(step=step, loss=f"{loss:.4f}", refresh=False)
        bar.update(per_dispatch)
    for metrics in jax.device_get(found):
        for name, value in metrics.items():
            at.history.setdefault(name, []).extend(np.ravel(value).tolist())
    return state


def _check_steps(at: Position, *, first_step: int, names: Sequence[str], plan: Plan) -> None:
    for number, values in enumerate(zip(*at.history.values(), strict=True), start=first_step):
        metrics = dict(zip(at.history, values, strict=True))
        where = f"in training at step {number + 1} ({_images(number, names=names, plan=plan)})"
        _check_finite(metrics, where=where, updates=number, names=names, plan=plan)


def _check_finite(
    metrics: dict[str, float], *, where: str, updates: int, names: Sequence[str], plan: Plan
) -> None:
    bad = [f"{name} is {x:g}" for name, x in metrics.items() if not math.isfinite(x)]
    if not bad:
        return
    if updates:  # the last of them may have spoilt the parameters
        before = _images(updates - 1, names=names, plan=plan)
        where += f", after the update of step {updates} ({before})"
    raise DivergedError(
        f"{', '.join(bad)} {where}. Training stopped, and keeps the checkpoints of earlier epochs. "
        f"The learning rate was {plan.learning_rate:g}: look at these images, or try a lower "
        "config.train.learning_rate, in another --workdir"
    )


def _images(step: int, *, names: Sequence[str], plan: Plan) -> str:
    rows = batching.batch_indices(len(names), plan.batch_size, seed=plan.seed, step=step)
    return "images " + ", ".join(sorted({names[row] for row in rows}))


def _describe_epoch(epoch: int, metrics: dict[str, float], *, rate: float, improved: bool) -> None:
    logging.info(
        "epoch %3d  train loss %.4f  validation loss %.4f  %.3g images/s%s",
        epoch,
        metrics["train/loss"],
        metrics["val/loss"],
        rate,
        "  (best)" if improved else "",
    )


def _progress(plan: Plan, *, steps: int, done: int) -> tqdm:
    """A bar of images that is updated by steps."""
    return tqdm(
        total=plan.epochs * steps,
        initial=done,
        unit="image",
        unit_scale=plan.batch_size,
        desc="train",
        disable=not (sys.stderr.isatty() and processes.is_writer()),
        dynamic_ncols=True,
    )
