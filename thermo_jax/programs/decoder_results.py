"""The end of a decoder's run: measures on the test patients, files, pictures, the table."""

from typing import Any

import numpy as np
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.dataset import PAPER
from thermo_jax.data.examples import Examples
from thermo_jax.data.thermogram import CLASS_NAMES, LABEL_NAMES
from thermo_jax.evaluation import assessment, baselines, charts, figures, metrics, results
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.programs import reports
from thermo_jax.programs.workdir import PICTURES, print_results
from thermo_jax.training.checkpoints import FOLDER
from thermo_jax.training.loop import TrainingRun
from thermo_jax.training.metrics_log import METRICS

PREDICTIONS = "predictions.npz"
SHUFFLED = "dealt anew at random (config.seed={seed}): a control"
PICTURED = 4  # test images in the pictures


def write(
    config: ConfigDict,
    *,
    workdir: Path,
    sets: dict[str, Examples],
    gray: dict[str, np.ndarray] | None,
    predictions: dict[str, dict[str, np.ndarray]],
    trained: TrainingRun,
    encoder_caveat: str,
) -> dict:
    """Scores, writes and prints; returns the results.

    Args:
      gray: a classifier's gray images by role, for the baselines.
      predictions: by role; a classifier's for "validation", too.
    """
    row, pictures = row_name(config), workdir / PICTURES
    title = f"{row} on test patients"
    outcome: dict[str, Any] = {"run": _facts(config, sets, trained, encoder_caveat)}
    model = f"fold {config.split.fold}"
    if config.task == "classify":
        # Where test patients validate, a threshold chosen on them would only flatter.
        tuned = config.split.protocol != PAPER
        found = classified(sets, predictions, gray=gray, model=model, tuned=tuned)
        outcome |= assess_classification(found, row=row, config=config)
        rows = classification_rows(found)
        drawn = [_evidence_picture(workdir, sets["test"], predictions["test"], title=title)]
        drawn += classification_charts(pictures, {row: outcome}, title=title)
    else:
        found = segmented(sets["test"], predictions["test"], model=model)
        outcome |= assessment.assess_segmentation(
            found, samples=config.report.bootstrap, seed=config.report.seed
        )
        rows = segmentation_rows(found)
        drawn = [_segmentation_picture(workdir, sets["test"], predictions["test"], title=title)]
        drawn += segmentation_charts(pictures, {row: outcome}, title=title)
    curves = figures.curves_figure(
        pictures / "curves.png",
        trained.history,
        best_epoch=trained.best_epoch,
        title=f"{row}, {config.task}",
    )
    files = [
        *results.write_results(workdir, outcome),
        PrintedTable.of_records(rows).write_csv(workdir / "predictions.csv"),
        found.save(workdir / PREDICTIONS),
        curves,
        *drawn,
    ]
    sections = [*reports.result_sections(outcome), reports.picture_section([*drawn, curves])]
    files += reports.write_run(workdir, outcome, config=config, sections=sections)
    files += [workdir / METRICS, workdir / FOLDER]
    print_results(results.results_text(outcome), files=files, workdir=workdir)
    return outcome


def assess_classification(found: Predictions, *, row: str, config: ConfigDict) -> dict[str, Any]:
    """`assessment.assess_classification`, with what a control must say of itself."""
    outcome = assessment.assess_classification(
        found, row=row, samples=config.report.bootstrap, seed=config.report.seed
    )
    # Where the epoch is chosen on test, chance alone gives more.
    if config.data.shuffle_labels and config.split.protocol != PAPER:
        measures = outcome["classification"]["patient"][row]
        outcome["cautions"].append(assessment.chance_note(found, measures))
    return outcome


def row_name(config: ConfigDict) -> str:
    """The row of Table 1: encoder/decoder."""
    return f"{config.encoder.type[0]}/{config.data.type[0]}".upper()


def _facts(config, sets, trained: TrainingRun, encoder_caveat: str) -> dict[str, str]:
    paper = config.split.protocol == PAPER
    chosen = "on test" if paper else "by validation loss"
    facts = {
        "task": f"{config.task}, {row_name(config)} (encoder/decoder)",
        "protocol": config.split.protocol,
        "data": config.data.root,
        "images": ", ".join(
            f"{len(part)} {role} ({len(set(part.patients))} patients)"
            for role, part in sets.items()
            if not (paper and role == "validation")
        ),
        "test": f"fold {config.split.fold} of {config.split.folds} by patient, "
        + ("which also chose the epoch" if paper else "scored once"),
        "epochs": f"{trained.history[-1]['epoch']}, best {chosen}: {trained.best_epoch}",
    }
    if config.split.file:
        facts["test"] += f"; patients of {config.split.file}"
    if config.data.shuffle_labels:
        facts["diagnoses"] = SHUFFLED.format(seed=config.seed)
    if config.data.downscale > 1:
        facts["resolution"] = f"reduced by {config.data.downscale}: not the paper's"
    if encoder_caveat:
        facts["encoder"] = encoder_caveat
    return facts


def classified(
    sets: dict[str, Examples],
    predictions: dict[str, dict[str, np.ndarray]],
    *,
    gray: dict[str, np.ndarray],
    model: str,
    tuned: bool,
) -> Predictions:
    """A classifier's test predictions, with its baselines and, if `tuned`, operating points."""
    # In float64, so that a table and a file compare the same numbers with a threshold.
    probabilities = {
        role: predicted["probabilities"].astype(np.float64)
        for role, predicted in predictions.items()
    }
    columns = {"labels": sets["test"].columns["labels"], "probabilities": probabilities["test"]}
    if tuned:
        validation = Predictions.of(
            sets["validation"],
            model=model,
            columns={
                "labels": sets["validation"].columns["labels"],
                "probabilities": probabilities["validation"],
            },
        )
        for name, unit in assessment.units(validation).items():
            points = assessment.operating_points(
                unit.columns["probabilities"], unit.columns["labels"]
            )
            for point, value in points.items():
                columns[f"threshold/{name}, {point}"] = np.full(len(sets["test"]), value)
    features = {
        role: baselines.baseline_features(
            gray[role],
            dates=sets[role].dates,
            patients=sets[role].patients,
            mean_temperatures=sets[role].mean_temperatures,
        )
        for role in ("train", "test")
    }
    scores = baselines.baseline_scores(
        features["train"], features["test"], labels=sets["train"].columns["labels"]
    )
    # All folds share the sets, so that they agree on whether the data set has temperatures.
    if all(np.isnan(part.mean_temperatures).all() for part in sets.values()):
        del scores["mean temperature"]
    columns |= {f"baseline/{name}": values for name, values in scores.items()}
    return Predictions.of(sets["test"], model=model, columns=columns)


def classification_rows(found: Predictions) -> list[dict[str, Any]]:
    """One row per image for predictions.csv."""
    thresholds = found.named("threshold/image, ")
    rows = []
    for i in range(len(found)):
        probability = found.columns["probabilities"][i]
        row = _identity(found, i) | {
            "label": LABEL_NAMES[int(found.columns["labels"][i])],
            "probability_sick": float(probability),
            "predicted": LABEL_NAMES[int(probability > 0.5)],
        }
        for point, values in thresholds.items():
            row[f"threshold, {point}"] = float(values[i])
            row[f"predicted, {point}"] = LABEL_NAMES[int(probability > values[i])]
        rows.append(row)
    return rows


def segmented(test: Examples, predicted: dict[str, np.ndarray], *, model: str) -> Predictions:
    """A segmenter's test predictions, compared at the images' size and at full size."""
    columns = {"label_maps": predicted["label_maps"].astype(np.uint8)}
    pairs = {
        "scored_label_maps": predicted["label_maps"],
        "label_maps": predicted["full_label_maps"],
    }
    for column, maps in pairs.items():
        truth = test.columns[column]
        size = "{}x{}".format(*truth.shape[1:])
        if f"confusion/{size}" in columns:
            continue
        columns[f"confusion/{size}"] = confusions(truth, maps)
        columns[f"hd95/{size}"] = np.stack(
            [
                metrics.hd95_by_class(true, guess, num_classes=len(CLASS_NAMES))
                for true, guess in zip(truth, maps, strict=True)
            ]
        )
    return Predictions.of(test, model=model, columns=columns)


def confusions(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """One confusion matrix per image, int64 [N, K, K]."""
    return np.stack(
        [
            metrics.confusion_matrix(true, guess, num_classes=len(CLASS_NAMES))
            for true, guess in zip(truth, predicted, strict=True)
        ]
    )


def segmentation_rows(found: Predictions) -> list[dict[str, Any]]:
    """One row per image for predictions.csv."""
    rows = [_identity(found, i) for i in range(len(found))]
    for size, matrices in found.named("confusion/").items():
        add_measures(rows, matrices, suffix=size)
    return rows


def add_measures(rows: list[dict[str, Any]], matrices: np.ndarray, *, suffix: str) -> None:
    """Adds each image's own measures to its row; `matrices` as `confusions` returns them."""
    each = metrics.segmentation_measures(matrices)
    for i, row in enumerate(rows):
        row |= {f"{name}_{suffix}": each[name][i] for name in ("accuracy", "miou")}
        row |= {
            f"iou_{name}_{suffix}": value
            for name, value in zip(CLASS_NAMES, each["iou"][i], strict=True)
        }


def _identity(found: Predictions, i: int) -> dict[str, str]:
    return {
        "name": str(found.names[i]),
        "patient": str(found.patients[i]),
        "date": str(found.dates[i]),
        "model": str(found.models[i]),
    }


def classification_charts(folder: Path, outcomes: dict[str, dict], *, title: str) -> list[Path]:
    """Reliability and confusion of one or more rows, per patient."""
    counts = {
        row: found["classification"]["patient"][row]["counts"] for row, found in outcomes.items()
    }
    return [
        charts.reliability_figure(
            folder / "reliability.png",
            {row: tuple(found["reliability"]["patient"]) for row, found in outcomes.items()},
            title=f"{title}, per patient",
        ),
        charts.confusion_figure(
            folder / "confusion_classification.png",
            {row: np.array([[c["tn"], c["fp"]], [c["fn"], c["tp"]]]) for row, c in counts.items()},
            class_names=[LABEL_NAMES[0], LABEL_NAMES[1]],
            title=f"{title}, per patient",
        ),
    ]


def segmentation_charts(folder: Path, outcomes: dict[str, dict], *, title: str) -> list[Path]:
    """Confusion of regions of one or more rows, at the images' size."""
    return [
        charts.confusion_figure(
            folder / "confusion_segmentation.png",
            {row: next(iter(found["confusion"].values())) for row, found in outcomes.items()},
            class_names=CLASS_NAMES,
            title=title,
        )
    ]


def _segmentation_picture(workdir: Path, test: Examples, predicted, *, title: str) -> Path:
    shown = slice(0, PICTURED)
    return figures.segmentation_figure(
        workdir / PICTURES / "segmentation.png",
        test.columns["images"][shown],
        test.columns["scored_label_maps"][shown],
        predicted["label_maps"][shown],
        test.names[shown],
        title=title,
    )


def _evidence_picture(workdir: Path, test: Examples, predicted, *, title: str) -> Path:
    # Half of the pictured images from each diagnosis, where there are both.
    labels = test.columns["labels"]
    order = np.concatenate([np.flatnonzero(labels == label)[: PICTURED // 2] for label in (1, 0)])
    shown = order if len(order) else np.arange(min(PICTURED, len(test)))
    return figures.evidence_figure(
        workdir / PICTURES / "evidence.png",
        test.columns["images"][shown],
        predicted["evidence"][shown],
        predicted["probabilities"][shown],
        labels[shown],
        [test.names[i] for i in shown],
        title=title,
    )
