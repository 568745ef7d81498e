"""Program "predict": trained decoders -> a user's own thermograms.

files -> pictures -> ensemble -> label maps and evidence on the pictures' own grids -> temperatures
of regions -> predictions.csv, regions.csv, COCO polygons, and a page for every thermogram
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from thermo_jax.evaluation import report_html, results
from thermo_jax.evaluation.report_parts import Facts, Part, Section, Table, Text
from thermo_jax.evaluation.report_parts import Picture as ReportPicture
from thermo_jax.evaluation.wording import DISCLAIMER, SIDES_NOTE, class_title
from thermo_jax.inference.coco import write_coco
from thermo_jax.inference.overlay import overlay_figure
from thermo_jax.inference.pictures import Unreadable
from thermo_jax.inference.predictor import Prediction, Predictor
from thermo_jax.inference.regions import PAIRS, Region, differences, measure_regions
from thermo_jax.programs import runs
from thermo_jax.programs.workdir import open_workdir

PREDICTIONS, REGIONS, COCO = "predictions.csv", "regions.csv", "regions_coco.json"
LABEL_MAPS, EVIDENCE, OVERLAYS, REPORTS = "label_maps", "evidence", "overlays", "reports"
MEANING = (
    "The probability is what the models learned to call sick on their training data. It says "
    "nothing of patients or cameras unlike those, and no treatment should follow from it."
)


def run(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Predicts and writes; returns {"predictions": the rows of predictions.csv, "regions"}."""
    config = runs.resolve(config)
    models = runs.paths(config, "models")
    if not config.input:
        raise ValueError("config.input is empty: give --config.input=<a thermogram or a folder>")
    workdir = open_workdir(workdir, config)
    predictor = Predictor(models, batch_size=config.batch_size, dtype=config.model.dtype)
    rows, region_rows, maps = [], [], {}
    for found in predictor.predict_files(config.input):
        if isinstance(found, Unreadable):
            rows.append({"name": found.name, "status": "unreadable", "notes": found.reason})
            continue
        regions = _regions(found)
        rows.append(_row(found, regions))
        region_rows += [{"name": found.name, **_region_row(region)} for region in regions]
        if found.label_map is not None:
            maps[found.name] = _save_label_map(workdir, found)
        if found.evidence:
            file = _output(workdir / EVIDENCE, found.name, ".npz")
            np.savez(file, **found.evidence)
        if config.reports:
            _write_page(workdir, found, regions, colormap=config.colormap)
    files = [results.write_predictions_csv(workdir / PREDICTIONS, rows)]
    if maps:
        files.append(results.write_predictions_csv(workdir / REGIONS, region_rows))
        files.append(write_coco(workdir / COCO, maps))
    folders = (LABEL_MAPS, EVIDENCE, OVERLAYS, REPORTS)
    files += [workdir / name for name in folders if (workdir / name).is_dir()]
    runs.report(_summary(rows, predictor), files=files, workdir=workdir)
    return {"predictions": rows, "regions": region_rows}


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


# --------------------------------------------------------------------------------------------------
# The page of one thermogram
# --------------------------------------------------------------------------------------------------


def _write_page(workdir: Path, found: Prediction, regions: list[Region], *, colormap: str) -> None:
    overlay = overlay_figure(
        _output(workdir / OVERLAYS, found.name, ".png"), found, regions, colormap=colormap
    )
    parts: list[Part] = [ReportPicture(overlay, "Thermogram and what the models find in it.")]
    sections = [Section("Thermogram", [*parts, *_notes(found)])]
    if found.probabilities:
        sections.append(Section("Probability of sick", _probability_parts(found)))
    if regions:
        sections.append(Section("Regions", _region_parts(regions)))
    page = report_html.render(found.name, _sentence(found), sections, contents=False)
    _output(workdir / REPORTS, found.name, ".html").write_text(page, encoding="utf-8")


def _sentence(found: Prediction) -> str:
    """What the page is about."""
    height, width = found.picture.pixels.shape[:2]
    kind = "temperatures" if found.picture.temperatures is not None else "no temperatures"
    text = f"A thermogram of {width} x {height} pixels with {kind}, read by trained models."
    if found.probability is None:
        return text
    return f"{text} Mean probability of sick: {found.probability:.2f}."


def _notes(found: Prediction) -> list[Part]:
    return [Text(f"Note: {'; '.join(found.notes)}.", important=True)] if found.notes else []


def _probability_parts(found: Prediction) -> list[Part]:
    values = found.probabilities
    facts = {"mean of the models": f"{found.probability:.3f}"}
    if len(values) > 1:
        facts["from, to"] = f"{min(values.values()):.3f}, {max(values.values()):.3f}"
    facts |= {name: f"{value:.3f}" for name, value in values.items() if len(values) > 1}
    return [Facts(facts), Text(MEANING, important=True)]


def _region_parts(regions: list[Region]) -> list[Part]:
    known = np.isfinite(regions[0].mean)
    columns = ["", "area, pixels", "share of image, %"]
    if known:
        columns += ["mean", "median", "min", "max", "sd", "hottest at x, y"]
    rows = [_table_row(region, known=known) for region in regions]
    note = "Temperatures in degrees C. " if known else "No temperatures: areas only. "
    parts: list[Part] = [Table("By region", columns, rows, note=note + SIDES_NOTE)]
    found = differences(regions)
    if found:
        title = "Image left minus image right, degrees C"
        pairs = [pair for pair in PAIRS if f"{pair}, mean" in found]
        rows = [[pair, found[f"{pair}, mean"], found[f"{pair}, max"]] for pair in pairs]
        parts.append(Table(title, ["", "of the mean", "of the maximum"], rows, float_format="+.2f"))
    return parts


def _table_row(region: Region, *, known: bool) -> list:
    row = [class_title(region.class_name), region.area, f"{100 * region.share:.1f}"]
    if known:
        values = (region.mean, region.median, region.min, region.max, region.sd)
        row += [f"{value:.2f}" for value in values]
        row.append("{}, {}".format(*region.hottest))
    return row


def _summary(rows: Sequence[dict], predictor: Predictor) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    facts = {
        "models": ", ".join(f"{model.name} ({model.task})" for model in predictor.models),
        "thermograms": ", ".join(f"{count} {status}" for status, count in counts.items()),
    }
    for row in [row for row in rows if row["status"] == "unreadable"][:10]:
        facts[row["name"]] = row["notes"]
    return f"{results.facts_text('Predictions', facts)}\n\n{DISCLAIMER}"
