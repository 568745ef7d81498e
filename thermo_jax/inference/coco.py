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

from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES

ROI = "ROI"  # background, as DMR-IR's own annotation file calls it; never drawn


def write_coco(path: str | os.PathLike, label_maps: Mapping[str, str | os.PathLike]) -> Path:
    """Writes the document of label maps on disk (PNG), by file name; returns the path."""
    read = ((name, np.asarray(Image.open(file))) for name, file in label_maps.items())
    path = Path(path)
    path.write_text(json.dumps(coco_document(read)), encoding="utf-8")
    return path


def coco_document(
    label_maps: Iterable[tuple[str, UInt8[np.ndarray, "h w"]]],
) -> dict[str, Any]:
    """The document of several images, each with its file name."""
    categories = [
        {"id": index + 1, "name": ROI if index == BACKGROUND else name, "supercategory": ""}
        for index, name in enumerate(CLASS_NAMES)
    ]
    images, annotations = [], []
    for number, (name, label_map) in enumerate(label_maps, start=1):
        height, width = label_map.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for index, rings in outlines(label_map):
            inside = label_map == index
            rows, columns = np.nonzero(inside)
            left, top = int(columns.min()), int(rows.min())
            box = [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": [ring.reshape(-1).tolist() for ring in rings],
                    "area": int(inside.sum()),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": "predicted by thermo_jax; research software"},
        "licenses": [],
        "images": images,
        "categories": categories,
        "annotations": annotations,
    }


def outlines(label_map: UInt8[np.ndarray, "h w"]) -> list[tuple[int, list[np.ndarray]]]:
    """(class index, outer outlines [points, (x, y)]) of each class, the largest class first.

    What lies within another region (a nipple in a breast) is smaller, and drawn over it.
    """
    import cv2

    counts = np.bincount(label_map.reshape(-1), minlength=len(CLASS_NAMES))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] and i != BACKGROUND]
    found = []
    for index in order:
        mask = (label_map == index).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        rings = [_ring(contour.reshape(-1, 2)) for contour in contours]
        found.append((index, rings))
    return found


def _ring(points: np.ndarray) -> np.ndarray:
    """A polygon needs three points: a single pixel or a line repeats its last."""
    missing = max(0, 3 - len(points))
    return np.concatenate([points, np.repeat(points[-1:], missing, axis=0)])
