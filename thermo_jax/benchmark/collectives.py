"""What devices say to each other in one step, counted in the compiled program.

A step scales as far as this does not grow: per-device work stays the same, and so should the
number of collectives and their bytes. Needs several devices, such as fake ones on the CPU:
XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import collections
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from thermo_jax.benchmark.cases import make_case
from thermo_jax.benchmark.compilation import prepare, table_maker, whole_set
from thermo_jax.benchmark.hlo import array_bytes
from thermo_jax.errors import UserError
from thermo_jax.models.operations import NATIVE
from thermo_jax.training.parallel import DataParallel

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_OPERATION = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(_KINDS)})(?:-start)?\(")


def count_all(config: ConfigDict) -> Iterator[dict[str, Any]]:
    """One row per case and number of devices; every device has `config.batch_size` images.

    Raises:
      UserError: there are fewer devices than asked for.
    """
    available = jax.devices()
    if max(config.device_counts) > len(available):
        raise UserError(
            f"config.device_counts={tuple(config.device_counts)}: there are {len(available)} "
            "devices; on the CPU, start with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(config.device_counts)}"
        )
    for name in config.cases:
        for count in config.device_counts:
            own = config.copy_and_resolve_references()
            for data_type in own.batch_size:
                own.batch_size[data_type] *= count
            case = make_case(name, own, dtype=config.dtypes[0], operations=NATIVE)
            parallel = DataParallel(available[:count], mode=config.mode)
            function, rows = prepare(case, parallel=parallel, steps=1)
            state, columns = map(jax.eval_shape, (case.make_state, table_maker(case)))
            batch = parallel.abstract(whole_set(columns)), rows
            compiled = function.lower(parallel.abstract(state), batch).compile()
            found = count_collectives(compiled.as_text())
            yield {"case": name, "devices": count, "framework": "thermo_jax", "collectives": found}


def count_collectives(program: str) -> dict[str, dict[str, int]]:
    """Kind -> {"count", "bytes" of its results on one device}, from a program's text."""
    found: dict[str, collections.Counter] = {}
    for line in program.splitlines():
        if match := _OPERATION.search(line):
            entry = found.setdefault(match[2], collections.Counter())
            entry["count"] += 1
            entry["bytes"] += array_bytes(match[1])
    return {kind: dict(entry) for kind, entry in sorted(found.items())}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for reading."""
    lines = [f"{'case':<14}{'devices':>8}  collectives of one step, on each device"]
    for row in rows:
        if "collectives" in row:
            each = [
                f"{entry['count']} {kind}, {entry['bytes'] / 1e6:.3g} MB"
                for kind, entry in row["collectives"].items()
            ]
            lines.append(f"{row['case']:<14}{row['devices']:>8}  {'; '.join(each) or 'none'}")
    return "\n".join(lines)
