"""The results of a run: results.txt, results.json and one page with everything (report.html)."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation.report import Facts, Figure, Fold, Part, Section, Text, write_report
from thermo_jax.evaluation.results import (
    CLASSIFICATION_COLUMNS,
    DIGITS,
    SEGMENTATION_COLUMNS,
    estimates,
    results_text,
    thresholds_text,
    write_results,
)
from thermo_jax.evaluation.tables import Estimate, PrintedTable
from thermo_jax.evaluation.wording import OPTIMISTIC, PERFECT, SIDES_NOTE, class_title
from thermo_jax.programs.workdir import print_results, to_json, versions
from thermo_jax.training import timeline

INTERVALS = "In brackets: 95 % intervals; patients, not images, are resampled."
CHOSEN_THRESHOLDS = "Thresholds other than 0.5 were chosen on validation patients."
ABSENT = (
    "Means are over the classes that are in the truth or in the prediction: a class that is only "
    "predicted counts as 0, and a class in neither is left out. HD95 is the mean over the images "
    "that have the region in both."
)
CAPTIONS = {
    "segmentation": "Thermogram, truth, prediction and error of the first test images.",
    "clusters_latents": "Clusters of latents, named by the annotations.",
    "clusters_pixels": "Clusters of raw pixel values, named by the annotations.",
    "evidence": "Evidence for sick and for healthy: each pixel's exact part of the logit.",
    "reliability": "Reliability: the share of sick patients against the predicted probability.",
    "roc": "ROC curve per patient, with the 95 % band of its sensitivity at each specificity.",
    "confusion_classification": "Confusion matrix per patient at 0.5; truth in rows; of several "
    "repeats, the mean.",
    "confusion_segmentation": "Confusion of regions, in shares of the true region; truth in rows.",
    "curves": "Training and validation by epoch.",
    "latents": "Latents: their first three principal components as colours.",
    "few_shot": "Mean IoU by the number of labelled patients; dots are seeds.",
    "auroc": "AUROC per patient with its 95 % interval.",
    "forest_auroc": "AUROC per patient of rivals and ours, by family. The line is ours; diamonds "
    "are published figures of other patients.",
    "forest_miou": "Mean IoU of rivals and ours. The line is ours.",
    "miou": "Mean IoU with its 95 % interval; diamonds are the paper's.",
}


def write_run(
    workdir: Path,
    outcome: Mapping[str, Any],
    *,
    config: ConfigDict,
    sections: Sequence[Section],
    files: Sequence[Path],
    text: str | None = None,
) -> None:
    """Writes the results and the report of a run; prints the results and the files' names.

    Args:
      sections: of the report, between the facts of the run and the section about versions.
      files: the other files that the run has written.
      text: of results.txt, `results.results_text` by default.
    """
    text = results_text(outcome) if text is None else text
    written = write_results(workdir, outcome, text=text)
    facts = outcome["run"]
    summary = "\n\n".join(outcome.get("cautions", ()))
    if facts.get("protocol") == "paper":
        summary = f"Protocol of the paper, {OPTIMISTIC}.\n\n{summary}"
    sections = [Section("Run", [Facts(facts)]), *sections, about(workdir, config)]
    title = f"thermo_jax: {facts['task']}"
    written += write_report(workdir, title=title, summary=summary, sections=sections)[:2]
    print_results(text, files=[*written, *files], workdir=workdir)


def result_sections(outcome: Mapping[str, Any]) -> list[Section]:
    """The tables of the results of one row of Table 1."""
    sections = []
    if "encoder" in outcome:
        sections.append(Section("Encoder", [Facts(outcome["encoder"])]))
    if "classification" in outcome:
        units = outcome["classification"]
        tables = {f"Classification per {unit}": rows for unit, rows in units.items()}
        if outcome["subsets"]:
            tables["Per image, within subsets with both diagnoses"] = outcome["subsets"]
        parts = [classification_table(title, rows) for title, rows in tables.items()]
        rows = [row for table in tables.values() for row in table.values()]
        notes = [INTERVALS, PERFECT * any(row["perfect"] for row in rows), outcome.get("note", "")]
        sections.append(Section("Classification", [*parts, Text(" ".join(filter(None, notes)))]))
    if "segmentation" in outcome:
        sections.append(Section("Segmentation", _segmentation_parts(outcome)))
    return sections


def classification_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> PrintedTable:
    """One line per row of measures, each with its interval."""
    first = next(iter(rows.values()))
    same = all(measures["counts"]["n"] == first["counts"]["n"] for measures in rows.values())
    note, number = "", ["healthy", "sick"]
    if same:
        note = "{n}: {healthy} healthy, {sick} sick. ".format(**first["counts"])
        note, number = f"{note}{first['patients']} patients. ", []
    return PrintedTable(
        title,
        ["", "sick above", *number, *CLASSIFICATION_COLUMNS.values(), "AUROC within folds"],
        [
            [name, thresholds_text(measures), *(measures["counts"][key] for key in number)]
            + estimates(measures, CLASSIFICATION_COLUMNS)
            + [measures["auroc_within"]]
            for name, measures in rows.items()
        ],
        note=note + CHOSEN_THRESHOLDS * any(row["threshold"] != 0.5 for row in rows.values()),
        ours=[0] if same else [],
    )


def _segmentation_parts(outcome: Mapping[str, Any]) -> list[Part]:
    sizes = outcome["segmentation"]
    parts: list[Part] = [
        PrintedTable(
            "Over all pixels of all images",
            ["scored at", *SEGMENTATION_COLUMNS.values()],
            [
                [size, *estimates(measures, SEGMENTATION_COLUMNS)]
                for size, measures in sizes.items()
            ],
            note=f"{INTERVALS} {ABSENT}",
        )
    ]
    for size, measures in sizes.items():
        rows = [
            [class_title(name)]
            + [
                Estimate(measures[key][k], *measures["interval"][key][k]).text(digits)
                for key, digits in DIGITS.items()
            ]
            for k, name in enumerate(CLASS_NAMES)
        ]
        parts.append(
            PrintedTable(f"By region at {size}", ["", "IoU", "Dice", "HD95, pixels"], rows)
        )
        columns = ["", "lowest", "lower quartile", "median", "upper quartile", "highest"]
        spread = [
            [SEGMENTATION_COLUMNS[key], *map(float, values)]
            for key, values in measures["images"].items()
        ]
        parts.append(PrintedTable(f"Over images at {size}", columns, spread))
    worst = [
        [image["name"], image["miou"], image["accuracy"], class_title(image["lowest_class"])]
        for image in outcome["worst"]
    ]
    parts.append(PrintedTable("Worst images", ["", "mIoU", "accuracy", "lowest IoU"], worst))
    return [*parts, Text(SIDES_NOTE)]


def picture_section(pictures: Sequence[Path]) -> Section:
    """The pictures, each with its caption."""
    return Section("Pictures", [Figure(path, CAPTIONS[path.stem]) for path in pictures])


def about(workdir: Path, config: ConfigDict) -> Section:
    """The section with versions, timing, data report and configuration, needed to repeat a run."""
    devices = jax.devices()
    made_by = {"device": f"{len(devices)} x {devices[0].device_kind}", "git commit": commit()}
    parts: list[Part] = [Facts(versions() | made_by)]
    parts += _timeline(workdir)
    report = workdir / "data_report.txt"
    if report.exists():
        parts.append(Fold("Data report", report.read_text(encoding="utf-8")))
    parts.append(Fold("Configuration, seeds included", json.dumps(to_json(config), indent=2)))
    return Section("How it was made", parts)


def _timeline(workdir: Path) -> list[PrintedTable]:
    """Where the time went until now, in this run and in the stages of a study."""
    timeline.save(workdir)
    # A bucket does not support rglob.
    files = [f for depth in ("", "*/", "*/*/") for f in workdir.glob(depth + timeline.FILE)]
    runs = [timeline.read(path.parent) for path in files]
    seconds = {part: sum(run.get(part, 0.0) for run in runs) for part in timeline.PARTS}
    total = sum(seconds.values())
    if not total:  # the program was not started by main.run
        return []
    rows = [
        [shown, f"{seconds[part]:.1f}", f"{100 * seconds[part] / total:.0f} %"]
        for part, shown in timeline.PARTS.items()
    ]
    note = (
        "Until this report was written. If the run was continued, its sessions are added up; of "
        "one that was killed, only the time until its last checkpoint is known."
    )
    rows.append(["together", f"{total:.1f}", ""])
    return [PrintedTable("Where the time went", ["", "seconds", "share"], rows, note=note)]


def commit() -> str:
    """The checkout's git commit; "not a checkout" for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return git.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "not a checkout"
