"""The measures of the rows of a comparison, from the predictions that their stages saved."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from thermo_jax.evaluation import comparison
from thermo_jax.evaluation.predictions import Predictions, pool
from thermo_jax.files import saved_config
from thermo_jax.inference.trained_models import load_model
from thermo_jax.models.precision import matmul_precision
from thermo_jax.programs import cost, decoder_results, looks, rival_features
from thermo_jax.programs.rival_rows import OURS_FAMILY, Row, Study
from thermo_jax.training.checkpoints import has_checkpoint
from thermo_jax.training.metrics_log import METRICS

YEAR_GRID = (15, 20)  # a network's evidence is reduced to at most so many numbers
_COSTS = ("seconds", "cpu_seconds", "device_seconds")


def folders_of(study: Study, row: Row) -> Sequence[Path]:
    """The folders of a row's stages, fold by fold."""
    return row.folders or [study.folder(fold, row.key) for fold in study.splits]


def pooled(study: Study, row: Row) -> Predictions:
    """The out-of-fold predictions of a row; the name of a model is that of its fold."""
    parts = []
    for fold, folder in zip(study.splits, folders_of(study, row), strict=True):
        saved = Predictions.load(folder / decoder_results.PREDICTIONS)
        kept = {k: x for k, x in saved.columns.items() if not k.startswith("baseline/")}
        models = np.full(len(saved), fold)
        parts.append(dataclasses.replace(saved, models=models, columns=kept))
    return pool(parts)


def with_baselines(
    predictions: Mapping[str, Predictions], title: str, baselines: Sequence[str]
) -> Predictions:
    """The predictions of a row, with those of the rows that are baselines as its columns."""
    own = predictions[title]
    columns = {}
    for name in baselines:
        rows = predictions[name].rows_of(own.names.tolist())
        columns[f"baseline/{name}"] = predictions[name].columns["probabilities"][rows]
    return dataclasses.replace(own, columns=own.columns | columns)


def ours_among(rows: Sequence[Row], predictions: Mapping[str, Predictions]) -> str:
    """The title of the row with which the others are compared, the first of ours; "" if none."""
    return next(
        (row.title for row in rows if row.family == OURS_FAMILY and row.title in predictions), ""
    )


# --------------------------------------------------------------------------------------------------
# Cost
# --------------------------------------------------------------------------------------------------


def costs(study: Study, row: Row) -> dict[str, Any]:
    """Seconds of all folds together, features and encoders included; largest memory; parameters.

    "tried" and "chosen" are the settings tried, and those chosen in each fold. The result is {} if
    a stage was made by an earlier version, which measured nothing.
    """
    folders = folders_of(study, row)
    stages = [cost.read(folder) for folder in folders]
    encoders = [folder for folder in map(_encoder_of, folders) if folder is not None]
    found = [*stages, *map(cost.read, encoders)]
    if row.look is not None:
        found.append(cost.read(study.workdir / rival_features.FOLDER / row.look.key))
    if not all(found):
        return {}
    total: dict[str, Any] = {}
    for name in _COSTS:
        values = [one.get(name) for one in found]
        total[name] = None if None in values else float(sum(values))
    peaks = [one["peak_gb"] for one in found if one.get("peak_gb") is not None]
    total["peak_gb"] = max(peaks, default=None)
    total["parameters"] = stages[0].get("parameters", _network_parameters(folders[0], encoders))
    pairs = zip(stages, folders, strict=True)
    tuned = [one if "tried" in one else _epochs(folder) for one, folder in pairs]
    total["tried"] = tuned[0].get("tried")
    total["chosen"] = [one.get("chosen") for one in tuned]
    return total


def _encoder_of(folder: Path) -> Path | None:
    """The workdir of the encoder whose latents a decoder's run reads; None if it reads others."""
    config = saved_config(folder) or {}
    encoder = config.get("encoder", {})
    return Path(encoder["workdir"]) if encoder.get("kind") == "pretrained" else None


def _epochs(folder: Path) -> dict[str, Any]:
    """How many epochs a network's run "tried", and the one that it has "chosen" by its loss."""
    file = folder / METRICS
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines if line.strip()]
    best = min(epochs, key=lambda epoch: epoch["val/loss"])["epoch"]
    return {"tried": len(epochs), "chosen": f"epoch {best}"}


def _network_parameters(folder: Path, encoders: Sequence[Path]) -> int | None:
    """The number of parameters that a network's run trained, with those of its encoder."""
    if not has_checkpoint(folder):
        return None
    model = load_model(folder, dtype="float32", any_look=True)
    trained = [model.variables["params"]] + [model.encoder.variables["params"]] * bool(encoders)
    return sum(int(leaf.size) for leaf in jax.tree.leaves(trained))


# --------------------------------------------------------------------------------------------------
# Acquisition
# --------------------------------------------------------------------------------------------------


def year_predicted(study: Study, row: Row, features: np.ndarray | None) -> tuple[float, float]:
    """How well what a row computes of an image predicts the year: (balanced accuracy, chance).

    The first image of each patient is used. Both are NaN if nothing is known of what it computes.

    Args:
      features: of the row's images [N, k], if it reads such.
    """
    examples = study.dataset.load("classify")
    _, first = np.unique(examples.patients, return_index=True)
    if features is not None:
        by_fold = dict.fromkeys(study.splits, features[first])
    else:
        by_fold = _evidence_by_fold(study, row, rows=first)
    if by_fold is None:
        return np.nan, np.nan
    years, folds = comparison.acquisition_years(examples), np.full(len(examples), -1)
    for number, split in enumerate(study.splits.values()):
        folds[examples.rows_of_patients(split.test)] = number
    years[folds < 0] = comparison.UNKNOWN  # not tested, because not all folds are run
    of_fold = dict(enumerate(by_fold.values()))
    return comparison.year_accuracy(of_fold, years=years[first], folds=folds[first])


def _evidence_by_fold(study: Study, row: Row, *, rows: np.ndarray) -> dict[str, np.ndarray] | None:
    """The evidence of each fold's network in these images, reduced to a grid; None if unknown."""
    folders = folders_of(study, row)
    if not all(has_checkpoint(folder) for folder in folders):
        return None
    seen = looks.cached_look(study.dataset, row.area, row.temperatures)
    images = seen.load("classify").columns["images"]
    by_fold = {}
    for fold, folder in zip(study.splits, folders, strict=True):
        model = load_model(folder, dtype="float32", any_look=True)
        if images.shape[1:] != model.image_shape:
            return None
        with matmul_precision(model.dtype, platform=jax.default_backend()):
            evidence = [
                np.asarray(model(images[one : one + 1])["evidence"])[0] for one in rows.tolist()
            ]
        by_fold[fold] = np.stack([_reduced(image) for image in evidence])
    return by_fold


def _reduced(evidence: np.ndarray) -> np.ndarray:
    """[h, w] -> at most YEAR_GRID means of blocks, flat."""
    height, width = (
        max(n for n in range(1, most + 1) if size % n == 0)
        for size, most in zip(evidence.shape, YEAR_GRID, strict=True)
    )
    rows, columns = evidence.shape[0] // height, evidence.shape[1] // width
    return evidence.reshape(height, rows, width, columns).mean((1, 3)).ravel()


def weights_text(study: Study) -> str:
    """Where the ImageNet network's weights come from, with their SHA-256."""
    for folder in sorted((study.workdir / rival_features.FOLDER).glob("imagenet_*")):
        if about := cost.read(folder).get("weights"):
            if not about["sha256"]:
                return "random: not trained on ImageNet"
            return f"{about['source']}, {about['file']}, SHA-256 {about['sha256']}"
    return "not used"
