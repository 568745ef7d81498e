"""Runs without validation patients: everybody who is not tested trains, the last epoch counts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from example_tables import table

from thermo_jax import main
from thermo_jax.configs import classify, encoder, few_shot, segment, table1
from thermo_jax.data.dataset import SplitSettings
from thermo_jax.data.splits import Split
from thermo_jax.errors import DivergedError
from thermo_jax.programs import decoder, settings
from thermo_jax.programs.table1 import plan
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.metrics_log import METRICS, read_jsonl

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
pytestmark = pytest.mark.usefixtures("cache")


def shrink(config):
    config.data.update({"phantom_patients": 6, "downscale": 16, "loader": "numpy"})
    config.split.folds = 3
    config.parallel.devices = 1
    config.train.update({"steps": 6, "batch_size": 2})
    if "encoder" in config:
        config.model.unet_width = 1
        config.report.bootstrap = 20
    else:
        config.model.num_kernels = 1
    return config


def test_the_last_epoch_is_the_result(tmp_path):
    run = tiny.make_run(tiny.line_trainer())
    state = run.fit(tmp_path, tiny.plan(epochs=3, choose_by="last"), validation=None)
    assert int(state.step) == 15
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [15] and checkpoints.meta()["best_step"] == 15
    assert [set(row) for row in read_jsonl(tmp_path / METRICS)] == [
        {"step", "epoch", "train/loss"}
    ] * 3


def test_an_update_that_breaks_the_weights_is_noticed_at_the_end(tmp_path):
    trainer = tiny.line_trainer()

    def broken_step(state, batch):
        state, metrics = trainer.train_step(state, batch)
        factor = jnp.where(state.step == 15, jnp.nan, 1)
        return state.replace(params=jax.tree.map(lambda x: x * factor, state.params)), metrics

    run = tiny.make_run(trainer._replace(train_step=broken_step))
    message = "weights' norm is nan in training, after the update of step 15 .images "
    with pytest.raises(DivergedError, match=message):
        run.fit(tmp_path, tiny.plan(epochs=3, choose_by="last"), validation=None)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [10]


@pytest.mark.slow
@pytest.mark.parametrize("module", [classify, segment])
def test_the_recipe_small_runs_to_its_results(module, tmp_path):
    config = shrink(module.get_config("small,phantom"))
    with tiny.shallow_decoders():
        outcome = main.run(config, tmp_path / "run")
    assert outcome["run"]["epochs"] == "2, none chosen: the last one is used"
    assert "validation" not in outcome["run"]["images"]
    assert "4 patients" in outcome["run"]["images"]
    assert outcome["run"]["encoder"] == "none: raw pixels"
    text = (tmp_path / "run" / "results.txt").read_text()
    assert "best" not in text and "chosen on validation" not in text
    if module is classify:  # no threshold was chosen
        rows = outcome["classification"]["image"].values()
        assert {row["threshold"] for row in rows} == {0.5}
        assert "validation patients" not in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_an_encoder_runs_to_its_results(tmp_path):
    outcome = main.run(shrink(encoder.get_config("small,phantom")), tmp_path)
    assert "validation" not in outcome["run"]["images"]
    assert "none chosen" in outcome["run"]["epochs"]
    assert set(outcome["encoder"]) == {
        "training loss",
        "training contrastive",
        "training reconstruction",
    }


def test_patience_is_refused(tmp_path):
    config = shrink(segment.get_config("small,phantom"))
    config.train.patience = 3
    message = "config.train.patience=3 must be 0 with config.split.val_fraction=0"
    with pytest.raises(ValueError, match=message):
        main.run(config, tmp_path / "run")


def test_in_a_study_the_refusal_names_the_stage(tmp_path):
    config = table1.get_config("quick")
    config.split.val_fraction = config.encoder_val_fraction = 0.0
    message = r"in config.stages.encoder: config.train.patience=10 must be 0"
    with pytest.raises(ValueError, match=message):
        main.run(config, tmp_path / "run")


def test_the_papers_protocol_still_validates_on_the_test_patients():
    split = Split(frozenset({"0001"}), frozenset(), frozenset({"0002"}))
    options = SplitSettings(protocol="paper", val_fraction=0.0)
    sets = decoder.deal_images(table(["0001", "0002"]), split, options, seed=0)
    np.testing.assert_array_equal(sets["validation"], sets["test"])
    config = segment.get_config()
    config.split.update({"protocol": "paper", "val_fraction": 0.0})
    assert settings.choose_by(config) == "loss"


def test_a_files_validation_patients_train(tmp_path):
    config = shrink(segment.get_config("small,phantom"))
    path = tmp_path / "split.json"
    sets = {"train": ["0001", "0002"], "val": ["0003", "0004"], "test": ["0005", "0006"]}
    path.write_text(json.dumps(sets))
    config.split.file = str(path)
    source = decoder.open_dataset(settings.data_settings(config))
    split = source.split(settings.split_settings(config))
    assert split.train == {"0001", "0002", "0003", "0004"} and not split.val


def test_table_1_refuses_transductive_rows_without_pretrained_encoders(tmp_path):
    config = table1.get_config("small")
    config.data.root, config.transductive = "phantom", True
    with pytest.raises(ValueError, match="stages.classify.encoder.kind='none' is not pretrained"):
        main.run(config, tmp_path / "run")


def test_encoders_may_not_train_on_the_validation_patients_of_their_decoders(tmp_path):
    for module in (table1, few_shot):
        config = module.get_config("small")
        config.data.root = "phantom"
        config.split.val_fraction = 0.2
        with pytest.raises(ValueError, match="config.encoder_val_fraction=0 with"):
            main.run(config, tmp_path / "run")


@pytest.mark.parametrize(("kind", "encoders"), [("none", 0), ("random", 0), ("pretrained", 5)])
def test_table_1_trains_only_encoders_that_decoders_read(kind, encoders, tmp_path):
    config = table1.get_config("small")
    config.stages.segment.encoder.kind = kind
    stages = list(plan(config, tmp_path))
    assert len([stage for stage in stages if stage.task == "encoder"]) == encoders
    assert {stage.row for stage in stages if stage.task != "encoder"} == {"G/G"}
    workdirs = {stage.config.encoder.workdir for stage in stages if stage.task == "segment"}
    assert all(workdirs) == (kind == "pretrained")
