"""Whole runs find the signal that phantom data contain, and none in shuffled diagnoses."""

import pytest

from thermo_jax import main
from thermo_jax.configs import demo
from thermo_jax.configs import table1 as table1_config

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give the test its own cache, so that it does not touch data prepared by the user."""
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path / "cache"))


def test_the_demo_learns_the_phantoms_signal(tmp_path):
    config = demo.get_config()
    for stage in config.stages.values():
        stage.parallel.devices = 1
    outcome = main.run(config, tmp_path / "run")
    assert outcome["segment"]["segmentation"]["60x80"]["miou"] > 0.5
    assert outcome["classify"]["classification"]["patient"]["H/H"]["auroc"] > 0.9


def test_table_1_finds_the_phantoms_signal(tmp_path):
    config = table1_config.get_config("smoke")
    config.parallel.devices = 1
    rows = main.run(config, tmp_path / "run")["rows"]["H/H"]
    assert rows["classification"]["patient"]["H/H"]["auroc"] > 0.95
    assert rows["segmentation"]["60x80"]["miou"] > 0.8


def test_nothing_is_found_in_shuffled_diagnoses(tmp_path):
    config = table1_config.get_config("smoke")
    config.parallel.devices = 1
    config.tasks = ("classify",)
    config.data.shuffle_labels = True
    outcome = main.run(config, tmp_path / "run")
    assert 0.35 < outcome["rows"]["H/H"]["classification"]["patient"]["H/H"]["auroc"] < 0.65
    assert "permuted at random" in (tmp_path / "run" / "results.txt").read_text()
