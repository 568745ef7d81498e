"""The report of a run: what its results, pictures and files say, on one page (report.html)."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation.report import Facts, Fold, Part, Picture, Section, Text, write_report
from thermo_jax.evaluation.results import (
    CLASSIFICATION_COLUMNS,
    DIGITS,
    SEGMENTATION_COLUMNS,
    estimates,
    thresholds_text,
)
from thermo_jax.evaluation.tables import Estimate, PrintedTable
from thermo_jax.evaluation.wording import OPTIMISTIC, PERFECT, SIDES_NOTE, class_title
from thermo_jax.programs.workdir import to_json, versions
from thermo_jax.training import timeline

INTERVALS = "In brackets: 95 % intervals; patients, not images, are resampled."
ABSENT = (
    "Means run over the classes present in truth or prediction: a class that is only predicted "
    "counts 0, one absent from both is left out. HD95 is the mean over the images that have the "
    "region in both."
)
CAPTIONS = {
    "segmentation": "Thermogram, truth, prediction and error of the first test images.",
    "clusters_latents": "Clusters of latents, named by the annotations.",
    "clusters_pixels": "Clusters of raw pixel values, named by the annotations.",
    "evidence": "What speaks for sick and for healthy in each image: exact parts of the logit.",
    "reliability": "Reliability: what share is sick among patients given a probability.",
    "confusion_classification": "Confusion matrix per patient at 0.5; truth in rows; of several "
    "repeats, the mean.",
    "confusion_segmentation": "Confusion of regions, in shares of the true region; truth in rows.",
    "curves": "Training and validation by epoch.",
    "latents": "Latents: their first three principal components as colours.",
    "few_shot": "Mean IoU by the number of labelled patients; dots are seeds.",
    "auroc": "AUROC per patient with its 95 % interval.",
    "miou": "Mean IoU with its 95 % interval; diamonds are the paper's.",
}


def write_run(
    workdir: Path, outcome: Mapping[str, Any], *, config: ConfigDict, sections: Sequence[Section]
) -> list[Path]:
    """Writes the report of a run, its facts first; returns report.html and report.md."""
    facts = dict(outcome["run"])
    summary = "\n\n".join(outcome.get("cautions", ()))
    if facts.get("protocol") == "paper":
        summary = f"Protocol of the paper, {OPTIMISTIC}.\n\n{summary}"
    sections = [Section("Run", [Facts(facts)]), *sections, about(workdir, config)]
    title = f"thermo_jax: {facts['task']}"
    return write_report(workdir, title=title, summary=summary, sections=sections)[:2]


def result_sections(outcome: Mapping[str, Any]) -> list[Section]:
    """Tables of whatever is in the results of one row."""
    sections = []
    if "encoder" in outcome:
        sections.append(Section("Encoder", [Facts(outcome["encoder"])]))
    if "classification" in outcome:
        parts: list[Part] = [
            classification_table(f"Classification per {unit}", rows)
            for unit, rows in outcome["classification"].items()
        ]
        if outcome["subsets"]:
            parts.append(
                classification_table(
                    "Per image, within subsets that hold both diagnoses", outcome["subsets"]
                )
            )
        rows = [row for unit in outcome["classification"].values() for row in unit.values()]
        rows += outcome["subsets"].values()
        note = f"{INTERVALS} {PERFECT}" if any(row["perfect"] for row in rows) else INTERVALS
        sections.append(Section("Classification", [*parts, Text(note)]))
    if "segmentation" in outcome:
        sections.append(Section("Segmentation", _segmentation_parts(outcome)))
    return sections


def classification_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> PrintedTable:
    """One line per row of measures, each with its interval."""
    counts = next(iter(rows.values()))["counts"]
    same = all(measures["counts"]["n"] == counts["n"] for measures in rows.values())
    note = f"{counts['n']}: {counts['healthy']} healthy, {counts['sick']} sick. " if same else ""
    number = [] if same else ["healthy", "sick"]
    note += f"{next(iter(rows.values()))['patients']} patients. " if same else ""
    return PrintedTable(
        title,
        ["", "sick above", *number, *CLASSIFICATION_COLUMNS.values(), "AUROC within folds"],
        [
            [name, thresholds_text(measures), *(measures["counts"][key] for key in number)]
            + estimates(measures, CLASSIFICATION_COLUMNS)
            + [measures["auroc_within"]]
            for name, measures in rows.items()
        ],
        note=f"{note}Thresholds other than 0.5 were chosen on validation patients.",
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
        rows = []
        for k, name in enumerate(CLASS_NAMES):
            cells = [
                Estimate(measures[key][k], *measures["interval"][key][k]).text(digits)
                for key, digits in DIGITS.items()
            ]
            rows.append([class_title(name), *cells])
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
        [one["name"], one["miou"], one["accuracy"], class_title(one["lowest_class"])]
        for one in outcome["worst"]
    ]
    parts.append(PrintedTable("Worst images", ["", "mIoU", "accuracy", "lowest IoU"], worst))
    return [*parts, Text(SIDES_NOTE)]


def picture_section(pictures: Sequence[Path]) -> Section:
    """The pictures, each with its caption."""
    return Section("Pictures", [Picture(path, CAPTIONS[path.stem]) for path in pictures])


def about(workdir: Path, config: ConfigDict) -> Section:
    """Data report, configuration, versions, timing: what it takes to judge and to repeat a run."""
    parts: list[Part] = [Facts({**versions(), "device": _device(), "git commit": commit()})]
    parts += _timeline(workdir)
    report = workdir / "data_report.txt"
    if report.exists():
        parts.append(Fold("Data report", report.read_text(encoding="utf-8")))
    parts.append(Fold("Configuration, seeds included", json.dumps(to_json(config), indent=2)))
    return Section("How it was made", parts)


def _timeline(workdir: Path) -> list[PrintedTable]:
    """Where the time went: in this run until now, and in the stages of a study."""
    timeline.save(workdir)
    # (Buckets know no search through all folders.)
    files = [f for depth in ("", "*/", "*/*/") for f in workdir.glob(depth + timeline.FILE)]
    runs = [timeline.read(path.parent) for path in files]
    seconds = {part: sum(run.get(part, 0.0) for run in runs) for part in timeline.PARTS}
    total = sum(seconds.values())
    if not total:  # a program that was called by itself
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


def _device() -> str:
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def commit() -> str:
    """The checkout's git commit; "not a checkout" for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return git.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "not a checkout"
