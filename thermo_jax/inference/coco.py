"""Label maps -> COCO instance polygons, which our own reader and pycocotools accept.

Polygons connect pixel centres, so that `annotations.label_map` restores the label map from them,
except holes that no smaller region fills. pycocotools draws outlines up to a pixel off, and loses a
region of one pixel.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from thermo_jax.data.annotations import COCO_CATEGORIES
from thermo_jax.data.label_map_files import read_label_map
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.inference.outlines import outlines


def write_coco(
    path: str | os.PathLike, label_maps: Mapping[str, str | os.PathLike], *, description: str
) -> Path:
    """Writes label maps as a COCO document; returns its path.

    The largest class of an image comes first, because later polygons are drawn over earlier ones:
    a region within another one, such as a nipple in a breast, is smaller and must come later.

    Args:
      label_maps: name of the image -> file of its label map, as `write_label_map` writes it.
      description: what drew the regions.
    Raises:
      DataError: a file of a label map, or its classes.json, is absent or cannot be used.
    """
    import cv2

    images, annotations = [], []
    for number, (name, file) in enumerate(label_maps.items(), start=1):
        label_map = read_label_map(file)
        height, width = label_map.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        areas = np.bincount(label_map.reshape(-1), minlength=len(CLASS_NAMES))
        for index in np.argsort(-areas, kind="stable").tolist():
            if index == BACKGROUND or not areas[index]:
                continue
            mask = label_map == index
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": [outline.ravel().tolist() for outline in outlines(mask)],
                    "area": int(areas[index]),
                    "bbox": list(cv2.boundingRect(mask.astype(np.uint8))),
                    "iscrowd": 0,
                }
            )
    document = {
        "info": {"description": description},
        "licenses": [],
        "images": images,
        "categories": COCO_CATEGORIES,
        "annotations": annotations,
    }
    path = Path(path)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
