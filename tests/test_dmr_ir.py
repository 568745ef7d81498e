"""The prepared (TFDS) data set equals its source, and is prepared again when that changes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import logging

from thermo_jax.data import dataset, examples, layouts, phantom, radiometry
from thermo_jax.data.picture import read_one
from thermo_jax.data.prepared import source_fingerprint
from thermo_jax.data.thermogram import DataError

tfds = pytest.importorskip("tensorflow_datasets")
dmr_ir = pytest.importorskip("thermo_jax.data.dmr_ir")
preparing = pytest.importorskip("thermo_jax.data.preparing")

ALL = examples.Selection(frames="all")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Four phantom patients of two frames; one frame lacks its snap, one its gray image."""
    root = tmp_path_factory.mktemp("source") / "phantom"
    phantom.write_phantom(root, patients=4, frames=2, annotated_fraction=0.5, temperatures=False)
    snaps = sorted(root.glob("*/*_snap.jpg"))
    snaps[0].unlink()
    snaps[-1].with_name(snaps[-1].name.replace("_snap", "")).unlink()
    return root


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    return preparing.prepare(source, prepared_dir=tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def tiny(tmp_path):
    """A data root of one image with temperatures, and the folder to prepare it in."""
    root = phantom.write_phantom(tmp_path / "tiny", patients=1, temperatures=True)
    return root, tmp_path / "prepared"


def load_examples(prepared, *, data_type, task, downscale=1):
    records = dmr_ir.load_records(prepared)
    return examples.load_examples(
        examples.select(records, ALL, data_type=data_type, task=task),
        data_type=data_type,
        task=task,
        downscale=downscale,
        read_pixels=dmr_ir.pixel_reader(prepared, records),
    )


@pytest.mark.parametrize(
    ("data_type", "task", "downscale"),
    [("gray", "pretrain", 1), ("heat", "classify", 1), ("heat", "segment", 2)],
)
def test_examples_are_bit_equal_to_those_read_from_the_source(
    source, prepared, data_type, task, downscale
):
    options = {"data_type": data_type, "task": task, "downscale": downscale}
    stored = load_examples(prepared, **options)
    records, _ = layouts.scan(source)
    chosen = examples.select(records, ALL, task=task, data_type=data_type)
    expected = examples.load_examples(chosen, **options)
    assert stored.data_type == expected.data_type
    for field in ("names", "patients", "views", "protocols", "dates", "mean_temperatures"):
        np.testing.assert_array_equal(getattr(stored, field), getattr(expected, field))
    assert stored.columns.keys() == expected.columns.keys()
    for name, column in expected.columns.items():
        assert stored.columns[name].dtype == column.dtype
        np.testing.assert_array_equal(stored.columns[name], column, err_msg=name)


def test_metadata_survives_and_missing_pixels_stay_missing(source, prepared):
    records, _ = layouts.scan(source)
    stored = dmr_ir.load_records(prepared)
    facts = json.loads((prepared.directory / "prepared.json").read_text())
    assert facts["num_records"] == len(records) == len(stored) == 8

    def shape(record):
        paths = (record.gray_path, record.heat_path, record.temperature_path)
        return (*(path is not None for path in paths), bool(record.regions))

    assert [shape(record) for record in stored] == [shape(record) for record in records]
    assert len({shape(record) for record in records}) > 2  # else the comparison shows little
    blank = {"gray_path": None, "heat_path": None, "temperature_path": None, "regions": ()}
    for actual, expected in zip(stored, records, strict=True):
        assert dataclasses.replace(actual, **blank) == dataclasses.replace(expected, **blank)


def test_the_numpy_loader_reads_a_prepared_set_and_imports_no_tensorflow(source, prepared):
    program = f"""
import sys
from thermo_jax.data import dataset, layouts
layouts.scan = None  # reading the source would fail
options = {{"root": {str(source)!r}, "prepared_dir": {str(prepared.directory.parent)!r}}}
opened = dataset.open_dataset(dataset.DataSettings(type="heat", loader="numpy", **options))
print(*opened.load("segment").names)
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records, _ = layouts.scan(source)
    chosen = examples.select(records, examples.Selection(), data_type="heat", task="segment")
    assert done.stdout.split() == [record.name for record in chosen]


def test_the_numpy_loader_reads_the_source_if_the_prepared_set_is_old(tiny):
    root, prepared_dir = tiny
    preparing.prepare(root, prepared_dir=prepared_dir)
    options = {"root": str(root), "type": "heat", "loader": "numpy", "prepared_dir": prepared_dir}
    opened = dataset.open_dataset(dataset.DataSettings(**options))
    assert opened.records[0].gray_path.is_dir()  # the prepared set
    (page,) = root.glob("*/description.html")
    page.write_text(page.read_text() + "\n")
    opened = dataset.open_dataset(dataset.DataSettings(**options))
    assert opened.records[0].gray_path.is_file()


def test_an_unchanged_source_is_neither_opened_nor_prepared_again(source, prepared, monkeypatch):
    monkeypatch.setattr(layouts, "scan", None)
    assert preparing.prepare(source, prepared_dir=prepared.directory.parent) == prepared


def test_the_data_report_is_kept_and_one_line_mentions_its_oddities(source, prepared, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
    preparing.prepare(source, prepared_dir=prepared.directory.parent)
    assert "[missing-snap]" in prepared.report_path.read_text()
    expected = f"oddities in the data, 0 files skipped; see {prepared.report_path}"
    assert len(lines) == 1
    assert lines[0].endswith(expected)


def test_the_mean_of_temperatures_is_stored_to_the_last_bit(tiny):
    root, prepared_dir = tiny
    prepared = preparing.prepare(root, prepared_dir=prepared_dir)
    ((record,), _) = layouts.scan(root)
    (stored,) = dmr_ir.load_records(prepared)
    assert stored.mean_temperature == record.mean_temperature is not None
    assert stored.temperature_path == prepared.directory


def test_tfds_reads_what_we_read(source, prepared):
    records = dmr_ir.load_records(prepared)
    read = dmr_ir.pixel_reader(prepared, records)
    opened = {
        kind: tfds.builder_from_directory(prepared.folder_of(kind)).as_data_source(split="train")
        for kind in ("thermograms", "gray", "heat", "label_map")
    }
    num_missing = 0
    for row, record in enumerate(records):
        facts = opened["thermograms"][row]
        assert facts["name"].decode() == record.name
        assert facts["label"] == record.label
        assert facts["has_heat"] == (record.heat_path is not None)
        assert bool(facts["draw_order"].any()) == (len(record.regions) > 1)
        for kind in ("gray", "heat", "label_map"):
            pixels = opened[kind][row][kind]
            assert pixels.dtype == np.uint8
            np.testing.assert_array_equal(read(record, kind), pixels)
            num_missing += not len(pixels)
    assert num_missing == 2 + sum(not record.regions for record in records)


def test_images_rendered_from_temperatures_are_stored_rendered(tiny):
    root, prepared_dir = tiny
    for image in root.glob("*/*.jpg"):
        image.unlink()
    prepared = preparing.prepare(root, prepared_dir=prepared_dir, colormap="hot")
    stored = load_examples(prepared, data_type="heat", task="pretrain")
    (matrix,) = root.glob("*/*.txt")
    expected = radiometry.render_heat(read_one(matrix).temperatures, colormap="hot")
    np.testing.assert_array_equal(stored.columns["images"], expected[np.newaxis])


def test_a_changed_source_is_prepared_again_with_a_message(tiny, monkeypatch):
    root, prepared_dir = tiny
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
    before = preparing.prepare(root, prepared_dir=prepared_dir)
    (page,) = root.glob("*/description.html")
    page.write_text(page.read_text() + "\n")
    after = preparing.prepare(root, prepared_dir=prepared_dir)
    assert after.fingerprint != before.fingerprint
    assert after.directory == before.directory
    assert any("has changed: preparing it again" in line for line in lines)


def test_strict_stops_at_a_bad_file_even_if_the_set_was_prepared_without_it(tiny):
    root, prepared_dir = tiny
    snap = next(root.glob("*/*_snap.jpg"))
    (root / "0002").mkdir()
    bad = root / "0002" / snap.name.replace("T0001", "T0002")
    bad.write_bytes(snap.read_bytes()[:300])
    assert preparing.prepare(root, prepared_dir=prepared_dir).num_skipped == 1
    with pytest.raises(DataError, match=bad.name):
        preparing.prepare(root, prepared_dir=prepared_dir, strict=True)


def test_a_moved_copy_keeps_its_fingerprint(tiny, tmp_path):
    root, _ = tiny
    shutil.copytree(root, tmp_path / "there")
    there = source_fingerprint(tmp_path / "there")
    assert there == source_fingerprint(root)


def test_a_file_that_is_no_source_does_not_change_the_fingerprint(tiny):
    root, _ = tiny
    before = source_fingerprint(root)
    (root / "run.log").write_text("not a source")
    assert source_fingerprint(root) == before


def test_settings_and_modification_times_are_part_of_the_fingerprint(tiny):
    root, _ = tiny
    first = source_fingerprint(root, colormap="jet")
    assert source_fingerprint(root, colormap="jet") == first
    assert source_fingerprint(root, colormap="hot") != first
    os.utime(next(root.glob("*/*.jpg")), ns=(time.time_ns(), time.time_ns() + 1))
    assert source_fingerprint(root, colormap="jet") != first


def test_the_folder_for_prepared_sets_comes_from_the_environment(tiny, tmp_path, monkeypatch):
    root, _ = tiny
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path / "cache"))
    assert preparing.prepare(root).directory.parent == tmp_path / "cache" / "prepared"


def test_preparing_inside_the_source_is_refused(source):
    with pytest.raises(ValueError, match="lies inside the data root"):
        preparing.prepare(source, prepared_dir=source / "prepared")


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        preparing.prepare(tmp_path / "nowhere", prepared_dir=tmp_path / "prepared")
