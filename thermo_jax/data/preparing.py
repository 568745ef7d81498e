"""Prepares a source folder: reads and checks its files, and writes them as records, once.

source -> scan -> plan (the thermograms and the data report) -> shards, by several processes
       -> what TFDS must know -> prepared.json, and the folder gets its name

Everything is written to a folder `<name>.incomplete`. A shard is some rows of all `KINDS`; it is
complete or absent. A preparation that was killed continues with the plan and the finished shards,
unless the source has changed meanwhile.
"""

import collections
import dataclasses
import datetime
import errno
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from array_record.python import array_record_module

from thermo_jax.data import dmr_ir, layouts, workers
from thermo_jax.data.data_report import DataReport, Oddity
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
from thermo_jax.data.thermogram import PATH_FIELDS, Annotation, Thermogram
from thermo_jax.errors import UserError
from thermo_jax.files import write_whole

ROWS_PER_SHARD = 256
# A reader keeps every shard of a kind open, and many systems allow 1,024 open files.
MOST_SHARDS = 256
_PLAN = "plan.jsonl"
_PARTIAL = ".partial"  # the end of the name of a file that is being written
_SAMPLES = 8  # thermograms whose records show how much disk is needed
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
) -> Prepared:
    """Prepares a source folder, unless this was done before.

    Args:
      root, layout, strict, render, reader: as in `layouts.scan`.
      prepared_dir: the folder of prepared sets; default `prepared` in `files.cache_dir()`.
      colormap: matplotlib colour map for heatmaps rendered from temperatures.
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
                wanted, fingerprint, strict=strict, reader=reader
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


def _write(wanted: Wanted, fingerprint: str, *, strict: bool, reader: ReaderSettings) -> Prepared:
    """Prepares in a folder beside the wanted one, and renames it when it is complete."""
    directory = wanted.directory
    if directory.exists():
        logging.warning(
            "%s is incomplete, was prepared by an earlier version, or its source has changed: "
            "preparing it again",
            directory,
        )
    staging = directory.with_name(f"{directory.name}.incomplete")
    records, report = _plan(wanted, fingerprint, staging=staging, strict=strict, reader=reader)
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


# --------------------------------------------------------------------------------------------------
# The plan
# --------------------------------------------------------------------------------------------------


def _plan(
    wanted: Wanted,
    fingerprint: str,
    *,
    staging: pathlib.Path,
    strict: bool,
    reader: ReaderSettings,
) -> tuple[list[Thermogram], DataReport]:
    """The thermograms to write, and the data report: of a run that was killed, or of a scan."""
    path = staging / _PLAN
    saved = _load_plan(path, fingerprint)
    if saved is not None:
        logging.info("continuing to prepare %s in %s", wanted.root, wanted.directory)
        return saved
    shutil.rmtree(staging, ignore_errors=True)  # of another state of the source
    logging.info("preparing %s in %s", wanted.root, wanted.directory)
    records, report = layouts.scan(
        wanted.root,
        layout=wanted.read_as["layout"],
        strict=strict,
        render=wanted.read_as["render"],
        reader=reader,
    )
    for kind in KINDS:
        _folder_of(staging, kind).mkdir(parents=True)
    _save_plan(path, fingerprint, records, report)
    return records, report


def _save_plan(
    path: pathlib.Path, fingerprint: str, records: Sequence[Thermogram], report: DataReport
) -> None:
    """Writes the report and the records, one JSON value in each line."""
    partial = path.with_suffix(_PARTIAL)
    with open(partial, "w", encoding="utf-8") as file:
        of_report = vars(report) | {"oddities": list(map(vars, report.oddities))}
        for fields in ({"fingerprint": fingerprint}, of_report, *map(dataclasses.asdict, records)):
            file.write(json.dumps(fields, default=os.fspath) + "\n")
    partial.replace(path)


def _load_plan(path: pathlib.Path, fingerprint: str) -> tuple[list[Thermogram], DataReport] | None:
    """The plan; None if there is none for this source."""
    try:
        with open(path, encoding="utf-8") as file:
            if json.loads(next(file, "{}")).get("fingerprint") != fingerprint:
                return None
            report = json.loads(next(file))
            report["oddities"] = [Oddity(**fields) for fields in report["oddities"]]
            report["sizes"] = collections.Counter(report["sizes"])
            report["root"] = pathlib.Path(report["root"])
            return [_thermogram(json.loads(line)) for line in file], DataReport(**report)
    except FileNotFoundError:
        return None


def _thermogram(fields: dict[str, Any]) -> Thermogram:
    """A thermogram from its fields in JSON, which has neither tuples nor paths."""
    paths = {name: fields[name] and pathlib.Path(fields[name]) for name in PATH_FIELDS.values()}
    regions = [
        Annotation(
            class_index=region["class_index"],
            rings=tuple(tuple(map(tuple, ring)) for ring in region["rings"]),
            runs=tuple(region["runs"]),
        )
        for region in fields["regions"]
    ]
    fields |= paths | {
        "regions": tuple(regions),
        "files": tuple(map(pathlib.Path, fields["files"])),
    }
    fields |= {name: tuple(fields[name]) for name in ("shape", "regions_shape", "notes")}
    return Thermogram(**fields)


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
        if not all(path.exists() for path in of_part.values())
    ]
    num_left = sum(len(part) for part, _ in missing)
    encode = functools.partial(dmr_ir.encode, reader=reader, colormap=wanted.read_as["colormap"])
    _check_disk(records, num_left=num_left, staging=staging, wanted=wanted, encode=encode)
    if len(missing) < 2 or workers.num_processes() < 2:
        for part, of_part in missing:
            examples = workers.ordered_map(encode, part, description="preparing")
            _write_shard(examples, of_part)
        return [len(part) for part in parts]
    write = functools.partial(_write_part, encode=encode, parent=os.getpid())
    for _ in workers.with_progress(
        workers.unordered_calls(write, missing),
        total=len(records),
        done=len(records) - num_left,
        size_of=lambda num_rows: num_rows,
        description="preparing",
    ):
        pass
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
    part: Sequence[Thermogram], paths: dict[str, pathlib.Path], *, encode: Encode, parent: int
) -> int:
    """Writes a shard in a process of its own; returns the number of its rows."""

    def examples() -> Iterator[dict[str, bytes]]:
        for record in part:
            if os.getppid() != parent:  # it was killed, and another run may have begun
                os._exit(1)
            yield encode(record)

    _write_shard(examples(), paths)
    return len(part)


def _write_shard(examples: Iterable[dict[str, bytes]], paths: dict[str, pathlib.Path]) -> None:
    """Writes a file of each of `KINDS`; all are complete, or absent.

    Raises:
      OSError: the disk is full.
    """
    suffix = f".{os.getpid()}{_PARTIAL}"
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
    for path in staging.rglob(f"*{_PARTIAL}"):
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
    rows = np.linspace(0, len(records) - 1, min(_SAMPLES, len(records))).astype(int)
    folder = staging / "samples"
    folder.mkdir(exist_ok=True)
    paths = {kind: folder / kind for kind in KINDS}
    _write_shard((encode(records[row]) for row in rows), paths)
    per_record = sum(path.stat().st_size for path in paths.values()) / len(rows)
    shutil.rmtree(folder)
    needed, free = per_record * num_left, shutil.disk_usage(staging).free
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
