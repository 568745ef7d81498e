"""The rows of a comparison that train no network: their stages, fold by fold, and the control."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.data.dataset import Dataset, SplitSettings
from thermo_jax.data.examples import Examples
from thermo_jax.data.splits import Split
from thermo_jax.evaluation import baselines
from thermo_jax.files import digest, write_whole
from thermo_jax.programs import decoder_results, looks, rival_features, rival_folds
from thermo_jax.programs.decoder import deal_images
from thermo_jax.programs.rival_features import Look
from thermo_jax.programs.rival_folds import Fold
from thermo_jax.rivals.registry import AREAS, BY_NAME, FAST, TEMPERATURES, Rival, chosen

OURS_FAMILY, NO_ANATOMY = "thermo_jax", "no anatomy"
_CONTROL_FOLDER = "control"
ZERO_SHOT = "the model that ships, as it is"


class Study(NamedTuple):
    """A comparison: its configuration, its folder, its data set, and its folds by name."""

    config: ConfigDict
    workdir: Path
    dataset: Dataset
    splits: Mapping[str, Split]

    def folder(self, fold: str, key: str) -> Path:
        """The folder of a row's stage."""
        return self.workdir / fold / key

    def folds(self, examples: Examples) -> list[Fold]:
        """The folds, as rows of the examples."""
        settings = SplitSettings(**self.config.split)
        return [
            Fold(name, deal_images(examples, split, settings, seed=self.config.seed))
            for name, split in self.splits.items()
        ]


class Row(NamedTuple):
    """A row of the comparison.

    Attributes:
      key: the name of its stages' folders, one in each fold.
      rival: None for ours and for baselines.
      folders: of its predictions, if they are not in this workdir.
      missing: why it was not run; "" if it was.
      look: what it looks at, if it reads features.
      area, temperatures: what a network looks at.
    """

    task: str
    key: str
    title: str
    family: str
    rival: Rival | None = None
    folders: tuple[Path, ...] = ()
    missing: str = ""
    look: Look | None = None
    area: str = AREAS[0]
    temperatures: str = TEMPERATURES[0]

    @property
    def reading_order(self) -> tuple[int, int]:
        """Its place among rows that look at other images; whole images come first."""
        return TEMPERATURES.index(self.temperatures), AREAS.index(self.area)


def ours_kinds(config: ConfigDict) -> tuple[str, ...]:
    """The models of ours that the study trains: none if ours is that of another run."""
    return () if config.table1 else tuple(config.ours)


def title(rival: Rival, area: str, temperatures: str, *, weights: str = "") -> str:
    """The name of a row in tables.

    Args:
      weights: the source of an ImageNet network's weights; "random" is said.
    """
    words = [rival.title, *([area] if len(rival.areas) > 1 else [])]
    words += ["random weights"] * (rival.features == "imagenet" and weights == "random")
    return ", ".join([*words, *["°C kept"] * (temperatures == "kept")])


# --------------------------------------------------------------------------------------------------
# Classifiers
# --------------------------------------------------------------------------------------------------


class Classifiers(NamedTuple):
    """Rows of classifiers, the features [N, k] of those that read such, and the control."""

    rows: list[Row]
    features: dict[Row, np.ndarray]
    control: dict[str, Any]


def classifiers(study: Study) -> Classifiers:
    """The rows of baselines and of rivals that read features; runs their stages."""
    config, dataset = study.config, study.dataset
    examples = dataset.load("classify")
    folds = study.folds(examples)
    no_anatomy = decoder_results.baseline_features(examples, examples.columns["images"])
    known = [name for name, values in no_anatomy.items() if not np.isnan(values).all()]
    rows = {name: _baseline_row(name) for name in ("majority class", *known)}
    for fold in folds:
        folders = {name: study.folder(fold.name, row.key) for name, row in rows.items()}
        rival_folds.classify_by_baselines(examples, fold, folders, features=no_anatomy)
    readers = _rows_with_features(config)
    found = rival_features.compute_all(
        config, study.workdir, dataset, {row.look for row in readers}
    )
    readers = [row._replace(missing=found[row.look].missing) for row in readers]
    features = {row: found[row.look].values for row in readers if not row.missing}
    for row, values in features.items():
        features_id = rival_folds.digest_of(values)
        for fold in folds:
            rival_folds.classify(
                examples,
                fold,
                study.folder(fold.name, row.key),
                features=values,
                features_id=features_id,
                head=row.rival.head,
                candidates=config.candidates,
                seed=config.seed,
            )
    fast = {row: values for row, values in features.items() if row.rival.name in FAST}
    control = _control(study, fast, no_anatomy, list(rows))
    return Classifiers([*rows.values(), *readers], features, control)


def _baseline_row(name: str) -> Row:
    return Row("classify", f"baseline_{name.replace(' ', '_')}", name, NO_ANATOMY)


def _rows_with_features(config: ConfigDict) -> list[Row]:
    """The rows of rivals that read features, also of those that may lack what they need."""
    return [
        Row(
            "classify",
            rival_features.row_name(rival, area, temperatures),
            title(rival, area, temperatures, weights=config.weights.source),
            rival.family,
            rival,
            look=Look(rival.features, area, temperatures),
        )
        for rival in map(BY_NAME.__getitem__, config.rivals)
        if rival.features
        for temperatures in chosen(rival.temperatures, config.temperatures)
        for area in chosen(rival.areas, config.areas)
    ]


def _control(
    study: Study,
    features: Mapping[Row, np.ndarray],
    no_anatomy: baselines.Features,
    shown: Collection[str],
) -> dict[str, dict[str, list[float]]]:
    """The AUROCs of `rival_folds.shuffled_aurocs` by row's title, one for each shuffling."""
    config, folder = study.config, study.workdir / _CONTROL_FOLDER
    examples = study.dataset.load("classify")
    read = [
        {name: rival_folds.digest_of(columns) for name, columns in no_anatomy.items()},
        {row.key: rival_folds.digest_of(values) for row, values in features.items()},
        examples.columns["labels"].tolist(),
    ]
    aurocs: dict[str, dict[str, list[float]]] = {}
    for number in range(config.shuffles):
        file, seed = folder / f"shuffle{number:02d}.json", config.seed + number
        about = [config.candidates, config.seed, seed, dict(config.split), list(study.splits)]
        made_from = digest([*about, read])
        saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if saved.get("made_from") != made_from:
            logging.info("Control with shuffled diagnoses: %d of %d", number + 1, config.shuffles)
            rows = _shuffled(study, seed, features, no_anatomy, shown)
            saved = {"made_from": made_from, "rows": rows}
            folder.mkdir(exist_ok=True)
            write_whole(file, json.dumps(saved, indent=1) + "\n")
        for title_of_row, measures in saved["rows"].items():
            of_row = aurocs.setdefault(title_of_row, {})
            for name, value in measures.items():
                of_row.setdefault(name, []).append(value)
    return aurocs


def _shuffled(
    study: Study,
    seed: int,
    features: Mapping[Row, np.ndarray],
    no_anatomy: baselines.Features,
    shown: Collection[str],
) -> dict[str, dict[str, float]]:
    dataset = study.dataset.with_shuffled_labels(seed)
    labels = {record.name: record.label for record in dataset.records}
    examples = study.dataset.load("classify")
    columns = {"labels": np.array([labels[name] for name in examples.names.tolist()], np.int32)}
    shuffled = dataclasses.replace(examples, columns=columns)
    # Folds are stratified by diagnosis, so that other diagnoses need other folds.
    settings = SplitSettings(**study.config.split)
    splits = {
        name: dataset.split(dataclasses.replace(settings, fold=number))
        for number, name in enumerate(study.splits)
    }
    return rival_folds.shuffled_aurocs(
        shuffled,
        study._replace(splits=splits).folds(shuffled),
        features={row.title: (row.rival.head, values) for row, values in features.items()},
        no_anatomy=no_anatomy,
        baselines_shown=shown,
        candidates=study.config.candidates,
        seed=study.config.seed,
    )


# --------------------------------------------------------------------------------------------------
# Segmenters
# --------------------------------------------------------------------------------------------------


def segmenters(study: Study) -> list[Row]:
    """The rows of segmenters that are not trained, or are fitted without a network."""
    examples = study.dataset.load("segment")
    simple = {"mean_label_map": rival_folds.by_mean_label_map, "otsu": rival_folds.by_otsu}
    rows = {
        Row("segment", rival.name, rival.title, rival.family, rival): simple[rival.name]
        for rival in map(BY_NAME.__getitem__, study.config.rivals)
        if rival.name in simple
    }
    if "shipped" in ours_kinds(study.config):
        rows[Row("segment", "ours_zero_shot", ZERO_SHOT, OURS_FAMILY)] = (
            rival_folds.by_shipped_model
        )
    content = digest([rival_features.content_digest(study.dataset, "segment"), looks.shipped_id()])
    for fold in study.folds(examples):
        for row, segmenter in rows.items():
            folder = study.folder(fold.name, row.key)
            rival_folds.segment(examples, fold, folder, segmenter=segmenter, content=content)
    return list(rows)
