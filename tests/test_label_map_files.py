"""Label maps as files: our own, and masks of other tools."""

import json
import struct
import zlib

import numpy as np
import pytest
from annotated_folders import (
    CLASSES,
    LEFT_BREAST,
    LEFT_NIPPLE,
    NECK,
    SHAPE,
    annotated,
    drawn,
    instances,
    kinds,
    only,
    square,
    write_json,
    write_mask,
)
from PIL import Image

from thermo_jax.data.label_map_files import read_label_map, write_classes, write_label_map
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, DataError
from thermo_jax.evaluation.figures import CLASS_COLORS

ALL_CLASSES = np.arange(8, dtype=np.uint8).reshape(2, 4)


def test_a_label_map_has_the_documented_values_and_visible_colours(tmp_path):
    image = Image.open(write_label_map(tmp_path / "a.png", ALL_CLASSES))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), [[1, 2, 3, 4], [5, 6, 0, 7]])
    colors = {"#" + bytes(c).hex().upper() for c in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert len(colors) == 8
    assert image.convert("RGB").getpixel((2, 1)) == (0, 0, 0)  # the background
    differ = {CLASS_NAMES.index("right_nipple"), BACKGROUND}
    assert colors >= {c for index, c in enumerate(CLASS_COLORS) if index not in differ}


def test_the_classes_of_label_maps_are_named_beside_them(tmp_path):
    classes = json.loads(write_classes(tmp_path).read_text())
    assert classes == {
        "background": 0,
        **{name: value for value, name in enumerate(CLASS_NAMES[:BACKGROUND], start=1)},
        "neck": 7,
    }


def test_a_written_label_map_is_read_from_any_folder_below_its_classes(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "0001").mkdir()
    path = write_label_map(tmp_path / "0001" / "a.png", ALL_CLASSES)
    np.testing.assert_array_equal(read_label_map(path), ALL_CLASSES)


def test_label_maps_of_an_older_version_are_read_in_its_workdirs_only(tmp_path):
    (tmp_path / "label_maps").mkdir()
    path = tmp_path / "label_maps" / "a.png"
    Image.fromarray(ALL_CLASSES).save(path)
    with pytest.raises(DataError, match="classes.json"):
        read_label_map(path)
    config = {"config": {"task": "predict"}, "versions": {"thermo_jax": "1"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(read_label_map(path), ALL_CLASSES)
    with pytest.raises(DataError, match="palette"):
        read_label_map(write_label_map(path, ALL_CLASSES))


def test_copied_label_maps_annotate_the_thermograms_of_the_same_folders(tmp_path):
    folder = tmp_path / "label_maps"
    (folder / "1").mkdir(parents=True)
    write_classes(folder)
    write_label_map(folder / "1" / "a.png", square())
    records, report = annotated(tmp_path, {"data/1/a.csv": SHAPE, "data/2/a.csv": SHAPE})
    np.testing.assert_array_equal(drawn(records["data/1/a"]), square())
    assert not records["data/2/a"].regions and not report.oddities


@pytest.mark.parametrize("mode", [None, "P", "I;16"])
def test_masks_of_indexed_colours_and_gray_levels_are_read(tmp_path, mode):
    values = np.zeros(SHAPE, np.uint8)
    values[4:20, 4:30], values[5:8, 5:8], values[0, 0] = 1, 2, 5
    write_json(tmp_path / "classes.json", CLASSES)
    values_in_file = values.astype(np.uint16) if mode == "I;16" else values
    write_mask(tmp_path / "masks" / "a.png", values_in_file, mode if mode == "P" else None)
    record, report = only(tmp_path, "images/a.jpg")
    of_value = {0: BACKGROUND, 1: LEFT_BREAST, 2: LEFT_NIPPLE, 5: NECK}
    np.testing.assert_array_equal(drawn(record), np.vectorize(of_value.get)(values))
    # The largest is "drawn first", which decides ties when label maps are reduced.
    assert [r.class_index for r in record.regions] == [LEFT_BREAST, LEFT_NIPPLE, NECK]
    assert not report.oddities


@pytest.mark.parametrize(
    "name", ["a_mask.png", "a-Mask.png", "a_seg.png", "a_label.png", "mask_a.png"]
)
def test_a_mask_may_have_an_ending_of_its_own(tmp_path, name):
    write_json(tmp_path / "masks" / "classes.json", CLASSES)
    write_mask(tmp_path / "masks" / name, np.ones(SHAPE, np.uint8))
    assert only(tmp_path)[0].regions


def test_a_mask_beside_its_image_is_no_thermogram(tmp_path):
    write_mask(tmp_path / "a_mask.png", np.ones(SHAPE, np.uint8))
    record, report = only(tmp_path)
    assert not record.regions and kinds(report) == ["masks-without-classes"]
    write_json(tmp_path / "classes.json", CLASSES)
    record, report = only(tmp_path)
    assert record.regions and not report.oddities


def test_folders_of_masks_repeat_those_of_the_images(tmp_path):
    write_json(tmp_path / "seg" / "classes.json", CLASSES)
    write_mask(tmp_path / "seg" / "a.png", np.ones(SHAPE, np.uint8))
    records, report = annotated(tmp_path, {"1/a.jpg": SHAPE, "2/a.jpg": SHAPE})
    assert kinds(report) == ["ambiguous-annotation"]
    assert not any(record.regions for record in records.values())
    (tmp_path / "seg").rename(tmp_path / "2" / "seg")
    records, report = annotated(tmp_path, {"1/a.jpg": SHAPE, "2/a.jpg": SHAPE})
    assert records["2/a"].regions and not (records["1/a"].regions or report.oddities)


def test_a_folder_of_masks_without_classes_is_refused_once(tmp_path):
    for name in ("a", "b"):
        write_mask(tmp_path / "masks" / f"{name}.png", np.ones(SHAPE, np.uint8))
    _, report = only(tmp_path)
    (oddity,) = report.oddities
    assert (oddity.kind, oddity.file) == ("masks-without-classes", "masks") and oddity.is_bad
    assert "classes.json" in oddity.detail and '"left_breast": 1' in oddity.detail


@pytest.mark.parametrize(
    "values, words",
    [
        (np.full(SHAPE, 7, np.uint8), "values 7"),
        (np.ones((*SHAPE, 3), np.uint8), "RGB"),
        (np.ones(SHAPE, np.float32), "colours"),
    ],
)
def test_a_mask_with_values_of_no_class_makes_the_image_not_annotated(tmp_path, values, words):
    write_json(tmp_path / "masks" / "classes.json", CLASSES)
    write_mask(tmp_path / "masks" / "a.tif", values)
    write_json(tmp_path / "c.json", instances("a.jpg"))  # must not be used instead
    record, report = only(tmp_path)
    assert not record.regions
    assert kinds(report) == ["unusable-mask", "repeated-image"]
    assert words in report.oddities[0].detail


def test_a_mask_of_gray_levels_of_two_bits_is_read(tmp_path):
    values = np.ones(SHAPE, np.uint8)
    values[:, 5:] = 0
    write_json(tmp_path / "masks" / "classes.json", {"neck": 1})
    path = tmp_path / "masks" / "a.png"
    path.write_bytes(two_bit_png(values))
    np.testing.assert_array_equal(drawn(only(tmp_path)[0]) == NECK, values == 1)


def two_bit_png(values):
    groups = values.reshape(len(values), -1, 4).astype(int)
    rows = (groups * [64, 16, 4, 1]).sum(-1).astype(np.uint8)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 2, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("classes", ["[]", "{}", '{"neck": "1"}', '{"neck": 1, "ROI": 1}', "{", ""])
def test_a_classes_file_that_is_unclear_is_reported_by_name(tmp_path, classes):
    write_json(tmp_path / "masks" / "classes.json", classes)
    write_mask(tmp_path / "masks" / "a.png", np.ones(SHAPE, np.uint8))
    record, report = only(tmp_path)
    (oddity,) = report.oddities
    assert (oddity.kind, oddity.file) == ("unreadable-annotations", "masks/classes.json")
    assert not record.regions
