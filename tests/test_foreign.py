"""Files of other cameras, tools and folder habits, against their truth; skipped where absent."""

import collections
import json

import numpy as np
import pytest
from PIL import Image

from thermo_jax import data
from thermo_jax.data import layouts
from thermo_jax.data.picture import load_pixels
from thermo_jax.data.reader import AS_RECOGNISED
from thermo_jax.data.thermogram import DataError
from thermo_jax.inference import inputs

LAYOUTS = ("restart", "cancer", "dates", "subj")
# What was planted: pixels whose temperatures are not those of the truth.
PLANTED = {"one_dead_pixel.csv": 1, "cold_window_in_corner.csv": 1600}
TABLES = (
    *("flirtools_comma.csv", "flirtools_semicolon_deccomma.csv", "plain_semicolon_deccomma.csv"),
    *("pandas_index.csv", "fahrenheit.csv", "celsius_f16.npy", *PLANTED),
)


@pytest.fixture(scope="module")
def truth(foreign_dir):
    return np.load(foreign_dir / "temperatures" / "EXPECTED_480x640.npy")


@pytest.mark.parametrize("name", TABLES)
def test_temperatures_equal_the_truth_outside_what_was_planted(foreign_dir, truth, name):
    thermogram = data.read(foreign_dir / "temperatures" / name)
    wrong = np.abs(thermogram.temperatures - truth[::2, ::2]) > 0.05
    assert thermogram.shape == (240, 320) and wrong.sum() in (0, PLANTED.get(name, 0))
    assert bool(thermogram.notes) == (name in PLANTED or name == "fahrenheit.csv")


def test_a_dead_pixel_and_a_cold_window_do_not_change_the_rendering(foreign_dir):
    plain, dead, window = (
        data.read(foreign_dir / "temperatures" / name).model_image("gray").astype(int)
        for name in ("flirtools_comma.csv", *PLANTED)
    )
    assert np.abs(dead - plain).max() <= 1
    assert (window != plain).mean() < 0.03  # the window itself


def test_16_bit_centikelvin_and_every_frame_of_a_stack_equal_the_truth(foreign_dir, truth):
    folder = foreign_dir / "temperatures"
    centikelvin = data.read(folder / "centikelvin16.tiff").temperatures
    np.testing.assert_allclose(centikelvin, truth, atol=0.05)
    frames = [data.read(folder / "stack3.tif", frame=k).temperatures for k in range(3)]
    np.testing.assert_allclose(frames[0], truth, atol=0.05)
    assert [frame.shape for frame in frames] == [(480, 640)] * 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gray_with_red_cross.png", "coloured-marks"),
        ("gray_with_colourbar.png", "coloured-marks"),
        ("jet640.png", "known-palette"),
        ("inferno.png", "known-palette"),
    ],
)
def test_marks_and_palettes_give_the_gray_picture(foreign_dir, name, kind):
    gray = np.asarray(Image.open(foreign_dir / "pictures" / "gray.png")).astype(int)
    thermogram = data.read(foreign_dir / "pictures" / name)
    assert [oddity.kind for oddity in thermogram.oddities] == [kind]
    difference = np.abs(thermogram.gray - gray)
    assert np.median(difference) <= 1 and (difference > 4).mean() < 0.03


def test_radiometric_files_equal_the_published_formula_or_are_refused(foreign_dir):
    pytest.importorskip("flyr", reason="flyr is absent: pip install 'thermo_jax[flir]'")
    facts = json.loads((foreign_dir / "flir" / "EXPECTED.json").read_text())["FLIR_E40.jpg"]
    thermogram = data.read(foreign_dir / "flir" / "FLIR_E40.jpg")
    celsius = thermogram.temperatures
    centre = celsius[celsius.shape[0] // 2, celsius.shape[1] // 2]
    measured = (celsius.min(), celsius.max(), celsius.mean(), centre)
    expected = [facts[name] for name in ("min_c", "max_c", "mean_c", "centre_c")]
    assert list(celsius.shape) == facts["shape"]
    np.testing.assert_allclose(measured, expected, atol=0.1)
    assert thermogram.notes[0].startswith("emissivity 0.95, reflected temperature 21.0")
    warmer = data.read(foreign_dir / "flir" / "FLIR_E40.jpg", emissivity=0.8).temperatures
    assert warmer.max() > celsius.max()
    with pytest.raises(DataError, match="the median -.* fits no unit"):
        data.read(foreign_dir / "flir" / "FLIR_B60.jpg")


def test_another_makers_radiometric_file_is_named(foreign_dir):
    notes = data.read(foreign_dir / "flir" / "DJI_H20T.jpg").notes
    assert "DJI R-JPEG" in notes[0] and "Thermal SDK" in notes[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_class_folders_have_twelve_patients_six_of_them_sick(foreign_dir, layout):
    records, report = layouts.scan(foreign_dir / "layouts" / layout, strict=True)
    labels = {record.patient: record.label for record in records if record.patient_known}
    assert collections.Counter(labels.values()) == {0: 6, 1: 6}
    assert all(record.view == 1 for record in records)
    assert ("patients assumed: one per file" in report.cautions.values()) == (layout == "dates")


@pytest.mark.parametrize("folder", ["temperatures", "pictures", "layouts/cancer"])
def test_training_and_prediction_read_the_same_pixels(foreign_dir, folder, tmp_path):
    records, _ = layouts.scan(foreign_dir / folder)
    found = inputs.find_thermograms(foreign_dir / folder, unpack_dir=tmp_path)
    assert [item.name for item in found.items] == [record.name for record in records]
    for item, record in zip(found.items, records, strict=True):
        predicted = inputs.read_thermogram(item, AS_RECOGNISED).picture
        trained = load_pixels(record, wanted=("gray", "heat"))
        for data_type, pixels in trained._asdict().items():
            if pixels is not None:
                np.testing.assert_array_equal(predicted.model_image(data_type), pixels)
