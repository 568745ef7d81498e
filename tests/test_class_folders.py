"""Class folders as in the README: plain file names, gray pictures only."""

import numpy as np
import pytest
from thermogram_files import write_gray

from thermo_jax.configs import classify, encoder
from thermo_jax.data import layouts, radiometry
from thermo_jax.data.dataset import open_dataset
from thermo_jax.data.picture import read_one
from thermo_jax.programs import settings


@pytest.fixture
def root(tmp_path):
    """healthy/<patient>/photo.jpg and sick/<patient>/photo.jpg, four of each."""
    for patient in range(8):
        label = ("healthy", "sick")[patient % 2]
        write_gray(tmp_path / label / str(patient + 1) / "photo.jpg", patient)
    return tmp_path


def test_if_no_file_name_contains_a_view_all_images_count_as_frontal(root):
    records, report = layouts.scan(root)
    assert [record.view for record in records] == [1] * 8
    assert [(o.kind, o.file) for o in report.oddities if o.kind == "assumed-view"] == [
        ("assumed-view", ".")
    ]


def test_if_one_file_name_contains_a_view_the_others_have_no_known_view(root):
    write_gray(root / "sick" / "2" / "T0002.1.2.S.2012-10-08.00.jpg")
    records, report = layouts.scan(root)
    assert sorted(record.view for record in records) == [0] * 8 + [2]
    assert not report.count("assumed-view")


def test_a_view_is_not_assumed_in_dmr_irs_own_layouts(tmp_path):
    write_gray(tmp_path / "0278" / "photo.jpg")
    records, report = layouts.scan(tmp_path, layout="site")
    assert [record.view for record in records] == [0] and report.layout == "site"


@pytest.mark.parametrize("loader", ["numpy", "tf.data"])
def test_the_readmes_example_gives_every_patient_to_encoder_and_classifier(
    root, loader, monkeypatch, tmp_path_factory
):
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    for config in (encoder.get_config("gray"), classify.get_config("G/G")):
        config.data.update({"root": str(root), "loader": loader, "downscale": 20})
        config.split.folds = 2
        dataset = open_dataset(settings.data_settings(config))
        examples = dataset.load("pretrain" if config.task == "encoder" else config.task)
        assert len(examples) == 8 and sorted(examples.columns["labels"]) == [0] * 4 + [1] * 4
        split = dataset.split(settings.split_settings(config))
        assert len(split.train | split.val | split.test) == 8


@pytest.mark.parametrize("loader", ["numpy", "tf.data"])
def test_heatmaps_are_rendered_from_gray_pictures(root, loader, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    config = classify.get_config("H/H")
    config.data.update({"root": str(root), "loader": loader})
    examples = open_dataset(settings.data_settings(config)).load("classify")
    gray = read_one(root / "healthy" / "1" / "photo.jpg").levels
    expected = radiometry.render_heat(gray.astype("float32"))
    np.testing.assert_array_equal(examples.columns["images"][0], expected)


def test_a_folder_beside_class_folders_stops_the_run_and_is_named(root):
    write_gray(root / "Probe" / "photo.jpg")
    with pytest.raises(ValueError, match="'Probe' is beside class folders.*thermograms.csv"):
        layouts.scan(root)
    records, report = layouts.survey(root)  # for the data report
    assert len(records) == 9 and "Probe" in report.problem


def test_files_of_one_name_in_two_sessions_of_a_patient_are_two_thermograms(tmp_path):
    for session in ("ses-1", "ses-2"):
        write_gray(tmp_path / "healthy" / "sub-1" / session / "3-1.jpg")
    records, report = layouts.scan(tmp_path)
    assert len(records) == 2 and not report.count("duplicate")
