"""An encoder judged without a decoder, through the program, on phantoms and a random encoder."""

import functools
import json
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax import main
from thermo_jax.configs import cluster as cluster_config
from thermo_jax.configs import encoder as encoder_config
from thermo_jax.data.examples import Examples
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.programs import cluster
from thermo_jax.training import train_decoder
from thermo_jax.training.placement import Placement

_quick = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


def config(**fields):
    """Shrinks the shipped configuration: 15x20 heatmaps of 12 phantom patients, 1 device."""
    shrunk = cluster_config.get_config("heat,phantom")
    shrunk.data.update(phantom_patients=12, downscale=8, loader="numpy")
    shrunk.split.folds = 3
    shrunk.parallel.devices = 1
    shrunk.batch_size = 4
    shrunk.update(fields)
    return shrunk


@functools.cache
def random_encoder(*, channels=3):
    """(model, variables) of an encoder that was never trained."""
    model = train_decoder.make_encoder(num_kernels=1)
    init = jax.jit(partial(model.init, train=False))
    return model, init(jax.random.key(0), jnp.zeros((1, 8, 8, channels)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs the program on a random encoder that has seen some patients of some data."""
    folder = tmp_path_factory.mktemp("cluster")

    def run_cluster(name, *, seen=(), data=mock.ANY, **fields):
        opened = (*random_encoder(), {"seen_patients": list(seen), "data_fingerprint": data})
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


def test_all_patients_are_clustered_where_asked_for_and_those_seen_are_counted(run):
    _, outcome = run("all", num_clusters=5, only_test=False, seen=["0001", "0002", "0999"])
    assert outcome["run"]["images"] == "12 annotated (12 patients)"
    assert "on 2 of these 12 patients" in outcome["run"]["encoder"]


def test_an_encoder_of_other_data_is_called_so(run):
    _, outcome = run("elsewhere", num_clusters=5, data="of others")
    assert "whether it saw these patients is not known" in outcome["run"]["encoder"]


def test_an_images_clusters_depend_neither_on_its_device_nor_on_its_batch():
    encoder, variables = random_encoder()
    step = partial(cluster.cluster_step, encoder=encoder, channels=3, seed=0)
    parallel = tiny.devices(2)
    step = partial(step, num_clusters=3, iterations=20)
    step = Placement(parallel=parallel).map_step(step, role="predict", resident=False)
    batch = {"images": tiny.columns(4)["images"], "index": np.arange(4, dtype=np.int32)}
    clusters = step(variables, parallel.put_batch(batch))
    # Each image on the other device, beside another one.
    moved = step(variables, parallel.put_batch({k: x[[3, 0, 1, 2]] for k, x in batch.items()}))
    for way in ("latents", "pixels"):
        np.testing.assert_array_equal(moved[way], clusters[way][jnp.array([3, 0, 1, 2])])


def test_a_gray_encoders_three_views_of_a_heatmap_make_one_vector_per_pixel():
    encoder, variables = random_encoder(channels=1)
    with mock.patch.object(cluster, "kmeans", side_effect=cluster.kmeans) as kmeans:
        step = partial(cluster.cluster_step, encoder=encoder, channels=1, seed=0)
        step = partial(step, num_clusters=3, iterations=1)
        step = Placement(parallel=tiny.devices(1)).map_step(step, role="predict", resident=False)
        batch = {"images": tiny.columns(1)["images"][None], "index": np.zeros((1, 1), np.int32)}
        shapes = jax.eval_shape(step, variables, batch)
    assert shapes["latents"].shape == (1, tiny.HEIGHT, tiny.WIDTH)
    lengths = [call.args[0].shape[-1] for call in kmeans.call_args_list]
    assert lengths == [3 * 8, 3]  # of the latents, of the pixels


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
    measures, rows = cluster.score(examples, {"latents": wrong, "pixels": truth})
    assert measures["latents"]["accuracy"] == 0.75 and measures["pixels"]["accuracy"] == 1
    assert [row["accuracy_latents"] for row in rows] == [1, 0.5]
    assert [row["iou_left_breast_pixels"] for row in rows] == [1, 1]


@pytest.mark.parametrize("field", ["num_clusters", "iterations", "batch_size"])
def test_a_count_below_one_is_refused_before_any_data_is_read(field, tmp_path):
    with pytest.raises(ValueError, match=f"config.{field}=0 must be at least 1"):
        main.run(config(**{field: 0}), tmp_path)


def test_without_an_encoder_the_message_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="pretrain an encoder with.*encoder.py:heat"):
        main.run(config(), tmp_path)


def test_the_presets_choose_encoder_and_data_alike_and_split_as_the_encoder_does():
    for data_type in ("gray", "heat"):
        shipped = cluster_config.get_config(data_type)
        assert shipped.encoder.type == shipped.data.type == data_type
    split, encoders = shipped.split.to_dict(), encoder_config.get_config().split.to_dict()
    assert split | {"val_fraction": None} == encoders | {"val_fraction": None}
