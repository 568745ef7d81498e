"""The real steps compiled ahead of time for TPU slices, on a machine that has none.

libtpu (`pip install '.[tpu]'`) compiles for a named slice; the compiled program tells its memory,
operations and bytes. Roofline times are those over the chip's published rates (the compiler's own
`optimal_seconds` is unreliable).
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.benchmark.cases import Case, make_case
from thermo_jax.benchmark.measure import peak_bytes, why_too_large
from thermo_jax.errors import UserError
from thermo_jax.models.operations import NATIVE
from thermo_jax.training.parallel import DataParallel

# Generation -> (GB of memory, bf16 TFLOP/s, GB/s) of one chip.
# Source: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm (v4, v5e, v5p, v6e).
CHIPS = {
    "v4": (32, 275, 1228),
    "v5e": (16, 197, 819),
    "v5p": (95, 459, 2765),
    "v6e": (32, 918, 1640),
}


def compile_all(config: ConfigDict) -> Iterator[dict[str, Any]]:
    """One row per slice, case and type, for one chip's share of the batch.

    Raises:
      UserError: libtpu is missing or does not know a slice; or a step does not fit a chip, after
        the rows of all.
    """
    too_large = []
    for name in config.topologies:
        device = describe(name)[0]
        for dtype in config.dtypes:
            for case_name in config.cases:
                logging.info("compiling %s, %s for one chip of %s", case_name, dtype, name)
                case = make_case(case_name, config, dtype=dtype, operations=NATIVE, platform="tpu")
                row = compile_case(case, device=device, chip=name.split(":")[0])
                row |= {"topology": name, "dtype": dtype}
                if not row["fits"]:
                    too_large.append(f"{case_name} ({dtype}) on {name}")
                yield row
    if too_large:
        raise UserError(
            f"these steps do not fit the chip's memory: {', '.join(too_large)}; choose a smaller "
            "config.batch_size, or share the batch among more chips"
        )


def describe(topology: str) -> Sequence[Any]:
    """The devices of a slice such as "v5e:2x2".

    Raises:
      UserError: no rates are known of its chips, libtpu is missing, or does not know the slice.
    """
    if topology.split(":")[0] not in CHIPS:
        raise UserError(
            f"config.topologies: no rates are known of the chips of {topology!r}, only of those of "
            f"{', '.join(CHIPS)}"
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no metadata server here
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:  # JAX raises RuntimeError, NotImplementedError and others
        raise UserError(
            f"config.topologies: {topology!r} cannot be compiled for ({error}): is libtpu "
            "installed (pip install '.[tpu]'), and does it know this slice?"
        ) from error


def compile_case(case: Case, *, device: Any, chip: str) -> dict[str, Any]:
    """Memory, operations, bytes and roofline of one step on one chip."""
    parallel = DataParallel([device], mode="shard_map")
    state = jax.eval_shape(case.make_state)
    started = time.perf_counter()
    row = {"case": case.name, "batch_size": case.batch_size, "framework": "thermo_jax"}
    memory_gb, tflops, gb_per_s = CHIPS[chip]
    try:
        lowered = parallel.wrap(case.step, donate_state=case.train).lower(
            state, case.abstract_batch()
        )
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return row | {"fits": False, "why": why_too_large(error)}
    cost = compiled.cost_analysis()
    roofline = max(cost["flops"] / tflops / 1e12, cost["bytes accessed"] / gb_per_s / 1e9)
    return row | {
        "fits": peak_bytes(compiled) < memory_gb * 1e9,
        "compile_s": time.perf_counter() - started,
        "peak_bytes": peak_bytes(compiled),
        "tflop": cost["flops"] / 1e12,
        "gb": cost["bytes accessed"] / 1e9,
        "mb_per_image": cost["bytes accessed"] / 1e6 / case.batch_size,
        "roofline_ms": 1e3 * roofline,
        "images_per_s_at_most": case.batch_size / roofline,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for reading."""
    header = (
        f"{'chip':<10}{'case':<14}{'type':<10}{'batch':>6}{'fits':>6}{'peak GB':>9}{'TFLOP':>8}"
    )
    lines = [header + f"{'GB':>8}{'MB/image':>10}{'roofline ms':>13}{'images/s <':>12}"]
    for row in rows:
        if "topology" not in row:
            continue
        line = f"{row['topology']:<10}{row['case']:<14}{row['dtype']:<10}{row['batch_size']:>6}"
        line += f"{'yes' if row['fits'] else 'NO':>6}"
        if "gb" in row:
            line += f"{row['peak_bytes'] / 1e9:>9.2f}{row['tflop']:>8.3g}{row['gb']:>8.3g}"
            line += f"{row['mb_per_image']:>10.4g}{row['roofline_ms']:>13.3g}"
            line += f"{row['images_per_s_at_most']:>12.4g}"
        else:
            line += f"  {row['why']}"
        lines.append(line)
    return "\n".join(lines)
