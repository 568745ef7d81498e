"""Program "cluster": a pretrained encoder judged without a decoder.

encoder's workdir -> annotated images -> latents -> k-means of each image's own pixels -> clusters
named by the annotations -> measures; beside it the same on raw pixel values, without an encoder.

The authors of CUTS segment an image in this way (Liu et al. 2022, arXiv 2209.11359). A cluster does
not know where a pixel lies: what looks alike on both sides of the image falls into one cluster, and
then one side of a left-right pair of classes is missed. The figures are for comparing encoders, and
for comparing latents with raw pixels.
"""

import itertools
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import tqdm
from absl import logging
from jaxtyping import Int32, Shaped
from ml_collections import ConfigDict
from sklearn.cluster import KMeans

from thermo_jax.data.dataset import Dataset, check_not_empty, open_dataset
from thermo_jax.data.examples import Examples
from thermo_jax.data.splits import Split
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.errors import UserError
from thermo_jax.evaluation import figures, matching, metrics, results
from thermo_jax.evaluation.report import Section
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.models.operations import choose_operations
from thermo_jax.programs import decoder_results, reports, settings
from thermo_jax.programs.frozen_encoder import (
    open_encoder,
    saw_unknown_patients,
    seen_by_encoder,
)
from thermo_jax.programs.workdir import PICTURES, begin, check_workdir, print_results
from thermo_jax.training import feeding, train_decoder
from thermo_jax.training.parallel import DataParallel

PICTURED = 4  # images in a picture
NAMED_BY = "the annotations: optimistic, not comparable with a trained segmenter"


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Clusters and scores; returns the results that it also writes to the workdir."""
    config = settings.resolve(config)
    placement = settings.placement(config)
    parallel = placement.parallel
    parallel.check_batch_size(config.batch_size, field="config.batch_size")
    operations = choose_operations(config.model.conv, platform=parallel.devices[0].platform)
    workdir = check_workdir(workdir, config)
    encoder = open_encoder(config, workdir=config.encoder.workdir, operations=operations)
    dataset = open_dataset(settings.data_settings(config))
    split = dataset.split(settings.split_settings(config)) if config.only_test else None
    examples = _annotated(dataset, split)
    begin(workdir, config, dataset=dataset, split=split)
    logging.info("Clustering %d images.", len(examples))
    step = partial(train_decoder.encode_step, encoder=encoder.module)
    step = placement.map_step(step, role="predict", resident=False)
    variables = parallel.replicate(encoder.variables)
    batches = feeding.eval_batches(
        {"images": examples.columns["images"]},
        batch_size=_batch_size(config, count=len(examples), parallel=parallel),
        loader=config.data.loader,
        parallel=parallel,
    )
    # One batch at a time: the latents of all images would not fit into the host's memory.
    latents = itertools.chain.from_iterable(
        jax.device_get(step(variables, batch)) for batch in batches
    )
    maps = _label_maps(examples, latents, config)
    seen = _seen(encoder.facts, dataset=dataset, examples=examples)
    return _finish(config, workdir=workdir, examples=examples, maps=maps, seen=seen)


def _batch_size(config: ConfigDict, *, count: int, parallel: DataParallel) -> int:
    """As configured, or the smallest that holds all images and that the devices divide."""
    devices = len(parallel.devices)
    return min(config.batch_size, -(-count // devices) * devices)


def _label_maps(
    examples: Examples, latents: Iterable[np.ndarray], config: ConfigDict
) -> dict[str, np.ndarray]:
    """Clusters the "latents" and the "pixels" of each image: way -> label maps [N,H,W].

    Args:
      latents: [V,H,W,L] of each image, in order; what follows the last image is padding.
    """
    columns = examples.columns
    rows = zip(columns["images"], columns["scored_label_maps"], latents, strict=False)
    maps: dict[str, list[np.ndarray]] = {"latents": [], "pixels": []}
    for image, truth, views in tqdm.tqdm(
        rows, total=len(examples), desc="clustering", unit="image", disable=None
    ):
        for way, vectors in (("latents", views), ("pixels", image[None])):
            clusters = cluster_pixels(
                vectors,
                num_clusters=config.num_clusters,
                iterations=config.iterations,
                seed=config.seed,
            )
            maps[way].append(
                matching.matched_label_map(
                    clusters, truth, num_clusters=config.num_clusters, num_classes=len(CLASS_NAMES)
                )
            )
    return {way: np.stack(label_maps) for way, label_maps in maps.items()}


def cluster_pixels(
    views: Shaped[np.ndarray, "v h w l"], *, num_clusters: int, iterations: int, seed: int
) -> Int32[np.ndarray, "h w"]:
    """The cluster of each pixel of one image, by k-means in float32 (no labels).

    The vectors of several views (a gray encoder on a heatmap) make one vector per pixel. The result
    depends on nothing but the image and the seed.

    Raises:
      UserError: the image has fewer pixels than there shall be clusters.
    """
    _, height, width, _ = views.shape
    if num_clusters > height * width:
        raise UserError(
            f"config.num_clusters={num_clusters} is too many for images of {height}x{width} pixels"
        )
    pixels = np.moveaxis(views, 0, -2).reshape(height * width, -1).astype(np.float32)
    kmeans = KMeans(num_clusters, n_init=1, max_iter=iterations, random_state=seed)
    return kmeans.fit_predict(pixels).reshape(height, width)


def _annotated(dataset: Dataset, split: Split | None) -> Examples:
    """The annotated images, of the split's test patients or of all."""
    examples = dataset.load("segment")
    if split is None:
        return examples
    rows = examples.rows_of_patients(split.test)
    check_not_empty({"test": rows}, of=len(examples))
    return examples.take(rows)


def _seen(facts: dict, *, dataset: Dataset, examples: Examples) -> str:
    """Whether the encoder was pretrained on these patients."""
    patients = set(examples.patients)
    seen = seen_by_encoder(facts, dataset=dataset, patients=patients)
    if seen is None:
        return "pretrained on other data: whether it saw these patients is not known"
    text = f"pretrained (without labels) on {len(seen)} of these {len(patients)} patients"
    if saw_unknown_patients(facts, dataset=dataset):
        text += ", and on images of unknown ones"
    return text


def score(examples: Examples, maps: dict[str, np.ndarray]) -> tuple[dict[str, dict], list[dict]]:
    """Measures over all pixels of all images, and a row per image; each way beside the other.

    Args:
      maps: way ("latents", "pixels") -> label maps [N,H,W].
    """
    truth = examples.columns["scored_label_maps"]
    measures: dict[str, dict] = {}
    rows = [
        {"name": name, "patient": patient}
        for name, patient in zip(examples.names, examples.patients, strict=True)
    ]
    for way, predicted in maps.items():
        matrices = decoder_results.confusions(truth, predicted)
        measures[way] = metrics.segmentation_measures(matrices.sum(0))
        decoder_results.add_measures(rows, matrices, suffix=way)
    return measures, rows


def _finish(
    config: ConfigDict, *, workdir: Path, examples: Examples, maps: dict, seen: str
) -> dict:
    measures, rows = score(examples, maps)
    size = "{}x{}".format(*examples.columns["images"].shape[1:3])
    spread = {way: _quartiles([row[f"miou_{way}"] for row in rows]) for way in maps}
    outcome = {
        "run": _facts(config, examples, seen)
        | {
            f"mIoU by image, {way}": "median {median:.3f}, quartiles {lower:.3f} and {upper:.3f}, "
            "range {least:.3f} to {most:.3f}".format(**values)
            for way, values in spread.items()
        },
        "segmentation": {f"{size}, {way}": values for way, values in measures.items()},
        "miou_by_image": spread,
    }
    drawn = [_picture(workdir, examples, maps[way], way=way) for way in maps]
    files = [
        *results.write_results(workdir, outcome),
        PrintedTable.of_records(rows).write_csv(workdir / "predictions.csv"),
        *drawn,
    ]
    files += _report(config, workdir, outcome, drawn)
    print_results(results.results_text(outcome), files=files, workdir=workdir)
    return outcome


def _report(config: ConfigDict, workdir: Path, outcome: dict, drawn: list[Path]) -> list[Path]:
    columns = results.SEGMENTATION_COLUMNS
    rows = [
        [way, *(measures[key] for key in columns)]
        for way, measures in outcome["segmentation"].items()
    ]
    title = "Over all pixels of all images"
    table = PrintedTable(title, ["", *columns.values()], rows, note=f"Named by {NAMED_BY}.")
    sections = [Section("Clusters", [table]), reports.picture_section(drawn)]
    return reports.write_run(workdir, outcome, config=config, sections=sections)


def _facts(config: ConfigDict, examples: Examples, seen: str) -> dict[str, str]:
    facts = {
        "task": f"{config.num_clusters} clusters of each {config.data.type} image, no decoder",
        "clusters are named by": NAMED_BY,
        "data": config.data.root,
        "images": f"{len(examples)} annotated ({len(set(examples.patients))} patients)",
        "encoder": seen,
    }
    if config.only_test:
        facts["images"] += f", the test patients of fold {config.split.fold}/{config.split.folds}"
    if config.data.downscale > 1:
        facts["resolution"] = f"reduced by {config.data.downscale}: not the paper's"
    return facts


def _quartiles(values: list[float]) -> dict[str, float]:
    names = ("least", "lower", "median", "upper", "most")
    return dict(zip(names, np.quantile(values, np.linspace(0, 1, 5)).tolist(), strict=True))


def _picture(workdir: Path, examples: Examples, predicted: np.ndarray, *, way: str) -> Path:
    shown = slice(0, PICTURED)
    return figures.segmentation_figure(
        workdir / PICTURES / f"clusters_{way}.png",
        examples.columns["images"][shown],
        examples.columns["scored_label_maps"][shown],
        predicted[shown],
        examples.names[shown],
        title=f"Clusters of {way}, named by the annotations",
    )
