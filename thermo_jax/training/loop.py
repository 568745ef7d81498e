"""The training loop of every trainer: epochs, validation, early stopping, checkpoints, resume.

    batches -> step, step, ... -> validation -> metrics -> checkpoint -> next epoch

It knows steps and batches, not models: `train_encoder.py` and `train_decoder.py` give it both.
"""

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from thermo_jax.data import batching
from thermo_jax.errors import DivergedError, UserError
from thermo_jax.training import feeding, preemption, processes, timeline
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import MetricsLog
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.position import EarlyStopping, Position
from thermo_jax.training.resident import Table, num_rows, place_sets
from thermo_jax.training.saving import Saver
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
      checkpoint_minutes: minutes between two saves; 0 saves after every epoch. At the end, the best
        and the last state are always saved.
      choose_by: the lowest validation "loss", or the fewest "errors", marks the best epoch.
      steps_per_dispatch: at most so many training steps are given to the devices at once, and, if
        these are several, all batches of an evaluation (sets on the devices only).
    """

    batch_size: int
    epochs: int
    patience: int
    seed: int
    learning_rate: float
    loader: str = "tf.data"
    checkpoint_minutes: float = 0.0
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
      train_step, eval_step: wrapped by `parallel`; as `resident.py` says if the sets are there.
      train, validation: columns with one leading axis of examples in host memory, or sets on the
        devices.
      names: of the training examples, for messages.
      encoder_of: the variables to hand over as the encoder.
      meta: JSON kept with every checkpoint; its "examples" say which ones are in which set, and a
        run continues only with the same.
      on_epoch: called with the number of each finished epoch, after its checkpoint, if one is due,
        was started.
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
    steps = batching.steps_per_epoch(num_rows(train), plan.batch_size)
    with Checkpoints(workdir) as checkpoints:
        if checkpoints.latest_step() is not None:
            at = _saved_position(checkpoints, meta, plan=plan, workdir=workdir)
            if at.stopping.should_stop or at.epoch >= plan.epochs:
                # Finished: its optimiser may be gone.
                return checkpoints.restore_model(state, step=at.stopping.best_step)
            state = checkpoints.restore(state)
            logging.info("Continuing after epoch %d (step %d).", at.epoch, int(state.step))
        start = at.epoch * steps + at.steps_begun
        batches = feeding.train_batches(
            train,
            batch_size=plan.batch_size,
            epochs=plan.epochs,
            seed=plan.seed,
            start_step=start,
            steps_per_dispatch=plan.steps_per_dispatch,
            loader=plan.loader,
            parallel=parallel,
        )
        log = MetricsLog(workdir, resume_step=at.epoch * steps)
        bar = _progress(plan, steps=steps, done=start)
        saver = Saver(
            checkpoints,
            log=log,
            parallel=parallel,
            minutes=plan.checkpoint_minutes,
            encoder_of=encoder_of,
            step=start,
        )

        def saved_as(step: int, *, finished: bool = False) -> dict:
            return {"step": step, "meta": meta | at.meta(step=step, finished=finished)}

        with timeline.saved_in(workdir), contextlib.closing(log), bar, preemption.deferred(), saver:
            while at.epoch < plan.epochs and not at.stopping.should_stop:
                started, begun = time.perf_counter(), at.steps_begun
                state = _train_epoch(state, batches, train_step, at, steps=steps, bar=bar)
                seconds = time.perf_counter() - started
                _check_steps(at, first_step=at.epoch * steps, names=names, plan=plan)
                try:
                    preemption.check()
                    # Without the optimiser, as the best model is evaluated later: one program.
                    model = state.replace(opt_state=())
                    result = evaluate(model, eval_step, validation, plan=plan, parallel=parallel)
                except preemption.Stopped:
                    step = at.epoch * steps + at.steps_begun
                    if step > saver.latest:  # with a value that is never the best
                        saver.save(state, **saved_as(step), value=sys.float_info.max)
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
                if improved:
                    saver.keep_best(state, **saved_as(step), value=value)
                if last or saver.is_due():
                    saver.save(state, **saved_as(step, finished=last), value=value)
                on_epoch(at.epoch)
        with timeline.part("waiting"):
            checkpoints.wait()
        if saver.best is not None:
            return saver.best.state
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
    batches = feeding.eval_batches(
        columns,
        batch_size=plan.batch_size,
        loader=plan.loader,
        parallel=parallel,
        whole=plan.steps_per_dispatch > 1,
    )
    with timeline.part("evaluation"), jax.transfer_guard("disallow"):
        for batch in batches:
            sums.append(eval_step(state, batch))
            jax.block_until_ready(sums[-2:-1])  # as in training
            preemption.check()
        sums = jax.device_get(sums)
    total = {name: _sum(np.concatenate([np.ravel(s[name]) for s in sums])) for name in sums[0]}
    count = total.pop("count")
    return {name: value / count for name, value in total.items()}


def _sum(values: np.ndarray) -> float:
    """Exact, so that it does not matter how many batches a dispatch has."""
    if np.isfinite(values).all():
        return math.fsum(values)
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return float(values.sum())


def predict(
    state: Any,
    predict_step: Callable,
    columns: Table,
    *,
    plan: Plan,
    parallel: DataParallel,
) -> dict[str, np.ndarray]:
    """Per-example results for every row of `columns`, in order, padding removed.

    Args:
      state: what `predict_step` reads, replicated: a `TrainState`, or an encoder's variables.
    """
    batches = feeding.eval_batches(
        columns, batch_size=plan.batch_size, loader=plan.loader, parallel=parallel
    )
    with timeline.part("evaluation"), jax.transfer_guard("disallow"):
        rows = [jax.device_get(predict_step(state, batch)) for batch in batches]
    return {k: np.concatenate([row[k] for row in rows])[: num_rows(columns)] for k in rows[0]}


def fill(
    column: jax.Array,
    fill_step: Callable,
    state: Any,
    columns: Mapping[str, np.ndarray],
    *,
    plan: Plan,
    parallel: DataParallel,
) -> jax.Array:
    """Per-example results for every row of `columns`, which are put on the devices for that time.

    Args:
      column: on the devices, [M, ...] as `resident.padded_rows` says; it is donated.
      fill_step: see `resident.fill_steps`.
      state: what the step reads, replicated.
    """
    every = range(num_rows(columns))
    examples = place_sets(columns, {"every": every}, parallel=parallel)["every"]
    for _, rows in feeding.eval_batches(
        examples, batch_size=plan.batch_size, loader=plan.loader, parallel=parallel
    ):
        with jax.transfer_guard("disallow"):
            column = jax.block_until_ready(fill_step(column, ((state, examples), rows)))
    return column


def _train_epoch(
    state: TrainState, batches, train_step: Callable, at: Position, *, steps: int, bar: tqdm
) -> TrainState:
    """The rest of an epoch, or what there is time for; adds the steps' metrics to the history."""
    found: list[tuple[dict, int]] = []  # metrics and number of steps of each dispatch
    begun = at.steps_begun
    while begun < steps:
        with timeline.part("data"), jax.transfer_guard("disallow"):
            batch, count = next(batches)
        step = at.epoch * steps + begun
        if preemption.reached(range(step, step + count)):
            break
        with timeline.part("steps"), jax.transfer_guard("disallow"):
            state, metrics = train_step(state, batch)
            # The device has one dispatch ahead, and no more: a run that must stop waits for that.
            jax.block_until_ready(found[-1:])
        if not bar.disable and found:
            last, done = found[-1]
            loss = np.ravel(jax.device_get(last["loss"]))[:done].mean()
            bar.set_postfix(step=step, loss=f"{loss:.4f}", refresh=False)
        found.append((metrics, count))
        begun += count
        bar.update(count)
    with timeline.part("steps"), jax.transfer_guard("disallow"):
        found = jax.device_get(found)
    for metrics, count in found:
        for name, value in metrics.items():
            at.history.setdefault(name, []).extend(np.ravel(value)[:count].tolist())
    return state


def _check_steps(at: Position, *, first_step: int, names: Sequence[str], plan: Plan) -> None:
    for number, values in enumerate(zip(*at.history.values(), strict=True), start=first_step):
        if not all(map(math.isfinite, values)):
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
