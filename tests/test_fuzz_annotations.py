"""Damaged and random annotation files, in the way of test_fuzz.py."""

import base64
import io
import json
import pathlib

import numpy as np
from fuzzing import damaged, fuzz
from hypothesis import strategies as st
from PIL import Image

from thermo_jax.data import annotation_files, annotations, data_report, file_listing
from thermo_jax.data.thermogram import Thermogram

# test -> cases in the quick suite, cases in the slow one
CASES = {"annotation_bytes": (30, 500), "annotation_values": (20, 400)}


def png_bytes(height: int, width: int) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(height * width).reshape(height, width) % 5
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


COCO = {
    "images": [{"id": 1, "file_name": "T0001.1.1.D.2012-10-08.00.jpg", "height": 48, "width": 64}],
    "categories": [{"id": 3, "name": "left_breast"}, {"id": 4, "name": "ROI"}],
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 3, "segmentation": segmentation}
        for segmentation in (
            [[1, 1, 40.5, 1, 40, 39]],
            {"size": [48, 64], "counts": [100, 40, 48 * 64 - 140]},
            {"size": [48, 64], "counts": "T3X1dk2"},
        )
    ],
}
MASK = base64.b64encode(png_bytes(8, 8)).decode()


LABELME = {
    "header": [{"imagePath": "../T0001.1.1.D.2012-10-08.00.jpg", "imageHeight": 48}],
    "shapes": [
        {"label": "neck", "points": [[1, 1], [9.5, 9]], "shape_type": kind, "mask": MASK}
        for kind in ("rectangle", "circle", "mask")
    ],
}


def labelme_bytes(document: dict) -> bytes:
    fields = {"imageWidth": 64, "shapes": document["shapes"], **document["header"][0]}
    return json.dumps(fields).encode()


def check_annotations(folder: pathlib.Path, data: bytes, mask: bytes = b""):
    record = Thermogram(
        name="T0001.1.1.D.2012-10-08.00", patient="0001", patient_known=True, shape=(48, 64)
    )
    file = folder / "instances.json"
    file.write_bytes(data)
    files = file_listing.FileListing(folder, annotations=[file])
    if mask:
        (folder / "classes.json").write_bytes(data)
        files.masks = [folder / f"{record.name}.png"]
        files.masks[0].write_bytes(mask)
    report = data_report.DataReport(folder)
    (annotated,) = report.collect(annotation_files.annotate([record], files))
    assert annotations.label_map_480x640(annotated).shape == (480, 640)
    assert all("\n" not in oddity.detail for oddity in report.oddities)


@fuzz(
    CASES["annotation_bytes"],
    data=damaged([json.dumps(COCO).encode(), labelme_bytes(LABELME)]),
    classes=damaged([b'{"left_breast": 1, "neck": 4}']),
    mask=damaged([png_bytes(48, 64)]),
)
def test_damaged_annotation_files_are_read_or_reported(folder, data, classes, mask):
    check_annotations(folder, data)
    check_annotations(folder, classes, mask)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([1, 3, 480, 640, "../../etc/passwd", "left_breast", [1, 1, 9, 1, 9, 9]]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
places = st.sampled_from(
    [(part, key) for part, items in (COCO | LABELME).items() for key in items[0]]
)


@fuzz(
    CASES["annotation_values"],
    changes=st.lists(st.tuples(places, anything), min_size=1, max_size=4),
)
def test_annotations_of_any_value_are_read_or_reported(folder, changes):
    documents = json.loads(json.dumps([COCO, LABELME]))
    for (part, key), value in changes:
        for document in documents:
            for item in document.get(part, []):
                item[key] = value
    check_annotations(folder, json.dumps(documents[0]).encode())
    check_annotations(folder, labelme_bytes(documents[1]))
