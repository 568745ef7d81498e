"""Program "predict": trained decoders -> a user's own thermograms.

files -> pictures -> ensemble -> label maps on the pictures' own grids, evidence on the models'
-> temperatures of regions -> predictions.csv, regions.csv, COCO polygons
-> by patient -> patients.csv, a page each
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from thermo_jax.data import radiometry
from thermo_jax.errors import UserError
from thermo_jax.evaluation import results
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER, class_title, printable
from thermo_jax.files import task_of_run
from thermo_jax.inference.coco import write_coco
from thermo_jax.inference.overlay import overlay_figure
from thermo_jax.inference.page import write_page
from thermo_jax.inference.patients import Finding, Patient, by_patient, patient_of
from thermo_jax.inference.pictures import Unreadable
from thermo_jax.inference.predictor import Prediction, Predictor
from thermo_jax.inference.regions import PAIRS, RegionMeasurement, differences, measure_regions
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import check_workdir, print_results, write_config

PREDICTIONS, COCO = "predictions.csv", "regions_coco.json"
LABEL_MAPS, EVIDENCE, OVERLAYS, REPORTS = "label_maps", "evidence", "overlays", "reports"
BY_FILE = "by_file"  # below REPORTS: pages of thermograms that tell no patient


def run(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Predicts and writes; returns the rows of the tables: "predictions", "patients", "regions"."""
    config = settings.resolve(config)
    models = settings.paths(config, "models")
    if not config.input:
        raise UserError("config.input is empty: give --config.input=<a thermogram or a folder>")
    radiometry.find_colormap(config.colormap)
    _check_unused(workdir, thermograms=config.input)
    workdir = check_workdir(workdir, config)
    predictor = Predictor(models, batch_size=config.batch_size, dtype=config.model.dtype)
    predictions = predictor.predict_files(config.input, leave_out=workdir)
    write_config(workdir, config)
    rows: list[dict[str, Any]] = []
    read: list[Finding | Unreadable] = []
    maps: dict[str, Path] = {}
    try:
        for found in predictions:
            if isinstance(found, Unreadable):
                rows.append(_unreadable_row(found))
                read.append(found)
                continue
            regions = _regions(found)
            overlay = _save_overlay(workdir, found, regions, config) if config.reports else None
            if found.evidence:
                np.savez(_output(workdir / EVIDENCE, found.name, ".npz"), **found.evidence)
            if found.label_map is not None:
                maps[found.picture.file] = _save_label_map(workdir, found)
            rows.append(_row(found, regions))
            read.append(Finding.of(found, regions, overlay=overlay))
    finally:  # whatever stops a long run: what is done is not lost
        patients = by_patient(read)
        tables = {
            "predictions": rows,
            "patients": [_patient_row(patient, reports=config.reports) for patient in patients],
            "regions": [row for item in read for row in _region_rows(item)],
        }
        files = _save_tables(workdir, tables, maps)
        if config.reports:
            _save_pages(workdir, patients)
    folders = (LABEL_MAPS, EVIDENCE, OVERLAYS, REPORTS)
    files += [workdir / name for name in folders if (workdir / name).is_dir()]
    print_results(_summary(rows, patients, predictor), files=files, workdir=workdir)
    return tables


def _check_unused(workdir: str | Path, *, thermograms: str) -> None:
    """Results of two inputs in one folder could not be told apart, nor results from the input."""
    if not str(workdir):  # `check_workdir` asks for it
        return
    folder = Path(workdir).expanduser()
    if folder.resolve() == Path(thermograms).expanduser().resolve():
        raise UserError(
            f"--workdir={workdir} is config.input too: choose another --workdir, so that results "
            "do not mix with thermograms"
        )
    task = task_of_run(folder)
    if task not in (None, "predict"):
        raise UserError(f"{workdir} holds a run of {task}: choose another --workdir")
    # Nobody is told to remove it: trained models may be below.
    if (folder / PREDICTIONS).exists():
        raise UserError(f"{workdir} holds predictions already: choose another --workdir")


def _save_tables(workdir: Path, tables: dict[str, list], maps: dict[str, Path]) -> list[Path]:
    """Each as CSV, unless it is empty, and the polygons of the label maps."""
    files = [
        PrintedTable.of_records(rows).write_csv(workdir / f"{name}.csv")
        for name, rows in tables.items()
        if rows
    ]
    return files + ([write_coco(workdir / COCO, maps)] if maps else [])


def _regions(found: Prediction) -> list[RegionMeasurement]:
    if found.label_map is None:
        return []
    return measure_regions(found.label_map, found.picture.temperatures)


def _row(found: Prediction, regions: list[RegionMeasurement]) -> dict[str, Any]:
    """One row of predictions.csv. Temperatures in degrees C."""
    picture, values = found.picture, list(found.probabilities.values())
    kinds = [kind for kind in ("temperatures", "gray", "colour") if _has(picture, kind)]
    row = {
        "name": found.name,
        "patient": patient_of(found.name),
        "status": "predicted" if values or found.label_map is not None else "no model reads it",
        "probability_sick": found.probability,
        "lowest_of_models": min(values, default=None),
        "highest_of_models": max(values, default=None),
        "classifiers": len(values),
        "pixels": "+".join(kinds),
        "height": picture.grid.height,
        "width": picture.grid.width,
    }
    known = differences(regions)
    for pair in PAIRS:
        for measure in ("mean", "max"):
            value = known.get(f"{pair}, {measure}")
            row[f"{pair}_image_left_minus_right_{measure}_c"] = value
    hottest = max((r for r in regions if r.hottest), key=lambda r: r.max, default=None)
    row["hottest_region"] = hottest.class_name if hottest else None
    row["hottest_c"] = hottest.max if hottest else None
    row["hottest_x"], row["hottest_y"] = hottest.hottest if hottest else (None, None)
    return row | {"notes": "; ".join(found.notes)}


def _has(picture, kind: str) -> bool:
    return getattr(picture, kind) is not None


def _unreadable_row(found: Unreadable) -> dict[str, Any]:
    """One row of predictions.csv."""
    return {
        "name": found.name,
        "patient": patient_of(found.name),
        "status": "unreadable",
        "notes": found.reason,
    }


def _patient_row(patient: Patient, *, reports: bool) -> dict[str, Any]:
    """One row of patients.csv."""
    images, models = patient.by_image, patient.by_model.values()
    notes = [note for finding in patient.findings for note in finding.notes]
    notes += [item.reason for item in patient.unreadable]  # which names the files
    page = _page_path(patient).as_posix() if reports and patient.findings else None
    return {
        "patient": patient.name,
        "told_by_name": "yes" if patient.known else "no",
        "thermograms": len(patient.findings),
        "in_mean": len(images),
        "unreadable": len(patient.unreadable),
        "probability_sick": patient.probability,
        "lowest_of_thermograms": min(images, default=None),
        "highest_of_thermograms": max(images, default=None),
        "lowest_of_models": min(models, default=None),
        "highest_of_models": max(models, default=None),
        "report": page,
        "notes": "; ".join(dict.fromkeys(notes)),
    }


def _region_rows(found: Finding | Unreadable) -> list[dict[str, Any]]:
    """Its rows of regions.csv."""
    regions = [] if isinstance(found, Unreadable) else found.regions
    return [{"name": found.name, **_region_row(region)} for region in regions]


def _region_row(region: RegionMeasurement) -> dict[str, Any]:
    x, y = region.hottest or (None, None)
    return {
        "region": region.class_name,
        "title": class_title(region.class_name),
        "area_pixels": region.area,
        "share_of_image": region.share,
        "mean_c": region.mean,
        "median_c": region.median,
        "min_c": region.min,
        "max_c": region.max,
        "sd_c": region.sd,
        "hottest_x": x,
        "hottest_y": y,
    }


def _output(folder: Path, name: str, suffix: str) -> Path:
    """The file of a thermogram's name in a folder of the workdir; its parents are made."""
    path = folder / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save_label_map(workdir: Path, found: Prediction) -> Path:
    path = _output(workdir / LABEL_MAPS, found.name, ".png")
    Image.fromarray(found.label_map).save(path)
    return path


def _save_overlay(
    workdir: Path, found: Prediction, regions: list[RegionMeasurement], config
) -> Path:
    path = _output(workdir / OVERLAYS, found.name, ".png")
    return overlay_figure(path, found, regions, colormap=config.colormap)


def _page_path(patient: Patient) -> Path:
    """In the workdir; apart where it is named for a file, which may look like a patient."""
    folder = Path(REPORTS) if patient.known else Path(REPORTS, BY_FILE)
    return folder / f"{patient.name}.html"


def _save_pages(workdir: Path, patients: Sequence[Patient]) -> None:
    for patient in patients:
        if patient.findings:
            path = workdir / _page_path(patient)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_page(path, patient)


def _summary(rows: Sequence[dict], patients: Sequence[Patient], predictor: Predictor) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    facts = {
        "models": ", ".join(f"{model.name} ({model.task})" for model in predictor.models),
        "thermograms": ", ".join(f"{count} {status}" for status, count in counts.items()),
        "patients": sum(patient.known for patient in patients),
        "of no known patient": sum(not patient.known for patient in patients),
    }
    if unseen := sum(len(patient.findings) - len(patient.counted) for patient in patients):
        facts["of views not trained on"] = f"{unseen}, left out of the patients' means"
    for row in [row for row in rows if row["status"] == "unreadable"][:10]:
        facts[printable(row["name"])] = printable(row["notes"])
    return f"{results.facts_text('Predictions', facts)}\n\n{DISCLAIMER}"
