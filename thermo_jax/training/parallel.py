"""Data parallelism: a step for one device is mapped over the axis "data" of all devices.

The state is replicated, before and after a step, and the batch is split. The step itself computes
means over "data" with `pmean`. Two modes do the same: "pmap" (since JAX 0.10 it is a jitted
`shard_map`, too) and "shard_map" (less Python per call). Never wrap the result in `jit` again.
"""

import dataclasses
import functools
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


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """Maps steps over `devices`, and puts states and batches where the steps expect them.

    Two objects with the same devices and mode are equal, so that they share compiled programs.

    Attributes:
      devices: all devices of the run, of every process; the default is all that JAX has.
      mode: "pmap" or "shard_map".
    """

    devices: Sequence[jax.Device] = dataclasses.field(default_factory=jax.devices)
    mode: str = "pmap"

    def __post_init__(self):
        object.__setattr__(self, "devices", tuple(self.devices))

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices as a mesh with the one axis "data"."""
        return Mesh(np.array(self.devices), (AXIS,))

    def wrap(
        self, step: Callable, *, donate_state: bool = False, resident: bool = False
    ) -> Callable:
        """Maps one device's `step(state, batch)` over all devices; the results are replicated.

        Args:
          donate_state: the new state may use the old one's memory.
          resident: the batch is a pair (set, rows), see `resident.py`; only the rows are split.
        """
        donate = (0,) if donate_state else ()
        if self.mode == "pmap":
            # JAX does not verify out_axes=None: without a pmean, the devices' states would differ
            # and nothing would show it. So the tests compare the states of all devices.
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
            check_vma=False,  # as in pmap: each device has its own gradients until pmean
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
        """Returns a copy of `tree` on every device.

        It is always a copy, because steps donate their state, so that its memory is overwritten.
        """
        return jax.tree.map(lambda x: self.place(np.array(x)), tree)

    def copy(self, tree: Any) -> Any:
        """Returns a copy of a replicated tree, to keep it when a step donates the tree's memory."""
        return _copy(tree, sharding=self._replicated)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Returns an array of zeros that every device makes itself."""
        return jnp.zeros(shape, dtype, device=self._replicated)

    def place(self, x: np.ndarray | jax.Array) -> jax.Array:
        """Returns the array on every device; not a copy if it is there already."""
        if jax.process_count() > 1 and isinstance(x, np.ndarray):
            return jax.make_array_from_process_local_data(self._replicated, x)
        return jax.device_put(x, self._replicated)

    def _global(self, x: jax.Array) -> jax.Array:
        """Returns pmap's result, which is on this process's devices, as an array on all devices."""
        copies = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, self._replicated, copies)

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Returns the arrays that `wrap`ped steps expect for this process's part of a batch.

        They are global arrays `[B, ...]` for "shard_map". For "pmap" they are `[D, B/D, ...]`; D is
        the number of this process's devices.
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
    """Copies any number of arrays by one dispatch."""
    return jax.lax.with_sharding_constraint(jax.tree.map(jnp.copy, tree), sharding)


def pmean(tree: Any) -> Any:
    """Returns the mean over the devices."""
    return jax.lax.pmean(tree, AXIS)


def masked_sums(losses: dict[str, jax.Array], mask: jax.Array) -> dict[str, jax.Array]:
    """Returns sums of losses over the examples of all devices, and their number as "count"."""
    sums = {name: (loss * mask).sum() for name, loss in losses.items()}
    return jax.lax.psum(sums | {"count": mask.sum()}, AXIS)


def gather(tree: Any) -> Any:
    """Returns the examples' results from all devices, in the order of the batch."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)
