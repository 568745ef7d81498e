"""Few-shot segmentation: which patients, which encoders, one figure."""

import json

import numpy as np
import pytest
from example_tables import table
from ml_collections import ConfigDict

from thermo_jax import main
from thermo_jax.configs import common
from thermo_jax.configs import few_shot as few_shot_config
from thermo_jax.programs import decoder, few_shot


def split(count: int, **fields) -> ConfigDict:
    config = common.split()
    config.max_train_patients = count
    config.update(fields)
    return config


def test_more_patients_include_the_fewer_and_keep_all_their_images():
    train = table([f"{i // 2:04d}" for i in range(20)])
    chosen = [set(decoder.fewer_patients(train, split(n)).patients) for n in (1, 2, 5)]
    assert [len(patients) for patients in chosen] == [1, 2, 5]
    assert chosen[0] < chosen[1] < chosen[2]
    assert len(decoder.fewer_patients(train, split(5))) == 10


@pytest.mark.parametrize("count", [0, 10, 11])
def test_zero_or_more_than_there_are_is_all(count):
    train = table([f"{i:04d}" for i in range(10)])
    assert decoder.fewer_patients(train, split(count)).names == train.names


def test_numbers_that_the_data_do_not_have_are_left_out():
    config = few_shot_config.get_config()
    assert few_shot.numbers(config, available=12) == [1, 2, 5, 10, 12]
    assert few_shot.numbers(config, available=20) == [1, 2, 5, 10, 20]


def test_raw_pixels_need_one_data_type(tmp_path):
    config = few_shot_config.get_config("heat,phantom").segment.copy_and_resolve_references()
    config.encoder.update({"kind": "none", "type": "gray"})
    config.model.dtype = "float32"
    with pytest.raises(ValueError, match="'gray' must be config.data.type 'heat'"):
        decoder.open_encoder(config, workdir="", conv=None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir and the results of a tiny run: three encoders, one labelled patient."""
    config = few_shot_config.get_config("heat,smoke")
    with config.unlocked():
        config.update({"patients": (1,), "seeds": 1})
    for stage in (config.encoder, config.segment):
        stage.data.update({"downscale": 5, "phantom_patients": 12, "loader": "numpy"})
        stage.split.folds = 3
        stage.parallel.devices = 1
        stage.train.update({"epochs": 1, "batch_size": 4})
    config.encoder.model.num_kernels = 1
    config.segment.model.unet_width = 1
    workdir = tmp_path_factory.mktemp("few_shot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield workdir, main.run(config, workdir), lambda: main.run(config, workdir)


def test_every_encoder_is_scored_and_drawn(finished):
    workdir, outcome, _ = finished
    assert set(outcome["miou"]) == {"pretrained", "random", "none"}
    assert all(0 <= found["1"][0] <= 1 for found in outcome["miou"].values())
    assert (workdir / "pictures" / "few_shot.png").stat().st_size > 10_000
    assert "random, frozen" in (workdir / "results.txt").read_text()
    assert "few_shot" in (workdir / "report.md").read_text()


def test_an_untrained_encoder_is_named_in_its_run(finished):
    workdir, *_ = finished
    for kind, shown in (("random", "random weights, frozen"), ("none", "none: raw pixels")):
        facts = json.loads((workdir / f"{kind}_1_seed0" / "results.json").read_text())["run"]
        assert facts["encoder"] == shown
        assert facts["images"].startswith("1 train (1 patients)")


def test_a_finished_run_is_not_repeated(finished, monkeypatch):
    _, outcome, again = finished

    def refuse(config, workdir):
        raise AssertionError(f"{workdir} was run again")

    monkeypatch.setattr(few_shot.decoder, "run", refuse)
    monkeypatch.setattr(few_shot.encoder, "run", refuse)
    np.testing.assert_equal(again()["miou"], outcome["miou"])
