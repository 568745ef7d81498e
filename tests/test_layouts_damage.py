import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from thermogram_files import (
    NAME,
    coco,
    matrix,
    write_coco,
    write_gray,
    write_matrix,
    write_patient,
    write_snap,
)

from thermo_jax.data import layouts
from thermo_jax.data.picture import load_pixels
from thermo_jax.data.prepared import source_fingerprint
from thermo_jax.data.thermogram import DataError

STEM = NAME.format(patient=1)


def files_of(report, kind):
    """The files that the report names for one kind of oddity."""
    return [oddity.file for oddity in report.oddities if oddity.kind == kind]


def only(root, **options):
    """Scan a root with one usable thermogram; return its record and the report."""
    records, report = layouts.scan(root, **options)
    assert len(records) == 1
    return records[0], report


# ---------------------------------------------------------------- bad files


def test_a_bad_gray_leaves_the_heatmap_in_use(tmp_path):
    gray = write_patient(tmp_path, 1)
    write_snap(gray, (640, 480))  # colours under the gray file's name
    record, report = only(tmp_path)
    assert record.gray_path is None and record.heat_path is not None
    assert files_of(report, "coloured-gray") == [f"0001/{STEM}.jpg"]


def test_bad_temperatures_leave_the_pictures_in_use(tmp_path):
    write_patient(tmp_path, 1)
    write_matrix(tmp_path / "0001" / f"{STEM}.txt", matrix() + 100)
    record, report = only(tmp_path)
    assert record.temperature_path is None and record.gray_path is not None
    assert files_of(report, "unknown-unit") == [f"0001/{STEM}.txt"]


def test_kelvin_and_a_dead_pixel_are_notes_of_a_file_in_use(tmp_path):
    write_patient(tmp_path, 1)
    values = matrix() + 273.15
    values[7, 9] = 0
    write_matrix(tmp_path / "0001" / f"{STEM}.txt", values)
    record, report = only(tmp_path, strict=True)
    assert record.mean_temperature == pytest.approx(matrix().mean(), abs=1e-3)
    for kind in ("converted-unit", "repaired-pixels"):
        assert files_of(report, kind) == [f"0001/{STEM}.txt"]
    assert len(record.notes) == 2


def test_a_bad_picture_is_rendered_where_there_are_temperatures(tmp_path):
    write_patient(tmp_path, 1).write_bytes(b"\xff\xd8")
    write_matrix(tmp_path / "0001" / f"{STEM}.txt")
    record, report = only(tmp_path)
    assert load_pixels(record).gray.shape == (480, 640, 1)
    assert report.skipped == [f"0001/{STEM}.jpg"]


def test_temperatures_of_one_value_are_left_out(tmp_path):
    write_patient(tmp_path, 1)
    write_matrix(tmp_path / "0001" / f"{STEM}.txt", np.full((480, 640), 30.0))
    assert files_of(only(tmp_path)[1], "constant-temperatures") == [f"0001/{STEM}.txt"]


def test_a_heatmap_of_one_colour_is_noted(tmp_path):
    write_patient(tmp_path, 1)
    snap = tmp_path / "0001" / f"{STEM}_snap.jpg"
    Image.new("RGB", (160, 120), "navy").save(snap)
    assert files_of(only(tmp_path)[1], "blank-image") == [f"0001/{STEM}_snap.jpg"]


def test_a_broken_link_is_reported(tmp_path):
    write_patient(tmp_path, 1)
    (tmp_path / "0001" / f"{STEM}.txt").symlink_to(tmp_path / "gone.txt")
    assert files_of(only(tmp_path)[1], "unreadable-matrix") == [f"0001/{STEM}.txt"]
    assert source_fingerprint(tmp_path) == source_fingerprint(tmp_path)


def test_a_broken_link_to_a_page_leaves_its_patient_unlabelled(tmp_path):
    write_patient(tmp_path, 1)
    page = tmp_path / "0001" / "description.html"
    page.unlink()
    page.symlink_to(tmp_path / "gone.html")
    assert files_of(only(tmp_path)[1], "unreadable-diagnosis") == ["0001/description.html"]


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    write_patient(tmp_path, 1)
    (tmp_path / "0001" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert only(tmp_path)[1].count("duplicate") == 0


def test_other_files_are_noted_and_hidden_ones_ignored(tmp_path):
    write_patient(tmp_path, 1)
    (tmp_path / "0001" / f"._{STEM}.jpg").write_bytes(b"resource fork")
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "0001" / "scan.png").write_bytes(b"x")
    assert files_of(only(tmp_path)[1], "ignored-file") == ["README.txt", "0001/scan.png"]


def damage(root):
    """Write 13 patients, 11 with one kind of damage each; return {kind: files to report}."""
    for patient in range(1, 14):
        write_patient(root, patient)
    gray = {p: root / f"{p:04d}" / f"{NAME.format(patient=p)}.jpg" for p in range(1, 14)}
    damaged = {}

    def broken(kind, path):
        damaged[kind] = [path.relative_to(root).as_posix()]
        return path

    data = gray[2].read_bytes()
    broken("unreadable-image", gray[2]).write_bytes(data[: len(data) // 2])
    write_snap(broken("wrong-size", gray[3]), (800, 600))
    write_snap(broken("coloured-gray", gray[4]), (640, 480))
    write_matrix(broken("unknown-unit", gray[5].with_suffix(".txt")), matrix() + 100)
    dead = np.where(np.arange(640) % 4, matrix(), np.nan)
    write_matrix(broken("bad-pixels", gray[6].with_suffix(".txt")), dead)
    same = np.full((480, 640), 30.0)
    write_matrix(broken("constant-temperatures", gray[7].with_suffix(".txt")), same)
    write_matrix(broken("wrong-shape", gray[8].with_suffix(".txt")), matrix()[:100])
    broken("unreadable-matrix", gray[9].with_suffix(".txt")).write_bytes(b"")
    write_gray(broken("duplicate", gray[10].with_name("T0010.1.1.S.2019-01-01.00.jpg")))
    page = gray[11].parent / "description.html"
    page.write_text(page.read_text() + page.read_text().replace("Healthy", "Sick"))
    stem = f"0011/{gray[11].stem}"
    damaged["conflicting-diagnosis"] = [f"{stem}.jpg", f"{stem}_snap.jpg"]
    entry = {"image_id": 1, "category_id": 8, "segmentation": {}}
    write_coco(root, coco({1: gray[12].name}, [entry]))
    damaged["unusable-polygon"] = [gray[12].name]
    return damaged


def test_undamaged_files_are_used_beside_eleven_kinds_of_damage(tmp_path):
    damaged = damage(tmp_path)
    records, report = layouts.scan(tmp_path)
    for kind, files in damaged.items():
        assert files_of(report, kind) == files
    assert report.summary().count(",") + 1 == 12  # the eleven, and the duplicate's missing snap
    assert {r.patient for r in records} == {f"{p:04d}" for p in range(1, 14)} - {"0011"}
    for record in records:
        load_pixels(record)  # every record that is left can be read
    text = report.text(records)
    assert all(file in text for files in damaged.values() for file in files)
    assert "skipped files: 11; annotations left out: 1; oddities in all: 13" in text


def test_strict_stops_at_a_bad_file_and_names_it(tmp_path):
    write_patient(tmp_path, 1).write_bytes(b"")
    write_patient(tmp_path, 2)
    assert len(layouts.scan(tmp_path)[0]) == 2
    with pytest.raises(DataError, match=f"0001/{STEM}.jpg: the file is empty"):
        layouts.scan(tmp_path, strict=True)


def test_strict_accepts_notes(tmp_path):
    write_gray(tmp_path / "0001" / f"{STEM}.jpg")
    assert only(tmp_path, strict=True)[1].oddities


# ---------------------------------------------------------------- annotations


def test_an_annotation_of_an_absent_image_is_noted(tmp_path):
    write_patient(tmp_path, 1)
    write_coco(tmp_path, coco({1: "T0099.1.1.S.2012-10-08.00.jpg"}, []))
    assert files_of(only(tmp_path)[1], "absent-image") == ["T0099.1.1.S.2012-10-08.00"]


def test_an_annotation_that_fits_two_files_is_left_out(tmp_path):
    for folder in ("a", "b"):
        write_gray(tmp_path / folder / "IR_2015-04-17_0007.jpg")
    document = coco({1: "IR_2015-04-17_0007.jpg"}, [{"image_id": 1, "category_id": 8}])
    write_coco(tmp_path, document)
    records, report = layouts.scan(tmp_path)
    assert not any(r.regions for r in records) and report.count("ambiguous-annotation") == 1


# ---------------------------------------------------------------- order


def test_the_order_of_the_directory_does_not_matter(tmp_path, monkeypatch):
    damage(tmp_path)
    records, report = layouts.scan(tmp_path)
    walk = os.walk

    def backwards(top, **options):
        for folder, subfolders, names in walk(top, **options):
            names.reverse()
            subfolders.reverse()
            yield folder, subfolders, names

    monkeypatch.setattr(os, "walk", backwards)
    again, report_again = layouts.scan(tmp_path)
    assert again == records and report_again.oddities == report.oddities
    assert [r.patient for r in records] == sorted(r.patient for r in records)


def test_a_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
    write_patient(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    record, _ = only(pathlib.Path("."))
    assert record.gray_path.is_absolute() and Image.open(record.gray_path).size == (640, 480)
