"""Areas of a data set: temperatures on one scale, and breasts without the rest."""

import dataclasses

import numpy as np
import pytest
from absl import logging

from thermo_jax.data import phantom
from thermo_jax.data.dataset import Dataset, DataSettings, open_dataset
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, Thermogram
from thermo_jax.errors import UserError
from thermo_jax.rivals.areas import breast_masks, has_temperatures, of_area, temperature_levels

LEFT, RIGHT, LEFT_NIPPLE = (
    CLASS_NAMES.index(n) for n in ("left_breast", "right_breast", "left_nipple")
)
SETTINGS = DataSettings(root="none", type="gray", loader="numpy")


def small_map(**boxes):
    """Return a label map of 60x80 with boxes (top, bottom, left, right) of classes."""
    label_map = np.full((60, 80), BACKGROUND, np.int32)
    for name, (top, bottom, left, right) in boxes.items():
        label_map[top:bottom, left:right] = CLASS_NAMES.index(name)
    return label_map


BREASTS = {"left_breast": (20, 40, 10, 30), "right_breast": (20, 50, 50, 60)}


def record_of(folder, name="a", degrees=None):
    """Return a record with a gray file, and a matrix if `degrees` is given."""
    path = None
    if degrees is not None:
        path = folder / f"{name}.npy"
        np.save(path, np.float32(degrees))
    return Thermogram(
        name=name, patient=name, patient_known=True, label=0, view=1, temperature_path=path,
        gray_path=folder / f"{name}.png",
    )  # fmt: skip


def dataset_of(image, *records, **fields):
    """Return a data set of images without files."""

    def read(record, kind):
        return image if kind == "gray" else np.full((120, 160, 3), 7, np.uint8)

    fields = {"read_pixels": read, "write_report": lambda folder: None, **fields}
    return Dataset(records=records, settings=SETTINGS, **fields)


def flat(level=100):
    return np.full((480, 640, 1), level, np.uint8)


def halves(label_map, image=None, *, tmp_path, **fields):
    """Return the left and the right half of the area "breasts" of one image."""
    record = record_of(tmp_path)
    dataset = dataset_of(flat() if image is None else image, record, **fields)
    area = of_area(dataset, area="breasts", segment=lambda image: label_map)
    shown = area.read_pixels(record, "gray")
    assert shown.shape == (480, 640, 1) and shown.dtype == np.uint8
    return shown[:, :320, 0], shown[:, 320:, 0]


def box_of(image):
    rows, columns = np.nonzero(image)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_the_full_view_without_temperatures_is_the_data_set_itself(tmp_path):
    dataset = dataset_of(flat(), record_of(tmp_path))
    assert of_area(dataset) is dataset


def test_each_breast_fills_its_half_and_keeps_its_aspect_ratio(tmp_path):
    left, right = halves(small_map(**BREASTS), tmp_path=tmp_path)
    assert box_of(left) == (80, 400, 0, 320)  # 20x20 of 60x80
    assert box_of(right) == (0, 480, 80, 240)  # 30x10
    assert set(np.unique(left)) == set(np.unique(right)) == {0, 100}


def test_pixels_of_breasts_keep_their_levels_and_all_others_are_0(tmp_path):
    image = flat(0)
    image[160:320, 80:240] = 50  # the left breast
    image[160:400, 400:480] = 200  # the right one
    left, right = halves(small_map(**BREASTS), image, tmp_path=tmp_path)
    assert set(np.unique(left)) == {0, 50} and set(np.unique(right)) == {0, 200}


def test_the_coldest_pixel_of_a_breast_differs_from_what_is_left_out(tmp_path):
    left, _ = halves(small_map(**BREASTS), flat(0), tmp_path=tmp_path)
    assert box_of(left) == (80, 400, 0, 320) and left.max() == 1


def test_what_is_outside_the_breasts_cannot_be_seen(tmp_path):
    other = flat()
    other[:100], other[:, 300:350], other[440:] = 255, 0, 13
    for ours, theirs in zip(
        halves(small_map(**BREASTS), tmp_path=tmp_path),
        halves(small_map(**BREASTS), other, tmp_path=tmp_path),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_breasts_include_nipples_but_not_areas_apart():
    label_map = small_map(**BREASTS, left_nipple=(28, 32, 18, 22))
    label_map[0:2, 0:3] = LEFT
    masks = breast_masks(label_map)
    assert masks["left"].sum() == 400 and masks["left"][30, 20] and not masks["left"][0, 0]
    assert masks["right"].sum() == 300


def test_a_side_without_a_breast_shows_its_half_and_is_reported_once(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    image = flat()
    image[:, :320] = np.arange(480, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    record = record_of(tmp_path, "T0007")
    tiny = BREASTS | {"left_breast": (20, 26, 10, 17)}  # 42 of 4800 pixels
    area = of_area(
        dataset_of(image, record), area="breasts", segment=lambda image: small_map(**tiny)
    )
    for _ in range(2):
        shown = area.read_pixels(record, "gray")
    np.testing.assert_array_equal(shown[:, :320], np.maximum(image[:, :320], 1))
    assert box_of(shown[:, 320:, 0]) == (0, 480, 80, 240)
    assert len(messages) == 1 and "T0007: no left breast" in messages[0]


def test_absolute_images_keep_a_difference_that_usual_levels_lose(tmp_path):
    degrees = np.linspace(20, 34, 480 * 640).reshape(480, 640)
    cold, warm = record_of(tmp_path, "cold", degrees), record_of(tmp_path, "warm", degrees + 2)
    dataset = dataset_of(flat(), cold, warm)
    area = of_area(dataset, absolute=True)
    cold, warm = (area.read_pixels(record, "gray").astype(int) for record in (cold, warm))
    assert cold.shape == (480, 640, 1)
    assert set(np.unique(warm - cold)) == {25, 26}  # 254 levels are 20 degrees


def test_the_scale_of_temperatures_is_fixed_and_clipped():
    levels = temperature_levels(np.float32([[-5, 18, 28, 38, 60]]))
    np.testing.assert_array_equal(levels[..., 0], [[1, 1, 128, 255, 255]])


def test_absolute_breasts_are_segmented_on_the_usual_image(tmp_path):
    seen = []
    record = record_of(tmp_path, degrees=np.linspace(28, 28.001, 480 * 640).reshape(480, 640))

    def segment(image):
        seen.append(image)
        return small_map(**BREASTS)

    area = of_area(dataset_of(flat(77), record), area="breasts", absolute=True, segment=segment)
    shown = area.read_pixels(record, "gray")
    assert set(np.unique(shown)) == {0, 128}
    np.testing.assert_array_equal(seen, [flat(77)])


def test_a_record_without_a_matrix_cannot_be_absolute(tmp_path):
    degrees = np.linspace(20, 34, 480 * 640).reshape(480, 640)
    records = record_of(tmp_path, "with", degrees), record_of(tmp_path, "without")
    dataset = dataset_of(flat(), *records)
    assert not has_temperatures(dataset, "classify")
    assert has_temperatures(dataclasses.replace(dataset, records=records[:1]), "classify")
    with pytest.raises(UserError, match="without has no matrix"):
        of_area(dataset, absolute=True).read_pixels(records[1], "gray")


def test_other_pixels_are_not_changed(tmp_path):
    record = record_of(tmp_path)
    area = of_area(dataset_of(flat(), record), area="breasts", segment=lambda image: 1 / 0)
    assert (area.read_pixels(record, "heat") == 7).all()


def test_streamed_pixels_are_changed_too(tmp_path):
    record = record_of(tmp_path)
    dataset = dataset_of(flat(), record)
    dataset = dataclasses.replace(dataset, stream_pixels=lambda: dataset.read_pixels)
    area = of_area(dataset, area="breasts", segment=lambda image: small_map(**BREASTS))
    np.testing.assert_array_equal(
        area.stream_pixels()(record, "gray"), area.read_pixels(record, "gray")
    )


def test_images_that_were_loaded_before_are_not_those_of_the_view(tmp_path):
    dataset = dataset_of(flat(), record_of(tmp_path))
    assert (dataset.load("classify").columns["images"][0] == 100).all()
    area = of_area(dataset, area="breasts", segment=lambda image: small_map(**BREASTS))
    assert (area.load("classify").columns["images"][0] == 0).any()
    assert (dataset.load("classify").columns["images"][0] == 100).all()


def test_wrong_arguments_are_the_users_mistakes(tmp_path):
    dataset = dataset_of(flat(), record_of(tmp_path))
    with pytest.raises(UserError, match="choose one of full, breasts"):
        of_area(dataset, area="breast")
    with pytest.raises(UserError, match="needs a segmenter"):
        of_area(dataset, area="breasts")


def test_prepared_data_and_source_files_have_the_same_absolute_images(cache):
    pytest.importorskip("tensorflow_datasets")
    root = phantom.write_phantom(cache / "phantom", patients=1, temperatures=True)
    images = []
    for loader in ("numpy", "tf.data"):
        opened = open_dataset(dataclasses.replace(SETTINGS, root=str(root), loader=loader))
        assert has_temperatures(opened, "classify")
        area = of_area(opened, absolute=True)
        images.append(area.read_pixels(area.records[0], "gray"))
    np.testing.assert_array_equal(*images)
    assert 0 < np.ptp(images[0]) < 254  # not from the image's own minimum to its own maximum
