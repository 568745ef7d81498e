"""Small files that would need minutes or gigabytes, and files that are read by many threads."""

import struct
import zlib

import pytest
from fuzzing import memory_limit, time_limit
from sample_contents import ARRAYS, FLIR, IMAGES, LEVELS, MATRICES, NPY, image_bytes, written

from thermo_jax.data import layouts, reader
from thermo_jax.data.picture import read_picture
from thermo_jax.data.thermogram import DataError
from thermo_jax.data.workers import ordered_map
from thermo_jax.errors import UserError


def huge_png() -> bytes:
    """A whole PNG of 30,000 x 30,000 black pixels in 1 MB."""
    rows = zlib.compress(bytes(30_000 * (30_000 // 8 + 1)), 1)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0), b"IDAT": rows}
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return IMAGES[3][:8] + body + IMAGES[3][-12:]


def huge_jpeg() -> bytes:
    """A JPEG whose header claims 65,535 x 65,535 pixels."""
    data = bytearray(IMAGES[0])
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = b"\xff\xff\xff\xff"
    return bytes(data)


def many_scans() -> bytes:
    """A progressive JPEG of 100,000 scans, each of which takes 10 ms in the largest pictures."""
    last = IMAGES[1].rindex(b"\xff\xda")
    return IMAGES[1][:last] + IMAGES[1][last:-2] * 100_000 + IMAGES[1][-2:]


def many_gif_frames(size: int = 16) -> bytes:
    data = image_bytes("GIF", LEVELS[:16, :16])
    frame = data.index(b",\0\0\0\0")
    corner = struct.pack("<HH", size - 16, size - 16)
    pixels = b"," + corner + data[frame + 5 : -1]
    return data[:-1] + pixels * (100_000 if size == 16 else 1) + b";"


def many_tiff_frames() -> bytes:
    tags = ((256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 8), (278, 16), (279, 256))
    entries = struct.pack("<H", len(tags))
    entries += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = len(entries) + 4
    frames = [entries + struct.pack("<I", 8 + size * number) for number in range(1, 5000)]
    return b"II*\0\x08\0\0\0" + b"".join(frames) + entries + bytes(500)


HUGE = {
    "bomb.jpg": huge_jpeg,
    "bomb.png": huge_png,
    "scans.jpg": many_scans,
    "segments.jpg": lambda: IMAGES[0][:2] + b"\xff\xe3\0\2" * 100_000 + IMAGES[0][2:],
    "filled.jpg": lambda: IMAGES[0][:2] + b"\xff" * 1_000_000 + IMAGES[0][2:],
    "chunks.png": lambda: IMAGES[3][:33] + b"\0\0\0\0abCd\x5e\x4b\x56\x26" * 10**5,
    "frames.gif": many_gif_frames,
    "second.gif": lambda: many_gif_frames(13_000),
    "frames.tif": many_tiff_frames,
    "columns.txt": lambda: b"36.6 " * 1_000_000,
    "lines.csv": lambda: b"36.6\n" * 1_000_000,
    "quotes.csv": lambda: b'""' * 5_000_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_a_file_that_is_or_claims_to_be_huge_is_refused(tmp_path, name):
    path = written(tmp_path, name, HUGE[name]())
    with time_limit(), memory_limit():
        assert reader.count_frames(path) == 1
        with pytest.raises(DataError):
            reader.read_file(path)


def test_a_table_of_too_many_rows_is_refused(tmp_path):
    written(tmp_path, "a.npy", NPY)
    written(tmp_path, "thermograms.csv", b"file\n" + b"a\n" * 200_000)
    with memory_limit(), pytest.raises(UserError, match="100000 rows"):
        layouts.scan(tmp_path)


def test_eight_threads_read_what_one_reads(tmp_path, monkeypatch):
    """Pillow's formats, matplotlib's colour maps and caches are shared by threads."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    kinds = {".png": IMAGES, ".txt": MATRICES, ".npy": ARRAYS, ".jpg": FLIR}
    files = [
        written(tmp_path, f"{number}{suffix}", data)
        for suffix, contents in kinds.items()
        for number, data in enumerate(contents)
    ]

    def read(file):
        picture, errors = read_picture([file])
        return str(errors), picture and (picture.heat.tobytes(), picture.notes)

    together = list(ordered_map(read, files * 4, description="reading"))
    assert together == [read(file) for file in files] * 4
