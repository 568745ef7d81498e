"""Program "predict": trained decoders -> a user's own thermograms.

files -> pictures -> ensemble of models -> label maps at the size of the pictures, evidence at the
size of the models' images -> temperatures of regions
-> by patient -> overlays with one scale, a page -> tables, an index page
"""

import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thermo_jax.data.label_map_files import write_classes, write_label_map
from thermo_jax.data.reader import ReaderSettings
from thermo_jax.errors import UserError
from thermo_jax.evaluation import results
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER, printable
from thermo_jax.files import digest
from thermo_jax.inference import tables
from thermo_jax.inference.coco import write_coco
from thermo_jax.inference.findings import Finding, Prediction
from thermo_jax.inference.index import IndexEntry, thumbnail_of, write_index
from thermo_jax.inference.inputs import Unreadable, who
from thermo_jax.inference.labelme import write_labelme
from thermo_jax.inference.overlay import DOUBTFUL, Scales, common_scales, write_overlay
from thermo_jax.inference.page import PageSettings, write_page
from thermo_jax.inference.patients import Patient, by_patient
from thermo_jax.inference.predictor import Predictor
from thermo_jax.inference.waiting import Waiting
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import check_workdir, print_results, write_config

PREDICTIONS, COCO, INDEX = "predictions.csv", "regions_coco.json", "index.html"
LABEL_MAPS, LABELME, EVIDENCE = "label_maps", "labelme", "evidence"
OVERLAYS, REPORTS = "overlays", "reports"
LONGEST_NAME = 200  # bytes; most file systems allow 255, with the suffix
BY_FILE = "by_file"  # in REPORTS: pages of thermograms without a known patient


def run(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Predicts and writes; returns the rows of the tables, by the name of their file."""
    config = settings.resolve(config)
    models = settings.model_paths(config)
    given = settings.paths(config, "input")
    scale = settings.temperature_scale(config)
    workdir = check_workdir(workdir, config)
    if Path(workdir).resolve() in [Path(path).expanduser().resolve() for path in given]:
        raise UserError(
            f"--workdir={workdir} is config.input too: choose another --workdir, so that results "
            "do not mix with thermograms"
        )
    if (workdir / PREDICTIONS).exists():
        raise UserError(f"{workdir} already contains predictions: choose another --workdir")
    predictor = Predictor(
        models, batch_size=config.batch_size, dtype=config.model.dtype, check=config.check
    )
    reader = ReaderSettings(unit=config.data.unit, emissivity=config.flir.emissivity)
    predictions = predictor.predict_files(given, leave_out=workdir, reader=reader)
    write_config(workdir, config, models=[model.row() for model in predictor.provenances])
    writer = _Writer(config, workdir, predictor, scale=scale)
    try:
        for _, items in itertools.groupby(predictions, key=lambda one: who(one.name, one.patient)):
            writer.add_patient(items)
    finally:  # so that an interrupted run also writes its results so far
        predictions.close()
        writer.finish()
    return writer.tables


class _Writer:
    """Writes the files of one patient after the other, and at the end what is about all of them."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        predictor: Predictor,
        *,
        scale: str | tuple[float, float],
    ):
        self._config, self._workdir, self._predictor = config, workdir, predictor
        self._models = predictor.provenances
        self._scale = scale
        self._pages = PageSettings(self._models, _scale_text(scale))
        segmenters = [model.sentence for model in self._models if model.task == "segment"]
        self._description = f"regions by {' and by '.join(segmenters)}; research software"
        self._rows: list[dict[str, Any]] = []
        self._read: list[Finding | Unreadable] = []
        self._maps: dict[str, Path] = {}
        self._thumbnails: dict[PurePosixPath, bytes] = {}  # by the path of the patient's page
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def add_patient(self, items: Iterable[Prediction | Unreadable]) -> None:
        """Writes everything about one patient, whose thermograms may not fit in memory.

        If the run is stopped, what was predicted by then is drawn, too.
        """
        if not self._config.reports:
            for item in items:
                self._add(item)
            return
        with tempfile.TemporaryDirectory(prefix=".waiting_", dir=self._workdir) as folder:
            waiting = Waiting(folder)
            try:
                for item in items:
                    self._add(item)
                    waiting.add(item)
            finally:
                self._show(waiting)

    def _add(self, item: Prediction | Unreadable) -> None:
        if isinstance(item, Unreadable):
            self._rows.append(tables.unreadable_row(item))
            self._read.append(item)
            return
        if item.label_map is not None:
            self._maps[item.file] = _write_label_map(self._workdir, item)
            if self._config.labelme:
                _write_labelme(self._workdir, item, description=self._description)
        if item.evidence:
            np.savez(_output(self._workdir / EVIDENCE, item.name, ".npz"), **item.evidence)
        self._rows.append(tables.prediction_row(item, models=self._models))
        self._read.append(item.finding(overlay=None))

    def _show(self, waiting: Waiting) -> None:
        """Draws the overlays of a patient with one scale, and writes the page."""
        scales = None
        if self._scale == "patient":
            scales = common_scales(waiting.predictions())
        elif self._scale != "thermogram":
            scales = Scales(celsius=self._scale)
        shown: list[Finding | Unreadable] = []
        try:
            for item in waiting:
                if isinstance(item, Prediction):
                    file = _output(self._workdir / OVERLAYS, item.name, ".png")
                    colormap = self._config.colormap
                    overlay = write_overlay(file, item, colormap=colormap, scales=scales)
                    item = item.finding(overlay=overlay)
                shown.append(item)
        finally:
            for patient in by_patient(shown):  # none, if the run was stopped at once
                self._write_page(patient)

    def _write_page(self, patient: Patient) -> None:
        if not patient.findings:
            return
        page = _page_path(patient)
        write_page(self._workdir / page, patient, self._pages)
        best = [f for f in patient.findings if f.is_frontal and not f.doubts] or patient.findings
        self._thumbnails[page] = thumbnail_of(best[0].overlay)

    def finish(self) -> None:
        """Writes the tables and the index page, and prints a summary."""
        patients = by_patient(self._read)
        shown = []
        for patient in patients:
            page = _page_path(patient)
            thumbnail = self._thumbnails.get(page, b"")
            shown.append(IndexEntry(patient, page.as_posix() if thumbnail else "", thumbnail))
        self.tables = {
            "predictions": self._rows,
            "patients": [
                tables.patient_row(entry.patient, page=entry.page, models=self._models)
                for entry in shown
            ],
            "regions": [
                {"name": item.name, **region}
                for item in self._read
                if isinstance(item, Finding)
                for region in item.regions
            ],
            "models": [model.row() for model in self._models],
        }
        files: list[Path] = []
        if self._thumbnails:
            files.append(write_index(self._workdir / INDEX, shown, self._pages))
        files += [
            PrintedTable.of_records(table).write_csv(self._workdir / f"{name}.csv")
            for name, table in self.tables.items()
            if table
        ]
        if self._maps:
            coco = write_coco(self._workdir / COCO, self._maps, description=self._description)
            files.append(coco)
        folders = (LABEL_MAPS, LABELME, EVIDENCE, OVERLAYS, REPORTS)
        files += [self._workdir / name for name in folders if (self._workdir / name).is_dir()]
        text = _summary(self._rows, patients, self._predictor)
        print_results(text, files=files, workdir=self._workdir)


def _scale_text(scale: str | tuple[float, float]) -> str:
    """A sentence about the colours of temperatures."""
    if scale == "patient":
        return "All thermograms of the patient have the same scale."
    if scale == "thermogram":
        return "Each thermogram has its own scale."
    return "The scale is from {:g} to {:g} degrees C.".format(*scale)


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


def _page_path(patient: Patient) -> PurePosixPath:
    """The path of the patient's page in the workdir.

    If the patient is not known, the page is named after the file. This name may look like that of
    a patient, so these pages have a folder of their own.
    """
    folder = PurePosixPath(REPORTS) if patient.known else PurePosixPath(REPORTS, BY_FILE)
    return folder / f"{_shortened(patient.name)}.html"


def _summary(rows: Sequence[dict], patients: Sequence[Patient], predictor: Predictor) -> str:
    counts = Counter(row["status"] for row in rows)
    facts = {f"model {k}": m.sentence for k, m in enumerate(predictor.provenances, start=1)}
    facts |= {
        "thermograms": ", ".join(f"{count} {status}" for status, count in counts.items()),
        "patients": sum(patient.known for patient in patients),
        "of no known patient": sum(not patient.known for patient in patients),
    }
    findings = [finding for patient in patients for finding in patient.findings]
    if doubts := sum(bool(finding.doubts) for finding in findings):
        facts["in doubt"] = f"{doubts}, which {DOUBTFUL}"
    if odd := sum(bool(finding.region_doubts) for finding in findings):
        facts["regions in doubt"] = f"{odd}, whose regions cannot be right"
    if unseen := sum(not finding.counts and not finding.doubts for finding in findings):
        facts["of views not trained on"] = f"{unseen}, left out of the patients' means"
    unreadable = [row for row in rows if row["status"] == "unreadable"]
    for number, row in enumerate(unreadable[:10], start=1):
        facts[f"unreadable {number}"] = printable(f"{row['name']}: {row['notes']}")
    return f"{results.facts_text('Predictions', facts)}\n\n{DISCLAIMER}"
