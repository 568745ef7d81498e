"""The end of a decoder's run: measures on the test patients, and the files with them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from etils.epath import Path
from ml_collections import ConfigDict

from thermo_jax.data.dataset import PAPER
from thermo_jax.data.examples import Examples
from thermo_jax.data.streamed import Column
from thermo_jax.data.thermogram import CLASS_NAMES, LABEL_NAMES
from thermo_jax.evaluation import assessment, baselines, charts, figures, metrics
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.evaluation.results import estimates
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.programs import reports
from thermo_jax.programs.frozen_encoder import row_name
from thermo_jax.programs.workdir import PICTURES
from thermo_jax.rivals.networks import UNET, look_of, sees_whole_images
from thermo_jax.training import processes
from thermo_jax.training.checkpoints import FOLDER
from thermo_jax.training.loop import TrainingRun
from thermo_jax.training.metrics_log import METRICS

PREDICTIONS = "predictions.npz"
SHUFFLED = "permuted at random (config.seed={seed}): a control"
PICTURED = 4  # images in a picture


def write(
    config: ConfigDict,
    *,
    workdir: Path,
    sets: dict[str, Examples],
    gray: dict[str, Column] | None,
    predictions: dict[str, dict[str, np.ndarray]],
    trained: TrainingRun,
    encoder_caveat: str,
    start: str,
    cautions: list[str],
) -> dict:
    """Scores, writes and prints; returns the results.

    Args:
      gray: a classifier's gray images by role, for the baselines.
      predictions: what `keeper` keeps, by role: "test", and for a classifier "validation", too, if
        there is such a set.
      start: the trained decoder from which the run started, or "".
      cautions: about the data set.
    """
    row, pictures = row_name(config.encoder.type, config.data.type), workdir / PICTURES
    title, test = f"{row} on test patients", sets["test"]
    model = f"fold {config.split.fold}"
    if config.task == "classify":
        # In the paper's protocol, the validation patients are the test patients: a threshold that
        # is chosen on them would be optimistic.
        tuned = config.split.protocol != PAPER and "validation" in sets
        scored = classified(sets, predictions, gray=gray, model=model, tuned=tuned)
        path = pictures / "evidence.png"
        drawn = [evidence_picture(path, test, predictions["test"], title=title)]
    else:
        scored = Predictions.of(test, model=model, columns=predictions["test"])
        label_maps = scored.columns["label_maps"]
        drawn = [segmentation_picture(pictures / "segmentation.png", test, label_maps, title=title)]
    measures, columns = assess(scored, task=config.task, row=row, config=config)
    outcome = {"run": _facts(config, sets, trained, row, encoder_caveat, start)} | measures
    outcome["cautions"] = [*cautions, *measures.get("cautions", ())]
    charts_of = classification_charts if config.task == "classify" else segmentation_charts
    curves = figures.curves_figure(
        pictures / "curves.png",
        trained.history,
        best_epoch=trained.best_epoch if "validation" in sets else None,
        title=f"{row}, {config.task}",
    )
    drawn += [*charts_of(pictures, {row: outcome}, title=title), curves]
    files = [
        PrintedTable.of_columns(columns).write_csv(workdir / "predictions.csv"),
        scored.save(workdir / PREDICTIONS),
        *drawn,
        workdir / METRICS,
        workdir / FOLDER,
    ]
    sections = [*reports.result_sections(outcome), reports.picture_section(drawn)]
    reports.write_run(workdir, outcome, config=config, sections=sections, files=files)
    return outcome


def assess(
    predictions: Predictions, *, task: str, row: str, config: ConfigDict
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The measures of a row of Table 1, and the columns of predictions.csv (a row per image).

    Args:
      task: "classify" or "segment".
      config: of the run or study; its fields `report`, `data` and `split` are used.
    """
    sampling = {"samples": config.report.bootstrap, "seed": config.report.seed}
    if task == "segment":
        measures = assessment.assess_segmentation(predictions, **sampling)
        return measures, segmentation_columns(predictions)
    measures = assessment.assess_classification(predictions, row=row, **sampling)
    # The note gives the range of the AUROC by chance. It would be wrong in the paper's protocol,
    # which chooses the epoch on the test patients.
    if config.data.get("shuffle_labels") and config.split.protocol != PAPER:
        per_patient = measures["classification"]["patient"][row]
        measures["cautions"].append(assessment.chance_note(predictions, per_patient))
    return measures, classification_columns(predictions)


def _facts(
    config: ConfigDict, sets: dict, trained: TrainingRun, row: str, encoder_caveat: str, start: str
) -> dict[str, str]:
    paper = config.split.protocol == PAPER
    chosen = "on test" if paper else "by validation loss"
    epochs = f"{trained.history[-1]['epoch']}, best {chosen}: {trained.best_epoch}"
    if "validation" not in sets:
        epochs = f"{trained.best_epoch}, none chosen: the last one is used"
    facts = {
        "task": f"{config.task}, {row} (encoder/decoder)",
        "protocol": config.split.protocol,
        "data": config.data.root,
        "images": ", ".join(
            f"{len(part)} {role} ({len(set(part.patients))} patients)"
            for role, part in sets.items()
            if not (paper and role == "validation")
        ),
        "test": f"fold {config.split.fold} of {config.split.folds} by patient, "
        + ("which also chose the epoch" if paper else "scored once"),
        "epochs": epochs,
    }
    if config.split.file:
        facts["test"] += f"; patients of {config.split.file}"
    if config.data.shuffle_labels:
        facts["diagnoses"] = SHUFFLED.format(seed=config.seed)
    if config.data.downscale > 1:
        facts["resolution"] = f"reduced by {config.data.downscale}: not the paper's"
    if config.model.architecture != UNET:
        facts["decoder"] = f"{config.model.architecture}, a network of others"
    if not sees_whole_images(config.model.to_dict()):
        area, temperatures = look_of(config.model.to_dict())
        facts["looks at"] = {"full": "whole images", "breasts": "the breasts alone"}[area]
        facts["looks at"] += ", as temperatures on one scale" * (temperatures == "kept")
    if encoder_caveat:
        facts["encoder"] = encoder_caveat
    if start:
        facts["started from"] = start
    return facts


def classified(
    sets: dict[str, Examples],
    predictions: dict[str, dict[str, np.ndarray]],
    *,
    gray: dict[str, Column],
    model: str,
    tuned: bool,
) -> Predictions:
    """A classifier's test predictions, with its baselines and, if `tuned`, operating points."""
    roles = ("validation", "test") if tuned else ("test",)
    judged = {
        role: with_diagnoses(sets[role], predictions[role]["probabilities"], model=model)
        for role in roles
    }
    test = judged["test"]
    columns = dict(test.columns)
    if tuned:
        for point, value in assessment.operating_points(judged["validation"]).items():
            columns[f"threshold/{point}"] = np.full(len(test), value)
    features = {role: baseline_features(sets[role], gray[role]) for role in ("train", "test")}
    scores = baselines.baseline_scores(
        features["train"], features["test"], labels=sets["train"].columns["labels"]
    )
    # Without any temperature, this baseline is left out. The images of all sets are checked, not
    # only those of this fold's test set, so that all folds of a study have the same baselines.
    if all(np.isnan(part.mean_temperatures).all() for part in sets.values()):
        del scores["mean temperature"]
    columns |= {f"baseline/{name}": values for name, values in scores.items()}
    return dataclasses.replace(test, columns=columns)


def with_diagnoses(examples: Examples, probabilities: np.ndarray, *, model: str) -> Predictions:
    """A classifier's predictions, with the diagnoses."""
    # float64, so that tables and files compare the same numbers with a threshold.
    columns = {
        "labels": examples.columns["labels"],
        "probabilities": probabilities.astype(np.float64),
    }
    return Predictions.of(examples, model=model, columns=columns)


def baseline_features(examples: Examples, gray: Column) -> baselines.Features:
    """What the baselines that see no anatomy read of these images."""
    return baselines.baseline_features(
        gray,
        dates=examples.dates,
        patients=examples.patients,
        mean_temperatures=examples.mean_temperatures,
    )


def classification_columns(predictions: Predictions) -> dict[str, np.ndarray]:
    """The columns of predictions.csv, by heading."""
    labels, scores = (predictions.columns[name] for name in ("labels", "probabilities"))
    diagnoses = np.array([LABEL_NAMES[0], LABEL_NAMES[1]])
    columns = _identities(predictions) | {
        "label": diagnoses[labels],
        "probability_sick": scores,
        "predicted": diagnoses[np.int32(scores > 0.5)],
    }
    for point, thresholds in predictions.named("threshold/image, ").items():
        columns[f"threshold, {point}"] = thresholds
        columns[f"predicted, {point}"] = diagnoses[np.int32(scores > thresholds)]
    members = predictions.named("member/").items()
    return columns | {f"probability_sick, {name}": values for name, values in members}


def keeper(task: str, examples: Examples) -> Callable[[dict, slice], dict]:
    """Returns what to keep of predictions, as `passes.predict` needs it. Only the writer keeps any.

    Of a classifier, these are the probabilities, and the evidence of the images in the picture; of
    a segmenter, see `score`. Evidence and label maps of all images at full size would be large.
    """
    if not processes.is_writer():
        return lambda results, rows: {}
    if task == "segment":
        return functools.partial(score, examples=examples)
    return functools.partial(_diagnoses, shown=np.sort(_pictured(examples)))


def _diagnoses(results: dict[str, np.ndarray], rows: slice, *, shown: np.ndarray) -> dict:
    kept = {"probabilities": results["probabilities"]}
    if "evidence" in results:  # an ensemble has none
        of_batch = shown[(shown >= rows.start) & (shown < rows.stop)] - rows.start
        kept["evidence"] = results["evidence"][of_batch]
    return kept


def score(
    results: dict[str, np.ndarray], rows: slice, *, examples: Examples
) -> dict[str, np.ndarray]:
    """A batch of a segmenter's predictions, scored at the images' size and at full size.

    An ensemble whose models read images of different sizes has no "label_maps" at one such size: it
    is scored at full size only.

    Args:
      rows: those of the batch in `examples`.
    """
    names = {"scored_label_maps": "label_maps", "label_maps": "full_label_maps"}
    pairs = {column: results[name] for column, name in names.items() if name in results}
    columns = {"label_maps": next(iter(pairs.values())).astype(np.uint8)}
    for column, maps in pairs.items():
        truth = examples.columns[column][rows]
        size = "{}x{}".format(*truth.shape[1:])
        if f"confusion/{size}" in columns:
            continue
        columns[f"confusion/{size}"] = confusions(truth, maps)
        columns[f"hd95/{size}"] = metrics.hd95_by_class(truth, maps, num_classes=len(CLASS_NAMES))
    return columns


def confusions(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """One confusion matrix per image, int64 [N, K, K]."""
    return np.stack(
        [
            metrics.confusion_matrix(true, guess, num_classes=len(CLASS_NAMES))
            for true, guess in zip(truth, predicted, strict=True)
        ]
    )


def segmentation_columns(predictions: Predictions) -> dict[str, np.ndarray]:
    """The columns of predictions.csv, by heading."""
    columns = _identities(predictions)
    for size, matrices in predictions.named("confusion/").items():
        columns |= image_measures(matrices, suffix=size)
    return columns


def image_measures(matrices: np.ndarray, *, suffix: str) -> dict[str, np.ndarray]:
    """Accuracy, mean IoU and each class's IoU by image; `matrices` are those of `confusions`."""
    measures = metrics.segmentation_measures(matrices)
    columns = {name: measures[name] for name in ("accuracy", "miou")}
    columns |= {f"iou_{name}": measures["iou"][:, k] for k, name in enumerate(CLASS_NAMES)}
    return {f"{name}_{suffix}": column for name, column in columns.items()}


def _identities(predictions: Predictions) -> dict[str, np.ndarray]:
    names = ("name", "patient", "date", "model")
    return {name: getattr(predictions, f"{name}s") for name in names}


def classification_charts(folder: Path, outcomes: dict[str, dict], *, title: str) -> list[Path]:
    """Reliability, ROC curve and confusion of one or more rows, per patient."""
    rows = {row: values["classification"]["patient"][row] for row, values in outcomes.items()}
    counts = {row: measures["counts"] for row, measures in rows.items()}
    return [
        charts.reliability_figure(
            folder / "reliability.png",
            {row: tuple(measures["reliability"]["patient"]) for row, measures in outcomes.items()},
            title=f"{title}, per patient",
        ),
        charts.roc_figure(
            folder / "roc.png",
            {row: values["roc"]["patient"] for row, values in outcomes.items()},
            aurocs={row: estimates(values, ["auroc"])[0] for row, values in rows.items()},
            points={row: (1 - v["specificity"], v["recall"]) for row, v in rows.items()},
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
            {row: next(iter(values["confusion"].values())) for row, values in outcomes.items()},
            class_names=CLASS_NAMES,
            title=title,
        )
    ]


def segmentation_picture(
    path: Path, examples: Examples, label_maps: np.ndarray, *, title: str
) -> Path:
    """A picture of the first images, with their annotations and the predicted label maps."""
    shown = slice(0, PICTURED)
    truth = examples.columns["scored_label_maps"]
    if truth.shape != label_maps.shape:  # of an ensemble of different sizes
        truth = examples.columns["label_maps"]
    return figures.segmentation_figure(
        path,
        examples.columns["images"][shown],
        truth[shown],
        label_maps[shown],
        examples.names[shown],
        title=title,
    )


def evidence_picture(path: Path, test: Examples, predicted: dict, *, title: str) -> Path:
    """A picture of some images, with the evidence in each of their pixels.

    Args:
      predicted: what `keeper` keeps.
    """
    shown = _pictured(test)
    return figures.evidence_figure(
        path,
        test.columns["images"][shown],
        predicted["evidence"][np.searchsorted(np.sort(shown), shown)],  # kept in order of the rows
        predicted["probabilities"][shown],
        test.columns["labels"][shown],
        test.names[shown],
        title=title,
    )


def _pictured(examples: Examples) -> np.ndarray:
    """The rows in the picture: half of them of sick and half of healthy patients, if possible."""
    labels = examples.columns["labels"]
    order = np.concatenate([np.flatnonzero(labels == label)[: PICTURED // 2] for label in (1, 0)])
    return order if len(order) else np.arange(min(PICTURED, len(examples)))
