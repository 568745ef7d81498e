"""An ensemble of saved decoders: which models are found, and what they predict for pictures."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_training as tiny
from saved_decoders import save_decoder
from thermogram_files import matrix, write_gray, write_matrix

from thermo_jax.data.data_report import DataReport
from thermo_jax.data.file_listing import FileListing
from thermo_jax.data.identity import identify
from thermo_jax.data.picture import Picture
from thermo_jax.inference.find_models import find_models
from thermo_jax.inference.inputs import ReadThermogram, Unreadable
from thermo_jax.inference.predictor import Predictor

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

# A shallow U-Net is enough to test an ensemble.
shallow_unets = pytest.fixture(scope="module", autouse=True)(tiny.shallow_unets)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two classifiers and a segmenter of heatmaps, and a classifier that reads gray images."""
    folder = tmp_path_factory.mktemp("runs")
    save_decoder(folder / "fold0" / "classify", "classify", seed=0)
    save_decoder(folder / "fold1" / "classify", "classify", seed=1)
    save_decoder(folder / "segment", "segment")
    save_decoder(folder / "gray", "classify", "H/G")
    return folder


@pytest.fixture(scope="module")
def predictor(runs):
    return Predictor([runs / "fold0", runs / "fold1", runs / "segment"], batch_size=2, check=False)


def item(name, **pixels):
    """A thermogram that was read from a file of this name, in a set that contains known views."""
    clinic, file = Path("/clinic"), Path("/clinic", f"{name}.npy")
    other = clinic / "T9999.1.1.S.2012-10-08.00.npy"
    record, _ = DataReport().collect(identify([[file], [other]], FileListing(clinic)))
    sources = dict.fromkeys(pixels, file)
    return ReadThermogram(record, Picture(sources=sources, **pixels))


def thermogram(name="a", shape=(480, 640), seed=0):
    rng = np.random.default_rng(seed)
    return item(name, temperatures=rng.uniform(25, 35, shape).astype(np.float32))


def test_all_decoders_below_a_folder_are_found_once(runs):
    folders = find_models([runs, runs / "segment"])
    names = [folder.relative_to(runs).as_posix() for folder in folders]
    assert names == ["fold0/classify", "fold1/classify", "gray", "segment"]


@pytest.mark.parametrize("kind", [str, Path])
def test_one_path_stands_for_a_list_of_one(runs, kind):
    assert find_models(kind(runs / "segment")) == [runs / "segment"]
    assert [model.task for model in Predictor(kind(runs / "segment"), check=False).models] == [
        "segment"
    ]


def test_a_folder_without_a_decoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="contains no trained decoder: give the --workdir"):
        find_models([tmp_path])


def test_a_folder_that_cannot_be_read_is_refused_since_it_may_contain_a_model(runs, monkeypatch):
    closed, scandir = runs / "fold1" / "classify", os.scandir

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="fold1/classify cannot be read.*check its permis"):
        find_models([runs])
    assert find_models([runs / "fold0"]) == [runs / "fold0" / "classify"]


def test_probabilities_are_given_by_classifier_and_evidence_adds_up(predictor):
    (prediction,) = predictor.predict_read([thermogram()])
    probabilities = prediction.probabilities
    assert list(probabilities) == ["fold0/classify", "fold1/classify"]
    assert prediction.probability == pytest.approx(np.mean(list(probabilities.values())))
    for model in predictor.models[:2]:
        probability, evidence = probabilities[model.name], prediction.evidence[model.name]
        bias = float(model.variables["params"]["head_bias"])
        logit = np.log(probability / (1 - probability))
        assert evidence.shape == (30, 40)
        assert evidence.sum() + bias == pytest.approx(logit, abs=1e-4)


@pytest.mark.parametrize("shape", [(480, 640), (120, 160), (200, 200)])
def test_label_maps_are_on_the_pictures_own_grid(predictor, shape):
    (prediction,) = predictor.predict_read([thermogram(shape=shape)])
    assert prediction.label_map.shape == shape and prediction.label_map.dtype == np.uint8


def test_a_prediction_depends_on_neither_its_batch_nor_its_neighbours(predictor):
    items = [thermogram(str(seed), seed=seed) for seed in range(3)]
    items.insert(1, Unreadable("bad", "reason"))
    together = list(predictor.predict_read(iter(items)))
    assert [prediction.name for prediction in together] == ["0", "bad", "1", "2"]
    assert together[1] is items[1]
    for given, prediction in zip(items, together, strict=True):
        if isinstance(given, ReadThermogram):
            (alone,) = predictor.predict_read([given])
            assert prediction.probability == pytest.approx(alone.probability, abs=1e-6)
            assert (prediction.label_map != alone.label_map).mean() < 0.001


def test_a_model_that_cannot_read_a_picture_is_noted_and_the_others_are_used(runs):
    predictor = Predictor([runs / "gray", runs / "fold0"], check=False)
    colour = item("a", colour=np.full((120, 160, 3), 90, np.uint8))
    (prediction,) = predictor.predict_read([colour], count=1)
    assert list(prediction.probabilities) == ["fold0/classify"]
    assert any(
        note.startswith("gray: a gray model cannot read colours") for note in prediction.notes
    )


UNSEEN = "of which {} saw none in training{}"
LEFT_OUT = ": left out of the patient's mean"


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("0008/T0008.1.2.S.2012-10-08.00", "right 45 view, "),
        ("RT0008.1.1.S.2012-10-08.00", "mirrored copy of frontal view, "),
        ("RT0008", "mirrored copy, "),
        ("T0008.1.1.S.2012-10-08.00", ""),
        ("T0008", ""),
        ("0008/right 45", "right 45 view, "),
        ("0008/side", ""),
    ],
)
def test_a_view_that_no_model_saw_is_noted_and_does_not_count(predictor, name, view):
    (prediction,) = predictor.predict_read([thermogram(name)])
    expected = (view + UNSEEN.format("the models", LEFT_OUT),) if view else ()
    assert prediction.notes == expected
    assert prediction.counts == (not view) and prediction.probability is not None


def test_a_view_is_compared_with_those_that_each_model_saw(tmp_path):
    seen = {"views": (1, 2), "mirrored": True}
    save_decoder(tmp_path / "sides", "classify", **seen)
    save_decoder(tmp_path / "frontal", "segment")
    predictor = Predictor([tmp_path], batch_size=2, check=False)
    names = ("RT0008.1.2.S.2012-10-08.00", "T0008.1.5.S.2012-10-08.00")
    known, unknown = predictor.predict_read(map(thermogram, names))
    assert known.counts and not unknown.counts
    view = "mirrored copy of right 45 view, "
    assert known.notes == (view + UNSEEN.format("frontal", ""),)
    assert unknown.notes == ("left 90 view, " + UNSEEN.format("the models", LEFT_OUT),)


def test_files_are_read_and_predicted_in_order(predictor, tmp_path):
    write_matrix(tmp_path / "b.txt")
    write_gray(tmp_path / "a.jpg")
    (tmp_path / "c.txt").write_text("nothing")
    predictions = list(predictor.predict_files(tmp_path))
    assert [prediction.name for prediction in predictions] == ["a", "b", "c"]
    assert [prediction.file for prediction in predictions[:2]] == ["a.jpg", "b.txt"]
    assert isinstance(predictions[2], Unreadable)
    (expected,) = predictor.predict_read([item("b", temperatures=matrix().astype(np.float32))])
    assert predictions[1].probability == pytest.approx(expected.probability, abs=1e-6)


def test_further_pictures_compile_no_further_program(predictor):
    from thermo_jax.inference import trained_models as module

    list(predictor.predict_read([thermogram(), thermogram()]))
    before = module.forward._cache_size()
    list(predictor.predict_read(thermogram(str(i)) for i in range(5)))
    assert module.forward._cache_size() == before


def test_an_unfinished_model_is_reported(tmp_path, caplog):
    save_decoder(tmp_path / "run", "segment", finished=False)
    Predictor([tmp_path], check=False)
    assert "has not finished its training (epoch 3)" in caplog.text


def test_a_batch_size_below_one_is_refused(runs):
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        Predictor([runs / "segment"], batch_size=0)


def test_regions_that_cannot_be_right_are_noted_but_the_probability_counts(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "_check", lambda pictures, size: [[] for _ in pictures])
    (prediction,) = predictor.predict_read([thermogram()])  # these weights draw noise
    assert prediction.region_doubts and not prediction.doubts and prediction.counts
    assert prediction.differences == {} and "in doubt" in repr(prediction)
    assert prediction.notes[0].startswith("the regions cannot be right (")


def test_only_thermograms_that_may_be_frontal_are_checked(predictor, monkeypatch):
    checked = []
    check = lambda pictures, size: checked.extend(pictures) or [["odd"] for _ in pictures]  # noqa: E731
    monkeypatch.setattr(predictor, "_check", check)
    items = [thermogram("T0008.1.2.S.2012-10-08.00"), thermogram("T0008.1.1.S.2012-10-08.00")]
    side, frontal = predictor.predict_read(items)
    assert side.doubts == () and frontal.doubts == ("odd",) and len(checked) == 1
    assert not frontal.counts and "not part of the patient's mean" in frontal.notes[0]
