"""Writes annotation files of every form, and annotates thermograms with them."""

import json

import numpy as np
from PIL import Image
from thermogram_files import coco

from thermo_jax.data import annotation_files, annotations, file_listing
from thermo_jax.data.data_report import DataReport
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, Thermogram

SHAPE = (24, 32)  # of most thermograms here
NECK, LEFT_BREAST, LEFT_NIPPLE = map(CLASS_NAMES.index, ("neck", "left_breast", "left_nipple"))
SQUARE = [[4, 4], [9, 4], [9, 9], [4, 9]]


def annotated(root, shapes, listed=None):
    """Annotates one thermogram for each file of `shapes` (its shape); returns them and a report."""
    for name in shapes:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    files = file_listing.list_files(root)
    records = [
        Thermogram(name=name.rsplit(".", 1)[0], patient="0001", patient_known=True, shape=shape)
        for name, shape in shapes.items()
    ]
    report = DataReport(root)
    records = report.collect(annotation_files.annotate(records, files, listed or {}))
    return {record.name: record for record in records}, report


def only(root, name="a.jpg", shape=SHAPE):
    records, report = annotated(root, {name: shape})
    return records[name.rsplit(".", 1)[0]], report


def kinds(report):
    return [oddity.kind for oddity in report.oddities]


def drawn(record):
    return annotations.label_map(record.regions, record.regions_shape)


def square(class_index=NECK, shape=SHAPE):
    expected = np.full(shape, BACKGROUND, np.uint8)
    expected[4:10, 4:10] = class_index
    return expected


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def labelme(*shapes, image="a.jpg", size=SHAPE, **fields):
    given = [{"label": "neck", "points": SQUARE, "shape_type": "polygon"} | s for s in shapes]
    sizes = {"imageHeight": size[0], "imageWidth": size[1]} if size else {}
    return {"shapes": given or [{"label": "neck", "points": SQUARE}], "imagePath": image} | (
        sizes | fields
    )


def instances(*names, size=(SHAPE[1], SHAPE[0]), segmentation=None):
    images = dict(enumerate(names, start=1))
    polygon = [np.ravel(SQUARE).tolist()] if segmentation is None else segmentation
    entries = [{"image_id": i, "category_id": 8, "segmentation": polygon} for i in images]
    return coco(images, entries, size=size)


def write_mask(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return path


CLASSES = {"left_breast": 1, "left_nipple": 2, "neck": 5}
