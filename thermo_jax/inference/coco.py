"""Label maps -> COCO instance polygons, which our own reader and pycocotools accept.

Polygons run through pixel centres, so that filling them as `annotations.label_map` does gives the
label map back, but for holes that no smaller region fills: they are closed. The reader takes
pictures of 640x480, the size of DMR-IR's annotations. pycocotools draws outlines up to a pixel off,
and loses a region of a single pixel. OpenCV finds the outlines.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from thermo_jax.data.annotations import COCO_CATEGORIES
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES


def write_coco(path: str | os.PathLike, label_maps: Mapping[str, str | os.PathLike]) -> Path:
    """Writes the document of label maps on disk (PNG), by file name; returns the path."""
    read = ((name, np.asarray(Image.open(file))) for name, file in label_maps.items())
    path = Path(path)
    path.write_text(json.dumps(coco_document(read)), encoding="utf-8")
    return path


def coco_document(
    label_maps: Iterable[tuple[str, UInt8[np.ndarray, "h w"]]],
) -> dict[str, Any]:
    """The document of several images, each with its file name.

    The largest class of an image comes first: what lies within another region (a nipple in a
    breast) is smaller, and drawn over it.
    """
    import cv2

    images, annotations = [], []
    for number, (name, label_map) in enumerate(label_maps, start=1):
        height, width = label_map.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        areas = np.bincount(label_map.reshape(-1), minlength=len(CLASS_NAMES))
        for index in np.argsort(-areas, kind="stable").tolist():
            if index == BACKGROUND or not areas[index]:
                continue
            mask = (label_map == index).astype(np.uint8)
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": [_polygon(outline.reshape(-1, 2)) for outline in outlines],
                    "area": int(areas[index]),
                    "bbox": list(cv2.boundingRect(mask)),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": "predicted by thermo_jax; research software"},
        "licenses": [],
        "images": images,
        "categories": COCO_CATEGORIES,
        "annotations": annotations,
    }


def _polygon(points: np.ndarray) -> list[int]:
    """x, y of at least three points: a single pixel or a line repeats its last."""
    missing = max(0, 3 - len(points))
    return np.concatenate([points, np.repeat(points[-1:], missing, axis=0)]).ravel().tolist()
