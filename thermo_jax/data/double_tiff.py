"""TIFF files of 64-bit floating-point numbers, which Pillow cannot read, but OpenCV can.

MATLAB and Python's tifffile write them unless 32 bits are asked for.
"""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

_MAGIC = (b"II*\0", b"MM\0*")
_WIDTH, _HEIGHT, _BITS, _FORMAT = 256, 257, 258, 339
_FLOATING = 3  # of the tag SampleFormat


class Frame(NamedTuple):
    """One frame of a file, as its directory describes it."""

    height: int
    width: int


def frames_of(data: bytes, *, most: int) -> list[Frame]:
    """The frames of a TIFF of 64-bit numbers, at most `most`; [] for any other content."""
    frames: list[Frame] = []
    if not data.startswith(_MAGIC):
        return frames
    file = io.BytesIO(data)
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        position = directory.next
        while position and len(frames) < most:
            file.seek(position)
            directory.load(file)
            if directory.get(_BITS) != (64,) or directory.get(_FORMAT) != (_FLOATING,):
                return []
            frames.append(Frame(int(directory[_HEIGHT]), int(directory[_WIDTH])))
            position = directory.next
    except Exception:  # damaged directories raise errors of many types
        return []
    return frames


def read_frame(data: bytes, frame: int) -> Image.Image:
    """Decodes one frame, upright, as an image of 32-bit floating-point numbers.

    Raises:
      ValueError: the frame is damaged.
    """
    import cv2  # here, because the import is slow

    content = np.frombuffer(data, np.uint8)
    try:
        _, decoded = cv2.imdecodemulti(content, cv2.IMREAD_UNCHANGED, range=(frame, frame + 1))
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err}") from error
    if len(decoded) != 1 or decoded[0].ndim != 2 or decoded[0].dtype != np.float64:
        raise ValueError("a damaged frame of 64-bit numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        return Image.fromarray(decoded[0].astype(np.float32))
