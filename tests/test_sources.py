"""Opened data sets: shuffled diagnoses, and who validates, as every program has it."""

import pytest

from thermo_jax.configs import encoder as encoder_config
from thermo_jax.configs import few_shot, segment, table1
from thermo_jax.data import phantom
from thermo_jax.data.thermogram import UNLABELLED
from thermo_jax.programs import sources, stages


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight patients, four of them sick."""
    return phantom.write_phantom(tmp_path_factory.mktemp("phantom") / "site", patients=8)


def using(config, root, **data):
    """Two folds of the phantom."""
    config.data.update({"root": str(root), "loader": "numpy", **data})
    config.split.folds = 2
    return config


def labels(config, *, seed=0):
    found = sources.open_source(config.data, seed=seed).load("classify")
    return dict(zip(found.patients, found.columns["labels"].tolist(), strict=True))


def split_of(config, *, seed=0):
    return sources.split_of(config.split, sources.open_source(config.data, seed=seed))


def test_shuffled_diagnoses_follow_the_seed_and_are_as_many_of_each(root):
    own = labels(using(encoder_config.get_config(), root))
    config = using(encoder_config.get_config(), root, shuffle_labels=True)
    dealt = [labels(config, seed=seed) for seed in range(5)]
    for found in dealt:
        assert sorted(found.values()) == sorted(own.values()) and UNLABELLED not in found.values()
    assert len({tuple(found.values()) for found in [own, *dealt]}) > 3
    assert labels(config, seed=3) == dealt[3]


def test_a_patients_images_share_their_shuffled_diagnosis(tmp_path):
    root = phantom.write_phantom(tmp_path / "site", patients=4, frames=3)
    config = using(encoder_config.get_config(), root, shuffle_labels=True, frames="all")
    found = sources.open_source(config.data, seed=1).load("classify")
    pairs = set(zip(found.patients, found.columns["labels"].tolist(), strict=True))
    assert len(found) == 12 and len(pairs) == 4


def test_whatever_the_seed_of_shuffled_diagnoses_the_folds_stay(root):
    plain = split_of(using(encoder_config.get_config(), root))
    config = using(encoder_config.get_config(), root, shuffle_labels=True)
    assert plain == split_of(config, seed=0) == split_of(config, seed=1)


@pytest.mark.parametrize("program", [encoder_config, table1, few_shot])
def test_an_encoder_validates_on_three_of_ten_in_every_program(root, program):
    config = using(program.get_config(), root)
    if program is not encoder_config:
        config = stages.stage_config(config, "encoder", data_type="heat", split={})
    split = split_of(config)
    assert config.split.val_fraction == 0.3
    assert (len(split.train), len(split.val), len(split.test)) == (3, 1, 4)


@pytest.mark.parametrize("program", [segment, table1, few_shot])
def test_a_decoder_validates_on_two_of_ten_and_has_the_encoders_test_patients(root, program):
    config = using(program.get_config(), root)
    if program is not segment:
        config = stages.stage_config(config, "segment", data_type="heat", split={})
    assert config.split.val_fraction == 0.2
    assert split_of(config).test == split_of(using(encoder_config.get_config(), root)).test
