"""The cluster program, which scores an encoder without a decoder: here a random one on phantoms."""

import dataclasses
import functools
import json
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from sklearn.metrics import adjusted_rand_score

from thermo_jax import main
from thermo_jax.configs import cluster as cluster_config
from thermo_jax.configs import encoder as encoder_config
from thermo_jax.data.examples import Examples
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.models import frozen
from thermo_jax.models.frozen import FrozenEncoder
from thermo_jax.programs import cluster

_quick = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


def config(**fields):
    """Shrinks the shipped configuration: 15x20 heatmaps of 12 phantom patients, 1 device."""
    shrunk = cluster_config.get_config("heat,phantom")
    shrunk.data.update(phantom_patients=12, downscale=8, loader="numpy")
    shrunk.split.folds = 3
    shrunk.parallel.devices = 1
    shrunk.batch_size = 4
    shrunk.update_from_flattened_dict(fields)
    return shrunk


@functools.cache
def random_encoder():
    """An encoder of heatmaps that was never trained."""
    encoder = FrozenEncoder.abstract({"data_type": "heat", "num_kernels": 1})
    init = jax.jit(partial(frozen.init, encoder.module))
    return encoder.with_variables(init(rng=jax.random.key(0)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs the program on a random encoder whose facts name the patients `seen` and the `data`."""
    folder = tmp_path_factory.mktemp("cluster")

    def run_cluster(name, *, seen=(), data=mock.ANY, **fields):
        facts = {"seen_patients": list(seen), "data_fingerprint": data}
        opened = dataclasses.replace(random_encoder(), facts=facts)
        with mock.patch.object(cluster, "open_encoder", return_value=opened):
            return folder / name, main.run(config(**fields), folder / name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THERMO_JAX_CACHE_DIR", str(folder / "cache"))
        yield run_cluster


@pytest.fixture(scope="module")
def tested(run):
    """The workdir and the results of a run on the test patients."""
    return run("test", num_clusters=5)


def test_latents_and_raw_pixels_are_scored_side_by_side(tested):
    workdir, outcome = tested
    saved = json.loads((workdir / "results.json").read_text())
    assert list(saved["segmentation"]) == ["15x20, latents", "15x20, pixels"]
    for way in ("latents", "pixels"):
        assert 0 < saved["segmentation"][f"15x20, {way}"]["miou"] < 1
        spread = saved["miou_by_image"][way]
        assert 0 < spread["least"] <= spread["median"] <= spread["most"] < 1
        assert (workdir / "pictures" / f"clusters_{way}.png").stat().st_size > 10_000
    text = (workdir / "results.txt").read_text()
    assert "not comparable with a trained segmenter" in text
    assert "clusters_latents" in (workdir / "report.md").read_text()
    assert outcome["run"]["task"].startswith("5 clusters of each heat image")


def test_the_predictions_file_has_a_row_per_image(tested):
    workdir, _ = tested
    header, *rows = (workdir / "predictions.csv").read_text().splitlines()
    assert {"name", "patient", "miou_latents", "iou_neck_pixels"} <= set(header.split(","))
    assert len(rows) == 4


def test_the_test_patients_are_clustered_by_default(tested):
    _, outcome = tested
    assert outcome["run"]["images"] == "4 annotated (4 patients), the test patients of fold 0/3"
    assert "on 0 of these 4 patients" in outcome["run"]["encoder"]


def test_all_patients_can_be_clustered_and_those_that_the_encoder_saw_are_counted(run):
    _, outcome = run("all", num_clusters=5, only_test=False, seen=["0001", "0002", "0999"])
    assert outcome["run"]["images"] == "12 annotated (12 patients)"
    assert "on 2 of these 12 patients" in outcome["run"]["encoder"]


def test_the_results_mention_that_the_encoder_saw_other_data(run):
    _, outcome = run("elsewhere", num_clusters=5, data="of others")
    assert "whether it saw these patients is not known" in outcome["run"]["encoder"]


SETTINGS = {"num_clusters": 4, "iterations": 50, "seed": 0}


def blobs():
    """Returns a 10x12 image of four kinds of pixels, and the kind of each pixel."""
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(np.arange(4), 30)).reshape(10, 12)
    centers = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])
    return (centers[kinds] + rng.normal(0, 0.5, (10, 12, 3))).astype(np.float32), kinds


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_kinds_of_pixels_become_clusters_and_the_same_seed_gives_the_same_ones(dtype):
    image, kinds = blobs()
    views = image.astype(dtype)[None]
    clusters = cluster.cluster_pixels(views, **SETTINGS)
    assert clusters.dtype == np.int32
    assert adjusted_rand_score(kinds.ravel(), clusters.ravel()) == 1
    np.testing.assert_array_equal(cluster.cluster_pixels(views, **SETTINGS), clusters)


def test_the_views_of_a_heatmap_make_one_vector_per_pixel():
    image, kinds = blobs()
    views = np.moveaxis(image, -1, 0)[..., None]  # no view alone separates more than two kinds
    clusters = cluster.cluster_pixels(views, **SETTINGS)
    assert adjusted_rand_score(kinds.ravel(), clusters.ravel()) == 1


def test_more_clusters_than_pixels_are_refused():
    with pytest.raises(ValueError, match="config.num_clusters=4 is too many for images of 1x3"):
        cluster.cluster_pixels(np.zeros((1, 1, 3, 2), np.uint8), **SETTINGS)


def test_an_images_clusters_depend_neither_on_its_device_nor_on_its_batch(run):
    workdirs = [
        run("one", num_clusters=3, batch_size=1)[0],
        run("two", num_clusters=3, batch_size=2, **{"parallel.devices": 2})[0],
    ]
    first, second = ((workdir / "predictions.csv").read_text() for workdir in workdirs)
    assert first == second


def test_label_maps_are_scored_over_all_pixels_and_by_image():
    truth = np.zeros((2, 4, 4), np.uint8)
    examples = Examples(
        data_type="heat",
        names=["first", "second"],
        patients=["0001", "0002"],
        views=np.ones(2, np.int32),
        protocols=["S"] * 2,
        dates=[""] * 2,
        mean_temperatures=np.full(2, np.nan),
        columns={"scored_label_maps": truth},
    )
    wrong = truth.copy()
    wrong[1, :2] = CLASS_NAMES.index("neck")
    measures, columns = cluster.score(examples, {"latents": wrong, "pixels": truth})
    assert measures["latents"]["accuracy"] == 0.75 and measures["pixels"]["accuracy"] == 1
    assert columns["accuracy_latents"].tolist() == [1, 0.5]
    assert columns["iou_left_breast_pixels"].tolist() == [1, 1]


@pytest.mark.parametrize("field", ["num_clusters", "iterations", "batch_size"])
def test_a_count_below_one_is_refused_before_any_data_is_read(field, tmp_path):
    with pytest.raises(ValueError, match=f"config.{field}=0 must be at least 1"):
        main.run(config(**{field: 0}), tmp_path)


def test_without_an_encoder_the_message_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="pretrain an encoder with.*encoder.py:heat"):
        main.run(config(), tmp_path)


def test_the_presets_use_one_type_for_encoder_and_data_and_the_encoders_split():
    for data_type in ("gray", "heat"):
        shipped = cluster_config.get_config(data_type)
        assert shipped.encoder.type == shipped.data.type == data_type
    split, encoders = shipped.split.to_dict(), encoder_config.get_config().split.to_dict()
    assert split | {"val_fraction": None} == encoders | {"val_fraction": None}
