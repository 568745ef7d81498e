"""Counts what devices send each other in one step, in the compiled program.

A step scales well if this does not grow with the number of devices. The work of each device stays
the same, and the number of collectives and their bytes should stay the same, too. The count needs
several devices, such as virtual ones on the CPU:
XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import collections
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from thermo_jax.benchmark.cases import BenchmarkSizes, make_case
from thermo_jax.benchmark.compilation import lower_step
from thermo_jax.benchmark.hlo import array_bytes
from thermo_jax.errors import UserError
from thermo_jax.models.operations import NATIVE

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_OPERATION = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(_KINDS)})(?:-start)?\(")


def collectives_rows(
    device_counts: Sequence[int], *, cases: Sequence[str], dtype: str, sizes: BenchmarkSizes
) -> Iterator[dict[str, Any]]:
    """One row per case and number of devices; every device has a whole batch.

    Raises:
      UserError: there are fewer devices than a row needs.
    """
    available = jax.devices()
    if max(device_counts) > len(available):
        raise UserError(
            f"config.device_counts={tuple(device_counts)}: there are {len(available)} "
            "devices; on the CPU, start with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(device_counts)}"
        )
    for name in cases:
        for count in device_counts:
            case = make_case(name, sizes.for_devices(count), dtype=dtype, operations=NATIVE)
            program = lower_step(case, available[:count]).compile().as_text()
            row = {"case": name, "devices": count, "framework": "thermo_jax"}
            yield row | {"collectives": count_collectives(program)}


def count_collectives(program: str) -> dict[str, dict[str, int]]:
    """Kind -> {"count", "bytes" of the results on one device}, from a program's text."""
    kinds = collections.defaultdict(collections.Counter)
    for result, kind in _OPERATION.findall(program):
        kinds[kind].update(count=1, bytes=array_bytes(result))
    return {kind: dict(counts) for kind, counts in sorted(kinds.items())}
