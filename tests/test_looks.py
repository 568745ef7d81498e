"""What a network looks at: the data set itself, or breasts and temperatures, by `config.model`."""

import pytest

from thermo_jax.configs import classify
from thermo_jax.data import phantom
from thermo_jax.data.dataset import open_dataset
from thermo_jax.programs import looks, settings


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of two phantoms, one with temperatures."""
    folder = tmp_path_factory.mktemp("looks") / "data"
    phantom.write_phantom(folder, patients=2, temperatures=True)
    next(folder.rglob("*.txt")).unlink()
    return folder


def looking(root, **model):
    config = classify.get_config("small")
    config.data.root = str(root)
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


def test_temperatures_of_images_without_a_matrix_are_refused(root):
    with pytest.raises(ValueError, match=r"config.model.temperatures='kept' needs .*use 'removed'"):
        seen(looking(root, temperatures="kept"))


def test_only_gray_images_can_be_looked_at_elsewhere(root):
    config = looking(root, area="breasts")
    config.data.type = "heat"
    with pytest.raises(ValueError, match="config.model.area='breasts' .* need config.data.type="):
        settings.check_fields(config)


@pytest.mark.parametrize("field", ["area", "temperatures"])
def test_an_unknown_look_is_refused(root, field):
    with pytest.raises(ValueError, match=f"config.model.{field}='left' must be one of"):
        settings.check_fields(looking(root, **{field: "left"}))
