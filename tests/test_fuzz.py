"""Damaged and random diagnoses, records, configurations and checkpoints.

Each gives a value or a one-line error within limits. Hypothesis always makes the same cases.
`test_fuzz_readers.py` has thermograms, `test_fuzz_annotations.py` annotations.
"""

import io
import json
import pathlib
import shutil
import types
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import tiny_training as tiny
from absl import flags
from fuzzing import damaged, fuzz, only_user_errors
from hypothesis import strategies as st
from ml_collections import config_flags

from thermo_jax import main
from thermo_jax.configs import classify, encoder, few_shot, predict, segment, table1
from thermo_jax.data import (
    data_report,
    diagnoses,
    file_listing,
    thermogram,
)
from thermo_jax.data.splits import Split
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import open_workdir
from thermo_jax.training import checkpoints
from thermo_jax.training.metrics_log import read_jsonl

# test -> cases in the quick suite, cases in the slow one
CASES = {
    "pages": (30, 500),
    "names": (80, 1400),
    "records": (20, 300),
    "configurations": (20, 200),
    "checkpoints": (10, 100),
}


def written(folder: pathlib.Path, name: str, data: bytes) -> pathlib.Path:
    path = folder / name
    path.write_bytes(data)
    return path


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
