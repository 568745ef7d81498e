"""The training loop of all runs: epochs, validation, early stopping, checkpoints, continuing.

    batches -> step, step, ... -> validation -> metrics -> checkpoint -> next epoch

It works with any steps and sets of examples. `train_encoder.py` and `train_decoder.py` define the
steps.
"""

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from absl import logging
from tqdm import tqdm

from thermo_jax.data.batches import batch_indices, steps_per_epoch
from thermo_jax.errors import DivergedError, UserError
from thermo_jax.files import folder_path
from thermo_jax.training import feeding, preemption, processes, timeline
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import METRICS, MetricsLog, read_jsonl
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.passes import evaluate
from thermo_jax.training.position import Position
from thermo_jax.training.resident import ExampleSet, num_rows
from thermo_jax.training.saving import Saver
from thermo_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How a run trains: fields of a configuration, which configs/common.py explains.

    Attributes:
      learning_rate: used only in error messages about numbers that are not finite.
      choose_by: the best epoch has the lowest validation "loss", or the fewest "errors", or is the
        "last" one.
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


# The value of an epoch, by `choose_by`: the epoch with the lowest value is the best one.
_VALUES: dict[str, Callable[[dict], float]] = {
    "loss": lambda metrics: metrics["val/loss"],
    "errors": lambda metrics: 1 - metrics["val/accuracy"],
    "last": lambda metrics: -float(metrics["epoch"]),
}


class TrainingRun(NamedTuple):
    """A finished run.

    Attributes:
      state: the state of the best model, without an optimiser.
      history: the rows of metrics.jsonl, one for each epoch, also of earlier sessions. Empty in
        processes that do not write the workdir.
      best_epoch: the number of the epoch whose model was the best.
    """

    state: TrainState
    history: list[dict]
    best_epoch: int


def fit(
    state: TrainState,
    *,
    train_step: Callable,
    eval_step: Callable,
    train: ExampleSet,
    validation: ExampleSet | None,
    names: Sequence[str],
    plan: TrainingPlan,
    parallel: DataParallel,
    workdir: str | os.PathLike,
    encoder_of: Callable[[TrainState], dict],
    meta: dict,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> TrainingRun:
    """Trains, or continues from the workdir's latest checkpoint.

    Args:
      state: the initial state, replicated.
      train_step, eval_step: mapped over the devices by `Placement.map_step`.
      train, validation: columns with one leading axis of examples in host memory, or sets on the
        devices. Without validation (None), the plan must choose the last epoch.
      names: the training examples' names, for messages.
      encoder_of: returns the variables that a checkpoint saves as the encoder.
      meta: JSON that is saved with every checkpoint. Its "examples" identify the images of each
        set; a run continues only with the same ones.
      on_epoch: called with the number of each finished epoch. If a checkpoint is due, its save has
        been started.
    Raises:
      FloatingPointError: a loss or, without validation, a weight is not finite; nothing of that
        epoch is saved.
      Stopped: the run was asked to stop (`preemption.py`). It is saved, also within an epoch.
      UserError: the checkpoint is of other examples or of another model, or the run's processes
        read different examples.
    """
    # --------------------------------------------------------------------------------------- checks
    parallel.check_batch_size(plan.batch_size)
    if not processes.agree(meta["examples"]):
        raise UserError(
            "the processes of this run read different images: give all of them the same data "
            "(config.data.root on a disk that all can read, or equal copies)"
        )
    steps = steps_per_epoch(num_rows(train), plan.batch_size)
    position = Position(patience=plan.patience, epochs=plan.epochs)

    def finished_run(best_state: TrainState) -> TrainingRun:
        if not processes.is_writer():
            return TrainingRun(best_state, [], position.best_epoch)
        path = folder_path(workdir) / METRICS
        rows = read_jsonl(path)
        if position.best_epoch not in [row.get("epoch") for row in rows]:
            raise UserError(
                f"{path} has no row of epoch {position.best_epoch}, whose model was the best: "
                "restore the file, or choose another --workdir"
            )
        return TrainingRun(best_state, rows, position.best_epoch)

    with Checkpoints(workdir) as checkpoints:
        # ------------------------------------------------------------ the latest checkpoint, if any
        if checkpoints.latest_step() is not None:
            saved = checkpoints.meta()
            check_examples(saved, meta["examples"], workdir=workdir)
            position = Position.of(saved, patience=plan.patience, epochs=plan.epochs)
            if position.is_over:
                # A finished run may have no optimiser any more.
                best = position.best_step
                return finished_run(checkpoints.restore(state, step=best, optimizer=False))
            state = checkpoints.restore(state)
            logging.info("Continuing after epoch %d (step %d).", position.epoch, int(state.step))
        # ------------------------------------------------------------------ batches, metrics, saver
        start = position.epoch * steps + position.steps_begun
        dispatches = feeding.train_batches(
            train,
            batch_size=plan.batch_size,
            epochs=plan.epochs,
            seed=plan.seed,
            start_step=start,
            steps_per_dispatch=plan.steps_per_dispatch,
            loader=plan.loader,
            parallel=parallel,
        )
        log = MetricsLog(workdir, resume_step=position.epoch * steps)
        bar = _progress(plan, steps=steps, done=start)
        saver = Saver(
            checkpoints,
            log=log,
            parallel=parallel,
            minutes=plan.checkpoint_minutes,
            encoder_of=encoder_of,
            step=start,
        )

        def step_and_meta(step: int) -> dict:
            return {"step": step, "meta": meta | position.meta(step=step)}

        with contextlib.closing(log), bar, preemption.deferred(), saver:
            while not position.is_over:
                # ---------------------------------------------------------------- one epoch's steps
                started, begun = time.perf_counter(), position.steps_begun
                state = _train_epoch(state, dispatches, train_step, position, steps=steps, bar=bar)
                seconds = time.perf_counter() - started
                _check_steps(position, first_step=position.epoch * steps, names=names, plan=plan)
                # ----------------------------------------------------------------------- validation
                try:
                    preemption.check()
                    losses = {}
                    if validation is None:  # a bad last update would show in no loss
                        checked = {"the weights' norm": float(_norm(state.variables))}
                    else:
                        checked = losses = evaluate(
                            state.without_training(),  # fewer arrays: the call takes less time
                            eval_step,
                            validation,
                            batch_size=plan.batch_size,
                            loader=plan.loader,
                            whole=plan.steps_per_dispatch > 1,
                            parallel=parallel,
                        )
                except preemption.Stopped:
                    step = position.epoch * steps + position.steps_begun
                    if step > saver.latest:  # save it with a value that is never the best
                        saver.save(state, **step_and_meta(step), value=sys.float_info.max)
                    raise
                metrics = {f"train/{k}": float(np.mean(v)) for k, v in position.history.items()}
                metrics |= {f"val/{name}": value for name, value in losses.items()}
                position.epoch, position.history = position.epoch + 1, {}
                step = position.epoch * steps
                where = "in training" if validation is None else "in validation"
                _check_finite(checked, where=where, updates=step, names=names, plan=plan)
                # -------------------------------------------------- the best epoch, metrics, saving
                value = _VALUES[plan.choose_by](metrics | {"epoch": position.epoch})
                improved = position.add_value(value, step=step)
                rate = plan.batch_size * (steps - begun) / seconds
                log.write(
                    step=step,
                    epoch=position.epoch,
                    metrics=metrics,
                    timing={"images_per_s": rate, "seconds": seconds},
                )
                _describe_epoch(position.epoch, metrics, rate=rate, improved=improved)
                if improved:
                    saver.keep_best(state, **step_and_meta(step), value=value)
                if position.is_over or saver.is_due():
                    saver.save(state, **step_and_meta(step), value=value)
                on_epoch(position.epoch)
        # ------------------------------------------------------------------------------- the result
        with timeline.part("waiting"):
            checkpoints.wait()
        if saver.best is not None:
            return finished_run(saver.best.state)
        best = position.best_step
        return finished_run(checkpoints.restore(state, step=best, optimizer=False))


_norm = jax.jit(optax.tree.norm)


def check_examples(meta: dict, examples: str, *, workdir: str | os.PathLike) -> None:
    """Raises UserError if a checkpoint's `meta` is of other examples, or of other sets of them.

    Args:
      examples: identifies the examples of each set, as in the meta of `fit`.
    """
    if meta["examples"] != examples:
        raise UserError(
            f"the data changed since the run in {workdir} began: its patients would be in "
            "other sets (or an earlier version of this program also trained the encoder on images "
            "of unknown patients). Restore the data, or choose another --workdir"
        )


def _train_epoch(
    state: TrainState,
    dispatches,
    train_step: Callable,
    position: Position,
    *,
    steps: int,
    bar: tqdm,
) -> TrainState:
    """Trains until the end of the epoch or a stop; adds the steps' metrics to the history."""
    done: list[tuple[dict, int]] = []  # metrics and number of steps of each dispatch
    begun = position.steps_begun
    while begun < steps:
        with timeline.part("data"), jax.transfer_guard("disallow"):
            batch, count = next(dispatches)
        step = position.epoch * steps + begun
        if preemption.reached(range(step, step + count)):
            break
        with timeline.part("steps"), jax.transfer_guard("disallow"):
            state, metrics = train_step(state, batch)
            # At most one dispatch waits on the device, so that a run can stop soon.
            jax.block_until_ready(done[-1:])
        if not bar.disable and done:
            last, last_count = done[-1]
            loss = np.ravel(jax.device_get(last["loss"]))[:last_count].mean()
            bar.set_postfix(step=step, loss=f"{loss:.4f}", refresh=False)
        done.append((metrics, count))
        begun += count
        bar.update(count)
    with timeline.part("steps"), jax.transfer_guard("disallow"):
        done = jax.device_get(done)
    for metrics, count in done:
        for name, value in metrics.items():
            position.history.setdefault(name, []).extend(np.ravel(value)[:count].tolist())
    return state


def _check_steps(
    position: Position, *, first_step: int, names: Sequence[str], plan: TrainingPlan
) -> None:
    for number, values in enumerate(zip(*position.history.values(), strict=True), start=first_step):
        if not all(map(math.isfinite, values)):
            metrics = dict(zip(position.history, values, strict=True))
            where = f"in training at step {number + 1} ({_images(number, names=names, plan=plan)})"
            _check_finite(metrics, where=where, updates=number, names=names, plan=plan)


def _check_finite(
    metrics: dict[str, float], *, where: str, updates: int, names: Sequence[str], plan: TrainingPlan
) -> None:
    bad = [f"{name} is {x:g}" for name, x in metrics.items() if not math.isfinite(x)]
    if not bad:
        return
    if updates:  # the last one may have made the parameters bad
        before = _images(updates - 1, names=names, plan=plan)
        where += f", after the update of step {updates} ({before})"
    raise DivergedError(
        f"{', '.join(bad)} {where}. Training stopped; the checkpoints of earlier epochs are kept. "
        f"The learning rate was {plan.learning_rate:g}: look at these images, or try a lower "
        "config.train.learning_rate, in another --workdir"
    )


def _images(step: int, *, names: Sequence[str], plan: TrainingPlan) -> str:
    rows = batch_indices(len(names), plan.batch_size, seed=plan.seed, step=step)
    return "images " + ", ".join(sorted({names[row] for row in rows}))


def _describe_epoch(epoch: int, metrics: dict[str, float], *, rate: float, improved: bool) -> None:
    validated = "val/loss" in metrics
    logging.info(
        "epoch %3d  train loss %.4f%s  %.3g images/s%s",
        epoch,
        metrics["train/loss"],
        f"  validation loss {metrics['val/loss']:.4f}" if validated else "",
        rate,
        "  (best)" if validated and improved else "",
    )


def _progress(plan: TrainingPlan, *, steps: int, done: int) -> tqdm:
    """Returns a progress bar that counts images, but is updated by steps."""
    return tqdm(
        total=plan.epochs * steps,
        initial=done,
        unit="image",
        unit_scale=plan.batch_size,
        desc="train",
        disable=not (sys.stderr.isatty() and processes.is_writer()),
        dynamic_ncols=True,
    )
