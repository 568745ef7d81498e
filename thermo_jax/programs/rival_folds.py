"""The stages of rivals that train no network: fitted on one fold's training patients.

features of all images, and a fold -> a head, or the baselines, or a simple segmenter
-> predictions.npz of the fold's test images, as a decoder's run writes them

A finished stage is not repeated. `made_from.json` in its folder says what it was made from; a stage
that was made from something else is refused.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from thermo_jax.data.examples import Examples
from thermo_jax.errors import UserError
from thermo_jax.evaluation import assessment, baselines
from thermo_jax.evaluation.predictions import Predictions, pool
from thermo_jax.files import digest, write_whole
from thermo_jax.inference.trained_models import SHIPPED, load_model
from thermo_jax.programs import cost, decoder_results
from thermo_jax.programs.stages import FINISHED
from thermo_jax.rivals import heads, mean_label_map, otsu_geometry
from thermo_jax.training import timeline

MADE_FROM = "made_from.json"
# The results of a segmenter -> the columns of the truth at the same size.
_TRUTHS = {"label_maps": "scored_label_maps", "full_label_maps": "label_maps"}
Sets = Mapping[str, np.ndarray]  # rows of the examples, by "train", "validation" and "test"


class Fold(NamedTuple):
    """One fold: its name, and the rows of its sets among the examples of a task."""

    name: str
    sets: Sets


def finish_once(
    folder: Path, made_from: Mapping[str, Any], work: Callable[[dict[str, Any]], Predictions]
) -> None:
    """Calls `work`, unless the stage in this folder is finished, and saves its predictions.

    Args:
      made_from: what the predictions depend on, as JSON.
      work: its argument collects facts for cost.json.
    Raises:
      UserError: the folder contains a finished stage that was made from something else.
    """
    text = json.dumps(made_from, indent=2, sort_keys=True) + "\n"
    file = folder / MADE_FROM
    if (folder / FINISHED).is_file():
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            return
        raise UserError(
            f"{folder} contains results of another configuration or of other images: choose "
            "another --workdir to start anew, or give the same configuration to continue"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, text)
    with timeline.record(), cost.measured(folder) as facts:
        predictions = work(facts)
        timeline.save(folder)
    predictions.save(folder / decoder_results.PREDICTIONS)
    (folder / FINISHED).touch()
    logging.info("%s/%s is finished.", folder.parent.name, folder.name)


def fitted_on(examples: Examples, fold: Fold, **more: Any) -> dict[str, Any]:
    """What a stage is made from: the images and diagnoses of each set, and `more`."""
    sets = {
        role: [examples.names[rows].tolist(), examples.columns["labels"][rows].tolist()]
        for role, rows in fold.sets.items()
    }
    return {"images": digest(sets)} | more


def digest_of(features: np.ndarray) -> str:
    """A digest of features [N, k], which may contain NaN."""
    return digest(features.round(9).tolist())


# --------------------------------------------------------------------------------------------------
# Classifiers
# --------------------------------------------------------------------------------------------------


def fit(
    features: np.ndarray, labels: np.ndarray, sets: Sets, *, head: str, candidates: int, seed: int
) -> heads.FittedHead:
    """A head, fitted on the rows of training and tuned on those of validation."""
    train, validation = (
        heads.Rows(features[sets[role]], labels[sets[role]]) for role in ("train", "validation")
    )
    return heads.fit_head(head, train, validation, candidates=candidates, seed=seed)


def classify(
    examples: Examples,
    fold: Fold,
    folder: Path,
    *,
    features: np.ndarray,
    features_id: str,
    head: str,
    candidates: int,
    seed: int,
) -> None:
    """The stage of a head on features [N, k] of all images; `features_id` is their digest."""
    made_from = fitted_on(
        examples,
        fold,
        features=features_id,
        head=head,
        candidates=candidates,
        seed=seed,
    )

    def work(facts: dict[str, Any]) -> Predictions:
        labels = examples.columns["labels"]
        fitted = fit(features, labels, fold.sets, head=head, candidates=candidates, seed=seed)
        facts |= {"parameters": fitted.parameters, "tried": fitted.tried}
        facts["chosen"] = fitted.setting
        return with_thresholds(examples, fold, fitted.probabilities(features))

    finish_once(folder, made_from, work)


def with_thresholds(examples: Examples, fold: Fold, probabilities: np.ndarray) -> Predictions:
    """The test images' predictions, with operating points that validation images choose.

    Args:
      probabilities: of all images [N].
    """
    judged = {
        role: decoder_results.with_diagnoses(
            examples.take(fold.sets[role]), probabilities[fold.sets[role]], model=fold.name
        )
        for role in ("validation", "test")
    }
    for point, value in assessment.operating_points(judged["validation"]).items():
        test = judged["test"]
        test.columns[f"threshold/{point}"] = np.full(len(test), value)
    return judged["test"]


def baseline_probabilities(
    features: baselines.Features, labels: np.ndarray, sets: Sets
) -> dict[str, np.ndarray]:
    """The probabilities of all images by baseline, fitted on the rows of training."""
    rows = sets["train"]
    train = {name: column[rows] for name, column in features.items()}
    return baselines.baseline_scores(train, features, labels=labels[rows])


def classify_by_baselines(
    examples: Examples, fold: Fold, folders: Mapping[str, Path], *, features: baselines.Features
) -> None:
    """One stage for each baseline that sees no anatomy, in the folder of its name."""
    labels = examples.columns["labels"]
    for name, folder in folders.items():
        own = {name: features.get(name, np.zeros((len(examples), 1)))}

        def work(
            facts: dict[str, Any], name: str = name, own: baselines.Features = own
        ) -> Predictions:
            facts |= {"tried": 1}
            scores = baseline_probabilities(own, labels, fold.sets)
            return with_thresholds(examples, fold, scores[name])

        finish_once(folder, fitted_on(examples, fold, features=digest_of(own[name])), work)


# --------------------------------------------------------------------------------------------------
# Segmenters
# --------------------------------------------------------------------------------------------------


def segment(
    examples: Examples,
    fold: Fold,
    folder: Path,
    *,
    segmenter: Callable[[Examples, Examples], dict],
    content: str,
) -> None:
    """The stage of a segmenter: (training examples, test examples) -> results of a prediction.

    Args:
      content: a digest of the examples' images and label maps, and of the segmenter's weights.
    """
    names = {role: examples.names[rows].tolist() for role, rows in fold.sets.items()}

    def work(facts: dict[str, Any]) -> Predictions:
        train, test = (examples.take(fold.sets[role]) for role in ("train", "test"))
        results = segmenter(train, test)
        facts |= {"parameters": results.pop("parameters", 0), "tried": 1}
        columns = decoder_results.score(results, slice(0, len(test)), examples=test)
        return Predictions.of(test, model=fold.name, columns=columns)

    finish_once(folder, {"images": digest(names), "content": content}, work)


def by_mean_label_map(train: Examples, test: Examples) -> dict[str, Any]:
    """The most frequent class of each pixel among the training label maps, for every image."""
    shares = mean_label_map.fit(train.columns["label_maps"])
    maps = {
        name: mean_label_map.predict(shares, count=len(test), shape=test.columns[truth].shape[1:])
        for name, truth in _TRUTHS.items()
    }
    return maps | {"parameters": int(np.prod(shares.shape[:2])) * (shares.shape[2] - 1)}


def by_otsu(train: Examples, test: Examples) -> dict[str, Any]:
    """Body and regions from gray levels and geometry; nothing is trained."""
    images = test.columns["images"][: len(test)]
    return {
        name: otsu_geometry.segment(images, shape=test.columns[truth].shape[1:])
        for name, truth in _TRUTHS.items()
    }


def by_shipped_model(train: Examples, test: Examples) -> dict[str, Any]:
    """The segmenter that comes with thermo_jax, as it is, on images reduced as it reads them."""
    model = load_model(SHIPPED, dtype="float32")
    shapes = {name: test.columns[truth].shape[1:] for name, truth in _TRUTHS.items()}
    maps: dict[str, list[np.ndarray]] = {name: [] for name in shapes}
    with timeline.part("evaluation"):
        for row in range(len(test)):
            image = test.columns["images"][row : row + 1]
            for name, shape in shapes.items():
                maps[name].append(model.label_maps(image, shape=shape))
    return {name: np.concatenate(of_images) for name, of_images in maps.items()}


# --------------------------------------------------------------------------------------------------
# Control
# --------------------------------------------------------------------------------------------------


def shuffled_aurocs(
    examples: Examples,
    folds: list[Fold],
    *,
    features: Mapping[str, tuple[str, np.ndarray]],
    no_anatomy: baselines.Features,
    baselines_shown: Collection[str],
    candidates: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """The AUROC per patient of each row, with the examples' diagnoses (which are shuffled).

    Args:
      features: the head and the features of each row.
      no_anatomy, baselines_shown: what baselines read, and the names of those that have a row.
    Returns:
      {row: {"auroc": pooled over folds, "auroc_within": over pairs that one model judged}}.
    """
    labels = examples.columns["labels"]
    parts: dict[str, list[Predictions]] = {}
    for fold in folds:
        test = fold.sets["test"]
        scores = baseline_probabilities(no_anatomy, labels, fold.sets)
        scores = {name: scores[name] for name in baselines_shown}
        for row, (head, values) in features.items():
            fitted = fit(values, labels, fold.sets, head=head, candidates=candidates, seed=seed)
            scores[row] = fitted.probabilities(values)
        for row, probabilities in scores.items():
            judged = decoder_results.with_diagnoses(
                examples.take(test), probabilities[test], model=fold.name
            )
            parts.setdefault(row, []).append(judged)
    return {row: assessment.aurocs(pool(of_row)) for row, of_row in parts.items()}
