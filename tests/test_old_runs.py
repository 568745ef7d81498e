"""Runs of earlier versions can be opened, resumed and used to predict (old_runs/README.md)."""

import csv
import shutil
from pathlib import Path

import make_old_runs as old_runs
import numpy as np
import pytest
import tiny_training as tiny
from flax.traverse_util import flatten_dict

from thermo_jax import main
from thermo_jax.configs import classify, encoder, segment
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.inference.predictor import Predictor
from thermo_jax.programs import workdir as workdirs
from thermo_jax.training.metrics_log import METRICS, read_jsonl

ARCHIVES = sorted((Path(__file__).parent / "old_runs").glob("*.tar.xz"))
PROGRAMS = {"encoder": encoder, "classify": classify, "segment": segment}
TOLERANCE = 1e-3  # of predictions: JAX versions and processors sum in different orders
# Of losses after five more steps. Rounding alone changed them by up to 1e-3, a missing
# optimiser state by .0075 (segmenter) and .015 (encoder).
LOSS_TOLERANCE = 5e-3


def some_slow(*slow):
    """Return all programs as parameters; those in `slow` are for slow tests only."""
    return [pytest.param(p, marks=[pytest.mark.slow] * (p in slow)) for p in PROGRAMS]


@pytest.fixture(autouse=True)
def quick_compilation(request):
    """Slow tests use XLA's usual sums, because a classifier of five images amplifies rounding."""
    slow = request.node.get_closest_marker("slow") is not None
    yield from tiny.quick_compilation(emitters=slow)


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def runs(request, tmp_path, monkeypatch):
    """The folder of one archive's runs, and the working folder, since their paths are relative."""
    shutil.unpack_archive(request.param, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(program):
    given = {} if program == "encoder" else {"workdir": "finished/encoder"}
    preset = "heat" if program == "encoder" else "H/H"
    return old_runs.shrink(PROGRAMS[program].get_config(preset), **given)


@pytest.mark.parametrize("program", some_slow("encoder", "classify"))
def test_a_stopped_run_continues_as_if_it_had_not_stopped(runs, program):
    workdir = runs / "stopped" / program
    before = read_jsonl(workdir / METRICS)
    main.run(config_of(program), workdir)
    resumed, expected = (read_jsonl(runs / s / program / METRICS) for s in ("stopped", "finished"))
    assert len(before) == 2 and resumed[:2] == before
    assert resumed[2].keys() == expected[2].keys()
    for name, value in expected[2].items():
        assert resumed[2][name] == pytest.approx(value, abs=LOSS_TOLERANCE), name


@pytest.mark.parametrize("program", some_slow("encoder", "classify"))
def test_a_finished_run_opens_without_further_training(runs, program):
    workdir = runs / "finished" / program
    before = (workdir / METRICS).read_bytes()
    outcome = main.run(config_of(program), workdir)
    assert (workdir / METRICS).read_bytes() == before
    assert outcome["run"]["epochs"].startswith("3, ")


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_decoders_predict(runs, state):
    predictions = {
        p.name: p for p in Predictor([runs / state], check=False).predict_files(runs / "data")
    }
    assert len(predictions) == 8
    assert all(p.probability is not None and p.label_map is not None for p in predictions.values())
    if state == "stopped":  # it has no scores yet
        return
    with open(runs / "finished/classify/predictions.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            probability = float(row["probability_sick"])
            assert predictions[row["name"]].probability == pytest.approx(probability, abs=TOLERANCE)
    saved = Predictions.load(runs / "finished/segment/predictions.npz")
    assert len(saved) == 2
    for name, confusion in zip(saved.names, saved.columns["confusion/480x640"], strict=True):
        # A region's share of the picture's pixels is its share at full size.
        predicted = np.bincount(predictions[name].label_map.ravel(), minlength=8)
        shares = confusion.sum(0) / confusion.sum()
        np.testing.assert_allclose(predicted / predicted.sum(), shares, atol=0.002)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_field_that_old_runs_lack_has_an_old_default(runs, program):
    saved = workdirs.saved_config(workdirs.folder_path(runs / "finished" / program))
    new = workdirs.to_json(config_of(program))
    lacking = flatten_dict(new, sep=".").keys() - flatten_dict(saved, sep=".").keys()
    assert lacking <= workdirs.OLD_DEFAULTS.keys(), "add them to workdir.OLD_DEFAULTS"
