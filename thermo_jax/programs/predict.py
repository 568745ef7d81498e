"""Program "predict": trained decoders -> a user's own thermograms.

files -> pictures -> ensemble of models -> label maps at the size of the pictures, evidence at the
size of the models' images -> temperatures of regions -> predictions.csv, regions.csv, COCO polygons
-> by patient -> patients.csv and a page for each patient
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thermo_jax.data.label_map_files import write_classes, write_label_map
from thermo_jax.data.reader import ReaderSettings
from thermo_jax.errors import UserError
from thermo_jax.evaluation import results
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER, class_title, printable
from thermo_jax.files import digest
from thermo_jax.inference.coco import write_coco
from thermo_jax.inference.findings import Finding, Prediction
from thermo_jax.inference.inputs import Unreadable
from thermo_jax.inference.labelme import write_labelme
from thermo_jax.inference.overlay import overlay_figure
from thermo_jax.inference.page import write_page
from thermo_jax.inference.patients import Patient, by_patient
from thermo_jax.inference.predictor import SHIPPED, Predictor
from thermo_jax.inference.regions import PAIRS, differences
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import check_workdir, print_results, write_config

PREDICTIONS, COCO = "predictions.csv", "regions_coco.json"
LABEL_MAPS, LABELME, EVIDENCE = "label_maps", "labelme", "evidence"
OVERLAYS, REPORTS = "overlays", "reports"
LONGEST_NAME = 200  # bytes; most file systems allow 255, with the suffix
BY_FILE = "by_file"  # in REPORTS: pages of thermograms without a known patient


def run(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Predicts and writes; returns the rows of the tables "predictions", "patients", "regions"."""
    config = settings.resolve(config)
    models = settings.paths(config, "models") if config.models else [SHIPPED]
    given = settings.paths(config, "input")
    workdir = check_workdir(workdir, config)
    if Path(workdir).resolve() in [Path(path).expanduser().resolve() for path in given]:
        raise UserError(
            f"--workdir={workdir} is config.input too: choose another --workdir, so that results "
            "do not mix with thermograms"
        )
    if (workdir / PREDICTIONS).exists():
        raise UserError(f"{workdir} already contains predictions: choose another --workdir")
    predictor = Predictor(models, batch_size=config.batch_size, dtype=config.model.dtype)
    reader = ReaderSettings(unit=config.data.unit, emissivity=config.flir.emissivity)
    predictions = predictor.predict_files(given, leave_out=workdir, reader=reader)
    write_config(workdir, config)
    description = f"{predictor.note or 'predicted by thermo_jax'}; research software"
    rows: list[dict[str, Any]] = []
    read: list[Finding | Unreadable] = []
    maps: dict[str, Path] = {}
    try:
        for item in predictions:
            if isinstance(item, Unreadable):
                row = {"name": item.name, "patient": item.patient, "status": "unreadable"}
                rows.append(row | {"notes": item.reason})
                read.append(item)
                continue
            if item.label_map is not None:
                maps[item.file] = _write_label_map(workdir, item)
                if config.labelme:
                    _write_labelme(workdir, item, description=description)
            if item.evidence:
                np.savez(_output(workdir / EVIDENCE, item.name, ".npz"), **item.evidence)
            overlay = None
            if config.reports:
                file = _output(workdir / OVERLAYS, item.name, ".png")
                overlay = overlay_figure(file, item, colormap=config.colormap, note=predictor.note)
            # The note on the segmenters stands in the table once, not in every row.
            is_first = item.label_map is not None and len(maps) == 1
            rows.append(_row(item, note=predictor.note if is_first else ""))
            read.append(item.finding(overlay=overlay))
    finally:  # so that an interrupted run also writes its results so far
        predictions.close()
        patients = by_patient(read)
        tables = {
            "predictions": rows,
            "patients": [_patient_row(patient, reports=config.reports) for patient in patients],
            "regions": [
                row for item in read if isinstance(item, Finding) for row in _region_rows(item)
            ],
        }
        files = [
            PrintedTable.of_records(table).write_csv(workdir / f"{name}.csv")
            for name, table in tables.items()
            if table
        ]
        files += [write_coco(workdir / COCO, maps, description=description)] if maps else []
        for patient in patients if config.reports else ():
            if patient.findings:
                path = workdir / _page_path(patient)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_page(path, patient, note=predictor.note)
    folders = (LABEL_MAPS, LABELME, EVIDENCE, OVERLAYS, REPORTS)
    files += [workdir / name for name in folders if (workdir / name).is_dir()]
    print_results(_summary(rows, patients, predictor), files=files, workdir=workdir)
    return tables


def _row(prediction: Prediction, *, note: str) -> dict[str, Any]:
    """One row of predictions.csv, with a note on all rows, or "". Temperatures in degrees C."""
    picture, values = prediction.picture, list(prediction.probabilities.values())
    is_predicted = values or prediction.label_map is not None
    row = {
        "name": prediction.name,
        "patient": prediction.patient,
        "status": "predicted" if is_predicted else "no model reads it",
        "probability_sick": prediction.probability,
        "lowest_of_models": min(values, default=None),
        "highest_of_models": max(values, default=None),
        "classifiers": len(values),
        "pixels": "+".join(picture.kinds),
        "height": prediction.shape[0],
        "width": prediction.shape[1],
    }
    known = differences(prediction.regions)
    for pair in PAIRS:
        for measure in ("mean", "max"):
            value = known.get(f"{pair}, {measure}")
            row[f"{pair}_image_left_minus_right_{measure}_c"] = value
    hottest = max((r for r in prediction.regions if r.hottest), key=lambda r: r.max, default=None)
    row["hottest_region"] = hottest.class_name if hottest else None
    row["hottest_c"] = hottest.max if hottest else None
    row["hottest_x"], row["hottest_y"] = hottest.hottest if hottest else (None, None)
    notes = [f"all thermograms are {note}"] if note else []
    return row | {"notes": "; ".join([*notes, *prediction.notes])}


def _patient_row(patient: Patient, *, reports: bool) -> dict[str, Any]:
    """One row of patients.csv."""
    images, models = patient.by_image, patient.by_model.values()
    notes = [note for finding in patient.findings for note in finding.notes]
    notes += [item.reason for item in patient.unreadable]  # the reasons name the files
    page = _page_path(patient).as_posix() if reports and patient.findings else None
    return {
        "patient": patient.name,
        "patient_known": "yes" if patient.known else "no",
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


def _region_rows(finding: Finding) -> list[dict[str, Any]]:
    """The rows of regions.csv of one thermogram."""
    return [
        {
            "name": finding.name,
            "region": region.class_name,
            "title": class_title(region.class_name),
            "area_pixels": region.area,
            "share_of_image": region.share,
            "mean_c": region.mean,
            "median_c": region.median,
            "min_c": region.min,
            "max_c": region.max,
            "sd_c": region.sd,
            "hottest_x": region.hottest[0] if region.hottest else None,
            "hottest_y": region.hottest[1] if region.hottest else None,
        }
        for region in finding.regions
    ]


def _write_label_map(workdir: Path, prediction: Prediction) -> Path:
    folder = workdir / LABEL_MAPS
    if not folder.is_dir():
        folder.mkdir(parents=True)
        write_classes(folder)
    return write_label_map(_output(folder, prediction.name, ".png"), prediction.label_map)


def _write_labelme(workdir: Path, prediction: Prediction, *, description: str) -> None:
    file, picture = _output(workdir / LABELME, prediction.name, ".json"), prediction.picture
    shown = picture.colour if picture.gray is None else picture.gray
    write_labelme(file, prediction.file, shown, prediction.label_map, description=description)


def _output(folder: Path, name: str, suffix: str) -> Path:
    """The path of a thermogram's file in a folder of the workdir. Makes the folders."""
    path = folder / f"{_shortened(name)}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _shortened(name: str) -> str:
    """The name, with a shorter last part if it would be too long for a file with a suffix."""
    path = PurePosixPath(name)
    if len(os.fsencode(path.name)) <= LONGEST_NAME:
        return name
    return path.with_name(f"{path.name[:50]}-{digest(name)[:12]}").as_posix()


def _page_path(patient: Patient) -> Path:
    """The path of the patient's page in the workdir.

    If the patient is not known, the page is named after the file. This name may look like that of
    a patient, so these pages have a folder of their own.
    """
    folder = Path(REPORTS) if patient.known else Path(REPORTS, BY_FILE)
    return folder / f"{_shortened(patient.name)}.html"


def _summary(rows: Sequence[dict], patients: Sequence[Patient], predictor: Predictor) -> str:
    counts = Counter(row["status"] for row in rows)
    facts = {
        "models": ", ".join(f"{model.name} ({model.task})" for model in predictor.models),
        "thermograms": ", ".join(f"{count} {status}" for status, count in counts.items()),
        **({"regions": predictor.note} if predictor.note else {}),
        "patients": sum(patient.known for patient in patients),
        "of no known patient": sum(not patient.known for patient in patients),
    }
    if unseen := sum(len(patient.findings) - len(patient.counted) for patient in patients):
        facts["of views not trained on"] = f"{unseen}, left out of the patients' means"
    unreadable = [row for row in rows if row["status"] == "unreadable"]
    for number, row in enumerate(unreadable[:10], start=1):
        facts[f"unreadable {number}"] = printable(f"{row['name']}: {row['notes']}")
    return f"{results.facts_text('Predictions', facts)}\n\n{DISCLAIMER}"
