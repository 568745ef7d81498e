"""Program "few_shot": how many labelled patients does a segmenter need, with CUTS and without?

an encoder, pretrained on the training patients without labels -> a segmenter for each number of
labelled patients, kind of encoder and seed -> mean IoU on the test patients, at the images' size
-> one figure. If segmenters start from the model that comes with thermo_jax, its own score stands
beside theirs.

Validation patients, if there are any, choose the epoch, and are labelled too. They are the same for
every segmenter, and the number of labelled patients does not include them.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from thermo_jax.data.dataset import PAPER, SPLIT_FILE, Dataset, open_dataset
from thermo_jax.data.splits import Split
from thermo_jax.errors import UserError
from thermo_jax.evaluation import charts, metrics, results
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.evaluation.report import Section, Text
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER
from thermo_jax.inference.trained_models import load_model
from thermo_jax.models.cuts import CHANNELS
from thermo_jax.programs import decoder_results, reports, settings
from thermo_jax.programs.stages import (
    Stage,
    check_fractions,
    check_split,
    check_stages,
    run_stages,
    stage_config,
)
from thermo_jax.programs.workdir import PICTURES, begin, check_workdir
from thermo_jax.training import timeline
from thermo_jax.training.weights_file import SHIPPED

ENCODER_SPLIT = "split_encoder.json"
KINDS = {
    "pretrained": "CUTS, pretrained",
    "random": "random, frozen",
    "none": "raw pixels, from scratch",
    SHIPPED: "shipped model, fine-tuned",
}
UNTRAINED = "shipped model, as it is"
VALIDATION = "Validation patients choose the epoch; they are labelled, too, and not counted."
NO_VALIDATION = "There are no validation patients; the last epoch is used."


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs the stages that are not finished; returns the results, which it also writes."""
    _check_fields(config)
    workdir = check_workdir(workdir, config)
    fold = {"fold": config.fold}
    segmenter = stage_config(config, "segment", data_type=config.type, split=fold)
    open_once = functools.cache(open_dataset)
    with timeline.part("data"):
        dataset = open_once(settings.data_settings(segmenter))
    split = dataset.split(settings.split_settings(segmenter))
    fold["file"] = str(workdir / ENCODER_SPLIT)
    encoder = stage_config(config, "encoder", data_type=config.type, split=fold)
    encoder_split = dataset.with_more_validation(split, settings.split_settings(encoder))
    annotated = {record.patient for record in dataset.select("segment")}
    stages = list(_stages(config, segmenter, workdir, available=len(split.train & annotated)))
    all_stages = list(stages)
    if "pretrained" in config.kinds:
        all_stages.insert(0, Stage("encoder", "encoder", "", encoder))
    check_stages(all_stages, workdir)
    check_split(workdir / SPLIT_FILE, split, all_stages, workdir)
    begin(workdir, config, dataset=dataset, split=split)
    encoder_split.save(workdir / ENCODER_SPLIT)
    run_stages(all_stages, workdir, open_dataset=open_once)
    points: dict[str, dict[int, list[float]]] = {kind: {} for kind in config.kinds}
    for stage in stages:
        count = stage.config.split.max_train_patients
        points[stage.row].setdefault(count, []).append(_miou(workdir / stage.folder))
    return _finish(
        config,
        workdir,
        points,
        untrained=_untrained(dataset, split) if SHIPPED in config.kinds else None,
        tested=len(split.test & annotated),
        cautions=dataset.cautions,
    )


def _check_fields(config: ConfigDict) -> None:
    settings.check_fields(config)
    check_fractions(config)
    if config.type not in CHANNELS:
        raise UserError(f"config.type={config.type!r} must be one of {', '.join(CHANNELS)}")
    if config.data.shuffle_labels:
        raise UserError("config.data.shuffle_labels=True is a control for classifiers only")
    if config.split.protocol == PAPER:
        raise UserError("config.split.protocol='paper' chooses epochs on test: choose 'honest'")


def numbers(config: ConfigDict, *, available: int) -> list[int]:
    """The sorted `config.patients` that are at most `available`; 0 becomes `available`."""
    asked = [number or available for number in config.patients]
    possible = sorted({number for number in asked if 0 < number <= available})
    if not possible:
        raise UserError(
            f"config.patients={config.patients!r}: there are only {available} annotated training "
            "patients; choose fewer, or 0 for all of them"
        )
    return possible


def _stages(
    config: ConfigDict, segmenter: ConfigDict, workdir: Path, *, available: int
) -> Iterator[Stage]:
    for kind in config.kinds:
        for count in numbers(config, available=available):
            for repeat in range(config.repeats):
                stage = segmenter.copy_and_resolve_references()
                stage.encoder.kind = "none" if kind == SHIPPED else kind
                if kind == SHIPPED:
                    stage.init_from = SHIPPED
                    stage.average_with_init = config.fine_tune.average_with_init
                    stage.train.steps = config.fine_tune.steps
                    stage.train.learning_rate = config.fine_tune.learning_rate
                stage.encoder.num_kernels = config.stages.encoder.model.num_kernels
                stage.encoder.workdir = str(workdir / "encoder") if kind == "pretrained" else ""
                stage.split.max_train_patients = count
                stage.seed = config.seed + repeat
                yield Stage("segment", f"{kind}_{count}_seed{stage.seed}", kind, stage)


def _miou(folder: Path) -> float:
    predictions = Predictions.load(folder / decoder_results.PREDICTIONS)
    return _pooled(next(iter(predictions.named("confusion/").values())))


def _untrained(dataset: Dataset, split: Split) -> float | None:
    """The mean IoU on the test patients of the model that comes with thermo_jax, as it is.

    It is None if the images have another size than those that this model reads.
    """
    model = load_model(SHIPPED, dtype="float32")
    examples = dataset.load("segment")
    if examples.columns["images"].shape[1:] != model.image_shape:
        return None
    tested = examples.take(examples.rows_of_patients(split.test)).columns
    confusions = []
    for image, truth in zip(tested["images"], tested["scored_label_maps"], strict=True):
        maps = model.label_maps(image[np.newaxis], shape=truth.shape)
        confusions.append(decoder_results.confusions(truth[np.newaxis], maps))
    return _pooled(np.concatenate(confusions))


def _pooled(confusions: np.ndarray) -> float:
    """The mean IoU of the confusion matrices' sum."""
    return float(metrics.segmentation_measures(confusions.sum(0))["miou"])


def _finish(
    config: ConfigDict,
    workdir: Path,
    points,
    *,
    untrained: float | None,
    tested: int,
    cautions: list[str],
) -> dict:
    counts = sorted({count for by_count in points.values() for count in by_count})
    validation = VALIDATION if config.split.val_fraction else NO_VALIDATION
    outcome = {
        "run": {
            "task": "few-shot segmentation",
            "protocol": config.split.protocol,
            "data": config.data.root,
            "tested on": f"{tested} patients",
            "repeats": f"{config.repeats}, each with its own patients and initial weights",
            "validation": validation,
        },
        "miou": {kind: {str(n): values for n, values in f.items()} for kind, f in points.items()},
        "cautions": cautions,
    }
    factor = config.downscale[config.type]
    if factor > 1:
        outcome["run"]["resolution"] = f"reduced by {factor}: not the paper's"
    rows = [
        [KINDS[kind], *(f"{np.median(by_count[n]):.3f}" for n in counts)]
        for kind, by_count in points.items()
    ]
    if untrained is not None:
        outcome["untrained_miou"] = untrained
        rows.append([UNTRAINED, *[f"{untrained:.3f}"] * len(counts)])
    figure = charts.few_shot_figure(
        workdir / PICTURES / "few_shot.png",
        {KINDS[kind]: [(n, f[n]) for n in counts] for kind, f in points.items()},
        measure="mean IoU",
        reference={} if untrained is None else {UNTRAINED: untrained},
        title="Segmentation from few labelled patients",
    )
    title = "Mean IoU by labelled patients (median of repeats)"
    printed = PrintedTable(title, ["", *map(str, counts)], rows).text(label_widths=(20,))
    text = (
        "\n\n".join([results.facts_text("Run", outcome["run"]), printed, *cautions, DISCLAIMER])
        + "\n"
    )
    columns = ["trained on", *(f"{n} patient{'s' if n > 1 else ''}" for n in counts)]
    note = f"Median of {config.repeats} repeats"
    note += "." if untrained is None else f"; {UNTRAINED}: one score."
    table = PrintedTable("Mean IoU", columns, rows, note=note)
    sections = [
        Section("Few-shot", [table, Text(validation)]),
        reports.picture_section([figure]),
    ]
    reports.write_run(workdir, outcome, config=config, sections=sections, files=[figure], text=text)
    return outcome
