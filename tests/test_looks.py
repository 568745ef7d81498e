"""What a network looks at: the data set itself, or breasts and temperatures, by `config.model`."""

import dataclasses

import numpy as np
import pytest

from thermo_jax.configs import classify, comparators, table1
from thermo_jax.data import phantom
from thermo_jax.data.dataset import open_dataset
from thermo_jax.data.examples import block_mean
from thermo_jax.programs import looks, settings
from thermo_jax.rivals import areas


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of two phantoms with temperatures."""
    folder = tmp_path_factory.mktemp("looks") / "data"
    return phantom.write_phantom(folder, patients=2, temperatures=True)


def looking(root, **model):
    config = classify.get_config("small")
    config.data.root = str(root)
    config.data.loader = "numpy"  # reads the source files
    config.model.update(model)
    return config


def seen(config):
    dataset = open_dataset(settings.data_settings(config))
    return dataset, looks.seen_by(config, dataset)


def test_whole_gray_images_are_those_of_the_data_set(root):
    dataset, shown = seen(looking(root))
    assert shown is dataset


def test_another_look_at_the_same_data_set_is_kept(root):
    config = looking(root, area="breasts")
    dataset, shown = seen(config)
    assert shown is not dataset
    assert looks.seen_by(config, dataset) is shown
    assert seen(config)[1] is not shown  # of another data set


def test_kept_temperatures_are_those_of_the_matrices_on_one_scale(root):
    dataset, shown = seen(looking(root, temperatures="kept"))
    for record, image in zip(
        dataset.records, shown.load("classify").columns["images"], strict=True
    ):
        levels = areas.temperature_levels(np.loadtxt(record.temperature_path, np.float32))
        np.testing.assert_array_equal(image, block_mean(levels, factor=dataset.settings.downscale))


def test_temperatures_of_images_without_a_matrix_are_refused(root):
    config = looking(root, temperatures="kept")
    dataset = open_dataset(settings.data_settings(config))
    first, second = dataset.records
    records = [first, dataclasses.replace(second, temperature_path=None)]
    dataset = dataclasses.replace(dataset, records=records)
    with pytest.raises(ValueError, match=f"='kept' needs .* 1 have none, such as {second.name}"):
        looks.seen_by(config, dataset)


def test_only_gray_images_can_be_looked_at_elsewhere(root):
    config = looking(root, area="breasts")
    config.data.type = "heat"
    with pytest.raises(ValueError, match="config.model.area='breasts' .* need config.data.type="):
        settings.check_fields(config)


@pytest.mark.parametrize("study", [comparators, table1])
def test_the_networks_of_a_study_cannot_be_told_to_look_elsewhere(study):
    config = study.get_config("quick" if study is comparators else "small")
    config.stages.classify.model.area = "breasts"
    with pytest.raises(
        ValueError, match="config.stages.classify.model.area='breasts' .* config.ar"
    ):
        settings.check_fields(config)


@pytest.mark.parametrize("field", ["area", "temperatures"])
def test_an_unknown_look_is_refused(root, field):
    with pytest.raises(ValueError, match=f"config.model.{field}='left' must be one of"):
        settings.check_fields(looking(root, **{field: "left"}))
