"""Radiometric JPEGs of FLIR cameras, read by flyr itself (test_reader.py replaces flyr)."""

import json

import pytest

from thermo_jax.data.picture import read_one
from thermo_jax.data.thermogram import DataError

pytest.importorskip("flyr", reason="flyr is absent: pip install 'thermo_jax[flir]'")


@pytest.fixture(scope="module")
def expected(foreign_dir):
    """Facts of each file, computed with the published radiometric formula."""
    return json.loads((foreign_dir / "flir" / "EXPECTED.json").read_text())


def read(foreign_dir, name):
    return read_one(foreign_dir / "flir" / name)


def test_temperatures_equal_the_published_formulas_to_a_tenth_of_a_degree(foreign_dir, expected):
    facts, celsius = expected["FLIR_E40.jpg"], read(foreign_dir, "FLIR_E40.jpg").temperatures
    assert list(celsius.shape) == facts["shape"]
    assert celsius.min() == pytest.approx(facts["min_c"], abs=0.1)
    assert celsius.max() == pytest.approx(facts["max_c"], abs=0.1)
    assert celsius.mean() == pytest.approx(facts["mean_c"], abs=0.1)
    height, width = celsius.shape
    assert celsius[height // 2, width // 2] == pytest.approx(facts["centre_c"], abs=0.1)


def test_a_scene_below_freezing_is_refused(foreign_dir, expected):
    assert expected["FLIR_B60.jpg"]["max_c"] < 0
    with pytest.raises(DataError, match="FLIR_B60.jpg: .*the median -"):
        read(foreign_dir, "FLIR_B60.jpg")


def test_another_makers_radiometric_file_is_a_picture_with_the_way_to_its_temperatures(foreign_dir):
    picture = read(foreign_dir, "DJI_H20T.jpg")
    assert picture.temperatures is None
    (note,) = (note for note in picture.notes if "DJI R-JPEG" in note)
    assert "dji_irp" in note
