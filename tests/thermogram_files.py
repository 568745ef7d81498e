"""Writes small generated data sets for the tests of the readers. No real image is involved."""

import json
import pathlib
import struct

import numpy as np
from PIL import Image

NAME = "T{patient:04d}.1.1.S.2012-10-08.00"
BOX = [100, 100, 200, 100, 200, 200, 100, 200]


def gray_pixels(seed: int = 0) -> np.ndarray:
    """A smooth 480x640 gray picture, different for each seed."""
    rows, columns = np.mgrid[0:480, 0:640]
    return ((rows + columns + 40 * seed) // 5 % 256).astype(np.uint8)


def write_gray(path: pathlib.Path, seed: int = 0, *, rgb: bool = True) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(gray_pixels(seed))
    (image.convert("RGB") if rgb else image).save(path, "JPEG", quality=95)
    return path


def write_snap(path: pathlib.Path, size: tuple[int, int] = (160, 120)) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.linspace(0, 255, size[0], dtype=np.uint8)
    channels = [np.tile(c, (size[1], 1)) for c in (columns, columns[::-1], columns // 2)]
    Image.fromarray(np.stack(channels, axis=-1)).save(path, "JPEG")
    return path


def matrix(offset: float = 0.0) -> np.ndarray:
    """480x640 temperatures in degrees C with two decimals; rows repeat, so that writing is fast."""
    rows, columns = np.arange(480) % 4, np.arange(640)
    return np.round(28 + offset + rows[:, None] + columns[None, :] / 100, 2)


def matrix_text(
    values: np.ndarray, *, separator: str = " ", end: str = "\n", comma: bool = False
) -> str:
    written: dict[bytes, str] = {}
    lines = []
    for row in values:
        key = row.tobytes()
        if key not in written:
            written[key] = separator.join(f"{value:.2f}" for value in row)
        lines.append(written[key])
    text = end.join(lines) + end
    return text.replace(".", ",") if comma else text


def write_matrix(path: pathlib.Path, values: np.ndarray | None = None, **form) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = matrix() if values is None else values
    path.write_bytes(matrix_text(values, **form).encode())
    return path


def flir_jpeg(
    picture: bytes, raw: bytes = bytes(32), shape: tuple[int, int] = (4, 4), *, num_records: int = 5
) -> bytes:
    """A JPEG with FLIR's records of temperatures and settings, in segments of 1000 bytes."""
    settings = bytearray(900)
    struct.pack_into("<6f", settings, 32, 0.95, 1, 293.15, 293.15, 293.15, 1)
    struct.pack_into("<7f", settings, 88, 21106.77, 1501, 1, 0, 0, 0, 0.006569)
    struct.pack_into("<if", settings, 776, -7340, 0.012545258)
    raw = struct.pack("<HHH", 2, *shape[::-1]).ljust(32, b"\0") + raw
    records = (b"FFF\0" + bytes(16) + struct.pack(">III", 100, 64, num_records)).ljust(64, b"\0")
    # (kind, start, length) of the temperatures, the settings, and a photograph
    for entry in ((1, 160, len(raw)), (32, 160 + len(raw), 900), (14, 160, len(raw))):
        records += struct.pack(">HHII", entry[0], 1, 100, 1)
        records += struct.pack(">II", *entry[1:]).ljust(20, b"\0")
    records += raw + settings
    pieces = [records[start : start + 1000] for start in range(0, len(records), 1000)]
    segments = [
        b"\xff\xe1%bFLIR\0\1%c%c%b" % ((len(p) + 10).to_bytes(2, "big"), i, len(pieces) - 1, p)
        for i, p in enumerate(pieces)
    ]
    return picture[:2] + b"".join(segments) + picture[2:]


def write_page(folder: pathlib.Path, diagnosis: str) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "description.html"
    page.write_text(f"<html><body><p>Diagnosis*: <span>{diagnosis}<br></span></p></body></html>")
    return page


def write_patient(root: pathlib.Path, patient: int, diagnosis: str = "Healthy") -> pathlib.Path:
    """One patient of the site layout: gray, snap, page. Returns the gray file."""
    folder = root / f"{patient:04d}"
    stem = NAME.format(patient=patient)
    write_page(folder, diagnosis)
    write_snap(folder / f"{stem}_snap.jpg")
    return write_gray(folder / f"{stem}.jpg", patient)


def coco(images: dict[int, str], annotations: list[dict], *, size=(640, 480)) -> dict:
    names = ["left_breast", "right_breast", "left_nipple", "right_nipple"]
    names += ["left_armpit", "right_armpit", "ROI", "neck"]
    return {
        "images": [
            {"id": i, "file_name": name, "width": size[0], "height": size[1]}
            for i, name in images.items()
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": [
            {"id": i, "segmentation": [BOX], **entry} for i, entry in enumerate(annotations, 1)
        ],
    }


def write_coco(root: pathlib.Path, document: object) -> pathlib.Path:
    path = root / "52_instances_default.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path
