"""A folder on disk -> thermograms and a data report (SPEC sections 4 and 9).

site           <root>/0001/T0001.1.1.D.2012-10-08.00{,_snap}.jpg, .txt, description.html, COCO
matrices       <root>/txt_files/T0001.txt, <root>/id_diagnosis.csv
class folders  <root>/{healthy,sick}/<patient>/<any name>, or synonyms of healthy and sick
folder         any other folder: `identity` finds out whose thermograms are in it
table          any folder with a thermograms.csv, which lists the files

The first two are DMR-IR's own (`dmr_layouts`). In the others, files may be of any camera. The scan
opens every file once, so that loading does not fail later. Files that cannot be used are reported
by name and left out. Each step of the scan returns the thermograms that it keeps.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping

from thermo_jax.data import class_folders, dmr_layouts, identity, thermogram_table
from thermo_jax.data.annotation_files import annotate
from thermo_jax.data.data_report import DataReport, Oddity, Reading
from thermo_jax.data.file_listing import (
    DIAGNOSIS_TABLE,
    MATRIX_SUFFIX,
    THERMOGRAM_TABLE,
    FileListing,
    group_by_name,
    list_files,
    report_unused,
)
from thermo_jax.data.picture import Picture, read_picture, with_frames
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings
from thermo_jax.data.thermogram import DataError, Thermogram, parse_name
from thermo_jax.data.workers import ordered_map
from thermo_jax.errors import UserError

LAYOUTS = ("auto", *dmr_layouts.DIAGNOSES, "class_folders", "folder", "table")
RENDER_CHOICES = ("auto", "any")
# A folder is a site if at least this share of its files have DMR-IR's names.
_SHARE_OF_NAMES = 0.25


def scan(
    root: str | os.PathLike,
    *,
    layout: str = "auto",
    strict: bool = False,
    render: str = "auto",
    reader: ReaderSettings = AS_RECOGNISED,
) -> tuple[list[Thermogram], DataReport]:
    """Finds and checks every thermogram under `root`, sorted by name.

    Args:
      layout: one of `LAYOUTS`.
      strict: whether to stop at the first bad file (`data_report.BAD_FILES`); otherwise bad files
        are left out and reported. Notes (`data_report.NOTES`), such as a missing snap, never stop a
        scan.
      render: "any" renders heatmaps from gray images also in DMR-IR's own layouts.
    Raises:
      FileNotFoundError: the root does not exist.
      UserError: an unknown layout, or no usable thermogram.
      DataError: a bad file, if `strict`.
    """
    records, report = survey(
        root, layout=layout, strict=strict, render=render, reader=reader, complete=False
    )
    if report.problem:
        raise UserError(report.problem)
    return records, report


def survey(
    root: str | os.PathLike,
    *,
    layout: str = "auto",
    strict: bool = False,
    render: str = "auto",
    reader: ReaderSettings = AS_RECOGNISED,
    complete: bool = True,
) -> tuple[list[Thermogram], DataReport]:
    """Like `scan`, but if the data cannot be used, the report says why in `problem`.

    Args:
      complete: whether to read the files also if their folders already show a problem.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    files = list_files(root)
    files.layout = detect(files) if layout == "auto" else layout
    is_dmr = files.layout in dmr_layouts.DIAGNOSES
    if is_dmr:
        dmr_layouts.keep_files(files)
    report = DataReport(files.root, layout=files.layout, strict=strict)
    report.collect(report_unused(files))
    report.problem = _problem(files)
    if report.problem and not (complete and files.pixels):
        return [], report
    read = dmr_layouts.read if is_dmr else _read_any_camera
    try:
        records, annotation_files = report.collect(read(files, reader, report.sizes))
    except DataError as error:  # of a thermograms.csv that is no table
        if strict:
            raise
        report.problem = str(error)
        return [], report
    records = report.collect(_without_duplicates(records, files))
    records = report.collect(annotate(records, files, annotation_files))
    if render == "any" or not is_dmr:
        records = [_with_rendered_heat(record) for record in records]
    report.collect(_mixed_origins(records))
    if not records and not report.problem:
        first = next((o for o in report.oddities if o.is_bad), None)
        reason = f"; first: {first.file}: {first.detail}" if first else ""
        report.problem = (
            f"no usable thermogram among the {len(files.pixels)} files under {files.root}: "
            f"{report.summary()}{reason}"
        )
    return records, report


def _read_any_camera(
    files: FileListing, settings: ReaderSettings, sizes: collections.Counter[str]
) -> Reading[tuple[list[Thermogram], Mapping[str, pathlib.Path]]]:
    """Finds and checks the thermograms of a folder that is not DMR-IR's.

    Returns them, and the annotation files that a table gives for some of their names.
    """
    if files.layout == "table":
        table = yield from thermogram_table.identify_listed(files)
        records, annotation_files, frames = table.records, table.annotations, table.frames
    else:
        records = yield from identity.identify(group_by_name(files), files)
        annotation_files, frames = {}, {}
    records = yield from identity.without_conflicts(records, files)
    records = yield from with_frames(records, files=files, chosen=frames)
    records = yield from _with_sound_files(records, files, settings, sizes)
    yield from identity.report_assumed_patients(records)
    return records, annotation_files


def _problem(files: FileListing) -> str:
    """Why nothing of a data set can be used, or ""."""
    if not (files.sources() or files.others or files.closed):
        return f"data root {files.root} is empty; copy the data set there, or set config.data.root"
    if not files.pixels:
        return (
            f"no thermograms under {files.root}; expected pictures (JPEG, PNG, TIFF, ...) or "
            "temperatures (txt, csv, npy, ...) in one of the layouts in the README"
        )
    if files.layout == "table" and files.thermogram_table is None:
        return f"config.data.layout=table, but {files.root} contains no {THERMOGRAM_TABLE}"
    if files.layout == "class_folders":
        try:
            class_folders.check_siblings(files)
        except UserError as error:
            return str(error)
    return ""


def detect(files: FileListing) -> str:
    """Returns the layout of a data set: one of `LAYOUTS`, without "auto"."""
    if files.thermogram_table:
        return "table"
    top = {path.relative_to(files.root).parts[0].lower() for path in files.sources()}
    if DIAGNOSIS_TABLE in top or "txt_files" in top:
        return "matrices"
    folders = {pathlib.PurePosixPath(files.relative(path)).parent for path in files.pixels}
    if any(class_folders.label_of_folder(folder) is not None for folder in folders):
        return "class_folders"
    parsed = [parse_name(path.name) for path in files.pixels if dmr_layouts.is_dmr_file(path)]
    named = [name for name in parsed if name and (name.patient or name.date)]
    has_dmr_names = len(named) >= max(1, _SHARE_OF_NAMES * len(files.pixels))
    if not (files.pages or has_dmr_names):
        return "folder"
    flat = folders == {pathlib.PurePosixPath(".")}
    if flat and all(path.suffix.lower() == MATRIX_SUFFIX for path in files.pixels):
        return "matrices"
    return "site"


def _with_sound_files(
    records: list[Thermogram],
    files: FileListing,
    settings: ReaderSettings,
    sizes: collections.Counter[str],
) -> Reading[list[Thermogram]]:
    """Opens every file; removes bad files, and records of which no file is left."""
    kept = []
    check = functools.partial(_check_files, settings=settings)
    checks = ordered_map(check, records, description="checking", by_processes=True)
    with contextlib.closing(checks):  # a strict scan stops at a bad file
        for sound, oddities, of_record in checks:
            for oddity in oddities:
                yield dataclasses.replace(oddity, file=files.relative(pathlib.Path(oddity.file)))
            sizes.update(of_record)
            kept += [sound] if sound else []
    return kept


def _check_files(
    record: Thermogram, *, settings: ReaderSettings
) -> tuple[Thermogram | None, list[Oddity], list[str]]:
    """Returns the record with what is known of its pixels, the oddities, and the files' sizes."""
    picture, errors = read_picture(record.files, settings, frame=record.frame_in_file)
    oddities = [Oddity(error.kind, error.file, error.detail) for error in errors]
    if picture is None:
        return None, oddities, []
    # A stack is reported once, with its first frame.
    oddities += [o for o in picture.oddities if o.kind != "stack" or not record.frame_in_file]
    return _with_pixels(record, picture), oddities, picture.sizes


def _with_pixels(record: Thermogram, picture: Picture) -> Thermogram:
    """The record with the paths of its kinds of pixels, and what is known of them."""
    return dataclasses.replace(
        record,
        gray_path=picture.sources.get("gray"),
        heat_path=picture.sources.get("colour"),
        temperature_path=picture.sources.get("temperatures"),
        shape=picture.shape,
        mean_temperature=picture.mean_temperature,
        recovered=any(oddity.kind == "known-palette" for oddity in picture.oddities),
        notes=(*record.notes, *picture.notes),
    )


def _with_rendered_heat(record: Thermogram) -> Thermogram:
    """The record whose heatmap is rendered from its gray image, if it has nothing better."""
    if record.paths.keys() != {"gray"}:
        return record
    return dataclasses.replace(record, heat_path=record.gray_path)


def _without_duplicates(records: list[Thermogram], files: FileListing) -> Reading[list[Thermogram]]:
    """Keeps one record for each patient, visit, view, protocol, frame and mirroring."""
    kept: dict[tuple, Thermogram] = {}
    for record in records:
        first = kept.setdefault(_identity(record), record)
        if first is not record:
            detail = f"same patient, visit, view, protocol and frame as {first.name}"
            for file in files.names(record):
                yield Oddity("duplicate", file, detail)
    return list(kept.values())


def _identity(record: Thermogram) -> tuple:
    stem = pathlib.PurePosixPath(record.name).name
    parsed = parse_name(stem)
    if not record.patient_known or parsed is None:
        return (record.name,)
    if parsed.patient not in (None, record.patient) and not parsed.complete:
        return (record.name,)  # 3-1 in the folder sub-01 is no image of patient 3
    if not parsed.complete:
        return (record.patient, record.mirrored, record.visit, stem.lower())
    recording = (record.visit, record.view, record.protocol, record.frame)
    return (record.patient, record.mirrored, *recording)


def _mixed_origins(records: list[Thermogram]) -> Reading[None]:
    """Notes that images were made in different ways, which may betray where they come from."""
    for data_type in ("gray", "heat"):
        origins = collections.Counter(record.origin(data_type) for record in records)
        origins.pop("", None)
        if len(origins) > 1:
            counts = ", ".join(f"{count} {name}" for name, count in sorted(origins.items()))
            yield Oddity(f"mixed-{data_type}", ".", counts)
