"""Damaged and random files for every reader: it gives a value or a one-line error within limits.

Hypothesis makes 300 cases for the quick suite and 5,000 for the slow one, always the same.
"""

import io
import json
import pathlib
import shutil
import struct
import types
import zlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import tiny_training as tiny
from absl import flags
from fuzzing import damaged, fuzz, memory_limit, only_user_errors, time_limit
from hypothesis import strategies as st
from ml_collections import config_flags
from PIL import Image

from thermo_jax import main
from thermo_jax.configs import classify, encoder, few_shot, predict, segment, table1
from thermo_jax.data import (
    data_report,
    diagnoses,
    file_listing,
    radiometry,
    thermogram,
)
from thermo_jax.data.splits import Split
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.inference import pictures
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import open_workdir
from thermo_jax.training import checkpoints
from thermo_jax.training.metrics_log import read_jsonl

# test -> cases in the quick suite, cases in the slow one
CASES = {
    "images": (50, 1000),
    "matrices": (30, 600),
    "numbers": (30, 500),
    "npy": (30, 500),
    "pages": (30, 500),
    "names": (80, 1400),
    "records": (20, 300),
    "configurations": (20, 200),
    "checkpoints": (10, 100),
}


def test_there_are_as_many_cases_as_the_docstring_states():
    quick, everything = np.array(list(CASES.values())).sum(axis=0)
    assert quick >= 300 and everything >= 5000


# --------------------------------------------------------------------------------------------------
# Undamaged contents of files
# --------------------------------------------------------------------------------------------------

_rng = np.random.default_rng(0)
CELSIUS = _rng.uniform(20, 36, (480, 640)).round(2)
SMALL = CELSIUS[:20, :24]


def image_bytes(kind: str, size: tuple[int, int], mode: str) -> bytes:
    shape = (*size, 3) if mode == "RGB" else size
    pixels = _rng.uniform(20, 36, shape)
    pixels = pixels.astype(np.float32) if mode == "F" else (pixels * 7).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def text_bytes(values: np.ndarray, *, separator: str = " ", newline: str = "\n") -> bytes:
    return newline.join(separator.join(map(str, row)) for row in values).encode()


def npy_bytes(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def written(folder: pathlib.Path, name: str, data: bytes) -> pathlib.Path:
    path = folder / name
    path.write_bytes(data)
    return path


# --------------------------------------------------------------------------------------------------
# Pixels
# --------------------------------------------------------------------------------------------------

IMAGES = [
    image_bytes("JPEG", (480, 640), "L"),
    image_bytes("JPEG", (120, 160), "RGB"),
    image_bytes("PNG", (48, 64), "RGB"),
    image_bytes("PNG", (120, 160), "L"),
    image_bytes("TIFF", (48, 64), "F"),
    image_bytes("TIFF", (48, 64), "RGB"),
]


@fuzz(
    CASES["images"], data=damaged(IMAGES), suffix=st.sampled_from([".jpg", ".png", ".tif", ".txt"])
)
def test_a_damaged_image_is_read_or_refused(folder, data, suffix):
    path = written(folder, f"damaged{suffix}", data)
    for read, shape in (
        (radiometry.read_gray, (480, 640, 1)),
        (radiometry.read_heat, (120, 160, 3)),
    ):
        try:
            assert read(path).shape == shape
        except thermogram.DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    check_picture(path)


def check_picture(path: pathlib.Path):
    picture = pictures.read_picture("name", [path])
    if isinstance(picture, pictures.Unreadable):
        assert picture.reason.strip() and "\n" not in picture.reason
    else:
        assert np.isfinite(picture.pixels).all()
        pictures.model_input(picture, data_type="heat")


MATRICES = [
    text_bytes(SMALL),
    text_bytes(SMALL, separator=",", newline="\r\n"),
    text_bytes(SMALL, separator="\t", newline="\r\r\n"),
    text_bytes(SMALL, separator=";").replace(b".", b","),
    "\n".join(" ".join(map(str, row)) for row in SMALL).encode("utf-16"),
    text_bytes(CELSIUS),
]


@fuzz(CASES["matrices"], data=damaged(MATRICES), suffix=st.sampled_from([".txt", ".csv"]))
def test_a_damaged_matrix_is_read_or_refused(folder, data, suffix):
    path = written(folder, f"damaged{suffix}", data)
    try:
        assert radiometry.read_temperatures(path).shape == (480, 640)
    except thermogram.DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    check_picture(path)


words = st.sampled_from(["1", "36,6", "36.6", "-0", "nan", "inf", "1e400", "0x1p3", "1_0", "", "٣"])
separators = st.sampled_from([" ", "\t", ";", ",", "\n", "\r\r\n", "\x0b", "\u2028", "\x00", "#"])


@fuzz(
    CASES["numbers"],
    parts=st.lists(st.tuples(words | st.text(max_size=3), separators), max_size=80),
)
def test_any_text_is_read_or_refused_as_a_matrix(folder, parts):
    text = "".join(map("".join, parts))
    check_picture(written(folder, "text.csv", text.encode("utf-8", "surrogatepass")))


ARRAYS = [
    npy_bytes(SMALL),
    npy_bytes(SMALL.astype(np.float16)),
    npy_bytes(np.asfortranarray(SMALL)),
]


@fuzz(CASES["npy"], data=damaged(ARRAYS))
def test_a_damaged_array_is_read_or_refused(folder, data):
    check_picture(written(folder, "damaged.npy", data))


def huge_png() -> bytes:
    """A whole PNG of 30,000 x 30,000 black pixels in 1 MB."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    rows = zlib.compress(bytes(30_000 * (30_000 // 8 + 1)), 9)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0), b"IDAT": rows}
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return file.getvalue()[:8] + body + file.getvalue()[-12:]


def huge_jpeg() -> bytes:
    """A JPEG whose header claims 65,535 x 65,535 pixels."""
    data = bytearray(IMAGES[0])
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = b"\xff\xff\xff\xff"
    return bytes(data)


HUGE = {
    "bomb.jpg": huge_jpeg,
    "columns.txt": lambda: b"36.6 " * 1_000_000,
    "lines.csv": lambda: b"36.6\n" * 1_000_000,
    "bomb.png": huge_png,
}


@pytest.mark.parametrize("name", HUGE)
def test_a_file_that_is_or_claims_to_be_huge_is_refused(tmp_path, name):
    path = written(tmp_path, name, HUGE[name]())
    with time_limit(), memory_limit():
        assert isinstance(pictures.read_picture("name", [path]), pictures.Unreadable)
        with pytest.raises(thermogram.DataError):
            radiometry.read_gray(path)


# --------------------------------------------------------------------------------------------------
# Diagnoses, names
# --------------------------------------------------------------------------------------------------

PAGE = b"<html><p>Diagnosis*: <span class='x'>Sick<br></span></p></html>"
TABLE = b"ID,Diagnosis\n1,Healthy\n0002,Sick\n"


@fuzz(CASES["pages"], page=damaged([PAGE]), table=damaged([TABLE, TABLE.replace(b",", b";")]))
def test_damaged_diagnoses_are_read_or_reported(folder, page, table):
    files = file_listing.FileListing(
        folder,
        pages=[written(folder, "description.html", page)],
        tables=[written(folder, "id_diagnosis.csv", table)],
    )
    report = data_report.DataReport(folder)
    pages = report.collect(diagnoses.read_pages(files))
    rows = report.collect(diagnoses.read_table(files, ["0001"]))
    assert all(labels <= {0, 1} for labels in (pages | rows).values())
    report.write(folder / "report", [])


pieces = st.sampled_from(["T0001", ".1", ".D", ".2012-13-08", "_snap", ".jpg", "R", "FRON_V1", "/"])


@fuzz(CASES["names"], parts=st.lists(pieces | st.text(max_size=4), max_size=9))
def test_any_file_name_is_parsed_or_ignored(folder, parts):
    name = "".join(parts)
    stem, _ = thermogram.split_name(name)
    assert name.startswith(stem)
    parsed = thermogram.parse_name(name)
    assert parsed is None or 0 <= parsed.view <= 5
    sure, unsure = thermogram.patients_of_folders(tuple(name.split("/")))
    assert all(len(patient) == 4 and patient.isdecimal() for patient in sure + unsure)


# --------------------------------------------------------------------------------------------------
# Files of runs, and configurations
# --------------------------------------------------------------------------------------------------

SPLIT = b'{"train": ["0001", "0002"], "val": ["0003"], "test": ["0004"]}'
METRICS = b'{"step": 5, "epoch": 1, "val/loss": 0.5}\n' * 3
CONFIG = json.dumps({"config": {"task": "encoder", "seed": 0}, "versions": {}}).encode()


def predictions_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, names=np.array(["a"]), patients=np.array(["0001"]))
    return file.getvalue()


@fuzz(
    CASES["records"],
    split=damaged([SPLIT, b"[" * 100_000]),
    metrics=damaged([METRICS, b"[" * 100_000]),
    config=damaged([CONFIG, b"[" * 100_000]),
    npz=damaged([predictions_bytes()]),
)
def test_damaged_records_are_read_or_refused(folder, split, metrics, config, npz):
    with only_user_errors("split.json"):
        Split.load(written(folder, "split.json", split))
    with only_user_errors("no error: it stops at the damage"):
        read_jsonl(written(folder, "metrics.jsonl", metrics))
    with only_user_errors("predictions.npz"):
        Predictions.load(written(folder, "predictions.npz", npz))
    (folder / checkpoints.FOLDER / "5").mkdir(parents=True, exist_ok=True)
    with only_user_errors(str(folder)):
        written(folder, "config.json", config)
        open_workdir(folder, encoder.get_config())


CONFIGS = [encoder, classify, segment, table1, few_shot, predict]
presets = st.text("HGheatgryphntomsk,/ ", max_size=12) | st.sampled_from(["heat", "H/H", ""])


def leaves(config, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@fuzz(CASES["configurations"], module=st.sampled_from(CONFIGS), preset=presets, choice=st.data())
def test_any_preset_and_value_is_accepted_or_refused(folder, module, preset, choice):
    with only_user_errors():
        module.get_config(preset)
    config = module.get_config()
    field = choice.draw(st.sampled_from(sorted(leaves(config))))
    value = choice.draw(
        st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4) | st.just("None")
    )
    argv = ["program", f"--config={module.__file__}", f"--config.{field}={value}"]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    own = types.SimpleNamespace(FLAGS=values, Error=flags.Error)
    with mock.patch.object(main, "flags", own), only_user_errors():
        main._parse_flags(argv)
        settings.resolve(holder.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    run = tiny.toy_run([2.0, 1.0])
    run.fit(workdir, tiny.plan(epochs=2))
    return run, workdir


def load_encoder(workdir: pathlib.Path) -> dict:
    def like(meta: dict) -> dict:
        return {"params": {"w": np.zeros((), np.float32)}}

    return checkpoints.load_encoder(workdir, like=like)[0]


@fuzz(CASES["checkpoints"], "trained", choice=st.data())
def test_a_damaged_checkpoint_is_refused_or_gives_what_was_saved(folder, trained, choice):
    run, whole = trained
    workdir = folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(whole, workdir)
    files = sorted(path for path in (workdir / checkpoints.FOLDER).rglob("*") if path.is_file())
    file = choice.draw(st.sampled_from(files))
    file.write_bytes(choice.draw(damaged([file.read_bytes()])))
    with only_user_errors(str(workdir)):
        tiny.assert_same_tree(load_encoder(workdir), load_encoder(whole))
    with only_user_errors(str(workdir)):
        state = run.fit(workdir, tiny.plan(epochs=2))
        tiny.assert_same_tree(state.variables, run.fit(whole, tiny.plan(epochs=2)).variables)
