"""Contents of small files of every kind that the readers know, without damage."""

import io
import pathlib
import zipfile

import numpy as np
from PIL import ExifTags, Image
from thermogram_files import flir_jpeg


def written(folder: pathlib.Path, name: str, data: bytes) -> pathlib.Path:
    path = folder / name
    path.write_bytes(data)
    return path


_rng = np.random.default_rng(0)
CELSIUS = _rng.uniform(20, 36, (20, 24)).round(2)
LEVELS = (CELSIUS * 7).astype(np.uint8)
COLOURS = np.stack([LEVELS, LEVELS // 2, 255 - LEVELS], -1)


def image_bytes(kind: str, pixels, *, mode: str = "", **options) -> bytes:
    image, file = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def frames_of(*images) -> dict:
    return {"save_all": True, "append_images": [Image.fromarray(image) for image in images]}


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "DJI"
    return exif


CENTIKELVIN = (CELSIUS * 100 + 27315).astype(np.uint16)
FLOATS = CELSIUS.astype(np.float32)
IMAGES = [
    image_bytes("JPEG", LEVELS, exif=rotated()),
    image_bytes("JPEG", COLOURS, progressive=True),
    image_bytes("MPO", COLOURS, **frames_of(COLOURS)),
    image_bytes("PNG", COLOURS, mode="P", transparency=3, exif=rotated()),
    image_bytes("PNG", COLOURS, mode="RGBA", **frames_of(COLOURS)),
    image_bytes("PNG", CENTIKELVIN),
    image_bytes("TIFF", FLOATS, **frames_of(FLOATS[:17], CENTIKELVIN)),
    image_bytes("TIFF", COLOURS, compression="tiff_lzw"),
    image_bytes("TIFF", FLOATS, big_tiff=True, exif=rotated()),
    image_bytes("GIF", COLOURS, **frames_of(LEVELS, COLOURS[::-1])),
    image_bytes("BMP", LEVELS),
    image_bytes("WEBP", COLOURS, **frames_of(COLOURS[::-1])),
]
RAW = np.linspace(18_500, 20_500, CELSIUS.size).astype("<u2")
RAW_PNG = image_bytes("PNG", RAW.byteswap().reshape(CELSIUS.shape))
FLIR = [flir_jpeg(IMAGES[0], raw, CELSIUS.shape) for raw in (RAW.tobytes(), RAW_PNG)]


def text_bytes(*, separator: str = " ", newline: str = "\n") -> bytes:
    return newline.join(separator.join(map(str, row)) for row in CELSIUS).encode()


MATRICES = [
    text_bytes(),
    text_bytes(separator=",", newline="\r\n"),
    b"[Settings]\nEmissivity;0,95\n\n" + text_bytes(separator=";").replace(b".", b","),
    text_bytes(separator="\t", newline="\r\r\n").decode().encode("utf-16"),
    b'"' + text_bytes(separator='","', newline='"\n"') + b'"',
]


def npy_bytes(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


NPY = npy_bytes(FLOATS)
ARRAYS = [
    npy_bytes(CELSIUS.astype(np.float16)),
    npy_bytes(np.asfortranarray([CELSIUS, CELSIUS])),
    zip_bytes({"a.npy": NPY}),
    zip_bytes({"a.npy": NPY}, zipfile.ZIP_LZMA),
    zip_bytes({"a.npy": NPY, "b.npy": NPY}, zipfile.ZIP_STORED),
]
