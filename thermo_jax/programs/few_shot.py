"""Program "few_shot": how many labelled patients does a segmenter need, and does CUTS spare some?

encoder, pretrained on the training patients without labels -> for every number of labelled
patients, kind of encoder and seed: a segmenter -> mean IoU on the test patients -> one figure

Validation patients, who choose the epoch, are labelled too, and not counted; they are the same for
every point.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from thermo_jax.evaluation import charts, results
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.evaluation.report import Section, Table, Text
from thermo_jax.evaluation.wording import DISCLAIMER
from thermo_jax.programs import decoder, encoder, reports, runs, scores, sources
from thermo_jax.programs.table1 import FINISHED
from thermo_jax.programs.workdir import PICTURES, open_workdir

SHOWN = {"pretrained": "CUTS, pretrained", "random": "random, frozen", "none": "none: raw pixels"}
VALIDATION = "Validation patients choose the epoch; they are labelled, too, and not counted."


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs what is not finished yet; returns the results that it also writes to the workdir."""
    for stage in (config.encoder, config.segment):
        runs.resolve(stage)
    workdir = open_workdir(workdir, config)
    if "pretrained" in config.kinds:
        _run(encoder, config.encoder.copy_and_resolve_references(), workdir / "encoder")
    source = sources.open_source(config.segment.data, workdir=workdir)
    split = sources.split_of(config.segment.split, source, workdir=workdir)
    annotated = {record.patient for record in source.records if record.regions}
    available = len(split.train & annotated)
    points: dict[str, dict[int, list[float]]] = {kind: {} for kind in config.kinds}
    for kind, count, seed, stage in _stages(config, workdir, available=available):
        folder = workdir / f"{kind}_{count}_seed{seed}"
        _run(decoder, stage, folder)
        points[kind].setdefault(count, []).append(_miou(folder))
    return _finish(config, workdir, points, tested=len(split.test & annotated))


def numbers(config: ConfigDict, *, available: int) -> list[int]:
    """The numbers of labelled patients to train on: those asked for that there are; 0 is all."""
    asked = [available if number == 0 else number for number in config.patients]
    return sorted({number for number in asked if number <= available})


def _stages(
    config: ConfigDict, workdir: Path, *, available: int
) -> Iterator[tuple[str, int, int, ConfigDict]]:
    for kind in config.kinds:
        for count in numbers(config, available=available):
            for seed in range(config.seeds):
                stage = config.segment.copy_and_resolve_references()
                stage.encoder.kind = kind
                stage.encoder.num_kernels = config.encoder.model.num_kernels
                stage.encoder.workdir = str(workdir / "encoder") if kind == "pretrained" else ""
                stage.split.max_train_patients = count
                stage.seed = seed
                yield kind, count, seed, stage


def _run(program, stage: ConfigDict, folder: Path) -> None:
    if (folder / FINISHED).exists():
        logging.info("%s is finished.", folder.name)
        return
    logging.info("Stage %s", folder.name)
    program.run(stage, folder)
    (folder / FINISHED).touch()


def _miou(folder: Path) -> float:
    found = Predictions.load(folder / scores.PREDICTIONS)
    total = next(iter(found.named("confusion").values())).sum(0)
    return float(scores.metrics.segmentation_measures(total)["miou"])


def _finish(config: ConfigDict, workdir: Path, points, *, tested: int) -> dict:
    counts = sorted({count for found in points.values() for count in found})
    outcome = {
        "run": {
            "task": "few-shot segmentation",
            "data": config.segment.data.root,
            "tested on": f"{tested} patients",
            "seeds": config.seeds,
            "validation": VALIDATION,
        },
        "miou": {kind: {str(n): values for n, values in f.items()} for kind, f in points.items()},
    }
    if config.segment.data.downscale > 1:
        factor = config.segment.data.downscale
        outcome["run"]["resolution"] = f"reduced by {factor}: not the paper's"
    rows = [
        [SHOWN[kind], *(f"{np.median(found[n]):.3f}" for n in counts)]
        for kind, found in points.items()
    ]
    figure = charts.few_shot_figure(
        workdir / PICTURES / "few_shot.png",
        {SHOWN[kind]: [(n, f[n]) for n in counts] for kind, f in points.items()},
        measure="mean IoU",
        title="Segmentation from few labelled patients",
    )
    text = _text(outcome["run"], counts, rows)
    files = [*results.write_results(workdir, outcome, table=text), figure]
    columns = ["encoder", *(f"{n} patients" for n in counts)]
    note = f"Median of {config.seeds} seeds."
    sections = [
        Section("Few-shot", [Table("Mean IoU", columns, rows, note=note), Text(VALIDATION)]),
        reports.picture_section([figure]),
        *reports.about(workdir, config),
    ]
    title = "thermo_jax: few-shot segmentation"
    files += reports.write(workdir, title=title, outcome=outcome, sections=sections)
    print(f"\n{text}\nWritten to {workdir}:")
    for path in files:
        print(f"  {path.relative_to(workdir)}")
    return outcome


def _text(facts: dict, counts: list[int], rows: list[list[str]]) -> str:
    lines = ["Run", *(f"  {name:<12}{value}" for name, value in facts.items()), ""]
    lines.append("Mean IoU by labelled patients (median of seeds)")
    lines.append(f"  {'':<20}" + "".join(f"{n:>8}" for n in counts))
    lines += [f"  {name:<20}" + "".join(f"{cell:>8}" for cell in cells) for name, *cells in rows]
    return "\n".join([*lines, "", DISCLAIMER]) + "\n"
