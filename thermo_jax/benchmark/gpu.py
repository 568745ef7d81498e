"""The real steps compiled ahead of time for NVIDIA's H200, on a machine that has none.

JAX's plugin for CUDA 13 (`pip install '.[cuda13]'`) compiles for a GPU that a file describes. Set
JAX_PLATFORMS=cpu: without it the plugin looks for a driver, and is of no use where there is none.
The compiled program shows its kernels, its convolutions and the bytes that they move; only cuDNN's
choice of algorithms, which XLA measures on a GPU, is missing. The floor of a step is the sum over
its kernels of what each takes at least, by the rates that were measured on an H200 (SPEC section
6); launches are not counted.
"""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.benchmark.cases import Case, make_case
from thermo_jax.benchmark.hlo import AllReduce, HloProgram, Kernel
from thermo_jax.benchmark.measure import peak_bytes
from thermo_jax.errors import UserError
from thermo_jax.models.operations import GPU
from thermo_jax.training import xla_flags
from thermo_jax.training.parallel import DataParallel

BYTES_PER_S, FLOP_PER_S = 4.3e12, 790e12
# Of NVLink 4, one way. An all-reduce sends its bytes about twice.
LINK_BYTES_PER_S = 450e9
_DESCRIPTION = Path(__file__).parent / "h200.txtpb"


def compile_all(config: ConfigDict) -> Iterator[dict[str, Any]]:
    """One row per number of GPUs, type and case; every GPU has `config.batch_size` images.

    Raises:
      UserError: JAX's plugin is missing, or does not compile for this GPU.
    """
    for count in config.gpus:
        devices = describe(count)
        own = config.copy_and_resolve_references()
        for data_type in own.batch_size:
            own.batch_size[data_type] *= count
        for dtype in config.dtypes:
            for name in config.cases:
                logging.info("compiling %s, %s for %d H200", name, dtype, count)
                case = make_case(name, own, dtype=dtype, operations=GPU, platform="gpu")
                row = compile_case(case, devices=devices, biggest=config.biggest)
                yield row | {"gpus": count, "dtype": dtype}


def describe(count: int) -> Sequence[Any]:
    """`count` H200 of one machine.

    Raises:
      UserError: there are none, or JAX's plugin is missing or does not know them.
    """
    from jax.experimental import topologies

    if count < 1:
        raise UserError(f"config.gpus names {count} GPUs: at least 1 is compiled for")
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise UserError(
            "compiling for an H200 takes JAX's plugin for CUDA 13, which is not installed: pip "
            "install '.[cuda13]' (3.5 GB; no GPU is needed)"
        )
    description = _DESCRIPTION.read_text(encoding="ascii")
    jax.devices()  # which finds the plugins
    try:
        return topologies.get_topology_desc(
            platform="cuda", target_config=description, topology=f"1x1x{count}"
        ).devices
    except Exception as error:  # JAX raises RuntimeError, NotImplementedError and others
        raise UserError(
            f"JAX's plugin for CUDA 13 does not compile for an H200 here ({error}): start the "
            "program with JAX_PLATFORMS=cpu"
        ) from error


def compile_case(case: Case, *, devices: Sequence[Any], biggest: int) -> dict[str, Any]:
    """Kernels, convolutions, bytes and floor of one step on each of the devices.

    Args:
      biggest: how many of the kernels that take most time are listed.
    """
    parallel = DataParallel(devices, mode="shard_map")
    function = parallel.wrap(case.step, donate_state=case.train)
    lowered = function.lower(jax.eval_shape(case.make_state), case.abstract_batch())
    started = time.perf_counter()
    # As a run sets it for several GPUs, see xla_flags.
    name, _, value = xla_flags.COMBINE.removeprefix("--").partition("=")
    compiled = lowered.compile(compiler_options={name: int(value)} if len(devices) > 1 else None)
    compile_s = time.perf_counter() - started
    program = HloProgram(compiled.as_text())
    kernels = program.kernels()
    convolutions = [kernel for kernel in kernels if kernel.kind.startswith("convolution")]
    moved = sum(kernel.bytes for kernel in kernels)
    floor = sum(map(_floor_s, kernels))
    longest = sorted(kernels, key=_floor_s, reverse=True)[:biggest]
    return {
        "case": case.name,
        "framework": "thermo_jax",
        "batch_size": case.batch_size,
        "compile_s": compile_s,
        "peak_bytes": peak_bytes(compiled),
        "kernels": len(kernels),
        "convolutions": len(convolutions),
        "different_convolutions": len({(c.kind, c.shape, c.read) for c in convolutions}),
        "gb": moved / 1e9,
        "mb_per_image": moved / 1e6 * len(devices) / case.batch_size,
        "floor_ms": 1e3 * floor,
        "images_per_s_at_most": case.batch_size / floor,
        "all_reduces": len(program.all_reduces()),
        "exposed_bytes": [each.bytes for each in program.all_reduces() if _is_exposed(each)],
        "biggest": [_about(kernel) for kernel in longest],
    }


def _floor_s(kernel: Kernel) -> float:
    return kernel.floor_s(bytes_per_s=BYTES_PER_S, flop_per_s=FLOP_PER_S)


def _is_exposed(each: AllReduce) -> bool:
    """Whether the GPUs wait for it: what runs beside it takes less time than sending."""
    return sum(map(_floor_s, each.beside)) < 2 * each.bytes / LINK_BYTES_PER_S


def _about(kernel: Kernel) -> dict[str, Any]:
    return {
        "us": 1e6 * _floor_s(kernel),
        "mb_read": kernel.read / 1e6,
        "mb_written": kernel.written / 1e6,
        "gflop": kernel.flop / 1e9,
        "kind": kernel.kind,
        "shape": kernel.shape,
        "source": kernel.source,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for reading."""
    header = f"{'H200':>4}  {'case':<14}{'type':<14}{'batch':>6}{'kernels':>9}{'convolutions':>14}"
    header += f"{'different':>11}{'GB':>8}{'MB/image':>10}{'floor ms':>10}{'images/s <':>12}"
    lines = [header + f"{'peak GB':>9}{'exposed all-reduces':>21}"]
    for row in rows:
        if "gpus" not in row:
            continue
        exposed = row["exposed_bytes"]
        lines.append(
            f"{row['gpus']:>4}  {row['case']:<14}{row['dtype']:<14}{row['batch_size']:>6}"
            f"{row['kernels']:>9}{row['convolutions']:>14}{row['different_convolutions']:>11}"
            f"{row['gb']:>8.4g}{row['mb_per_image']:>10.4g}{row['floor_ms']:>10.3g}"
            f"{row['images_per_s_at_most']:>12,.0f}{row['peak_bytes'] / 1e9:>9.2f}"
            + (f"{len(exposed):>9} of {row['all_reduces']:<4}" if row["gpus"] > 1 else "")
            + (f"{sum(exposed) / 1e6:.3g} MB" if exposed else "")
        )
        lines += [
            f"{'':>6}{each['us']:>8.1f} us {each['mb_read']:>7.1f} MB read "
            f"{each['mb_written']:>7.1f} written {each['gflop']:>6.1f} GFLOP  {each['kind']:<28}"
            f"{each['shape'][:44]:<45}{each['source'][-60:]}"
            for each in row["biggest"]
        ]
    return "\n".join(lines)
