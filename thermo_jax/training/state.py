"""The training state: a tree of arrays, replicated over devices. Each step returns a new one."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, UInt32

from thermo_jax.training.partials import by_value

# The patch sampler's keys are made of the step and the slot; those of augmentation and of phantoms
# of the step, one of these numbers, and the slot. No slot is as large, so that all keys differ.
AUGMENTATION = 2**31 - 1
PHANTOMS = 2**31 - 2


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step reads and writes.

    The fields have no types, because JAX also creates states of shapes, placements and so on.

    Attributes:
      step: int32 [], the number of updates so far.
      params, batch_stats: the trained model's variables.
      opt_state: the optimiser's state.
      rng: uint32 data of a key that never changes: every use combines it with the step and the
        example's number.
      frozen: variables that are read but not trained (a decoder's encoder), {} if there are none.
      averaged: the exponential moving average of the variables, {} if none is kept.
      ema: the average's decay, 0 if none is kept. It is not an array.
      average_with_init: whether the average keeps a share of the initial weights; not an array.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: Any
    frozen: Any = flax.struct.field(default_factory=dict)
    averaged: Any = flax.struct.field(default_factory=dict)
    ema: float = flax.struct.field(pytree_node=False, default=0.0)
    average_with_init: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def create(
        cls,
        variables: dict,
        *,
        tx: optax.GradientTransformation,
        rng: Key[Array, ""],
        frozen: dict | None = None,
        ema: float = 0.0,
        average_with_init: bool = False,
    ) -> "TrainState":
        """Returns the state before the first step."""
        variables = {name: variables[name] for name in ("params", "batch_stats")}
        return cls(
            step=jnp.zeros((), jnp.int32),
            **variables,
            opt_state=tx.init(variables["params"]),
            rng=jax.random.key_data(rng),
            frozen=frozen or {},
            averaged=variables if ema else {},
            ema=ema,
            average_with_init=average_with_init,
        )

    @property
    def variables(self) -> dict:
        """The model's variables in the form that Flax's `apply` reads: their average, if any.

        Evaluation, prediction and other runs read them; training steps read `params` and
        `batch_stats`.
        """
        return self.averaged or self.trained_variables

    @property
    def trained_variables(self) -> dict:
        """The variables that the last step made, not averaged."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def without_training(self) -> "TrainState":
        """Returns the state that evaluation reads: `variables` without an optimiser."""
        return self.replace(
            opt_state=(), averaged={}, ema=0.0, average_with_init=False, **self.variables
        )

    def apply_gradients(
        self, grads: Any, *, tx: optax.GradientTransformation, batch_stats: Any
    ) -> "TrainState":
        """Returns the state after one update by the optimiser, and of the average."""
        updates, opt_state = tx.update(grads, self.opt_state, self.params)
        state = self.replace(
            step=self.step + 1,
            params=optax.apply_updates(self.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if not self.ema:
            return state
        return state.replace(averaged=self._average_with(state.trained_variables))

    def _average_with(self, new: dict) -> dict:
        """Returns `decay * averaged + (1 - decay) * new`.

        With `average_with_init`, the decay is `ema`, so that the initial weights' share is ema**t
        after t updates: a model that was trained before and is now fine-tuned is more robust if
        its old weights are averaged with the new ones (Wortsman et al., Robust fine-tuning of
        zero-shot models, 2022). Without, they are soon forgotten: in update t = 0, 1, ... the decay
        is min(ema, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage.
        """
        decay: Any = self.ema
        if not self.average_with_init:
            done = self.step.astype(jax.tree.leaves(new["params"])[0].dtype)
            decay = jnp.minimum(decay, (1 + done) / (10 + done))
        return optax.incremental_update(new, self.averaged, 1 - decay)


def initialise(create_state: Callable[..., Any], **arrays: Any) -> Any:
    """Returns `create_state(**arrays)`: a `TrainState`, or an encoder's variables.

    If JAX has both an accelerator and a CPU, this runs on the CPU and returns NumPy arrays, because
    a GPU needs 9 s to compile hundreds of kernels that run only once. Put static arguments into a
    `partial`: equal partials are compiled only once.
    """
    create = _compiled(by_value(create_state))
    host = _cpu_beside_accelerator()
    if host is None:
        return create(**arrays)
    with jax.default_device(host):
        return jax.device_get(create(**jax.device_put(arrays, host)))


@functools.lru_cache(maxsize=32)
def _compiled(create_state: Callable[..., Any]) -> Callable[..., Any]:
    # The program draws dozens of small random arrays, once. Compiling it for a U-Net takes 9.5 s on
    # 2 CPU cores, and 2.4 s without optimisation.
    return jax.jit(create_state, compiler_options={"xla_backend_optimization_level": 0})


def _cpu_beside_accelerator() -> jax.Device | None:
    """Returns JAX's CPU, or None if that is the default or JAX_PLATFORMS does not contain it.

    For several processes it is also None: their CPUs may round differently, but all processes must
    start from equal numbers.
    """
    if jax.default_backend() == "cpu" or jax.process_count() > 1:
        return None
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def example_keys(
    rng: UInt32[Array, "..."], *numbers: Array | int, examples: Int[Array, " b"]
) -> Array:
    """Returns one random key per example, made of `numbers` (such as the step) and its own number.

    An example's number is its number in the whole batch, so that the number of devices does not
    change the keys.
    """
    key = jax.random.wrap_key_data(rng)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)
