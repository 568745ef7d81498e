"""The optimiser of encoders and decoders: Adam or AdamW, and its learning rate by step."""

import functools
import math

import optax

SCHEDULES = ("constant", "cosine")


@functools.cache
def make_optimizer(
    learning_rate: float,
    *,
    weight_decay: float | None = None,
    warmup: float = 0.0,
    schedule: str = "constant",
    num_steps: int = 0,
) -> optax.GradientTransformation:
    """Returns AdamW, or Adam if `weight_decay` is None; equal arguments give the same object.

    Args:
      learning_rate: the highest one, if it is not constant.
      weight_decay: decoupled, on all parameters.
      warmup, schedule, num_steps: see `learning_rates`.
    """
    rates = learning_rates(learning_rate, warmup=warmup, schedule=schedule, num_steps=num_steps)
    if weight_decay is not None:
        return optax.adamw(rates, weight_decay=weight_decay)
    return optax.adam(rates)


def learning_rates(
    highest: float, *, warmup: float, schedule: str, num_steps: int
) -> float | optax.Schedule:
    """Returns the learning rate, or a function of the number of earlier steps that returns it.

    In the first W = ceil(warmup * num_steps) steps it grows linearly to `highest`: the first step
    has `highest / (W + 1)`, so that no step is without effect. After these, it is constant, or
    falls along half a cosine, which would reach 0 one step after the last one.

    Args:
      warmup: from 0 to below 1.
      schedule: one of SCHEDULES.
      num_steps: of the whole training; used only with a warm-up or a cosine.
    """
    warm = math.ceil(warmup * num_steps)
    if schedule == "constant":
        later = optax.constant_schedule(highest)
    else:
        later = optax.cosine_decay_schedule(highest, num_steps - warm)
    if warm:
        rising = optax.linear_schedule(highest / (warm + 1), highest, warm)
        return optax.join_schedules([rising, later], [warm])
    return highest if schedule == "constant" else later
