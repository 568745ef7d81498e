"""Program "benchmark": the product's steps on random images -> benchmark.jsonl and a table."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.benchmark import collectives, gpu, measure, tpu
from thermo_jax.benchmark.cases import Case, find_case, make_case
from thermo_jax.data.examples import IMAGE_SHAPES, downscaled_size
from thermo_jax.models import precision
from thermo_jax.models.operations import NATIVE, choose_operations
from thermo_jax.programs import runs
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
    runs.check_fields(config)
    runs.check_chosen(config, "dtypes", [name for name in precision.NAMES if name != "auto"])
    for height, width, _ in IMAGE_SHAPES.values():
        downscaled_size(height, width, config.downscale)
    for name in (*config.cases, *config.feeding):
        find_case(name)


def _measure_all(config: ConfigDict) -> Iterator[dict[str, Any]]:
    parallel = DataParallel(mode=config.mode)
    about = {"framework": "thermo_jax", "mode": config.mode, **measure.versions()}
    count = about["devices"] = len(parallel.devices)
    platform = about["platform"]
    operations = choose_operations(config.conv, platform=platform)
    options = {"parallel": parallel, "repeats": config.repeats}
    options["steps_per_dispatch"] = config.steps_per_dispatch
    copy = measure.copy_ceiling(config.copy_mb, repeats=config.repeats)
    for dtype in config.dtypes:
        array = precision.array_dtype(dtype).name
        with precision.matmul_precision(dtype, platform=platform):
            matrix = measure.matrix_ceiling(config.matrix, dtype=array, repeats=config.repeats)
        ceilings = {"dtype": dtype, "matrix_tflops": matrix, "copy_gb_per_s": copy}
        logging.info("%s: matrix product %.3g TFLOP/s, copy %.3g GB/s", dtype, matrix, copy)
        for name in config.cases:
            case = make_case(name, config, dtype=dtype, operations=operations, platform=platform)
            parallel.check_batch_size(case.batch_size, field="config.batch_size")
            logging.info("%s, %s", name, dtype)
            rows = []
            with _noting_what_is_too_large(case, rows):
                row = measure.measure(case, **options)
                counted = measure.flops(make_case(name, config, dtype=dtype, operations=NATIVE))
                row["tflops_xla"] = counted and counted / 1e9 / row["ms_per_step"]
                used = row["tflops"] or row["tflops_xla"]
                row["share_of_matrix"] = used and used / (matrix * count)
                row["share_of_copy"] = row["gb_per_s"] and row["gb_per_s"] / (copy * count)
                rows.append(row)
            yield from (row | about | ceilings for row in rows)
    about["dtype"] = config.dtypes[0]
    for name in config.feeding:
        dtype = about["dtype"]
        case = make_case(name, config, dtype=dtype, operations=operations, platform=platform)
        logging.info("%s, how it is fed", name)
        rows = []
        with _noting_what_is_too_large(case, rows):
            rows += measure.measure_feeding(case, **options)
        yield from (row | about for row in rows)
    for row in measure.measure_calls(repeats=config.repeats):
        yield row | about


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


def throughput_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for reading, and below them how steps are fed."""
    header = f"{'case':<24} {'by':<11} {'type':<14}{'batch':>6}{'images/s':>10}{'ms/step':>10}"
    header += f"{'spread':>8}{'compile':>9}{'TFLOP/s':>9}"
    header += f"{'of matrix':>10}{'of copy':>8}{'peak GB':>9}"
    lines = [header]
    for row in rows:
        if "batch_size" not in row or "topology" in row:
            continue
        what = f"{row['case']:<24} {row['framework']:<11} {row['dtype']:<14}{row['batch_size']:>6}"
        if "why" in row:
            lines.append(f"{what}  {row['why']}")
            continue
        tflops = row.get("tflops") or row.get("tflops_xla")
        lines.append(
            f"{what}{row['images_per_s']:>10.4g}{row['ms_per_step']:>10.4g}{_spread(row):>8.0%}"
            f"{_number(row.get('compile_s'), '9.1f')}{_number(tflops, '9.3g')}"
            f"{_number(row.get('share_of_matrix'), '10.0%')}"
            f"{_number(row.get('share_of_copy'), '8.0%')}"
            f"{_number(row.get('peak_bytes') and row['peak_bytes'] / 1e9, '9.2f')}"
        )
    fed = [row for row in rows if "way" in row]
    if fed:
        lines += ["", f"{'how a step is fed':<45}{'ms/step':>10}{'spread':>8}{'device waits':>14}"]
    for row in fed:
        lines.append(
            f"{row['case'] + ', ' + row['way']:<45}{row['ms_per_step']:>10.4g}{_spread(row):>8.0%}"
            f"{_number(row.get('waits'), '14.0%')}"
        )
    devices = {(row["device"], row["platform"]) for row in rows if "device" in row}
    if devices:
        lines.append("\non " + "; ".join(f"{device} ({platform})" for device, platform in devices))
    return "\n".join(lines)


def _spread(row: dict[str, Any]) -> float:
    return (row["ms_max"] - row["ms_min"]) / row["ms_per_step"]


def _number(value: float | None, form: str) -> str:
    width = int(form.split(".")[0])
    return f"{'-':>{width}}" if value is None else f"{value:>{form}}"
