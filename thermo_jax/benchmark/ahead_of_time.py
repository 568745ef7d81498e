"""The project's steps, compiled but not run: for chips that are absent, or to count transfers.

libtpu (`pip install '.[tpu]'`) compiles for a TPU slice of a given name. The compiled program shows
its memory, operations and bytes. The roofline is the time that these need at the chip's published
rates, because the compiler's own `optimal_seconds` is unreliable.

JAX's plugin for CUDA 13 (`pip install '.[cuda13]'`) compiles for the GPU that h200.txtpb describes.
Without JAX_PLATFORMS=cpu, it looks for a driver and fails. The program is complete except for
cuDNN's algorithms, which XLA chooses by timing them on a GPU. The floor of a step is the sum of the
shortest possible times of its kernels at the rates measured on an H200 (SPEC section 6), without
the time to launch them.

What devices send each other in a step is counted on any devices, such as virtual ones on the CPU:
XLA_FLAGS=--xla_force_host_platform_device_count=8. A step scales well if neither the number of
collectives nor their bytes grow with the number of devices.
"""

import importlib.util
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import logging

from thermo_jax.benchmark.cases import BenchmarkSettings, Case, make_case
from thermo_jax.benchmark.compilation import lower_step, peak_bytes, why_too_large
from thermo_jax.benchmark.hlo import AllReduce, HloProgram, Kernel
from thermo_jax.benchmark.tables import Row
from thermo_jax.errors import UserError
from thermo_jax.models.operations import NATIVE, choose_operations
from thermo_jax.training import xla_flags

# Generation -> (GB of memory, bf16 TFLOP/s, GB/s) of one chip.
# Source: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm (v4, v5e, v5p, v6e).
CHIPS = {
    "v4": (32, 275, 1228),
    "v5e": (16, 197, 819),
    "v5p": (95, 459, 2765),
    "v6e": (32, 918, 1640),
}
# Measured on an H200.
BYTES_PER_S, FLOP_PER_S = 4.3e12, 790e12
# The rate of NVLink 4 in one direction. An all-reduce sends its bytes about twice.
LINK_BYTES_PER_S = 450e9


def tpu_rows(slices: Sequence[str], settings: BenchmarkSettings) -> Iterator[Row]:
    """One row per slice, type and case: memory, operations, bytes and roofline of one chip's step.

    Raises:
      UserError: libtpu is missing or does not know a slice; or, after all rows, a step does not fit
        a chip.
    """
    too_large = []
    for name in slices:
        read = partial(_tpu_fields, rates=CHIPS.get(name.split(":")[0]))
        for row in _rows(read, tpu_slice(name)[:1], settings, platform="tpu"):
            if not row["fits"]:
                too_large.append(
                    f"{row['case']} ({row['dtype']}, batch {row['batch_size']}) on {name}"
                )
            yield row | {"topology": name}
    if too_large:
        raise UserError(
            f"these steps do not fit the chip's memory: {', '.join(too_large)}; choose a smaller "
            "config.batch_size, or share the batch among more chips"
        )


def gpu_rows(counts: Sequence[int], settings: BenchmarkSettings, *, biggest: int) -> Iterator[Row]:
    """One row per number of H200, type and case; every GPU has a whole batch.

    Args:
      biggest: the number of kernels that a row lists, those with the longest times first.
    Raises:
      UserError: JAX's plugin is missing, or does not compile for this GPU.
    """
    # The same value as in a run on several GPUs, see xla_flags.
    name, _, value = xla_flags.COMBINE.removeprefix("--").partition("=")
    for count in counts:
        options = {name: int(value)} if count > 1 else None
        read = partial(_gpu_fields, count=count, biggest=biggest)
        for_all = settings.for_devices(count)
        for row in _rows(read, h200s(count), for_all, platform="gpu", options=options):
            yield row | {"gpus": count}


def collectives_rows(counts: Sequence[int], settings: BenchmarkSettings) -> Iterator[Row]:
    """One row per case and number of devices, in the first compute type.

    Every device has a whole batch.

    Raises:
      UserError: there are fewer devices than a row needs.
    """
    available, most = jax.devices(), max(counts)
    if most > len(available):
        raise UserError(
            f"config.device_counts={tuple(counts)}: there are {len(available)} devices; on "
            f"the CPU, start with XLA_FLAGS=--xla_force_host_platform_device_count={most}"
        )
    for name, count in itertools.product(settings.cases, counts):
        for_all = settings.for_devices(count)
        case = make_case(name, for_all, dtype=settings.dtypes[0], operations=NATIVE)
        program = HloProgram(lower_step(case, available[:count]).compile().as_text())
        row = {"case": name, "devices": count, "framework": "thermo_jax"}
        yield row | {"collectives": program.collectives()}


def _rows(
    read: Callable[[Case, jax.stages.Compiled], Row],
    devices: Sequence[Any],
    settings: BenchmarkSettings,
    *,
    platform: str,
    options: dict[str, Any] | None = None,
) -> Iterator[Row]:
    """One row per type and case, with the fields that `read` finds in the compiled step."""
    operations = choose_operations("auto", platform=platform)
    for dtype, name in itertools.product(settings.dtypes, settings.cases):
        chips = f"{len(devices)} x {devices[0].device_kind}"
        logging.info("compiling %s, %s for %s", name, dtype, chips)
        case = make_case(name, settings, dtype=dtype, operations=operations, platform=platform)
        row = {"case": case.name, "dtype": dtype, "batch_size": case.batch_size}
        row["framework"] = "thermo_jax"
        lowered = lower_step(case, devices)
        started = time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            yield row | {"fits": False, "why": why_too_large(error)}
        else:
            row["compile_s"] = time.perf_counter() - started
            yield row | {"peak_bytes": peak_bytes(compiled)} | read(case, compiled)


def tpu_slice(name: str) -> Sequence[Any]:
    """The devices of a slice such as "v5e:2x2".

    Raises:
      UserError: the rates of its chips are unknown, libtpu is missing, or does not know the slice.
    """
    if name.split(":")[0] not in CHIPS:
        raise UserError(
            f"config.topologies: no rates are known of the chips of {name!r}, only of those of "
            f"{', '.join(CHIPS)}"
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server here
    message = (
        f"config.topologies: {name!r} cannot be compiled for ({{}}): is libtpu installed (pip "
        "install '.[tpu]'), and does it know this slice?"
    )
    return _topology(message, platform="tpu", topology_name=name)


def _tpu_fields(
    case: Case, compiled: jax.stages.Compiled, *, rates: tuple[float, float, float]
) -> Row:
    memory_gb, tflops, gb_per_s = rates
    cost = compiled.cost_analysis()
    tflop, gb = cost["flops"] / 1e12, cost["bytes accessed"] / 1e9
    roofline = max(tflop / tflops, gb / gb_per_s)
    return {
        "fits": peak_bytes(compiled) < memory_gb * 1e9,
        "tflop": tflop,
        "gb": gb,
        "mb_per_image": 1e3 * gb / case.batch_size,
        "roofline_ms": 1e3 * roofline,
        "images_per_s_at_most": case.batch_size / roofline,
    }


def h200s(count: int) -> Sequence[Any]:
    """`count` H200 of one machine.

    Raises:
      UserError: the count is below 1, or JAX's plugin is missing or does not know this GPU.
    """
    if count < 1:
        raise UserError(f"config.gpus names {count} GPUs: every number must be at least 1")
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise UserError(
            "compiling for an H200 needs JAX's plugin for CUDA 13, which is not installed: pip "
            "install '.[cuda13]' (3.5 GB; no GPU is needed)"
        )
    description = (Path(__file__).parent / "h200.txtpb").read_text(encoding="ascii")
    jax.devices()  # makes JAX load its plugins
    message = (
        "JAX's plugin for CUDA 13 does not compile for an H200 here ({}): start the program with "
        "JAX_PLATFORMS=cpu"
    )
    topology = f"1x1x{count}"
    return _topology(message, platform="cuda", target_config=description, topology=topology)


def _gpu_fields(case: Case, compiled: jax.stages.Compiled, *, count: int, biggest: int) -> Row:
    program = HloProgram(compiled.as_text())
    kernels, all_reduces = program.kernels(), program.all_reduces()
    convolutions = [kernel for kernel in kernels if kernel.kind.startswith("convolution")]
    moved, floor = sum(kernel.bytes for kernel in kernels), sum(map(floor_s, kernels))
    return {
        "kernels": len(kernels),
        "convolutions": len(convolutions),
        "different_convolutions": len({(c.kind, c.shape, c.read) for c in convolutions}),
        "gb": moved / 1e9,
        "mb_per_image": moved / 1e6 * count / case.batch_size,
        "floor_ms": 1e3 * floor,
        "images_per_s_at_most": case.batch_size / floor,
        "all_reduces": len(all_reduces),
        "exposed_bytes": [transfer.bytes for transfer in all_reduces if _is_exposed(transfer)],
        "biggest": [
            {
                "us": 1e6 * floor_s(kernel),
                "mb_read": kernel.read / 1e6,
                "mb_written": kernel.written / 1e6,
                "gflop": kernel.flop / 1e9,
                "kind": kernel.kind,
                "shape": kernel.shape,
                "source": kernel.source,
            }
            for kernel in sorted(kernels, key=floor_s, reverse=True)[:biggest]
        ],
    }


def floor_s(kernel: Kernel) -> float:
    """The shortest possible time of a kernel on an H200, in seconds."""
    return max(kernel.bytes / BYTES_PER_S, kernel.flop / FLOP_PER_S)


def _is_exposed(transfer: AllReduce) -> bool:
    """Whether the GPUs wait for it, because it is slower than the kernels that run beside it."""
    return sum(map(floor_s, transfer.beside)) < 2 * transfer.bytes / LINK_BYTES_PER_S


def _topology(message: str, **target: Any) -> Sequence[Any]:
    """The devices of a target; in a UserError, JAX's own text replaces `{}` in the message."""
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(**target).devices
    except Exception as error:  # JAX raises RuntimeError, NotImplementedError and others
        raise UserError(message.format(error)) from error
