"""Predicted regions as LabelMe files, which a user corrects and trains with."""

import base64
import io
import json

import numpy as np
import pytest
from annotated_folders import NECK, annotated, drawn
from PIL import Image

from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.inference.labelme import write_labelme

PICTURE = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32).astype(np.uint8)


def tiling(seed):
    """A label map without background, in which parts of many shapes enclose each other."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 0, 0, 1, 1, 2, 3, 4, 5, NECK], (12, 16)).astype(np.uint8)
    return np.repeat(np.repeat(blocks, 2, axis=0), 2, axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_our_reader_gives_the_label_map_back_pixel_for_pixel(tmp_path, seed):
    write_labelme(tmp_path / "a.json", "x/a.png", PICTURE, tiling(seed), description="by hand")
    records, report = annotated(tmp_path, {"x/a.png": (24, 32), "y/a.png": (24, 32)})
    np.testing.assert_array_equal(drawn(records["x/a"]), tiling(seed))
    assert not records["y/a"].regions and not report.oddities


def test_a_part_of_one_pixel_or_one_line_survives(tmp_path):
    label_map = np.full((24, 32), BACKGROUND, np.uint8)
    label_map[3, 5], label_map[10, 4:20], label_map[12:20, 7] = 0, 1, 2
    write_labelme(tmp_path / "b.json", "a.png", PICTURE, label_map, description="by hand")
    records, _ = annotated(tmp_path, {"a.png": (24, 32)})
    np.testing.assert_array_equal(drawn(records["a"]), label_map)


def test_a_picture_of_another_size_gets_that_of_the_label_map(tmp_path):
    label_map = np.full((24, 32), BACKGROUND, np.uint8)
    picture = np.zeros((48, 64, 3), np.uint8)
    path = write_labelme(tmp_path / "a.json", "a.png", picture, label_map, description="by hand")
    document = json.loads(path.read_text())
    assert Image.open(io.BytesIO(base64.b64decode(document["imageData"]))).size == (32, 24)
    assert (document["imageHeight"], document["imageWidth"]) == (24, 32)


def test_a_file_contains_all_that_labelme_needs(tmp_path):
    label_map = np.full((24, 32), BACKGROUND, np.uint8)
    label_map[2:20, 2:30], label_map[5:7, 5:7] = 0, CLASS_NAMES.index("left_nipple")
    path = write_labelme(tmp_path / "a.json", "x/a.png", PICTURE, label_map, description="by hand")
    document = json.loads(path.read_text())
    picture = Image.open(io.BytesIO(base64.b64decode(document["imageData"])))
    np.testing.assert_array_equal(np.asarray(picture), PICTURE)
    assert (document["imageHeight"], document["imageWidth"]) == (24, 32)
    assert document["imagePath"] == "x/a.png"
    breast, nipple = document["shapes"]  # in drawing order
    assert (breast["label"], nipple["label"]) == ("left_breast", "left_nipple")
    assert sorted(breast["points"])[0] == [2.5, 2.5]  # the centre of the pixel
    assert {"shape_type", "flags", "group_id"} < breast.keys()
