"""Refuses small images whose decoding would take minutes or gigabytes, before they are opened.

Pillow checks the size that an image declares. Some files are small and declare a plain size, but
contain millions of frames, scans or segments. These functions read the structure of a file alone;
they do not judge whether it is damaged, since Pillow does that.
"""

import io
import os
import re

from PIL import Image

from thermo_jax.data import double_tiff
from thermo_jax.data.thermogram import DataError

LARGEST = 4096  # pixels of a side
MAX_FRAMES = 1000  # of one file
# Each frame of a GIF is drawn on top of those before it, so reading all of them takes a time that
# grows with the square of their number.
_MAX_GIF_PIXELS = 2**27  # frames x rows x columns; 436 frames of 480x640
# Bytes of a JPEG; 4096x4096 pixels need up to 20 MB. Pillow gives a damaged one to the decoder
# again and again, each time with a little more of it: 64 MB took 30 s.
_MAX_JPEG = 2**25
_MAX_SCANS = 100  # of a JPEG; programs write at most a dozen
_MAX_SEGMENTS = 5_000  # of a JPEG before its pixels, and of a PNG; a FLIR file has up to 256
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_GAP = 2**16  # bytes between two segments of a JPEG
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # without the markers inside a scan


def check_size(path: str | os.PathLike, height: int, width: int, *, smallest: int = 1) -> None:
    """Raises DataError if a side of an image has too few or too many pixels."""
    if not smallest <= min(height, width) <= max(height, width) <= LARGEST:
        size = f"{height}x{width}"
        expected = f"at most {LARGEST}x{LARGEST}, and at least {smallest}x{smallest}"
        detail = f"{size} pixels (rows x columns); expected {expected}"
        raise DataError("wrong-size", path, detail, size=size)


def check_image(path: str | os.PathLike, data: bytes) -> None:
    """Raises DataError if decoding a picture would take too long."""
    if data.startswith(b"GIF8"):
        _check_gif(path, data)
    elif data.startswith(b"\xff\xd8"):
        _check_jpeg(path, data)
    elif data.startswith(b"\x89PNG"):
        _check_png(path, data)


def count_frames(path: str | os.PathLike, data: bytes) -> int:
    """The number of frames of a TIFF or a GIF; 1 for other formats.

    An MPO contains a second picture of another kind, and a WebP animation is no thermogram.

    Raises:
      DataError: there are more than `MAX_FRAMES`, or one of them is damaged.
    """
    if data.startswith(b"GIF8"):
        return max(1, _gif_frames(data)[0])
    if not data.startswith(_TIFF):
        return 1
    if doubles := double_tiff.frames_of(data, most=MAX_FRAMES + 1):
        check_frames(path, len(doubles))
        return len(doubles)
    try:
        # Pillow's `n_frames` reads the whole file, which may have millions of frames of a few
        # bytes; and it is wrong after a jump over several frames.
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            for number in range(1, MAX_FRAMES + 1):
                try:
                    image.seek(number)
                except EOFError:
                    return number
    except Exception as error:  # damaged directories raise errors of many types
        detail = f"a damaged TIFF ({type(error).__name__} at one of its frames); copy it again"
        raise DataError("unreadable-image", path, detail) from error
    raise _too_many_frames(path)


def check_frames(path: str | os.PathLike, num_frames: int) -> None:
    """Raises DataError if a file has too many frames."""
    if num_frames > MAX_FRAMES:
        raise _too_many_frames(path)


def _too_many_frames(path: str | os.PathLike) -> DataError:
    return DataError("too-large", path, f"more than {MAX_FRAMES} frames: split the file")


def _check_gif(path: str | os.PathLike, data: bytes) -> None:
    num_frames, height, width = _gif_frames(data)
    check_frames(path, num_frames)
    if num_frames:
        check_size(path, height, width)  # a later frame may be larger than the first
    if num_frames > 1 and num_frames * height * width > _MAX_GIF_PIXELS:
        detail = f"{num_frames} frames of {height}x{width} pixels: split the file"
        raise DataError("too-large", path, detail)


def _gif_frames(data: bytes) -> tuple[int, int, int]:
    """(frames, rows, columns) of a GIF; it stops after `MAX_FRAMES` + 1 frames."""
    count = 0
    number = lambda start: int.from_bytes(data[start : start + 2], "little")  # noqa: E731
    width, height = number(6), number(8)
    try:
        position = 13 + _palette_bytes(data[10])
        while count <= MAX_FRAMES:
            kind = data[position]
            if kind == ord(","):  # a frame
                left, top, columns, rows = (number(position + 1 + 2 * i) for i in range(4))
                width, height = max(width, left + columns), max(height, top + rows)
                position += 11 + _palette_bytes(data[position + 9])
                count += 1
            elif kind == ord("!"):  # an extension
                position += 2
            elif kind == ord(";"):  # the end
                break
            else:  # Pillow skips other bytes
                position += 1
                continue
            while length := data[position]:
                position += length + 1
            position += 1
    except IndexError:  # cut short
        pass
    return count, height, width


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _check_jpeg(path: str | os.PathLike, data: bytes) -> None:
    """Counts the segments and scans of a JPEG. Decoding takes the same time again for each scan."""
    if len(data) > _MAX_JPEG:
        detail = f"{len(data) / 2**20:.0f} MB; expected at most {_MAX_JPEG // 2**20} MB in a JPEG"
        raise DataError("too-large", path, detail)
    position, scans, segments = 2, 0, 0
    while True:
        marker = _MARKER.search(data, position)
        start = marker.start() if marker else len(data)
        # Pillow reads what is between two segments byte by byte.
        if not scans and start - position > _MAX_GAP:
            raise DataError("too-large", path, _too_many("JPEG", start - position))
        if marker is None:
            return
        kind, position = data[start + 1], marker.end()
        if kind == 0xD9 and scans:  # the end
            return
        scans, segments = scans + (kind == 0xDA), segments + 1
        if scans > _MAX_SCANS or segments > _MAX_SEGMENTS:
            raise DataError("too-large", path, _too_many("JPEG", max(scans, segments)))
        if kind not in (0x01, 0xD8, 0xD9):  # a marker with content
            position += int.from_bytes(data[position : position + 2], "big")


def _check_png(path: str | os.PathLike, data: bytes) -> None:
    file, segments = io.BytesIO(data), 0
    file.seek(8)
    while len(head := file.read(8)) == 8:
        # Programs write pixels in pieces of 8 kB or more, and few pieces of other kinds.
        length, is_pixels = int.from_bytes(head[:4], "big"), head[4:] == b"IDAT"
        segments += not is_pixels or length < 1024
        if segments > _MAX_SEGMENTS:
            raise DataError("too-large", path, _too_many("PNG", segments))
        file.seek(length + 4, io.SEEK_CUR)


def _too_many(kind: str, count: int) -> str:
    return (
        f"a {kind} of {count} or more parts, which would take too long to read; save it again with "
        "another program"
    )
