"""Program "benchmark": the product's steps on random images -> benchmark.jsonl and a table."""

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.benchmark import collectives, compare, gpu, measure, profiling, tpu
from thermo_jax.benchmark.cases import Case, find_case, make_case
from thermo_jax.benchmark.compilation import compile_all
from thermo_jax.benchmark.tables import throughput_table
from thermo_jax.data.examples import IMAGE_SHAPES, downscaled_size
from thermo_jax.models import precision
from thermo_jax.models.operations import NATIVE, choose_operations
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import open_workdir
from thermo_jax.training.parallel import DataParallel

RECORD = "benchmark.jsonl"


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Measures every case and type; returns the rows that it also appends to the workdir's file.

    Rows that are in the file already, such as those of launch/benchmark_torch.py, are shown, too.
    """
    _check_fields(config)
    file = open_workdir(workdir, config) / RECORD
    shown = _read(file)
    if config.topologies:
        rows, table = tpu.compile_all(config), tpu.table
    elif config.gpus:
        rows, table = gpu.compile_all(config), gpu.table
    elif config.device_counts:
        rows, table = collectives.count_all(config), collectives.table
    elif config.against_cpu:
        rows, table = compare.compare_all(config), compare.table
    else:
        rows, table = _measure_all(config), throughput_table
    try:
        for row in rows:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            shown.append(row)
    finally:  # what was measured before an error is worth seeing
        print(f"\n{table(shown)}\nWritten to {file}")
    return {"rows": shown}


def _check_fields(config: ConfigDict) -> None:
    settings.check_fields(config)
    settings.check_chosen(config, "dtypes", [name for name in precision.NAMES if name != "auto"])
    for height, width, _ in IMAGE_SHAPES.values():
        downscaled_size(height, width, config.downscale)
    for name in (*config.cases, *config.feeding, *config.profiled):
        find_case(name)


def _measure_all(config: ConfigDict) -> Iterator[dict[str, Any]]:
    parallel = DataParallel(mode=config.mode)
    about = {"framework": "thermo_jax", "mode": config.mode, **measure.versions()}
    about["devices"] = len(parallel.devices)
    platform = about["platform"]
    steps, repeats = config.steps_per_dispatch, config.repeats
    chosen = [(name, dtype) for dtype in config.dtypes for name in config.cases]
    make = partial(make_case, config=config, platform=platform)
    make = partial(make, operations=choose_operations(config.conv, platform=platform))
    cases = [make(name, dtype=dtype) for name, dtype in chosen]
    for case in cases:
        parallel.check_batch_size(case.batch_size, field="config.batch_size")
    logging.info("compiling %d programs", len(cases))
    programs = compile_all(cases, parallel=parallel, steps_per_dispatch=steps)
    copy = measure.copy_ceiling(config.copy_mb, repeats=repeats)
    ceilings = {}
    for (name, dtype), case, program in zip(chosen, cases, programs, strict=True):
        if dtype not in ceilings:
            matrix = _matrix_ceiling(config, dtype=dtype, platform=platform)
            logging.info("%s: matrix product %.3g TFLOP/s, copy %.3g GB/s", dtype, matrix, copy)
            ceilings[dtype] = {"matrix_tflops": matrix, "copy_gb_per_s": copy}
        logging.info("%s, %s", name, dtype)
        rows = []
        with _noting_what_is_too_large(case, rows):
            row = measure.measure(program.result(), parallel=parallel, repeats=repeats)
            if row["tflops"] is None:
                counted = measure.flops(make_case(name, config, dtype=dtype, operations=NATIVE))
                row["tflops_xla"] = counted and counted / 1e9 / row["ms_per_step"]
            rows.append(row)
        yield from (
            row | {"dtype": dtype} | ceilings[dtype] | _shares(row, about, ceilings[dtype]) | about
            for row in rows
        )
    about["dtype"] = config.dtypes[0]
    for (name, dtype), program in zip(chosen, programs, strict=True):
        if name in config.profiled and dtype == config.dtypes[0]:
            logging.info("%s, its kernels", name)
            yield profiling.profile(program.result(), parallel=parallel) | about
    for name in config.feeding:
        case = make(name, dtype=about["dtype"])
        logging.info("%s, how it is fed", name)
        rows = []
        with _noting_what_is_too_large(case, rows):
            options = {"parallel": parallel, "repeats": repeats}
            rows += measure.measure_feeding(case, steps_per_dispatch=steps, **options)
        yield from (row | about for row in rows)
    if config.feeding:
        for row in measure.measure_calls(repeats=repeats):
            yield row | about


def _matrix_ceiling(config: ConfigDict, *, dtype: str, platform: str) -> float:
    array = precision.array_dtype(dtype).name
    with precision.matmul_precision(dtype, platform=platform):
        return measure.matrix_ceiling(config.matrix, dtype=array, repeats=config.repeats)


def _shares(row: dict, about: dict, ceilings: dict[str, float]) -> dict[str, float | None]:
    """What a row's step reaches of all devices' ceilings."""
    count = about["devices"]
    tflops, gb_per_s = row.get("tflops") or row.get("tflops_xla"), row.get("gb_per_s")
    return {
        "share_of_matrix": tflops and tflops / (ceilings["matrix_tflops"] * count),
        "share_of_copy": gb_per_s and gb_per_s / (ceilings["copy_gb_per_s"] * count),
    }


@contextlib.contextmanager
def _noting_what_is_too_large(case: Case, rows: list[dict[str, Any]]) -> Iterator[None]:
    """A case that does not fit the device's memory becomes a row that says so."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        why = measure.why_too_large(error)
        rows.append({"case": case.name, "batch_size": case.batch_size, "why": why})


def _read(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines]
