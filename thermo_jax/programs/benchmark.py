"""Program "benchmark": the project's steps on random images -> benchmark.jsonl and a table."""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.benchmark import ahead_of_time, measure, tables
from thermo_jax.benchmark.cases import BenchmarkSettings, Case, find_case, make_case
from thermo_jax.benchmark.compare import precision_rows
from thermo_jax.benchmark.compilation import flops, why_too_large
from thermo_jax.benchmark.tables import Row
from thermo_jax.data.examples import image_shape
from thermo_jax.models import precision
from thermo_jax.models.operations import NATIVE, choose_operations
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import open_workdir
from thermo_jax.training.parallel import DataParallel


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Measures every case and type; returns the rows that it also appends to the workdir's file.

    The table also shows the rows that the file contains already, such as those of
    launch/benchmark_torch.py. A row is written as soon as it is measured.
    """
    _check_fields(config)
    file = Path(open_workdir(workdir, config)) / "benchmark.jsonl"
    with file.open("a+", encoding="utf-8") as stream:
        stream.seek(0)
        rows = [json.loads(line) for line in stream]
        try:
            for row in _new_rows(config):
                print(json.dumps(row), file=stream, flush=True)
                rows.append(row)
        finally:  # so that rows measured before an error are shown
            print(f"\n{tables.text(rows)}\nWritten to {file}")
    return {"rows": rows}


def benchmark_settings(config: ConfigDict) -> BenchmarkSettings:
    """What is measured."""
    names = [field.name for field in dataclasses.fields(BenchmarkSettings)]
    return BenchmarkSettings(**{name: config[name] for name in names})


def _check_fields(config: ConfigDict) -> None:
    settings.check_fields(config)
    image_shape("heat", downscale=config.downscale)  # a factor that fits heatmaps fits gray, too
    for name in (*config.cases, *config.feeding, *config.profiled):
        find_case(name)


def _new_rows(config: ConfigDict) -> Iterator[Row]:
    case_settings = benchmark_settings(config)
    if config.topologies:
        return ahead_of_time.tpu_rows(config.topologies, case_settings)
    if config.gpus:
        return ahead_of_time.gpu_rows(config.gpus, case_settings, biggest=config.biggest)
    if config.device_counts:
        return ahead_of_time.collectives_rows(config.device_counts, case_settings)
    if config.against_cpu:
        return precision_rows(case_settings, conv=config.conv)
    return _timed_rows(config)


def _timed_rows(config: ConfigDict) -> Iterator[Row]:
    parallel, repeats = DataParallel(mode=config.mode), config.repeats
    timing = {"parallel": parallel, "repeats": repeats}
    timing["steps_per_dispatch"] = config.steps_per_dispatch
    about = {"framework": "thermo_jax", "mode": config.mode, **measure.conditions()}
    about["devices"] = devices = len(parallel.devices)
    platform, first_dtype = about["platform"], config.dtypes[0]
    operations = choose_operations(config.conv, platform=platform)
    case_settings = benchmark_settings(config)
    make = partial(make_case, settings=case_settings, operations=operations, platform=platform)
    for name in config.cases:
        batch_size = make(name, dtype=first_dtype).batch_size
        parallel.check_batch_size(batch_size, field="config.batch_size")
    copy = measure.copy_ceiling(config.copy_mb, repeats=repeats)
    for dtype in config.dtypes:
        with precision.matmul_precision(dtype, platform=platform):
            array = precision.array_dtype(dtype).name
            matrix = measure.matrix_ceiling(config.matrix, dtype=array, repeats=repeats)
        logging.info("%s: matrix product %.3g TFLOP/s, copy %.3g GB/s", dtype, matrix, copy)
        for name in config.cases:
            logging.info("%s, %s", name, dtype)
            case = make(name, dtype=dtype)
            profiled = name in config.profiled and dtype == first_dtype
            for row in _rows_or_reason(case, measure.timed_rows(case, profiled=profiled, **timing)):
                if row.get("tflops", 0) is None:
                    counted = flops(make(name, dtype=dtype, operations=NATIVE))
                    row["tflops_xla"] = counted and counted / 1e9 / row["ms_per_step"]
                tflops, gb_per_s = row.get("tflops") or row.get("tflops_xla"), row.get("gb_per_s")
                row |= about | {"dtype": dtype, "matrix_tflops": matrix, "copy_gb_per_s": copy}
                row["share_of_matrix"] = tflops and tflops / (matrix * devices)
                row["share_of_copy"] = gb_per_s and gb_per_s / (copy * devices)
                yield row
    about["dtype"] = first_dtype
    for name in config.feeding:
        logging.info("%s, ways of feeding batches", name)
        case = make(name, dtype=first_dtype)
        for row in _rows_or_reason(case, measure.measure_feeding(case, **timing)):
            yield row | about
    if config.feeding:
        for row in measure.measure_calls(repeats=repeats):
            yield row | about


def _rows_or_reason(case: Case, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; for a case that does not fit the device's memory, a row that says so."""
    try:
        yield from rows
    except jax.errors.JaxRuntimeError as error:
        why = why_too_large(error)
        yield {"case": case.name, "batch_size": case.batch_size, "why": why}
