"""`Predictor.predict` and thermograms in memory: the same as from files; wrong types are named."""

import numpy as np
import pytest
import tiny_training as tiny
from matplotlib import pyplot
from PIL import Image
from saved_decoders import save_decoder
from thermogram_files import matrix, write_gray, write_matrix

from thermo_jax.data.arrays import read_array
from thermo_jax.data.picture import read_one
from thermo_jax.inference.inputs import Unreadable
from thermo_jax.inference.predictor import Predictor

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
shallow_unets = pytest.fixture(scope="module", autouse=True)(tiny.shallow_unets)
SMALL = matrix()[:48, :64].astype(np.float32)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_decoder(folder / "classify", "classify")
    save_decoder(folder / "segment", "segment")
    return Predictor(folder, batch_size=2, check=False)


def test_numbers_are_temperatures_and_bytes_are_gray_levels_or_colours(tmp_path):
    (celsius,) = read_array(SMALL)
    np.testing.assert_array_equal(celsius.temperatures, SMALL)
    (fahrenheit,) = read_array(SMALL * 1.8 + 32)
    np.testing.assert_allclose(fahrenheit.temperatures, SMALL, atol=1e-4)
    (gray,) = read_array(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64))
    assert gray.kinds == ("gray",)
    rng = np.random.default_rng(0)
    (colour,) = read_array(rng.integers(0, 256, (48, 64, 3), np.uint8))
    assert colour.kinds == ("colour",)
    assert len(read_array(np.stack([SMALL, SMALL]))) == 2
    (with_channel,) = read_array(SMALL[..., np.newaxis])
    np.testing.assert_array_equal(with_channel.temperatures, SMALL)


def test_an_array_is_read_as_the_file_that_contains_it(tmp_path):
    np.save(tmp_path / "a.npy", SMALL + 273.15)
    from_file, (from_array,) = read_one(tmp_path / "a.npy"), read_array(SMALL + 273.15)
    np.testing.assert_array_equal(from_array.temperatures, from_file.temperatures)
    file = write_gray(tmp_path / "a.jpg")
    with Image.open(file) as image:
        (from_pillow,) = read_array(image)
        indexed = image.convert("L").convert("P")
    np.testing.assert_array_equal(from_pillow.levels, read_one(file).levels)
    indexed.putpalette([255 - value // 3 for value in range(768)])  # an index is no gray level
    np.testing.assert_array_equal(read_array(indexed)[0].levels, 255 - from_pillow.levels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "NoneType None is no array; expected temperatures"),
        ({"a": 1}, "dict {'a': 1} is no array"),
        (3.0, "float 3.0 is no array"),
        (np.array([["a", "b"]]), "array has the type <U1; expected temperatures"),
        (np.zeros((48, 64), bool), "array has the type bool"),
        (np.zeros(48), r"array: shape \[48\] of float64; expected temperatures"),
        (np.full((48, 64, 3), 0.5), r"array: shape \[48, 64, 3\] of float64; .*colours \(uint8"),
        (np.full((48, 64), 900.0), "array: the median 900 fits no unit"),
        (np.full((4, 4), 30.0), "array: 4x4 pixels"),
    ],
)
def test_what_is_no_thermogram_is_named_with_what_was_expected(predictor, given, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(given)


def test_the_array_in_a_list_that_is_wrong_is_named(predictor):
    with pytest.raises(ValueError, match="array 1: shape"):
        predictor.predict([SMALL, np.zeros(5)])


def test_arrays_paths_and_folders_give_a_list_in_their_order(predictor, tmp_path):
    write_matrix(tmp_path / "clinic" / "b.csv", SMALL)
    (tmp_path / "clinic" / "c.csv").write_text("nothing")
    results = predictor.predict([SMALL, tmp_path / "clinic", str(tmp_path / "clinic" / "b.csv")])
    assert [result.name for result in results] == ["array 0", "b", "c", "b"]
    assert isinstance(results[2], Unreadable)
    assert results[0].probability == pytest.approx(results[1].probability, abs=1e-6)
    (one,) = predictor.predict(tmp_path / "clinic" / "b.csv")
    assert one.probability == pytest.approx(results[1].probability, abs=1e-6)
    stack = predictor.predict(np.stack([SMALL, SMALL + 1]))
    assert stack[1].probability == pytest.approx(
        predictor.predict([SMALL + 1])[0].probability, abs=1e-6
    )
    assert [result.name for result in stack] == ["array.frame00", "array.frame01"]


def test_a_prediction_shows_itself_in_a_line_a_table_and_a_picture(predictor):
    (prediction,) = predictor.predict(SMALL)
    text = repr(prediction)
    assert text.startswith("Prediction('array', 64 x 48 temperatures, probability of sick 0.")
    assert len(text) < 120 and "\n" not in text
    rows = prediction.regions
    assert rows and all(isinstance(row, dict) for row in rows)
    assert {"region", "area_pixels", "mean_c", "hottest_x"} <= rows[0].keys()
    assert sum(row["area_pixels"] for row in rows) == (prediction.label_map != 6).sum()
    panels = prediction.plot()
    assert [axis.get_title() for axis in panels] == ["thermogram", "regions", "evidence"]
    pyplot.close()
