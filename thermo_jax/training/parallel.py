"""Data parallelism in one line: a per-device step, mapped over the axis "data".

The state is replicated in and out, the batch is split, and the step itself takes its means with
`pmean` over "data". Two wrappers do the same: "pmap" (since JAX 0.10 a jitted `shard_map` itself)
and "shard_map" (less Python per call). Never wrap the result in `jit` again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from thermo_jax.errors import UserError

AXIS = "data"
MODES = ("pmap", "shard_map")


class DataParallel:
    """Maps steps over `devices`, and puts states and batches where the steps expect them.

    Two objects with the same devices and mode are equal, so that they share compiled programs.

    Attributes:
      devices: all devices of the run, of every process.
      mode: "pmap" or "shard_map".
      mesh: the devices as a one-axis mesh.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None, *, mode: str = "pmap"):
        if mode not in MODES:
            raise UserError(f"parallel mode {mode!r} is unknown: choose one of {MODES}")
        self.devices = tuple(devices if devices is not None else jax.devices())
        self.mode = mode
        self.mesh = Mesh(np.array(self.devices), (AXIS,))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataParallel) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple:
        return self.devices, self.mode

    def wrap(
        self, step: Callable, *, donate_state: bool = False, resident: bool = False
    ) -> Callable:
        """`step(state, batch)` per device -> the same over all devices; results are replicated.

        `resident`: the batch is a pair (set, rows), see `resident.py`; only rows are split.
        """
        donate = (0,) if donate_state else ()
        if self.mode == "pmap":
            # out_axes=None is not verified by JAX: a forgotten pmean would diverge silently. The
            # tests therefore compare all shards of the state.
            mapped = jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, (None, 0) if resident else 0),
                out_axes=None,
                devices=self.devices,
                donate_argnums=donate,
            )
            if jax.process_count() == 1:
                return mapped
            return lambda state, batch: jax.tree.map(self._global, mapped(state, batch))
        replicated, split = PartitionSpec(), PartitionSpec(AXIS)
        mapped = jax.shard_map(
            step,
            mesh=self.mesh,
            in_specs=(replicated, (replicated, split) if resident else split),
            out_specs=replicated,
            check_vma=False,  # pmap's semantics: gradients are per device until pmean
        )
        return jax.jit(mapped, donate_argnums=donate)

    @property
    def _replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def check_batch_size(self, batch_size: int, *, field: str = "config.train.batch_size") -> None:
        """Raises UserError if the devices do not divide `batch_size`."""
        count = len(self.devices)
        if batch_size % count:
            lower = batch_size // count * count
            fits = " or ".join(str(size) for size in (lower, lower + count) if size)
            raise UserError(
                f"{field}={batch_size} cannot be shared by {count} devices: choose {fits}, or set "
                "config.parallel.devices to a number that divides it"
            )

    def replicate(self, tree: Any) -> Any:
        """A copy of `tree` on every device.

        Always a copy: steps donate their state, and a donated alias would be gone.
        """
        return jax.tree.map(lambda x: self.place(np.array(x)), tree)

    def copy(self, tree: Any) -> Any:
        """A copy of a replicated tree, which stays valid when a step donates the tree's memory."""
        return _copy(tree, sharding=self._replicated)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """An array on every device, made there."""
        return jnp.zeros(shape, dtype, device=self._replicated)

    def abstract(self, tree: Any) -> Any:
        """Shapes and types of `tree` on every device, to compile a step without the arrays."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), tree
        )

    def place(self, x: np.ndarray | jax.Array) -> jax.Array:
        """An array on every device; one that is there already stays as it is."""
        if jax.process_count() > 1 and isinstance(x, np.ndarray):
            return jax.make_array_from_process_local_data(self._replicated, x)
        return jax.device_put(x, self._replicated)

    def _global(self, x: jax.Array) -> jax.Array:
        """This process's copies of a replicated array, as which pmap returns it, as one of all."""
        copies = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, self._replicated, copies)

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's part of a batch `[B, ...]` -> device arrays as `wrap`ped steps take them.

        "shard_map": global arrays `[B, ...]`; "pmap": `[D, B/D, ...]`, D this process's devices.
        """
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        if self.mode == "pmap":
            count = sum(d.process_index == jax.process_index() for d in self.devices)
            batch = {k: x.reshape(count, -1, *x.shape[1:]) for k, x in batch.items()}
        put = partial(jax.make_array_from_process_local_data, sharding)
        # In a run of several processes, JAX counts this explicit copy as an implicit transfer.
        with jax.transfer_guard_host_to_device("allow"):
            return {k: put(x) for k, x in batch.items()}


@partial(jax.jit, static_argnames="sharding")
def _copy(tree: Any, *, sharding: NamedSharding) -> Any:
    """One dispatch, whatever the number of arrays."""
    return jax.lax.with_sharding_constraint(jax.tree.map(jnp.copy, tree), sharding)


def pmean(tree: Any) -> Any:
    """Mean over the devices."""
    return jax.lax.pmean(tree, AXIS)


def masked_sums(losses: dict[str, jax.Array], mask: jax.Array) -> dict[str, jax.Array]:
    """Per-example losses -> sums over all devices, and the number of examples as "count"."""
    sums = {name: (loss * mask).sum() for name, loss in losses.items()}
    return jax.lax.psum(sums | {"count": mask.sum()}, AXIS)


def gather(tree: Any) -> Any:
    """Per-example results of all devices, in the order of the batch."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)
