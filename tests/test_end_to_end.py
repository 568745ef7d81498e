"""Files on disk -> frozen encoder -> decoders -> measures, through the program itself."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_training
from folder_contents import contents

from thermo_jax import main
from thermo_jax.configs import classify, data_report, demo, encoder, segment
from thermo_jax.data import annotations, layouts
from thermo_jax.data.splits import Split
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation import metrics
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.inference.predictor import Predictor

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny_training.quick_compilation)


def tiny(config, **encoder_fields):
    """Shrinks a shipped configuration: 60x80 heatmaps of 12 phantom patients, 1 epoch, 1 device."""
    config.data.phantom_patients = 12
    config.data.downscale = 2  # soft labels of fewer pixels compile faster
    config.data.loader = "numpy"
    config.parallel.devices = 1
    config.split.folds = 3
    config.train.batch_size = 4
    config.train.epochs = 1
    if config.task == "encoder":
        config.model.num_kernels = 2
    else:
        config.model.unet_width = 2
        config.encoder.update(encoder_fields)
    return config


@pytest.fixture(scope="module")
def demo_run(cache, tmp_path_factory):
    """The workdir and the results of the demo with tiny stages."""
    workdir = tmp_path_factory.mktemp("demo")
    config = demo.get_config()
    for stage in config.stages.values():
        tiny(stage)
    return workdir, main.run(config, workdir)


@pytest.fixture(scope="module")
def encoder_run(demo_run):
    """The workdir of a tiny pretrained heatmap encoder."""
    return demo_run[0] / "encoder"


@pytest.fixture(scope="module")
def segment_run(demo_run):
    """The workdir and the results of a tiny segmenter on that encoder."""
    workdir, outcome = demo_run
    return workdir / "segment", outcome["segment"]


@pytest.fixture(scope="module")
def other_encoder(encoder_run, tmp_path_factory):
    """The workdir of an encoder with another seed, and its process, which had no TensorFlow."""
    workdir = tmp_path_factory.mktemp("other")
    program = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets"):
    sys.modules[name] = None  # an import now fails
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_end_to_end import encoder, main, tiny, tiny_training
quick = tiny_training.quick_compilation()
next(quick)
config = tiny(encoder.get_config("heat,phantom"))
config.seed = 1
main.run(config, {str(workdir)!r})
"""
    command = [sys.executable, "-c", program]
    return workdir, subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_the_demo_writes_pictures_results_and_a_report_of_every_stage(demo_run):
    workdir, outcome = demo_run
    assert 0 <= outcome["segment"]["segmentation"]["60x80"]["miou"] <= 1
    assert 0 <= outcome["classify"]["classification"]["patient"]["H/H"]["auroc"] <= 1
    for stage, picture in (
        ("encoder", "latents"),
        ("classify", "evidence"),
        ("segment", "segmentation"),
    ):
        for name in (picture, "curves"):
            assert (workdir / stage / "pictures" / f"{name}.png").stat().st_size > 10_000
        assert (workdir / stage / "results.txt").read_text().strip()
        assert picture in (workdir / stage / "report.md").read_text()


def test_a_decoder_writes_table_predictions_pictures_and_records(segment_run, capsys):
    workdir, outcome = segment_run
    saved = json.loads((workdir / "results.json").read_text())
    assert saved["segmentation"]["60x80"]["miou"] == outcome["segmentation"]["60x80"]["miou"]
    assert set(saved["segmentation"]) == {"60x80", "480x640"}
    assert len((workdir / "predictions.csv").read_text().splitlines()) == 1 + 4
    for name in (
        "config.json",
        "metrics.jsonl",
        "timing.jsonl",
        "data_report.txt",
        "oddities.csv",
        "split.json",
        "predictions.npz",
        "report.html",
        "report.md",
    ):
        assert (workdir / name).stat().st_size
    assert list((workdir / "tensorboard").iterdir())


def test_a_saved_decoder_reproduces_its_reported_score(segment_run, encoder_run, capsys):
    workdir, outcome = segment_run
    before = (workdir / "metrics.jsonl").read_bytes()
    config = tiny(segment.get_config("H/H,phantom"), workdir=str(encoder_run))
    elsewhere = encoder_run.with_name("elsewhere")
    encoder_run.rename(elsewhere)  # the decoder's checkpoint contains the encoder
    try:
        again = main.run(config, workdir)
    finally:
        elsewhere.rename(encoder_run)
    np.testing.assert_equal(again["segmentation"], outcome["segmentation"])
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert "Segmentation" in capsys.readouterr().out


def test_a_continued_decoder_keeps_the_name_of_an_encoder_that_is_gone(
    segment_run, encoder_run, tmp_path, caplog
):
    workdir = shutil.copytree(segment_run[0], tmp_path / "run")
    main.run(tiny(segment.get_config("H/H,phantom"), workdir="/nowhere"), workdir)
    assert "/nowhere contains no encoder: the run continues with the copy" in caplog.text
    saved = json.loads((workdir / "config.json").read_text())["config"]
    assert saved["encoder"]["workdir"] == str(encoder_run)
    page = (workdir / "report.html").read_text()
    assert encoder_run.name in page and "/nowhere" not in page


@pytest.mark.slow
def test_a_decoder_continues_with_its_moved_encoder_and_with_no_other(
    segment_run, encoder_run, other_encoder, tmp_path
):
    other, _ = other_encoder
    workdir = shutil.copytree(segment_run[0], tmp_path / "run")
    moved = shutil.copytree(encoder_run, tmp_path / "moved")
    main.run(tiny(segment.get_config("H/H,phantom"), workdir=str(moved)), workdir)
    saved = json.loads((workdir / "config.json").read_text())["config"]
    assert saved["encoder"]["workdir"] == str(moved)
    before = contents(workdir)
    config = tiny(segment.get_config("H/H,phantom"), workdir=str(other))
    message = f"{other} contains another encoder than .*/run began, which came from {moved}: "
    with pytest.raises(ValueError, match=message):
        main.run(config, workdir)
    assert contents(workdir) == before


@pytest.mark.parametrize("program", ["encoder", "segment"])
def test_a_run_is_not_continued_with_other_patients_and_stays_unchanged(
    program, segment_run, encoder_run, tmp_path
):
    finished, build = {
        "encoder": (encoder_run, encoder.get_config("heat,phantom")),
        "segment": (segment_run[0], segment.get_config("H/H,phantom")),
    }[program]
    workdir = shutil.copytree(finished, tmp_path / "run")
    split = Split.load(workdir / "split.json")
    Split(split.test, split.val, split.train).save(tmp_path / "other.json")
    config = tiny(build, workdir=str(encoder_run))
    config.split.file = str(tmp_path / "other.json")
    config.parallel.resident_gb = 0.0  # this field may change
    before = contents(workdir)
    with pytest.raises(ValueError, match="the data changed since the run in .* began"):
        main.run(config, workdir)
    assert contents(workdir) == before


def test_prediction_of_the_same_files_gives_what_the_run_reported(segment_run, cache):
    workdir, _ = segment_run
    saved = Predictions.load(workdir / "predictions.npz")
    root = cache / "phantom" / "patients12"
    predictor = Predictor([workdir], check=False)
    predictions = {item.name: item for item in predictor.predict_files(root)}
    for name, expected in zip(saved.names, saved.columns["confusion/480x640"], strict=True):
        confusion = metrics.confusion_matrix(
            label_map_of(root, name), predictions[name].label_map, num_classes=len(CLASS_NAMES)
        )
        np.testing.assert_array_equal(confusion, expected)


def label_map_of(root, name):
    records, _ = layouts.scan(root)
    (record,) = (record for record in records if record.name == name)
    return annotations.label_map(record.regions)


def test_a_decoder_refuses_an_encoder_of_another_kind(encoder_run, tmp_path):
    config = tiny(classify.get_config("G/H,phantom"), workdir=str(encoder_run))
    with pytest.raises(ValueError, match="contains a heat encoder.*asks for a gray.*H/H"):
        main.run(config, tmp_path)


def test_without_an_encoder_a_decoder_says_what_to_do(cache, tmp_path):
    with pytest.raises(ValueError, match="pretrain an encoder with.*encoder.py:heat"):
        main.run(tiny(classify.get_config("H/H,phantom")), tmp_path)
    config = tiny(classify.get_config("H/H,phantom"), workdir=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere.*not the workdir of a training run"):
        main.run(config, tmp_path)


def test_a_workdir_keeps_its_configuration(segment_run, encoder_run):
    workdir, _ = segment_run
    config = tiny(segment.get_config("H/H,phantom"), workdir=str(encoder_run))
    config.train.learning_rate = 1.0
    with pytest.raises(ValueError, match="learning_rate was 0.005, is 1.0"):
        main.run(config, workdir)


def test_a_batch_that_devices_do_not_divide_is_refused(cache, tmp_path):
    config = tiny(encoder.get_config("heat,phantom"))
    config.parallel.devices = 3
    with pytest.raises(ValueError, match="train.batch_size=4 cannot be shared by 3 devices"):
        main.run(config, tmp_path)


def test_an_encoder_that_saw_test_patients_is_called_transductive(encoder_run, tmp_path):
    config = tiny(classify.get_config("H/H,phantom"), workdir=str(encoder_run))
    config.split.fold = 1
    config.model.head = "pooled"
    with tiny_training.shallow_decoders():
        outcome = main.run(config, tmp_path)
    assert "transductive" in outcome["run"]["encoder"]
    rows = outcome["classification"]["patient"]
    assert {"H/H", "acquisition year", "patient number"} <= set(rows)


def test_the_data_report_is_printed_and_written(cache, tmp_path, capsys):
    config = data_report.get_config("phantom")
    config.data.phantom_patients = 12
    counts = main.run(config, tmp_path)
    assert counts == {"thermograms": 12, "oddities": 0}
    assert "patient" in capsys.readouterr().out
    assert (tmp_path / "records.csv").read_text().count("\n") == 13


def test_training_runs_where_tensorflow_is_not_installed(other_encoder):
    workdir, done = other_encoder
    assert done.returncode == 0, done.stderr
    assert (workdir / "results.txt").is_file()
