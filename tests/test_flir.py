"""Radiometric JPEGs of FLIR cameras, read by flyr itself (test_pictures.py replaces flyr)."""

import json

import pytest

from thermo_jax.inference.pictures import read_picture

pytest.importorskip("flyr", reason="flyr is absent: pip install 'thermo_jax[flir]'")


@pytest.fixture(scope="module")
def expected(foreign_dir):
    """Facts of each file, computed with the published radiometric formula."""
    return json.loads((foreign_dir / "flir" / "EXPECTED.json").read_text())


def read(foreign_dir, name):
    return read_picture(name, [foreign_dir / "flir" / name])


def test_temperatures_equal_the_published_formulas_to_a_tenth_of_a_degree(foreign_dir, expected):
    facts, celsius = expected["FLIR_E40.jpg"], read(foreign_dir, "FLIR_E40.jpg").temperatures
    assert list(celsius.shape) == facts["shape"]
    assert celsius.min() == pytest.approx(facts["min_c"], abs=0.1)
    assert celsius.max() == pytest.approx(facts["max_c"], abs=0.1)
    assert celsius.mean() == pytest.approx(facts["mean_c"], abs=0.1)
    height, width = celsius.shape
    assert celsius[height // 2, width // 2] == pytest.approx(facts["centre_c"], abs=0.1)


def test_a_scene_below_freezing_is_read_as_a_picture_with_a_note(foreign_dir, expected):
    picture = read(foreign_dir, "FLIR_B60.jpg")
    assert expected["FLIR_B60.jpg"]["max_c"] < 0 and picture.temperatures is None
    assert "outside 10..45 degrees C" in picture.notes[0]


def test_another_makers_radiometric_file_is_a_picture(foreign_dir):
    picture = read(foreign_dir, "DJI_H20T.jpg")
    assert picture.temperatures is None and picture.colour is not None
