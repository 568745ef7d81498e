"""The result of `layouts.scan` as a file, with which a preparation that was killed continues."""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from thermo_jax.data.data_report import DataReport, Oddity
from thermo_jax.data.thermogram import PATH_FIELDS, Annotation, Thermogram
from thermo_jax.files import PARTIAL

Scanned = tuple[list[Thermogram], DataReport]


def save_scan(
    path: pathlib.Path, fingerprint: str, records: Sequence[Thermogram], report: DataReport
) -> None:
    """Writes the report and the records, one JSON value in each line.

    Args:
      fingerprint: of the source and the settings, see `prepared.source_fingerprint`.
    """
    partial = path.with_suffix(PARTIAL)
    with open(partial, "w", encoding="utf-8") as file:
        of_report = vars(report) | {"oddities": list(map(vars, report.oddities))}
        first = {"fingerprint": fingerprint, "num_records": len(records)}
        for fields in (first, of_report, *map(dataclasses.asdict, records)):
            file.write(json.dumps(fields, default=os.fspath) + "\n")
    partial.replace(path)


def load_scan(path: pathlib.Path, fingerprint: str) -> Scanned | None:
    """The result of a scan; None if the file is absent, not whole, or of another source."""
    try:
        with open(path, encoding="utf-8") as file:
            first = json.loads(next(file, "{}"))
            if first.get("fingerprint") != fingerprint:
                return None
            report = json.loads(next(file))
            report["oddities"] = [Oddity(**fields) for fields in report["oddities"]]
            report["sizes"] = collections.Counter(report["sizes"])
            report["root"] = pathlib.Path(report["root"])
            records = [_thermogram(json.loads(line)) for line in file]
    except (FileNotFoundError, StopIteration, ValueError):
        return None
    return (records, DataReport(**report)) if len(records) == first["num_records"] else None


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
