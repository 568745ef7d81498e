"""Rivals and ours on the same folds: predictions of every stage, resumption, refusals, control."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import tiny_training as tiny
from folder_contents import contents

from thermo_jax import main
from thermo_jax.configs import comparators as comparators_config
from thermo_jax.data import phantom
from thermo_jax.data.dataset import open_dataset
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.inference.trained_models import load_models
from thermo_jax.programs import (
    comparators,
    comparators_report,
    looks,
    rival_features,
    rival_folds,
    settings,
    stages,
)

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
pytestmark = pytest.mark.usefixtures("cache")


def quick(**fields):
    config = comparators_config.get_config("quick")
    config.parallel.devices = 1
    config.areas = ("breasts",)
    config.update(fields)
    return config


@contextlib.contextmanager
def shallow_models():
    """Shallow decoders; two rectangles in place of the breasts that the shipped segmenter finds."""
    label_map = np.full((60, 80), CLASS_NAMES.index("background"))
    label_map[20:50, 10:35] = CLASS_NAMES.index("left_breast")
    label_map[20:50, 45:70] = CLASS_NAMES.index("right_breast")
    with tiny.shallow_decoders(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "_shipped_segmenter", lambda: lambda image: label_map)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir and the results of the quick preset, 2 folds."""
    workdir = tmp_path_factory.mktemp("comparators")
    with shallow_models():
        return workdir, main.run(quick(), workdir)


def as_table1(workdir, source, *, tasks=()):
    """Return a folder like that of a run of configs/table1.py, whose row G/G has these tasks."""
    shutil.copytree(workdir / "folds", source / "folds")
    for fold in ("repeat0_fold0", "repeat0_fold1"):
        for task in tasks:
            shutil.copytree(workdir / fold / f"ours_none_{task}", source / fold / f"{task}_GG")
    return source


def dataset_of(stage):
    return open_dataset(settings.data_settings(stage))


@pytest.fixture
def shallow():
    """Models as in `finished`."""
    with shallow_models():
        yield


@pytest.fixture
def nothing_is_fitted(monkeypatch):
    """Fails if a stage runs."""

    def refuse(*args, **options):
        raise AssertionError("a finished stage was run again")

    class Refused:
        run = staticmethod(refuse)

    monkeypatch.setattr(stages, "PROGRAMS", dict.fromkeys(stages.PROGRAMS, Refused))
    monkeypatch.setattr(rival_folds.heads, "fit_head", refuse)
    monkeypatch.setattr(rival_features.cost, "measured", refuse)


def test_every_stage_writes_the_predictions_of_its_folds_test_patients(finished):
    workdir, _ = finished
    for key in ("ours_none_classify", "cnn_breasts", "temperatures_breasts", "baseline_border"):
        parts = [
            Predictions.load(workdir / f"repeat0_fold{k}" / key / "predictions.npz") for k in (0, 1)
        ]
        assert sorted(name for part in parts for name in part.patients) == [
            f"{number:04d}" for number in range(1, 17)
        ]
        assert all({"labels", "probabilities"} <= part.columns.keys() for part in parts)
        assert all("threshold/patient, best balanced accuracy" in part.columns for part in parts)


def test_families_have_a_fixed_order_and_ours_comes_first(finished):
    _, outcome = finished
    titles = list(outcome["classify"]["measures"])
    assert titles[0] == "U-Net on raw pixels, small"
    assert titles[1] == "majority class"
    assert titles[-2:] == ["temperature statistics, logistic, breasts", "CNN, breasts"]


def test_the_difference_to_ours_is_that_of_the_aurocs(finished):
    _, outcome = finished
    measures = outcome["classify"]["measures"]
    ours = measures["U-Net on raw pixels, small"]["auroc"]
    for title, (value, low, high) in outcome["classify"]["minus_ours"].items():
        assert value == pytest.approx(measures[title]["auroc"] - ours)
        assert low <= value <= high


def test_what_is_missing_says_why(finished):
    workdir, outcome = finished
    assert outcome["missing"] == {
        "CNN, breasts, °C kept": "needs temperature matrices of all images",
        "temperature statistics, logistic, breasts, °C kept": (
            "needs temperature matrices of all images"
        ),
    }
    for file in ("results.txt", "report.md"):
        text = (workdir / file).read_text().replace("\\", "")
        assert "Needs temperature matrices of all images: CNN, breasts, °C kept; temp" in text


def test_baselines_of_a_network_that_sees_breasts_see_whole_images(finished):
    """They equal the comparison's own baselines, which are fitted once for all rows."""
    workdir, _ = finished
    stage = Predictions.load(workdir / "repeat0_fold0/cnn_breasts/predictions.npz")
    for name in ("border", "histogram", "mean intensity"):
        folder = f"baseline_{name.replace(' ', '_')}"
        own = Predictions.load(workdir / "repeat0_fold0" / folder / "predictions.npz")
        rows = own.rows_of(stage.names.tolist())
        np.testing.assert_allclose(
            stage.columns[f"baseline/{name}"], own.columns["probabilities"][rows], atol=1e-6
        )
    report = (workdir / "repeat0_fold0/cnn_breasts/results.txt").read_text()
    assert "the breasts alone" in report


def test_a_network_that_sees_breasts_is_not_applied_to_whole_images(finished):
    workdir, _ = finished
    with pytest.raises(
        ValueError, match=r"cnn_breasts was trained with config.model.area='breasts'"
    ):
        load_models(workdir / "repeat0_fold0/cnn_breasts")


def test_costs_say_what_was_chosen_in_each_fold(finished):
    workdir, outcome = finished
    for number, epoch in enumerate(outcome["cost"]["classify, CNN, breasts"]["chosen"]):
        stage = workdir / f"repeat0_fold{number}/cnn_breasts/results.json"
        said = json.loads(stage.read_text())["run"]["epochs"]  # "2, best by validation loss: 1"
        assert epoch == f"epoch {said.rsplit(' ', 1)[1]}"
    head = outcome["cost"]["classify, temperature statistics, logistic, breasts"]["chosen"]
    assert (
        "C = " + ", ".join(text.removeprefix("C = ") for text in head)
        in (workdir / "results.txt").read_text()
    )


@pytest.mark.parametrize(
    ("settings_of_folds", "shown"),
    [
        (["C = 0.1", "C = 1"], "C = 0.1, 1"),
        (["epoch 3", "epoch 12"], "epoch 3, 12"),
        (["constant", "constant", "C = 0.1"], "constant, constant, C = 0.1"),
        ([None, None], ""),
    ],
)
def test_the_name_of_a_setting_is_shown_once(settings_of_folds, shown):
    assert comparators_report._chosen(settings_of_folds) == shown


def test_the_report_shows_tables_forest_plots_costs_and_the_control(finished):
    workdir, outcome = finished
    page = (workdir / "report.html").read_text()
    for text in ("AUROC within folds", "within years", "published", "CPU s", "Not run"):
        assert text in page
    assert (workdir / "pictures/forest_auroc.png").is_file()
    assert (workdir / "pictures/forest_miou.png").is_file()
    assert len(outcome["control"]["border"]["auroc"]) == 2
    assert outcome["cost"]["classify, CNN, breasts"]["parameters"] > 10
    assert outcome["cost"]["segment, mean label map of training"]["cpu_seconds"] > 0


def test_a_finished_run_fits_nothing_again_and_gives_the_same(finished, shallow, nothing_is_fitted):
    workdir, outcome = finished
    before = (workdir / "results.json").read_bytes()
    again = main.run(quick(), workdir)
    np.testing.assert_equal(again["classify"], outcome["classify"])
    assert (workdir / "results.json").read_bytes() == before


def test_a_finished_stage_of_another_configuration_is_refused(finished):
    workdir, _ = finished
    before = contents(workdir / "repeat0_fold0/temperatures_breasts")
    with pytest.raises(ValueError, match="temperatures_breasts contains results of another"):
        fields = {"rivals": ("temperatures",), "ours": (), "tasks": ("classify",)}
        main.run(quick(**fields, candidates=3), workdir)
    assert contents(workdir / "repeat0_fold0/temperatures_breasts") == before


def test_ours_can_come_from_a_run_of_table1(finished, shallow, tmp_path):
    """Such a run is a folder with the same folds and finished stages."""
    workdir, outcome = finished
    source = as_table1(workdir, tmp_path / "table1", tasks=("classify",))
    fields = {"table1": str(source), "rivals": ("temperatures",), "shuffles": 0}
    compared = main.run(quick(tasks=("classify",), **fields), tmp_path / "compared")
    measures = compared["classify"]["measures"]
    own = outcome["classify"]["measures"]["U-Net on raw pixels, small"]
    assert measures["G/G of table1"]["auroc"] == own["auroc"]
    assert "G/G of table1" not in compared["classify"]["minus_ours"]
    assert "the best of 2 epochs" in compared["run"]["ours"]
    assert not list((tmp_path / "compared").glob("*/ours_*"))  # nothing of ours is trained


def test_a_table1_of_other_folds_is_refused(finished, tmp_path):
    workdir, _ = finished
    source = as_table1(workdir, tmp_path / "table1")
    file = source / "folds/repeat0_fold1.json"
    split = json.loads(file.read_text())
    split["train"], split["val"] = split["train"][1:], split["val"] + split["train"][:1]
    file.write_text(json.dumps(split))
    with pytest.raises(ValueError, match=r"has other folds of patients .*--config.folds_dir="):
        main.run(quick(table1=str(source)), tmp_path / "compared")


def test_an_unfinished_table1_is_refused(finished, tmp_path):
    workdir, _ = finished
    source = as_table1(workdir, tmp_path / "table1")
    with pytest.raises(ValueError, match=r"classify_HH is not a finished stage.*row H/H"):
        main.run(quick(table1=str(source), row="H/H"), tmp_path / "compared")


def test_a_table1_that_does_not_exist_is_named(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.table1=.*tabel1 is not the workdir of"):
        main.run(quick(table1=str(tmp_path / "tabel1")), tmp_path / "compared")


def test_segmenters_of_a_table1_of_another_size_are_refused_before_anything_runs(
    finished, nothing_is_fitted, tmp_path
):
    workdir, _ = finished
    source = as_table1(workdir, tmp_path / "table1", tasks=("segment",))
    fields = {"table1": str(source), "tasks": ("segment",), "downscale": {"gray": 10}}
    with pytest.raises(ValueError, match="reduced by 20, those of this run by .*gray=10"):
        main.run(quick(**fields), tmp_path / "compared")


def test_a_task_without_enough_annotations_is_refused_before_anything_runs(
    nothing_is_fitted, tmp_path
):
    root = phantom.write_phantom(tmp_path / "data", patients=8)
    file = root / phantom.COCO_NAME
    coco = json.loads(file.read_text())
    first = coco["annotations"][0]["image_id"]
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] == first]
    file.write_text(json.dumps(coco))
    config = quick(data={"root": str(root)})
    with pytest.raises(ValueError, match="no .* patient of .* has one of the 1 thermograms that"):
        main.run(config, tmp_path / "compared")
    file.unlink()
    with pytest.raises(ValueError, match="none of the 8 .*or leave 'segment' out of config.tasks"):
        main.run(config, tmp_path / "compared")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rivals": ("resnet",)}, "config.rivals=.*must be one or more of temperatures"),
        ({"areas": ("left",)}, "config.areas=.*full, breasts"),
        ({"ours": ("best",)}, "config.ours=.*none, pretrained, shipped"),
        ({"candidates": 0}, "config.candidates=0 must be at least 1"),
        ({"num_folds": 3}, "config.num_folds=3 must be from 0"),
        ({"split": {"val_fraction": 0.0}, "encoder_val_fraction": 0.0}, "rivals are tuned"),
        ({"split": {"protocol": "paper"}}, "by the protocol 'honest' only"),
        ({"rivals": ("cnn",), "ours": ()}, "contains 'segment', but .* no segmenter"),
        ({"ours": ("none", "shipped")}, "config.downscale.gray=20: the model that ships"),
        ({"weights": {"source": "file", "file": "/no/such.npz"}}, "/no/such.npz"),
        ({"weights": {"source": "hub"}}, "config.weights.source='hub' must be one of package"),
        ({"weights": {"file": "a.npz"}}, "source='package' with config.weights.file='a.npz'"),
    ],
)
def test_a_mistake_in_the_configuration_is_reported_before_anything_runs(
    fields, message, tmp_path, nothing_is_fitted
):
    with pytest.raises(ValueError, match=message):
        main.run(quick(**fields), tmp_path)


def test_all_rivals_have_stages_and_each_network_as_many_epochs_as_others_settings(tmp_path):
    config = comparators_config.get_config("honest")
    planned = list(comparators.plan(config, tmp_path))
    keys = {network.row.key for network in planned}
    assert {"ours_none_classify", "ours_pretrained_segment", "ours_shipped_segment"} <= keys
    assert {"vgg_full", "vit_full", "vit_breasts", "untrained_latents_full"} <= keys
    assert {"cnn_full_kept", "cnn_breasts_kept"} <= keys
    classifiers = [n.stage.config for n in planned if n.stage.task == "classify"]
    assert {(c.train.steps, c.train.epochs) for c in classifiers} == {(0, config.candidates)}
    assert len({network.stage.folder for network in planned}) == len(planned)
    by_key = {network.row.key: network.stage.config for network in planned}
    assert by_key["vgg_full"].model.architecture == "vgg"
    assert by_key["untrained_latents_full"].encoder.kind == "random"


def test_rivals_that_look_at_one_area_only_do_so_whatever_areas_are_wanted(tmp_path):
    config = comparators_config.get_config("honest")
    config.areas = ("breasts",)
    keys = {network.row.key for network in comparators.plan(config, tmp_path)}
    assert {"untrained_latents_full", "vit_breasts"} <= keys and "vit_full" not in keys


def test_the_u_net_on_raw_pixels_is_trained_once(tmp_path):
    for ours, expected in ((("none",), False), (("pretrained",), True)):
        config = comparators_config.get_config("honest")
        config.ours = ours
        keys = {network.row.key for network in comparators.plan(config, tmp_path)}
        assert ("raw_pixels_full" in keys) is expected


def test_some_of_the_folds_can_be_run_and_then_all(tmp_path):
    """Patients of the other folds are not tested; the control is of the folds that are run."""
    fields = {"rivals": ("temperatures",), "ours": (), "tasks": ("classify",), "areas": ("full",)}
    outcome = main.run(quick(**fields, num_folds=1, shuffles=1), tmp_path / "first")
    assert outcome["classify"]["measures"]["majority class"]["counts"]["n"] == 8
    assert outcome["run"]["folds"].startswith("1 of 2")
    continued = main.run(quick(**fields, shuffles=1), tmp_path / "first")
    anew = main.run(quick(**fields, shuffles=1), tmp_path / "second")
    assert continued["control"] == anew["control"] != outcome["control"]


def test_segmenters_of_full_images_have_one_size_and_other_images_need_another_workdir(tmp_path):
    fields = {"rivals": ("mean_label_map",), "ours": (), "tasks": ("segment",)}
    outcome = main.run(quick(**fields, downscale={"gray": 1}), tmp_path)
    (measures,) = outcome["segment"]["measures"].values()
    assert set(measures) == {"480x640"}
    with pytest.raises(ValueError, match="contains results of another configuration"):
        main.run(quick(**fields), tmp_path)


def test_features_are_computed_again_if_how_images_are_read_changes(tmp_path):
    """A new digest, so that the features of other pixels are not used."""
    config = quick()
    stage = next(comparators._fold_stages(config, tmp_path)).config
    dataset = dataset_of(stage)
    before = rival_features.content_digest(dataset, "classify")
    stage.data.unit = "kelvin"
    assert rival_features.content_digest(dataset_of(stage), "classify") != before


def test_the_preset_fast_trains_no_network(tmp_path):
    config = comparators_config.get_config("fast")
    assert list(comparators.plan(config, tmp_path)) == []
    assert "imagenet_logistic" in config.rivals and "mean_label_map" in config.rivals
