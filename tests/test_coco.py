"""Predicted regions as COCO polygons, read back by our own reader and by pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
from scipy import ndimage

from thermo_jax.data import annotations
from thermo_jax.data.coco_reader import read_coco
from thermo_jax.data.data_report import DataReport
from thermo_jax.data.label_map_files import write_classes, write_label_map
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.inference.coco import write_coco


def scene():
    """Breasts with their nipples, a neck in two parts, and a single pixel of an armpit."""
    rows, columns = np.mgrid[0:480, 0:640]
    label_map = np.full((480, 640), BACKGROUND, np.uint8)

    def disc(name, x, y, radius):
        label_map[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = CLASS_NAMES.index(name)

    disc("left_breast", 200, 300, 90)
    disc("left_nipple", 190, 310, 8)
    disc("right_breast", 400, 300, 90)
    disc("right_nipple", 410, 310, 8)
    disc("neck", 300, 40, 30)
    disc("neck", 400, 40, 10)
    label_map[100, 100] = CLASS_NAMES.index("left_armpit")
    return label_map


@pytest.fixture
def document(tmp_path):
    write_classes(tmp_path)
    path = write_label_map(tmp_path / "0001.png", scene())
    return write_coco(
        tmp_path / "coco.json", {"0001/T0001.1.1.S.2012-10-08.00.txt": path}, description=""
    )


def test_our_reader_gives_the_label_map_back_pixel_for_pixel(document):
    report = DataReport()
    images = report.collect(read_coco(json.loads(document.read_text()), "coco.json"))
    ((name, (regions, shape, _)),) = images.items()
    assert str(name) == "0001/T0001.1.1.S.2012-10-08.00"
    np.testing.assert_array_equal(annotations.label_map(regions, shape), scene())
    assert {oddity.kind for oddity in report.oddities} <= {"several-rings"}


def test_pycocotools_accepts_it(document):
    coco = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = coco.COCO(str(document))
    names = {category["id"]: category["name"] for category in loaded.loadCats(loaded.getCatIds())}
    assert set(names.values()) == (set(CLASS_NAMES) - {"background"}) | {"ROI"}
    for annotation in loaded.loadAnns(loaded.getAnnIds()):
        index = CLASS_NAMES.index(names[annotation["category_id"]])
        inside = scene() == index
        assert annotation["area"] == inside.sum()
        mask = loaded.annToMask(annotation).astype(bool)
        if index < 2:
            inside = inside | (scene() == index + 2)  # its nipple is drawn over it
        # pycocotools' outlines are up to a pixel off; a region of one pixel may disappear.
        square = np.ones((3, 3))
        core, hull = (
            change(inside, square) for change in (ndimage.binary_erosion, ndimage.binary_dilation)
        )
        assert (mask | ~core).all() and (hull | ~mask).all()


def test_an_empty_label_map_is_an_image_without_annotations(tmp_path):
    write_classes(tmp_path)
    path = write_label_map(tmp_path / "a.png", np.full((480, 640), BACKGROUND, np.uint8))
    document = json.loads(
        write_coco(tmp_path / "coco.json", {"a": path}, description="by hand").read_text()
    )
    assert len(document["images"]) == 1 and document["annotations"] == []
