"""The tables and forest plots of a comparison: one line for each row, by family."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation import assessment, charts, comparison
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.evaluation.report import Section
from thermo_jax.evaluation.results import estimates
from thermo_jax.evaluation.tables import Cell, Estimate, PrintedTable, shown
from thermo_jax.programs import reports, rival_measures
from thermo_jax.programs.rival_rows import NO_ANATOMY, OURS_FAMILY, Row, Study
from thermo_jax.programs.workdir import PICTURES
from thermo_jax.rivals.registry import FAMILIES, REVIEW, SEGMENTATION_NOTE

PAIRED = (
    "Minus ours: the difference of the same patients' scores in the same resamples. If its "
    "interval does not contain 0, the two differ by more than the choice of these patients."
)
BEATS = (
    "A row beats a baseline that sees no anatomy if the interval of their paired difference is "
    "above 0. Unless it beats all of them, nothing shows that it reads the breast."
)
PUBLISHED = (
    "Published figures are of other patients, and most of other splits: they are not comparable "
    "with ours. " + REVIEW
)
STRATA = (
    "Within years and within quarters of the patient numbers, a score cannot gain from the "
    "acquisition: only pairs of a sick and a healthy patient of the same year (quarter) count. "
    "In brackets: the number of such pairs. The last column says how often the year of a test "
    "patient is predicted from what the row computes (features; of networks, evidence); years "
    "count equally."
)
Groups = dict[str, list[Row]]  # rows by family, in the order of tables


class Compared(NamedTuple):
    """The results of one task, the section with its tables, and its picture."""

    outcome: dict[str, Any]
    section: Section
    picture: Path


def by_family(rows: Sequence[Row]) -> Groups:
    """The rows by family, in a fixed order: never by score."""
    groups: Groups = {family: [] for family in (OURS_FAMILY, NO_ANATOMY, *FAMILIES)}
    for row in rows:
        groups[row.family].append(row)
    return {family: group for family, group in groups.items() if group}


def family_table(
    title: str,
    columns: Sequence[str],
    groups: Groups,
    cells: Callable[[Row], list[Cell]],
    *,
    ours: str,
    note: str,
    gray: Sequence[int] = (),
) -> PrintedTable:
    """A table with one line for each row, below a line with the name of its family."""
    lines: list[list[Cell]] = []
    emphasised = []
    for family, group in groups.items():
        emphasised.append(len(lines))
        lines.append([family, *[""] * len(columns)])
        for row in group:
            if row.title == ours:
                emphasised.append(len(lines))
            name = f"{row.title} (ours)" if row.title == ours else row.title
            lines.append([name, *cells(row)])
    return PrintedTable(title, ["", *columns], lines, note=note, ours=emphasised, gray=gray)


# --------------------------------------------------------------------------------------------------
# Classifiers
# --------------------------------------------------------------------------------------------------


def classifiers(
    study: Study,
    groups: Groups,
    predictions: Mapping[str, Predictions],
    features: Mapping[Row, np.ndarray],
) -> Compared:
    """The tables of classifiers, per patient."""
    rows = [row for group in groups.values() for row in group]
    ours = rival_measures.ours_among(rows, predictions)
    measures, tuned = _per_patient(study, predictions)
    outcome = {"measures": measures, "at_validation_threshold": tuned}
    counts = next(iter(measures.values()))["counts"]
    whom = "Per patient: {healthy} healthy, {sick} sick.".format(**counts)
    first, found = _auroc_table(study, groups, predictions, measures, ours=ours, whom=whom)
    outcome |= found
    second = _threshold_table(groups, measures, tuned, ours=ours, whom=whom)
    third, found = _acquisition_table(study, groups, predictions, measures, features, ours=ours)
    outcome |= found
    return Compared(
        outcome,
        Section("Classifiers", [first, second, third]),
        _forest(study, groups, measures, measure="auroc", ours=ours),
    )


def _per_patient(
    study: Study, predictions: Mapping[str, Predictions]
) -> tuple[dict[str, dict], dict[str, dict]]:
    """The measures of each row at 0.5, and at the threshold that validation patients chose."""
    report = study.config.report
    measures, tuned = {}, {}
    for title, scored in predictions.items():
        assessed = assessment.assess_classification(
            scored, row=title, samples=report.bootstrap, seed=report.seed
        )
        per_patient = assessed["classification"]["patient"]
        measures[title] = per_patient[title]
        if point := per_patient.get(f"{title} at {assessment.TUNED}"):
            tuned[title] = point
    return measures, tuned


def _auroc_table(study, groups, predictions, measures, *, ours: str, whom: str):
    report = study.config.report
    sampling = {"samples": report.bootstrap, "seed": report.seed}
    differences = comparison.paired_differences(predictions, ours=ours, **sampling) if ours else {}
    baselines = [row.title for row in groups.get(NO_ANATOMY, ())]
    judged = {
        title: rival_measures.with_baselines(predictions, title, baselines)
        for title in predictions
        if title not in baselines
    }
    unbeaten = comparison.unbeaten_baselines(judged, **sampling)

    def cells(row: Row) -> list[Cell]:
        beaten = ""
        if row.title in unbeaten:
            count = len(baselines) - len(unbeaten[row.title])
            beaten = f"{count} of {len(baselines)}" if unbeaten[row.title] else "all"
        auroc = estimates(measures[row.title], ["auroc"])[0]
        published = ["", ""]
        if _is_first(row, groups):
            published = [row.rival.published, row.rival.protocol]
        return [auroc, differences.get(row.title), beaten, *published]

    table = family_table(
        "AUROC",
        ["AUROC", "minus ours", "baselines beaten", "published", "their protocol"],
        groups,
        cells,
        ours=ours,
        note=" ".join([whom, reports.INTERVALS, PAIRED, BEATS, PUBLISHED]),
        gray=(4, 5),
    )
    minus_ours = {title: list(value) for title, value in differences.items()}
    return table, {"minus_ours": minus_ours, "unbeaten_baselines": unbeaten}


def _threshold_table(groups, measures, tuned, *, ours: str, whom: str) -> PrintedTable:
    def cells(row: Row) -> list[Cell]:
        at_threshold, whole = tuned.get(row.title), measures[row.title]
        return [
            *(estimates(at_threshold, ["recall", "specificity"]) if at_threshold else [None] * 2),
            *estimates(whole, ["auprc", "brier"]),
            whole["auroc_within"],
        ]

    return family_table(
        "At the threshold chosen on validation patients; calibration",
        ["sensitivity", "specificity", "AUPRC", "Brier", "AUROC within folds"],
        groups,
        cells,
        ours=ours,
        note=f"{whom} {reports.INTERVALS}",
    )


def _acquisition_table(study, groups, predictions, measures, features, *, ours: str):
    within = {title: comparison.stratified_aurocs(p) for title, p in predictions.items()}
    years = {
        row.title: rival_measures.year_predicted(study, row, features.get(row))
        for row in sorted(itertools.chain(*groups.values()), key=lambda row: row.reading_order)
        if row.family != NO_ANATOMY
    }

    def cells(row: Row) -> list[Cell]:
        scores = [
            f"{shown(value, '.3f')} ({pairs:.0f})" for value, pairs in within[row.title].values()
        ]
        return [measures[row.title]["auroc"], *scores, years.get(row.title, (np.nan,))[0]]

    chance = next((chance for _, chance in years.values() if np.isfinite(chance)), np.nan)
    note = STRATA
    if np.isfinite(chance):
        note += f" Guessing would predict {shown(chance, '.3f')}."
    table = family_table(
        "Acquisition",
        ["AUROC", "within years", "within number quarters", "year predicted"],
        groups,
        cells,
        ours=ours,
        note=note,
    )
    predicted = {title: value for title, (value, _) in years.items()}
    return table, {"within_acquisition": within, "year_predicted": predicted}


def _is_first(row: Row, groups: Groups) -> bool:
    """Whether it is the first row of its rival: what was published is shown there."""
    return row.rival is not None and row is next(
        other for other in groups[row.family] if other.rival == row.rival
    )


def _forest(study, groups, measures, *, measure: str, ours: str) -> Path:
    values: dict[str, Estimate] = {
        title: estimates(found, [measure])[0] for title, found in measures.items()
    }
    return charts.forest_figure(
        study.workdir / PICTURES / f"forest_{measure}.png",
        {family: {row.title: values[row.title] for row in rows} for family, rows in groups.items()},
        measure={"auroc": "AUROC per patient", "miou": "mean IoU"}[measure],
        reference=values[ours].value if ours else None,
        published={
            row.title: row.rival.published_auroc
            for rows in groups.values()
            for row in rows
            if _is_first(row, groups) and row.rival.published_auroc is not None
        },
    )


# --------------------------------------------------------------------------------------------------
# Segmenters
# --------------------------------------------------------------------------------------------------


def segmenters(study: Study, groups: Groups, predictions: Mapping[str, Predictions]) -> Compared:
    """The table of segmenters, scored at the images' own size and at full size."""
    report = study.config.report
    sampling = {"samples": report.bootstrap, "seed": report.seed}
    rows = [row for group in groups.values() for row in group]
    ours = rival_measures.ours_among(rows, predictions)
    by_size = {
        title: assessment.assess_segmentation(scored, **sampling)["segmentation"]
        for title, scored in predictions.items()
    }
    sizes = list(next(iter(by_size.values())))  # of all rows; one only, if images are not reduced
    size, full = sizes[0], sizes[-1]
    measures = {title: found[size] for title, found in by_size.items()}
    differences = comparison.paired_differences(predictions, ours=ours, **sampling) if ours else {}

    def cells(row: Row) -> list[Cell]:
        found, at_full_size = measures[row.title], by_size[row.title][full]
        regions = [float(np.nanmean(found["iou"][k : k + 2])) for k in (0, 2, 4)]
        return [
            estimates(found, ["miou"])[0],
            differences.get(row.title),
            *estimates(found, ["accuracy", "f1"]),
            *regions,
            float(found["iou"][CLASS_NAMES.index("neck")]),
            at_full_size["miou"],
        ]

    patients = len(set(next(iter(predictions.values())).patients.tolist()))
    columns = ["mIoU", "minus ours", "accuracy", "F1", "breasts", "nipples", "armpits", "neck"]
    table = family_table(
        "Segmentation",
        [*columns, f"mIoU at {full}"],
        groups,
        cells,
        ours=ours,
        note=f"{patients} annotated patients, scored at {size}. {reports.INTERVALS} {PAIRED} "
        f"{SEGMENTATION_NOTE}",
    )
    outcome = {
        "measures": by_size,
        "minus_ours": {title: list(value) for title, value in differences.items()},
    }
    picture = _forest(study, groups, measures, measure="miou", ours=ours)
    return Compared(outcome, Section("Segmenters", [table]), picture)
