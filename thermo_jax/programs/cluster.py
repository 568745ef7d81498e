"""Program "cluster": evaluates a pretrained encoder without a decoder.

encoder's workdir -> annotated images -> latents -> k-means over the pixels of each image -> each
cluster gets a class from the annotations -> measures. The same is done with raw pixels instead of
latents.

The authors of CUTS segment images in this way (Liu et al. 2022, arXiv 2209.11359). Clustering does
not use a pixel's position: similar pixels on both sides of the image become one cluster, so that
one class of a left-right pair is missed. The results compare encoders with each other, and latents
with raw pixels.
"""

import itertools
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import tqdm
from absl import logging
from jaxtyping import Int32, Shaped
from ml_collections import ConfigDict
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from thermo_jax.data.dataset import Dataset, check_not_empty, open_dataset
from thermo_jax.data.examples import Examples
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.errors import UserError
from thermo_jax.evaluation import matching, metrics, results
from thermo_jax.evaluation.report import Section
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.programs import decoder_results, reports, settings
from thermo_jax.programs.frozen_encoder import open_encoder, seen_patients
from thermo_jax.programs.workdir import PICTURES, begin, check_workdir
from thermo_jax.training import passes, timeline, train_decoder

NAMED_BY = "the annotations: optimistic, not comparable with a trained segmenter"


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Clusters and scores; returns the results, which it also writes to the workdir."""
    config = settings.resolve(config)
    placement = settings.placement(config)
    parallel = placement.parallel
    parallel.check_batch_size(config.batch_size, field="config.batch_size")
    operations = settings.operations(config, placement)
    workdir = check_workdir(workdir, config)
    encoder = open_encoder(config, workdir=config.encoder.workdir, operations=operations)
    with timeline.part("data"):
        dataset = open_dataset(settings.data_settings(config))
        examples = dataset.load("segment")  # the annotated images
    split = None
    if config.only_test:
        split = dataset.split(settings.split_settings(config))
        rows = examples.rows_of_patients(split.test)
        check_not_empty({"test": rows}, of=len(examples))
        examples = examples.take(rows)
    begin(workdir, config, dataset=dataset, split=split)
    logging.info("Clustering %d images.", len(examples))
    step = partial(train_decoder.encode_step, encoder=encoder.module)
    step = placement.map_step(step, role="predict", resident=False)
    devices = len(parallel.devices)
    # Only one batch at a time: the latents of all images would not fit into the host's memory.
    latents = passes.predict_batches(
        parallel.replicate(encoder.variables),
        step,
        {"images": examples.columns["images"]},
        # Not larger than needed for the images, and a multiple of the number of devices.
        batch_size=min(config.batch_size, -(-len(examples) // devices) * devices),
        loader=config.data.loader,
        parallel=parallel,
    )
    maps = _label_maps(examples, itertools.chain.from_iterable(latents), config)
    seen = _seen(encoder.facts, dataset=dataset, examples=examples)
    return _finish(
        config, workdir=workdir, examples=examples, maps=maps, seen=seen, cautions=dataset.cautions
    )


def _label_maps(
    examples: Examples, latents: Iterable[np.ndarray], config: ConfigDict
) -> dict[str, np.ndarray]:
    """Label maps [N,H,W] from the clusters of each image's "latents" and of its "pixels".

    Args:
      latents: [V,H,W,L] of each image, in order; padding may follow the last one.
    """
    columns = examples.columns
    rows = zip(columns["images"], columns["scored_label_maps"], latents, strict=False)
    maps: dict[str, list[np.ndarray]] = {"latents": [], "pixels": []}
    for image, truth, views in tqdm.tqdm(
        rows, total=len(examples), desc="clustering", unit="image", disable=None
    ):
        for kind, vectors in (("latents", views), ("pixels", image[None])):
            count = {"num_clusters": config.num_clusters}
            clusters = cluster_pixels(
                vectors, iterations=config.iterations, seed=config.seed, **count
            )
            maps[kind].append(
                matching.matched_label_map(clusters, truth, num_classes=len(CLASS_NAMES), **count)
            )
    return {kind: np.stack(label_maps) for kind, label_maps in maps.items()}


def cluster_pixels(
    views: Shaped[np.ndarray, "v h w l"], *, num_clusters: int, iterations: int, seed: int
) -> Int32[np.ndarray, "h w"]:
    """The cluster of each pixel of one image, by k-means in float32, without labels.

    The vectors of several views (a gray encoder on a heatmap) are concatenated to one vector per
    pixel. The result depends only on the image and the seed.

    Raises:
      UserError: the image has fewer pixels than clusters.
    """
    _, height, width, _ = views.shape
    if num_clusters > height * width:
        raise UserError(
            f"config.num_clusters={num_clusters} is too many for images of {height}x{width} pixels"
        )
    pixels = np.moveaxis(views, 0, -2).reshape(height * width, -1).astype(np.float32)
    kmeans = KMeans(num_clusters, n_init=1, max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():  # an image may have fewer colours than clusters
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit_predict(pixels).reshape(height, width)


def _seen(facts: dict, *, dataset: Dataset, examples: Examples) -> str:
    """Whether the encoder was pretrained on these patients."""
    patients, seen = set(examples.patients), seen_patients(facts, dataset=dataset)
    if seen is None:
        return "pretrained on other data: whether it saw these patients is not known"
    text = (
        f"pretrained (without labels) on {len(seen & patients)} of these {len(patients)} patients"
    )
    if seen - dataset.known_patients:
        text += ", and on images of unknown ones"
    return text


def score(
    examples: Examples, maps: dict[str, np.ndarray]
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Measures over all pixels of all images, and columns with the measures of each image.

    Args:
      maps: label maps [N,H,W] from "latents" and from "pixels".
    """
    truth = examples.columns["scored_label_maps"]
    measures: dict[str, dict] = {}
    columns = {"name": examples.names, "patient": examples.patients}
    for kind, predicted in maps.items():
        matrices = decoder_results.confusions(truth, predicted)
        measures[kind] = metrics.segmentation_measures(matrices.sum(0))
        columns |= decoder_results.image_measures(matrices, suffix=kind)
    return measures, columns


def _finish(
    config: ConfigDict,
    *,
    workdir: Path,
    examples: Examples,
    maps: dict,
    seen: str,
    cautions: list[str],
) -> dict:
    measures, by_image = score(examples, maps)
    size = "{}x{}".format(*examples.columns["images"].shape[1:3])
    spread = {kind: _quartiles(by_image[f"miou_{kind}"]) for kind in maps}
    outcome = {
        "run": _facts(config, examples, seen)
        | {
            f"mIoU by image, {kind}": "median {median:.3f}, quartiles {lower:.3f} and {upper:.3f}, "
            "range {least:.3f} to {most:.3f}".format(**values)
            for kind, values in spread.items()
        },
        "segmentation": {f"{size}, {kind}": values for kind, values in measures.items()},
        "miou_by_image": spread,
        "cautions": cautions,
    }
    columns = results.SEGMENTATION_COLUMNS
    table = PrintedTable(
        "Over all pixels of all images",
        ["", *columns.values()],
        [
            [kind, *(values[key] for key in columns)]
            for kind, values in outcome["segmentation"].items()
        ],
        note=f"Named by {NAMED_BY}.",
    )
    pictures = [
        decoder_results.segmentation_picture(
            workdir / PICTURES / f"clusters_{kind}.png",
            examples,
            maps[kind],
            title=f"Clusters of {kind}, named by the annotations",
        )
        for kind in maps
    ]
    sections = [Section("Clusters", [table]), reports.picture_section(pictures)]
    files = [PrintedTable.of_columns(by_image).write_csv(workdir / "predictions.csv"), *pictures]
    reports.write_run(workdir, outcome, config=config, sections=sections, files=files)
    return outcome


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


def _quartiles(values: np.ndarray) -> dict[str, float]:
    names = ("least", "lower", "median", "upper", "most")
    return dict(zip(names, np.quantile(values, np.linspace(0, 1, 5)).tolist(), strict=True))
