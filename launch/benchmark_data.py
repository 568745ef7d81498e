"""Measures how fast and in how much memory images are streamed from prepared records.

    .venv/bin/python launch/benchmark_data.py speed --root=/data/dmr-ir
    .venv/bin/python launch/benchmark_data.py wait --root=/data/dmr-ir
    .venv/bin/python launch/benchmark_data.py memory --root=/data/dmr-ir --rows=100000

The data are prepared first, if they are not. "speed" reads every image once, in random order: with
cold files (the system is asked to forget them) and with warm ones. "wait" takes batches beside
steps of known length. "memory" takes rows that range over the images again and again, and shows the
memory of the process; a limit is set from outside (`ulimit -v`, a control group). Every line of a
table is printed when it is measured.
"""

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from thermo_jax.data import batches
from thermo_jax.data.dataset import Dataset, DataSettings, open_dataset
from thermo_jax.data.streamed import Column, subset
from thermo_jax.training.memory import keep_freed_memory

# Name -> the columns that are read: data type, task, column.
COLUMNS = {
    "heat": [("heat", "pretrain", "images")],
    "gray": [("gray", "pretrain", "images")],
    "heat and gray": [("heat", "pretrain", "images"), ("gray", "pretrain", "images")],
    "heat, label maps": [("heat", "segment", "images"), ("heat", "segment", "label_maps")],
    "gray, label maps": [("gray", "segment", "images"), ("gray", "segment", "label_maps")],
}
STEPS_MS = (1, 5, 50)
REPEATS = 5  # of a speed, whose median is shown


def opened(root: str, data_type: str) -> Dataset:
    """Returns the data set, streamed."""
    settings = DataSettings(root=root, type=data_type, frames="all", streamed=True)
    return open_dataset(settings)


def columns_of(root: str, name: str, *, rows: int = 0) -> dict[str, Column]:
    """Returns the columns of one of COLUMNS; with `rows`, so many, which repeat the images."""
    columns = {}
    for data_type, task, column in COLUMNS[name]:
        values = opened(root, data_type).load(task).columns[column]
        index = np.arange(rows or len(values)) % len(values)
        columns[f"{data_type} {column}"] = subset(values, index)
    return columns


def forget(root: str) -> None:
    """Asks the system to drop the prepared files from its cache."""
    (directory,) = {r.gray_path or r.heat_path for r in opened(root, "gray").records}
    for path in directory.rglob("*array_record*"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def epoch(columns: Mapping[str, Column], *, batch_size: int, loader: str) -> Iterator[dict]:
    """Yields batches with every image once, in random order."""
    steps = len(next(iter(columns.values()))) // batch_size
    return batches.train_batches(
        columns, batch_size=batch_size, seed=0, num_steps=steps, loader=loader
    )


def measure_speed(root: str, *, batch_size: int) -> None:
    print("| images | files | loader | images/s | CPU ms an image | images/s of a core | MB/s |")
    print("|---|---|---|---|---|---|---|")
    for name in COLUMNS:
        for loader in batches.LOADERS:
            for files in ("cold", "warm"):
                runs = []
                for _ in range(REPEATS):
                    if files == "cold":
                        forget(root)
                    columns = columns_of(root, name)
                    runs.append(timed(epoch(columns, batch_size=batch_size, loader=loader)))
                seconds, cpu_seconds = np.median(runs, axis=0)  # for an image
                size = sum(np.prod(column.shape[1:]) for column in columns.values())
                print(
                    f"| {name} | {files} | {loader} | {1 / seconds:,.0f} | {1e3 * cpu_seconds:.2f} "
                    f"| {1 / cpu_seconds:,.0f} | {size / seconds / 1e6:,.0f} |",
                    flush=True,
                )


def timed(reading: Iterator[dict]) -> tuple[float, float]:
    """Returns the seconds and the seconds of CPU time that an image takes."""
    start, used = time.perf_counter(), time.process_time()
    count = sum(len(batch["index"]) for batch in reading)
    return (time.perf_counter() - start) / count, (time.process_time() - used) / count


def measure_wait(root: str, *, batch_size: int) -> None:
    print("| images | loader | step, ms | waits for a batch, ms | images/s |")
    print("|---|---|---|---|---|")
    for name in COLUMNS:
        for loader in batches.LOADERS:
            for step_ms in STEPS_MS:
                columns = columns_of(root, name)
                waits, count = [], 0
                reading = epoch(columns, batch_size=batch_size, loader=loader)
                for _ in range(3):  # until batches are read ahead
                    next(reading)
                begin = start = time.perf_counter()
                for batch in reading:
                    waits.append(time.perf_counter() - start)
                    count += len(batch["index"])
                    time.sleep(step_ms / 1e3)
                    start = time.perf_counter()
                rate = count / (start - begin)
                wait = 1e3 * np.mean(waits)
                print(f"| {name} | {loader} | {step_ms} | {wait:.2f} | {rate:,.0f} |", flush=True)


def memory_mb() -> tuple[float, float]:
    """Returns the process's own memory, and its address space, MB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) / 1e3 for name in ("RssAnon", "VmSize"))


def measure_memory(root: str, *, batch_size: int, loader: str, name: str, rows: int) -> None:
    columns = columns_of(root, name, rows=rows)
    size = sum(np.prod(column.shape) for column in columns.values())
    print(f"{rows:,} rows of {name}: {size / 1e9:.1f} GB in memory", flush=True)
    print("| rows | seconds | own memory, MB | address space, MB |")
    print("|---|---|---|---|")
    start, count, lines = time.perf_counter(), 0, 10
    for batch in epoch(columns, batch_size=batch_size, loader=loader):
        before, count = count, count + len(batch["index"])
        if before == 0 or before * lines // rows < count * lines // rows:
            own, space = memory_mb()
            seconds = time.perf_counter() - start
            print(f"| {count:,} | {seconds:.0f} | {own:,.0f} | {space:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "wait", "memory"))
    parser.add_argument("--root", required=True, help="a data set")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rows", type=int, default=100_000, help="of memory")
    parser.add_argument("--columns", choices=COLUMNS, default="gray", help="of memory")
    parser.add_argument("--loader", choices=batches.LOADERS, default="tf.data", help="of memory")
    given = parser.parse_args()
    keep_freed_memory()  # as programs do on a CPU
    batches.import_tensorflow()  # takes seconds
    options = {"root": given.root, "batch_size": given.batch_size}
    if given.what == "speed":
        measure_speed(**options)
    elif given.what == "wait":
        measure_wait(**options)
    else:
        measure_memory(**options, loader=given.loader, name=given.columns, rows=given.rows)


if __name__ == "__main__":
    main()
