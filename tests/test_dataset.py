"""Opened data sets: shuffled diagnoses, and the validation patients of every program."""

import pytest

from thermo_jax.configs import encoder as encoder_config
from thermo_jax.configs import few_shot, segment, table1
from thermo_jax.data import phantom
from thermo_jax.data.dataset import open_dataset
from thermo_jax.data.thermogram import UNLABELLED
from thermo_jax.programs import settings, stages


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight patients, four of them sick."""
    return phantom.write_phantom(tmp_path_factory.mktemp("phantom") / "site", patients=8)


def using(config, root, **data):
    """Sets the data root and two folds."""
    config.data.update({"root": str(root), "loader": "numpy", **data})
    config.split.folds = 2
    return config


def opened(config, *, seed=0):
    with config.unlocked():
        config.seed = seed
    return open_dataset(settings.data_settings(config))


def labels(config, *, seed=0):
    examples = opened(config, seed=seed).load("classify")
    return dict(zip(examples.patients, examples.columns["labels"].tolist(), strict=True))


def split_of(config, *, seed=0):
    return opened(config, seed=seed).split(settings.split_settings(config))


def test_shuffled_diagnoses_follow_the_seed_and_keep_the_number_of_each(root):
    own = labels(using(encoder_config.get_config(), root))
    config = using(encoder_config.get_config(), root, shuffle_labels=True)
    shuffled = [labels(config, seed=seed) for seed in range(5)]
    for diagnoses in shuffled:
        assert sorted(diagnoses.values()) == sorted(own.values())
        assert UNLABELLED not in diagnoses.values()
    assert len({tuple(diagnoses.values()) for diagnoses in [own, *shuffled]}) > 3
    assert labels(config, seed=3) == shuffled[3]


def test_a_patients_images_share_their_shuffled_diagnosis(tmp_path):
    root = phantom.write_phantom(tmp_path / "site", patients=4, frames=3)
    config = using(encoder_config.get_config(), root, shuffle_labels=True, frames="all")
    examples = opened(config, seed=1).load("classify")
    pairs = set(zip(examples.patients, examples.columns["labels"].tolist(), strict=True))
    assert len(examples) == 12 and len(pairs) == 4


def test_folds_are_stratified_by_the_shuffled_diagnoses(root):
    config = using(encoder_config.get_config(), root, shuffle_labels=True)
    for seed in range(5):
        diagnoses, split = labels(config, seed=seed), split_of(config, seed=seed)
        assert sum(diagnoses[patient] for patient in split.test) == 2  # of the four sick


@pytest.mark.parametrize(
    ("task", "alone", "share"), [("encoder", encoder_config, 0.3), ("segment", segment, 0.2)]
)
@pytest.mark.parametrize("study", [None, table1, few_shot])
def test_every_program_validates_on_the_same_share_and_tests_the_same_patients(
    root, task, alone, share, study
):
    config = using((study or alone).get_config(), root)
    if study:
        config = stages.stage_config(config, task, data_type="heat", split={})
    assert config.split.val_fraction == share
    assert split_of(config).test == split_of(using(encoder_config.get_config(), root)).test


def test_a_studys_encoder_validates_on_its_decoders_patients_and_more(root):
    config = using(segment.get_config(), root)
    dataset, decoders = opened(config), split_of(config)
    config.split.val_fraction = 0.5
    encoders = dataset.with_more_validation(decoders, settings.split_settings(config))
    assert encoders.test == decoders.test and encoders.val > decoders.val
    assert (len(encoders.train), len(encoders.val)) == (2, 2)
    config.split.protocol = "paper"  # it validates encoders by image
    assert dataset.with_more_validation(decoders, settings.split_settings(config)) == decoders
