"""Programs give the same results, to the bit, whether their images are in memory or streamed."""

import json

import numpy as np
import pytest
import tiny_training

from thermo_jax import main
from thermo_jax.configs import classify, encoder, segment
from thermo_jax.data import batches, streamed
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.training.metrics_log import METRICS

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny_training.quick_compilation)


def tiny(config):
    """Shrinks a shipped configuration: 30x40 heatmaps of 12 phantom patients, 2 epochs."""
    config.data.update({"phantom_patients": 12, "downscale": 4, "loader": "numpy"})
    config.parallel.update({"devices": 1, "resident_gb": 0})
    config.split.folds = 3
    config.train.update({"batch_size": 4, "epochs": 2})
    if config.task == "encoder":
        config.model.num_kernels = 2
    else:
        config.model.unet_width = 2
        config.encoder.kind = "none"
        config.report.bootstrap = 20
    return config


def losses(workdir):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]


@pytest.mark.parametrize(
    "module",
    [
        segment,
        pytest.param(classify, marks=pytest.mark.slow),
        pytest.param(encoder, marks=pytest.mark.slow),
    ],
)
def test_a_streamed_run_equals_one_in_memory(module, cache, tmp_path, monkeypatch):
    read = []
    take_rows = batches.take_rows
    monkeypatch.setattr(
        batches,
        "take_rows",
        lambda columns, rows: (
            read.append(streamed.is_streamed(columns)) or take_rows(columns, rows)
        ),
    )
    preset = "heat,phantom" if module is encoder else "H/H,phantom"
    outcomes = {}
    for name, fields in (("memory", {"streamed": False}), ("streamed", {"streamed": True})):
        config = tiny(module.get_config(preset))
        config.data.update(fields)
        read.clear()
        outcomes[name] = main.run(config, tmp_path / name)
        assert read and set(read) == {name == "streamed"}
    assert losses(tmp_path / "streamed") == losses(tmp_path / "memory")
    for outcome in outcomes.values():
        outcome.pop("run", None)
    np.testing.assert_equal(outcomes["streamed"], outcomes["memory"])
    if module is not encoder:
        one, other = (Predictions.load(tmp_path / n / "predictions.npz") for n in outcomes)
        assert one.columns.keys() == other.columns.keys()
        for column, values in one.columns.items():
            np.testing.assert_array_equal(values, other.columns[column], err_msg=column)
