"""The training state: a plain tree, replicated over devices, that a step maps to the next one."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, UInt32

from thermo_jax.training.by_value import by_value


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step reads and writes.

    JAX rebuilds the node with NumPy arrays, shapes and types too: its leaves are not only arrays.

    Attributes:
      step: int32 [], updates made so far.
      params, batch_stats: the trained model's variables.
      opt_state: the optimiser's.
      rng: uint32 key data; never advanced, every use folds in the step and the example's number.
      frozen: variables that are read but not trained (a decoder's encoder), {} if none.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: Any
    frozen: Any = flax.struct.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        variables: dict,
        *,
        tx: optax.GradientTransformation,
        rng: Key[Array, ""],
        frozen: dict | None = None,
    ) -> "TrainState":
        """State before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=tx.init(variables["params"]),
            rng=jax.random.key_data(rng),
            frozen=frozen or {},
        )

    @property
    def variables(self) -> dict:
        """The trained model's variables as Flax takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def dtype(self) -> jnp.dtype:
        """Type of the parameters: float32, or float64 where a test asks for it."""
        return jax.tree.leaves(self.params)[0].dtype

    def apply_gradients(
        self, grads: Any, *, tx: optax.GradientTransformation, batch_stats: Any
    ) -> "TrainState":
        """The state after one optimiser update."""
        updates, opt_state = tx.update(grads, self.opt_state, self.params)
        return self.replace(
            step=self.step + 1,
            params=optax.apply_updates(self.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )


def initialise(create_state: Callable[..., Any], **arrays: Any) -> Any:
    """`create_state(**arrays)`, compiled: a `TrainState`, or an encoder's variables.

    It runs on the CPU where JAX has one beside the accelerator, and then returns NumPy arrays: a
    GPU needs 9 s to compile hundreds of kernels that run once. Static arguments belong into a
    `partial`; it is compiled once for equal ones.
    """
    create = _compiled(by_value(create_state))
    host = _cpu_beside_accelerator()
    if host is None:
        return create(**arrays)
    with jax.default_device(host):
        return jax.device_get(create(**jax.device_put(arrays, host)))


@functools.lru_cache(maxsize=32)
def _compiled(create_state: Callable[..., Any]) -> Callable[..., Any]:
    # Dozens of small random draws: optimising the program would take longer (9.5 s for a U-Net on
    # 2 CPU cores, 2.4 s without) than it ever runs.
    return jax.jit(create_state, compiler_options={"xla_backend_optimization_level": 0})


def _cpu_beside_accelerator() -> jax.Device | None:
    """None on the CPU itself, and where JAX_PLATFORMS names the accelerator alone.

    None for several processes, too: their CPUs may differ and round differently, and all processes
    must start from equal numbers.
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
    """One random key per example: `numbers` (a step, say), then its *global* number, folded in.

    Global numbers make the draw independent of how many devices share the batch.
    """
    key = jax.random.wrap_key_data(rng)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)
