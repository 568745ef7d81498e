"""Program "predict": trained decoders -> a user's own thermograms.

files -> pictures -> ensemble -> label maps on the pictures' own grids, evidence on the models'
-> temperatures of regions -> predictions.csv, regions.csv, COCO polygons, a page per thermogram
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from thermo_jax.data import radiometry
from thermo_jax.data.thermogram import parse_name, patients_of_folders
from thermo_jax.evaluation import results
from thermo_jax.evaluation.wording import DISCLAIMER, class_title, printable
from thermo_jax.inference.coco import write_coco
from thermo_jax.inference.overlay import overlay_figure
from thermo_jax.inference.page import write_page
from thermo_jax.inference.pictures import Unreadable
from thermo_jax.inference.predictor import Prediction, Predictor
from thermo_jax.inference.regions import PAIRS, Region, differences, measure_regions
from thermo_jax.programs import runs
from thermo_jax.programs.workdir import open_workdir

PREDICTIONS, REGIONS, COCO = "predictions.csv", "regions.csv", "regions_coco.json"
LABEL_MAPS, EVIDENCE, OVERLAYS, REPORTS = "label_maps", "evidence", "overlays", "reports"


def run(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Predicts and writes; returns {"predictions": the rows of predictions.csv, "regions"}."""
    config = runs.resolve(config)
    models = runs.paths(config, "models")
    if not config.input:
        raise ValueError("config.input is empty: give --config.input=<a thermogram or a folder>")
    radiometry.find_colormap(config.colormap)
    _check_unused(workdir)
    workdir = open_workdir(workdir, config)
    predictor = Predictor(models, batch_size=config.batch_size, dtype=config.model.dtype)
    rows: list[dict[str, Any]] = []
    region_rows: list[dict[str, Any]] = []
    maps: dict[str, Path] = {}
    try:
        for found in predictor.predict_files(config.input, leave_out=workdir):
            if isinstance(found, Unreadable):
                rows.append({"name": found.name, "status": "unreadable", "notes": found.reason})
                continue
            regions = _regions(found)
            rows.append(_row(found, regions))
            region_rows += [{"name": found.name, **_region_row(region)} for region in regions]
            if found.label_map is not None:
                maps[found.picture.file] = _save_label_map(workdir, found)
            if found.evidence:
                np.savez(_output(workdir / EVIDENCE, found.name, ".npz"), **found.evidence)
            if config.reports:
                _save_page(workdir, found, regions, colormap=config.colormap)
    finally:  # whatever stops a long run: what is done is not lost
        files = _save_tables(workdir, rows, region_rows, maps)
    folders = (LABEL_MAPS, EVIDENCE, OVERLAYS, REPORTS)
    files += [workdir / name for name in folders if (workdir / name).is_dir()]
    runs.report(_summary(rows, predictor), files=files, workdir=workdir)
    return {"predictions": rows, "regions": region_rows}


def _check_unused(workdir: str | Path) -> None:
    """Results of two inputs in one folder could not be told apart."""
    if str(workdir) and (Path(workdir).expanduser() / PREDICTIONS).exists():
        raise ValueError(
            f"{workdir} holds predictions already: choose another --workdir, or remove that folder"
        )


def _save_tables(workdir: Path, rows, region_rows, maps) -> list[Path]:
    files = [results.write_predictions_csv(workdir / PREDICTIONS, rows)] if rows else []
    if maps:
        files.append(results.write_predictions_csv(workdir / REGIONS, region_rows))
        files.append(write_coco(workdir / COCO, maps))
    return files


def _regions(found: Prediction) -> list[Region]:
    if found.label_map is None:
        return []
    return measure_regions(found.label_map, found.picture.temperatures)


def _row(found: Prediction, regions: list[Region]) -> dict[str, Any]:
    """One row of predictions.csv. Temperatures in degrees C."""
    picture, values = found.picture, list(found.probabilities.values())
    kinds = [kind for kind in ("temperatures", "gray", "colour") if _has(picture, kind)]
    row = {
        "name": found.name,
        "patient": _patient(found.name),
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


def _patient(name: str) -> str | None:
    """As the file name or its folders tell; None where they do not."""
    path = PurePosixPath(name)
    parsed = parse_name(path.name)
    sure, _ = patients_of_folders(path.parts[:-1])
    return (parsed.patient if parsed else None) or next(iter(sure), None)


def _has(picture, kind: str) -> bool:
    return getattr(picture, kind) is not None


def _region_row(region: Region) -> dict[str, Any]:
    """One row of regions.csv."""
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


def _save_page(workdir: Path, found: Prediction, regions: list[Region], *, colormap: str) -> None:
    picture = _output(workdir / OVERLAYS, found.name, ".png")
    overlay_figure(picture, found, regions, colormap=colormap)
    write_page(_output(workdir / REPORTS, found.name, ".html"), found, regions, overlay=picture)


def _summary(rows: Sequence[dict], predictor: Predictor) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    facts = {
        "models": ", ".join(f"{model.name} ({model.task})" for model in predictor.models),
        "thermograms": ", ".join(f"{count} {status}" for status, count in counts.items()),
    }
    for row in [row for row in rows if row["status"] == "unreadable"][:10]:
        facts[printable(row["name"])] = printable(row["notes"])
    return f"{results.facts_text('Predictions', facts)}\n\n{DISCLAIMER}"
