"""Label maps -> LabelMe files, in which a user corrects the predicted regions.

A file contains the picture, so that LabelMe opens it without anything else. Anywhere below the root
of a data set, our own reader finds the thermogram by the file's `imagePath`.
"""

import base64
import io
import json
import os

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES
from thermo_jax.files import write_whole
from thermo_jax.inference.outlines import enclosed_area, outlines_of_parts


def write_labelme(
    path: str | os.PathLike,
    picture_file: str,
    image: UInt8[np.ndarray, "ih iw *c"],
    label_map: UInt8[np.ndarray, "h w"],
    *,
    description: str,
) -> epath.Path:
    """Writes the regions of one thermogram as polygons; returns the path.

    The largest polygon comes first, because later ones are drawn over earlier ones.

    Args:
      picture_file: path of the thermogram's file, relative to the user's folder.
      image: the picture that LabelMe shows, gray or RGB; it gets the size of the label map.
      label_map: indexes of CLASS_NAMES.
      description: what drew the regions.
    """
    polygons = [
        (name, outline)
        for index, name in enumerate(CLASS_NAMES)
        if index != BACKGROUND
        for outline in outlines_of_parts(label_map == index)
    ]
    polygons.sort(key=lambda polygon: -enclosed_area(polygon[1]))
    document = {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {
                "label": name,
                # LabelMe counts from the corner of a pixel; our reader truncates.
                "points": (outline + 0.5).tolist(),
                "group_id": None,
                "description": description,
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for name, outline in polygons
        ],
        "imagePath": picture_file,
        "imageData": _png_text(image, label_map.shape),
        "imageHeight": label_map.shape[0],
        "imageWidth": label_map.shape[1],
    }
    return write_whole(path, json.dumps(document))


def _png_text(image: np.ndarray, shape: tuple[int, int]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).resize(shape[::-1]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
