"""Program "benchmark": the project's steps on random images -> benchmark.jsonl and a table."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.benchmark import ahead_of_time, measure, profiling, tables
from thermo_jax.benchmark.cases import BenchmarkSizes, Case, find_case, make_case
from thermo_jax.benchmark.collectives import collectives_rows
from thermo_jax.benchmark.compare import precision_rows
from thermo_jax.benchmark.compilation import Program, flops, why_too_large
from thermo_jax.data.examples import image_shape
from thermo_jax.models import precision
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.models.operations import NATIVE, choose_operations
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import open_workdir
from thermo_jax.training.parallel import DataParallel

RECORD = "benchmark.jsonl"


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Measures every case and type; returns the rows that it also appends to the workdir's file.

    The table also shows the rows that the file contains already, such as those of
    launch/benchmark_torch.py. A row is written as soon as it is measured.
    """
    _check_fields(config)
    file = open_workdir(workdir, config) / RECORD
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows = [json.loads(line) for line in lines]
    try:
        for row in _new_rows(config):
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            rows.append(row)
    finally:  # so that rows measured before an error are shown
        print(f"\n{tables.show(rows)}\nWritten to {file}")
    return {"rows": rows}


def benchmark_sizes(config: ConfigDict) -> BenchmarkSizes:
    """The sizes of all cases."""
    return BenchmarkSizes(
        batch_size=dict(config.batch_size),
        num_kernels=config.num_kernels,
        unet_width=config.unet_width,
        downscale=config.downscale,
    )


def _check_fields(config: ConfigDict) -> None:
    settings.check_fields(config)
    for data_type in CHANNELS:
        image_shape(data_type, downscale=config.downscale)
    for name in (*config.cases, *config.feeding, *config.profiled):
        find_case(name)


def _new_rows(config: ConfigDict) -> Iterator[dict[str, Any]]:
    sizes, cases, dtypes = benchmark_sizes(config), config.cases, config.dtypes
    if config.topologies:
        return ahead_of_time.tpu_rows(config.topologies, cases=cases, dtypes=dtypes, sizes=sizes)
    if config.gpus:
        return ahead_of_time.gpu_rows(
            config.gpus, cases=cases, dtypes=dtypes, sizes=sizes, biggest=config.biggest
        )
    if config.device_counts:
        return collectives_rows(config.device_counts, cases=cases, dtype=dtypes[0], sizes=sizes)
    if config.against_cpu:
        return precision_rows(cases, dtypes=dtypes, sizes=sizes, conv=config.conv)
    return _timed_rows(config)


def _timed_rows(config: ConfigDict) -> Iterator[dict[str, Any]]:
    parallel, repeats = DataParallel(mode=config.mode), config.repeats
    timing = {"parallel": parallel, "repeats": repeats}
    timing["steps_per_dispatch"] = config.steps_per_dispatch
    about = {"framework": "thermo_jax", "mode": config.mode, **measure.versions()}
    about["devices"] = len(parallel.devices)
    platform = about["platform"]
    operations = choose_operations(config.conv, platform=platform)
    make = partial(make_case, sizes=benchmark_sizes(config), platform=platform)
    for name in config.cases:
        case = make(name, dtype=config.dtypes[0], operations=operations)
        parallel.check_batch_size(case.batch_size, field="config.batch_size")
    copy = measure.copy_ceiling(config.copy_mb, repeats=repeats)
    for dtype in config.dtypes:
        with precision.matmul_precision(dtype, platform=platform):
            array = precision.array_dtype(dtype).name
            matrix = measure.matrix_ceiling(config.matrix, dtype=array, repeats=repeats)
        logging.info("%s: matrix product %.3g TFLOP/s, copy %.3g GB/s", dtype, matrix, copy)
        ceilings = {"matrix_tflops": matrix, "copy_gb_per_s": copy}
        for name in config.cases:
            logging.info("%s, %s", name, dtype)
            case = make(name, dtype=dtype, operations=operations)
            profiled = name in config.profiled and dtype == config.dtypes[0]
            for row in _rows_or_reason(case, _time_case(case, profiled=profiled, **timing)):
                if row.get("tflops", 0) is None:
                    counted = flops(make(name, dtype=dtype, operations=NATIVE))
                    row["tflops_xla"] = counted and counted / 1e9 / row["ms_per_step"]
                shares = _shares(row, ceilings, about["devices"])
                yield row | {"dtype": dtype} | ceilings | shares | about
    about["dtype"] = config.dtypes[0]
    for name in config.feeding:
        logging.info("%s, ways of feeding batches", name)
        case = make(name, dtype=config.dtypes[0], operations=operations)
        for row in _rows_or_reason(case, measure.measure_feeding(case, **timing)):
            yield row | about
    if config.feeding:
        for row in measure.measure_calls(repeats=repeats):
            yield row | about


def _time_case(
    case: Case, *, profiled: bool, parallel: DataParallel, steps_per_dispatch: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """The rows of one case: its speed and, if it is `profiled`, its kernels."""
    program = Program(case, parallel=parallel, steps_per_dispatch=steps_per_dispatch)
    yield measure.measure(program, repeats=repeats)
    if profiled:
        yield profiling.profile(program)


def _rows_or_reason(case: Case, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows; for a case that does not fit the device's memory, a row that says so."""
    try:
        yield from rows
    except jax.errors.JaxRuntimeError as error:
        why = why_too_large(error)
        yield {"case": case.name, "batch_size": case.batch_size, "why": why}


def _shares(row: dict, ceilings: dict[str, float], devices: int) -> dict[str, float | None]:
    """The speed of a row's step as shares of the ceilings of all its devices."""
    tflops, gb_per_s = row.get("tflops") or row.get("tflops_xla"), row.get("gb_per_s")
    return {
        "share_of_matrix": tflops and tflops / (ceilings["matrix_tflops"] * devices),
        "share_of_copy": gb_per_s and gb_per_s / (ceilings["copy_gb_per_s"] * devices),
    }
