"""Few-shot segmentation: which patients, which encoders, one figure."""

import json

import numpy as np
import pytest
import tiny_training as tiny
from example_tables import table
from folder_contents import contents

from thermo_jax import main
from thermo_jax.configs import few_shot as few_shot_config
from thermo_jax.configs import segment
from thermo_jax.data.dataset import SplitSettings
from thermo_jax.data.splits import Split
from thermo_jax.programs import decoder, encoder, few_shot
from thermo_jax.programs.frozen_encoder import check_raw_pixels

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
pytestmark = pytest.mark.usefixtures("cache")


PATIENTS = [f"{i:04d}" for i in range(10)]


def few(count: int, *, seed: int = 0) -> set[str]:
    settings = SplitSettings(max_train_patients=count)
    return decoder.fewer_patients(set(PATIENTS), settings, seed=seed)


def test_a_larger_choice_includes_the_patients_of_a_smaller_one():
    chosen = [few(count) for count in (1, 2, 5)]
    assert [len(patients) for patients in chosen] == [1, 2, 5]
    assert chosen[0] < chosen[1] < chosen[2]


def test_few_patients_keep_all_their_images():
    examples, all_patients = table([*PATIENTS, *PATIENTS]), frozenset(PATIENTS[:8])
    split = Split(train=all_patients, val=frozenset({"0008"}), test=frozenset({"0009"}))
    settings = SplitSettings(max_train_patients=3)
    sets = decoder.deal_images(examples, split, settings, seed=0)
    assert [len(rows) for rows in sets.values()] == [6, 2, 2]


def test_another_seed_chooses_other_patients():
    assert len(set.union(*(few(1, seed=seed) for seed in range(5)))) > 1


@pytest.mark.parametrize("count", [0, 10, 11])
def test_zero_or_too_large_a_number_chooses_all_patients(count):
    assert few(count) == set(PATIENTS)


def test_numbers_above_that_of_the_available_patients_are_left_out():
    config = few_shot_config.get_config()
    assert few_shot.numbers(config, available=12) == [1, 2, 5, 10, 12]
    assert few_shot.numbers(config, available=20) == [1, 2, 5, 10, 20]


def test_raw_pixels_need_one_data_type():
    config = segment.get_config("G/H")
    with pytest.raises(ValueError, match="'gray' must be config.data.type 'heat'"):
        check_raw_pixels(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": ("cuts",)}, "config.kinds=.*must be one or more of pretrained"),
        ({"repeats": 0}, "config.repeats=0"),
        ({"patients": ()}, "config.patients=.* must be numbers of patients from 1, or 0 for all"),
        ({"patients": ("a",)}, "config.patients=.* must be numbers of patients"),
        ({"type": "foo"}, "config.type='foo' must be one of gray, heat"),
        ({"data": {"shuffle_labels": True}}, "config.data.shuffle_labels=True is a control for"),
        ({"batch_size": {"heat": 0}}, "config.batch_size.heat=0 must be at least 1"),
        ({"data": {"root": ""}}, "config.data.root is empty"),
        pytest.param(
            {"downscale": {"heat": 7}}, "downscale=7 does not divide", marks=pytest.mark.slow
        ),
    ],
)
def test_mistakes_are_reported_before_the_encoder_trains(fields, message, tmp_path):
    config = few_shot_config.get_config("heat,smoke")
    config.data.loader = "numpy"
    config.update(fields)
    with pytest.raises(ValueError, match=message):
        main.run(config, tmp_path)


def test_a_run_with_another_split_is_refused_and_stays_unchanged(tmp_path, monkeypatch):
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path / "cache"))
    config = few_shot_config.get_config("heat,smoke")
    config.data.update({"phantom_patients": 12, "loader": "numpy"})
    config.parallel.devices = 1
    workdir = tmp_path / "run"
    (workdir / "encoder" / "checkpoints").mkdir(parents=True)
    Split(frozenset({"0001"}), frozenset(), frozenset()).save(workdir / "split.json")
    before = contents(workdir)
    with pytest.raises(ValueError, match="split.json divides the patients differently"):
        main.run(config, workdir)
    assert contents(workdir) == before


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)])
def finished(request, tmp_path_factory):
    """The workdir and the results of a tiny run: three encoders, one labelled patient.

    Its segmenters have one stage; in the slow tests, they are the real U-Net.
    """
    config = few_shot_config.get_config("heat,smoke")
    config.update({"patients": (1,), "repeats": 1})
    config.data.update({"phantom_patients": 12, "loader": "numpy"})
    config.downscale.heat, config.batch_size.heat = 2, 4
    config.split.folds = 3
    config.parallel.devices = 1
    for stage in config.stages.values():
        stage.train.epochs = 1
    config.stages.encoder.model.num_kernels = 1
    config.stages.segment.model.unet_width = 1
    workdir = tmp_path_factory.mktemp("few_shot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        with tiny.shallow_decoders(request.param):
            outcome = main.run(config, workdir)
        yield workdir, outcome, lambda: main.run(config, workdir)


def test_every_encoder_is_scored_and_drawn(finished):
    workdir, outcome, _ = finished
    assert set(outcome["miou"]) == {"pretrained", "random", "none"}
    assert all(0 <= scores["1"][0] <= 1 for scores in outcome["miou"].values())
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

    monkeypatch.setattr(decoder, "run", refuse)
    monkeypatch.setattr(encoder, "run", refuse)
    np.testing.assert_equal(again()["miou"], outcome["miou"])
