"""The end of a decoder's run: measures on the test patients, files, pictures, the table."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thermo_jax.data.examples import Examples
from thermo_jax.data.thermogram import CLASS_NAMES, LABEL_NAMES
from thermo_jax.evaluation import baselines, figures, metrics, results
from thermo_jax.programs import runs
from thermo_jax.programs.workdir import PICTURES
from thermo_jax.training.metrics_log import METRICS, read_jsonl

PICTURED = 4  # test images in the pictures


def finish(
    config: ConfigDict,
    *,
    workdir: Path,
    sets: dict[str, Examples],
    predictions: dict[str, dict[str, np.ndarray]],
    best_step: int,
    encoder_caveat: str,
) -> dict:
    """Scores, writes and prints; returns the results."""
    epochs = read_jsonl(workdir / METRICS)
    outcome: dict[str, Any] = {"run": _facts(config, sets, epochs, best_step, encoder_caveat)}
    title = f"{_row_name(config)} on test patients"
    if config.task == "classify":
        outcome["classification"], rows = score_classification(
            sets, predictions, row=_row_name(config)
        )
        pictures = [_evidence_picture(workdir, sets["test"], predictions["test"], title=title)]
    else:
        outcome["segmentation"], rows = score_segmentation(sets["test"], predictions["test"])
        pictures = [_segmentation_picture(workdir, sets["test"], predictions["test"], title=title)]
    curves = workdir / PICTURES / "curves.png"
    files = [
        *results.write_results(workdir, outcome),
        results.write_predictions_csv(workdir / "predictions.csv", rows),
        figures.curves_figure(curves, epochs, title=f"{_row_name(config)}, {config.task}"),
        *pictures,
    ]
    runs.report(outcome, files=files, workdir=workdir)
    return outcome


def _row_name(config: ConfigDict) -> str:
    return f"{config.encoder.type[0]}/{config.data.type[0]}".upper()


def _facts(config, sets, epochs, best_step, encoder_caveat) -> dict[str, str]:
    steps_per_epoch = epochs[-1]["step"] // epochs[-1]["epoch"]
    facts = {
        "task": f"{config.task}, {_row_name(config)} (encoder/decoder)",
        "data": config.data.root,
        "images": ", ".join(
            f"{len(part)} {role} ({len(set(part.patients))} patients)"
            for role, part in sets.items()
        ),
        "test": f"fold {config.split.fold} of {config.split.folds} by patient, scored once",
        "epochs": f"{epochs[-1]['epoch']}, best by validation loss: {best_step // steps_per_epoch}",
    }
    if config.data.downscale > 1:
        facts["resolution"] = f"reduced by {config.data.downscale}: not the paper's"
    if encoder_caveat:
        facts["encoder"] = encoder_caveat
    return facts


def score_classification(
    sets: dict[str, Examples], predictions: dict[str, dict[str, np.ndarray]], *, row: str
) -> tuple[dict[str, dict], list[dict]]:
    """Measures per image and per patient, the no-anatomy baselines beside them; prediction rows.

    The row "tuned" uses the threshold that was best on the validation patients, the others 0.5.
    """
    # In float64, so that a table and a file compare the same numbers with the threshold.
    probabilities = {
        role: predicted["probabilities"].astype(np.float64)
        for role, predicted in predictions.items()
    }
    threshold = {
        unit: metrics.best_threshold(
            *_by_unit(sets["validation"], probabilities["validation"], unit)
        )
        for unit in ("image", "patient")
    }
    test = sets["test"]
    columns = {
        role: baselines.baseline_table(
            part.columns["images"],
            labels=part.columns["labels"],
            dates=part.dates,
            patients=part.patients,
        )
        for role, part in sets.items()
        if role != "validation"
    }
    scored = {row: probabilities["test"]}
    scored |= baselines.baseline_scores(columns["train"], columns["test"])
    measures: dict[str, dict] = {}
    for unit in ("image", "patient"):
        rows = measures[unit] = {}
        for name, scores in scored.items():
            values = _by_unit(test, scores, unit)
            rows[name] = metrics.classification_measures(*values)
            if name == row:
                chosen = metrics.classification_measures(*values, threshold=threshold[unit])
                rows[f"{row} tuned"] = chosen
    rows = [
        {
            "name": name,
            "patient": patient,
            "date": date,
            "label": LABEL_NAMES[int(label)],
            "probability_sick": float(probability),
            "predicted": LABEL_NAMES[int(probability > 0.5)],
            "predicted_tuned": LABEL_NAMES[int(probability > threshold["image"])],
            "tuned_threshold": threshold["image"],
        }
        for name, patient, date, label, probability in zip(
            test.names,
            test.patients,
            test.dates,
            test.columns["labels"],
            probabilities["test"],
            strict=True,
        )
    ]
    return measures, rows


def _by_unit(examples: Examples, scores: np.ndarray, unit: str) -> tuple[np.ndarray, np.ndarray]:
    labels = examples.columns["labels"]
    if unit == "image":
        return scores, labels
    per_patient = metrics.patient_scores(scores, examples.patients, labels)
    return per_patient.scores, per_patient.labels


def score_segmentation(
    test: Examples, predicted: dict[str, np.ndarray]
) -> tuple[dict[str, dict], list[dict]]:
    """Measures over all pixels of all test images, at the images' size and at full size."""
    pairs = {
        "scored_label_maps": predicted["label_maps"],
        "label_maps": predicted["full_label_maps"],
    }
    measures, rows = {}, [{"name": name} for name in test.names]
    for column, maps in pairs.items():
        truth = test.columns[column]
        size = "{}x{}".format(*truth.shape[1:])
        if size in measures:
            continue
        confusions = [
            metrics.confusion_matrix(true, guess, num_classes=len(CLASS_NAMES))
            for true, guess in zip(truth, maps, strict=True)
        ]
        distances = [
            metrics.hd95_by_class(true, guess, num_classes=len(CLASS_NAMES))
            for true, guess in zip(truth, maps, strict=True)
        ]
        measures[size] = metrics.segmentation_measures(sum(confusions))
        measures[size]["hd95"] = _mean_of_known(np.array(distances))
        for row, confusion in zip(rows, confusions, strict=True):
            one = metrics.segmentation_measures(confusion)
            row |= {f"accuracy_{size}": one["accuracy"], f"miou_{size}": one["miou"]}
            row |= {
                f"iou_{name}_{size}": value
                for name, value in zip(CLASS_NAMES, one["iou"], strict=True)
            }
    return measures, rows


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over images, NaN where no image has a value."""
    known = np.isfinite(values)
    sums = np.where(known, values, 0).sum(0)
    return np.divide(sums, known.sum(0), out=np.full(len(sums), np.nan), where=known.any(0))


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
