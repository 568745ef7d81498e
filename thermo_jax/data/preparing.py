"""Prepares a source folder: reads and checks its files, and writes them as records, once.

source -> scan -> plan (the thermograms and the data report) -> shards, by several processes
       -> what TFDS must know -> prepared.json, and the folder gets its name

Everything is written to a folder `<name>.incomplete`. A shard is some rows of all `KINDS`; it is
complete or absent. A preparation that was killed continues with the plan and the finished shards,
unless the source has changed meanwhile.
"""

import collections
import contextlib
import datetime
import errno
import functools
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from absl import logging
from array_record.python import array_record_module

from thermo_jax.data import dmr_ir, layouts, workers
from thermo_jax.data.prepared import (
    KINDS,
    PREPARED_FILE,
    Prepared,
    Wanted,
    find,
    locate,
    lock,
    make_prepared_dir,
)
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings
from thermo_jax.data.saved_scan import Scanned, load_scan, save_scan
from thermo_jax.data.thermogram import Thermogram
from thermo_jax.errors import UserError
from thermo_jax.files import PARTIAL, write_whole

ROWS_PER_SHARD = 256
MOST_SHARDS = 1024  # a reader keeps every shard of a kind open
_PLAN = "plan.jsonl"
_SAMPLES = 8  # thermograms whose records show how much disk is needed
_COPIES = 16  # of the samples, since ArrayRecord fills up each file to blocks of 64 KiB
Encode = Callable[[Thermogram], dict[str, bytes]]  # -> the record of each of `KINDS`


def prepare(
    root: str | os.PathLike,
    *,
    layout: str = "auto",
    strict: bool = False,
    prepared_dir: str | os.PathLike | None = None,
    colormap: str = "jet",
    render: str = "auto",
    reader: ReaderSettings = AS_RECOGNISED,
    scanned: Scanned | None = None,
) -> Prepared:
    """Prepares a source folder, unless this was done before.

    Args:
      root, layout, strict, render, reader: as in `layouts.scan`.
      prepared_dir: the folder of prepared sets; default `prepared` in `files.cache_dir()`.
      colormap: matplotlib colour map for heatmaps rendered from temperatures.
      scanned: the result of `layouts.scan` with these arguments, if that was called before.
    Raises:
      FileNotFoundError: there is no such root.
      UserError: no usable thermogram, an unknown layout, too little disk, or `prepared_dir` is
        inside the root.
      DataError: a bad file, if `strict`.
    """
    wanted = locate(
        root,
        layout=layout,
        prepared_dir=prepared_dir,
        colormap=colormap,
        render=render,
        reader=reader,
    )
    fingerprint = wanted.fingerprint()
    make_prepared_dir(prepared_dir, root=wanted.root)
    prepared = find(wanted.directory, fingerprint)
    if prepared is None:
        with lock(wanted.directory):
            # Another process may have prepared it by now.
            prepared = find(wanted.directory, fingerprint) or _write(
                wanted, fingerprint, strict=strict, reader=reader, scanned=scanned
            )
    if strict and prepared.num_bad:
        layouts.scan(root, layout=layout, strict=True, reader=reader)  # raises the file's error
    if prepared.num_oddities:
        logging.warning(
            "%d oddities in the data, %d files skipped; see %s",
            prepared.num_oddities,
            prepared.num_skipped,
            prepared.report_path,
        )
    return prepared


def _write(
    wanted: Wanted,
    fingerprint: str,
    *,
    strict: bool,
    reader: ReaderSettings,
    scanned: Scanned | None,
) -> Prepared:
    """Prepares in a folder beside the wanted one, and renames it when it is complete."""
    directory = wanted.directory
    if directory.exists():
        logging.warning(
            "%s is incomplete, was prepared by an earlier version, or its source has changed: "
            "preparing it again",
            directory,
        )
    staging = directory.with_name(f"{directory.name}.incomplete")
    options = {"strict": strict, "reader": reader, "scanned": scanned}
    records, report = _plan(wanted, fingerprint, staging=staging, **options)
    _remove_partial(staging)
    shard_lengths = _write_shards(records, staging=staging, wanted=wanted, reader=reader)
    _remove_partial(staging)
    for kind in KINDS:
        dmr_ir.write_metadata(_folder_of(staging, kind), kind, shard_lengths=shard_lengths)
    report.write(staging, records)
    facts = {
        "fingerprint": fingerprint,
        "num_oddities": len(report.oddities),
        "num_skipped": len(report.skipped),
        "num_bad": report.num_bad,
        "cautions": report.cautions,
    }
    others = {"num_records": len(records), "root": str(wanted.root), **wanted.read_as}
    others["prepared_at"] = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    (staging / _PLAN).unlink()
    write_whole(staging / PREPARED_FILE, json.dumps(facts | others, indent=2) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    staging.rename(directory)
    logging.info("prepared %d thermograms in %s", len(records), directory)
    return Prepared(directory=directory, **facts)


def _plan(
    wanted: Wanted,
    fingerprint: str,
    *,
    staging: pathlib.Path,
    strict: bool,
    reader: ReaderSettings,
    scanned: Scanned | None,
) -> Scanned:
    """The thermograms to write, and the data report: of a run that was killed, or of a scan."""
    path = staging / _PLAN
    saved = load_scan(path, fingerprint)
    if saved is not None and not (strict and saved[1].num_bad):
        logging.info("continuing to prepare %s in %s", wanted.root, wanted.directory)
        return saved
    logging.info("preparing %s in %s", wanted.root, wanted.directory)
    records, report = scanned or layouts.scan(
        wanted.root,
        layout=wanted.read_as["layout"],
        strict=strict,
        render=wanted.read_as["render"],
        reader=reader,
    )
    shutil.rmtree(staging, ignore_errors=True)  # of another state of the source
    for kind in KINDS:
        _folder_of(staging, kind).mkdir(parents=True)
    save_scan(path, fingerprint, records, report)
    return records, report


# --------------------------------------------------------------------------------------------------
# Shards
# --------------------------------------------------------------------------------------------------


def _write_shards(
    records: Sequence[Thermogram], *, staging: pathlib.Path, wanted: Wanted, reader: ReaderSettings
) -> list[int]:
    """Writes the shards that are not finished; returns the number of rows in each."""
    parts = _parts(records)
    paths = _shard_paths(staging, num_shards=len(parts))
    missing = [
        (part, of_part)
        for part, of_part in zip(parts, paths, strict=True)
        if not all(path.exists() and path.stat().st_size for path in of_part.values())
    ]
    num_left = sum(len(part) for part, _ in missing)
    encode = functools.partial(dmr_ir.encode, reader=reader, colormap=wanted.read_as["colormap"])
    _check_disk(records, num_left=num_left, staging=staging, wanted=wanted, encode=encode)
    if len(missing) < 2 or workers.num_processes() < 2:
        left = [record for part, _ in missing for record in part]
        encoded = workers.ordered_map(encode, left, description="preparing")
        with contextlib.closing(encoded):
            for part, of_part in missing:
                _write_shard(itertools.islice(encoded, len(part)), of_part)
        return [len(part) for part in parts]
    write = functools.partial(_write_part, encode=encode)
    numbers = workers.with_progress(
        workers.process_map(write, missing),
        total=len(records),
        done=len(records) - num_left,
        size_of=int,
        description="preparing",
    )
    with contextlib.closing(numbers):
        collections.deque(numbers, maxlen=0)
    return [len(part) for part in parts]


def _parts(records: Sequence[Thermogram]) -> list[Sequence[Thermogram]]:
    """The records of each shard."""
    count = min(-(-len(records) // ROWS_PER_SHARD), MOST_SHARDS)
    ends = np.linspace(0, len(records), count + 1).astype(int).tolist()
    return [records[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]


def _folder_of(staging: pathlib.Path, kind: str) -> pathlib.Path:
    return staging / Prepared.subfolder(kind)


def _shard_paths(staging: pathlib.Path, *, num_shards: int) -> list[dict[str, pathlib.Path]]:
    """The file of each of `KINDS`, of each shard."""
    by_kind = [dmr_ir.shard_files(_folder_of(staging, kind), num_shards) for kind in KINDS]
    return [dict(zip(KINDS, of_shard, strict=True)) for of_shard in zip(*by_kind, strict=True)]


def _write_part(
    shard: tuple[Sequence[Thermogram], dict[str, pathlib.Path]], *, encode: Encode
) -> int:
    """Reads and writes the records of a shard, in any process; returns their number."""
    records, paths = shard

    def examples() -> Iterator[dict[str, bytes]]:
        for record in records:
            workers.check_wanted()
            yield encode(record)

    _write_shard(examples(), paths)
    return len(records)


def _write_shard(examples: Iterable[dict[str, bytes]], paths: dict[str, pathlib.Path]) -> None:
    """Writes a file of each of `KINDS`; all are complete, or absent.

    Raises:
      OSError: the disk is full.
    """
    suffix = f".{os.getpid()}{PARTIAL}"
    partial = {kind: path.with_name(f"{path.name}{suffix}") for kind, path in paths.items()}
    try:
        writers = {
            kind: array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            for kind, path in partial.items()
        }
        for example in examples:
            for kind, record in example.items():
                writers[kind].write(record)
        for writer in writers.values():
            writer.close()
        for kind, path in paths.items():
            partial[kind].replace(path)
    except RuntimeError as error:
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code) in str(error):
                folder = os.fspath(next(iter(paths.values())).parent)
                raise OSError(code, os.strerror(code), folder) from error
        raise
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _remove_partial(staging: pathlib.Path) -> None:
    """Removes what processes left that were killed."""
    for path in staging.rglob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)


def _check_disk(
    records: Sequence[Thermogram],
    *,
    num_left: int,
    staging: pathlib.Path,
    wanted: Wanted,
    encode: Encode,
) -> None:
    """Logs how much disk the missing shards need. Raises UserError if the disk has less."""
    needed = num_left * _bytes_of_record(records, encode=encode, folder=staging / "samples")
    free = shutil.disk_usage(staging).free
    logging.info(
        "%d of %d thermograms are to be written: they need about %.2f GB of disk, and %.1f GB are "
        "free",
        num_left,
        len(records),
        needed / 1e9,
        free / 1e9,
    )
    if needed > free:
        raise UserError(
            f"{wanted.directory}: preparing {wanted.root} needs about {needed / 1e9:.1f} GB of "
            f"disk, and {free / 1e9:.1f} GB are free: delete something, or choose another folder "
            "with config.data.prepared_dir"
        )


def _bytes_of_record(
    records: Sequence[Thermogram], *, encode: Encode, folder: pathlib.Path
) -> float:
    """The size on disk of all kinds of a thermogram, the mean over some of them."""
    rows = np.linspace(0, len(records) - 1, min(_SAMPLES, len(records))).astype(int)
    examples = [encode(records[row]) for row in rows]
    paths = {kind: folder / kind for kind in KINDS}
    folder.mkdir(exist_ok=True)
    try:
        _write_shard(examples * _COPIES, paths)
        sizes = [path.stat().st_size for path in paths.values()]
    finally:
        shutil.rmtree(folder)
    return sum(sizes) / (len(examples) * _COPIES)
