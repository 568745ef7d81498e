"""Preparing by several processes, in shards that survive a kill."""

import contextlib
import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from absl import logging
from joblib.externals import loky

from thermo_jax.data import layouts, phantom, prepared, workers
from thermo_jax.data.reader import AS_RECOGNISED
from thermo_jax.data.saved_scan import load_scan, save_scan
from thermo_jax.data.thermogram import DataError
from thermo_jax.errors import UserError, is_full_disk

dmr_ir = pytest.importorskip("thermo_jax.data.dmr_ir")
preparing = pytest.importorskip("thermo_jax.data.preparing")

ROWS = 12  # of the source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Six phantom patients of two frames."""
    root = tmp_path_factory.mktemp("source") / "phantom"
    return phantom.write_phantom(root, patients=6, frames=2, annotated_fraction=0.5)


@pytest.fixture
def shards(monkeypatch):
    """Makes shards of two rows."""
    monkeypatch.setattr(preparing, "ROWS_PER_SHARD", 2)


def contents(prepared):
    """The metadata, and the bytes of the other records' files, by name."""
    files = {
        path.relative_to(prepared.directory).as_posix(): path.read_bytes()
        for kind in ("gray", "heat", "label_map")
        for path in sorted(prepared.folder_of(kind).iterdir())
    }
    blank = {"gray_path": None, "heat_path": None}
    # The order of the features in their records' bytes is arbitrary.
    records = dmr_ir.load_records(prepared)
    return files | {r.name: dataclasses.replace(r, **blank) for r in records}


def worker_processes():
    """The command lines of the processes that joblib started."""
    lines = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread or a process that has just ended
            for child in (thread / "children").read_text().split():
                lines.append(Path(f"/proc/{child}/cmdline").read_bytes().decode())
    return [line for line in lines if "popen_loky" in line]


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """The same shards, written by threads of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "ROWS_PER_SHARD", 2)
        patch.setattr(workers, "num_processes", lambda: 1)
        prepared = preparing.prepare(source, prepared_dir=tmp_path_factory.mktemp("expected"))
    return contents(prepared)


def test_a_set_is_divided_into_shards_of_nearly_equal_length(expected):
    names = [name for name in expected if "/gray/" in name and "array_record" in name]
    assert len(names) == ROWS // 2
    assert names[-1].endswith("dmr_ir-train.array_record-00005-of-00006")
    assert [len(part) for part in preparing._parts(range(600))] == [200, 200, 200]
    huge = [len(part) for part in preparing._parts(range(10_000_000))]
    assert len(huge) == preparing.MOST_SHARDS == 1024 and max(huge) - min(huge) <= 1
    assert sum(huge) == 10_000_000


@pytest.mark.usefixtures("shards")
def test_processes_write_the_same_files_as_threads(source, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "num_processes", lambda: 2)
    prepared = preparing.prepare(source, prepared_dir=tmp_path)
    assert contents(prepared) == expected
    assert not worker_processes()  # none waits for other work
    assert sorted(path.name for path in prepared.directory.iterdir()) == [
        "data_report.txt",
        "dmr_ir",
        "oddities.csv",
        "prepared.json",
        "records.csv",
    ]


def test_a_killed_preparation_continues_with_its_finished_shards(
    source, expected, tmp_path, shards, monkeypatch
):
    program = f"""
import time
from thermo_jax.data import dmr_ir, preparing, workers
preparing.ROWS_PER_SHARD = 2
workers.num_processes = lambda: 1
encode = dmr_ir.encode
def slow(record, **options):
    time.sleep(0.3)
    return encode(record, **options)
dmr_ir.encode = slow
preparing.prepare({str(source)!r}, prepared_dir={str(tmp_path)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)

    def finished():
        """The inodes of the files of the shards that have all kinds, by kind and name."""
        found = {}
        for path in tmp_path.glob("*.incomplete/dmr_ir/*/*/*-of-00006"):
            found.setdefault(path.name, {})[path.parts[-3]] = path.stat().st_ino
        return {name: inodes for name, inodes in found.items() if len(inodes) == 4}

    try:
        deadline = time.monotonic() + 60
        while len(finished()) < 2 and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    before = finished()
    assert 2 <= len(before) < 6
    monkeypatch.setattr(layouts, "scan", None)  # the plan is not made again
    written = []
    encode = dmr_ir.encode
    monkeypatch.setattr(workers, "num_processes", lambda: 1)
    monkeypatch.setattr(
        dmr_ir, "encode", lambda record, **x: written.append(record.name) or encode(record, **x)
    )
    prepared = preparing.prepare(source, prepared_dir=tmp_path)
    samples = min(preparing._SAMPLES, ROWS)
    assert len(written) == samples + ROWS - 2 * len(before)
    for name, inodes in before.items():
        after = {kind: (prepared.folder_of(kind) / name).stat().st_ino for kind in inodes}
        assert after == inodes
    assert contents(prepared) == expected
    assert not list(tmp_path.glob("*.incomplete"))


def test_a_preparation_that_failed_continues_unless_the_source_has_changed(
    source, tmp_path, monkeypatch, shards
):
    root = shutil.copytree(source, tmp_path / "source")
    prepared_dir = tmp_path / "prepared"
    monkeypatch.setattr(workers, "num_processes", lambda: 1)
    encode = dmr_ir.encode
    calls = []

    def fail(record, **options):
        calls.append(record.name)
        if len(calls) > preparing._SAMPLES + 5:
            raise OSError("the disk is gone")
        return encode(record, **options)

    monkeypatch.setattr(dmr_ir, "encode", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        preparing.prepare(root, prepared_dir=prepared_dir)
    (staging,) = prepared_dir.glob("*.incomplete")
    assert len(list(staging.glob("dmr_ir/gray/*/*-of-00006"))) == 2
    monkeypatch.setattr(dmr_ir, "encode", encode)
    lines = []
    monkeypatch.setattr(logging, "info", lambda text, *args: lines.append(text % args))
    next(root.rglob("description.html")).write_text("changed")
    prepared = preparing.prepare(root, prepared_dir=prepared_dir)
    assert lines[0].startswith("preparing ")
    assert lines[1].startswith(f"{ROWS} of {ROWS} thermograms are to be written: they need about 0")
    assert len(dmr_ir.load_records(prepared)) == ROWS
    assert not staging.exists()


def test_the_plan_contains_all_that_a_scan_found(source, tmp_path):
    records, report = layouts.scan(source)
    records[0] = dataclasses.replace(records[0], name="caf\udce9", notes=("a", "b"))
    save_scan(tmp_path / "plan.jsonl", "it", records, report)
    assert load_scan(tmp_path / "plan.jsonl", "it") == (records, report)
    assert load_scan(tmp_path / "plan.jsonl", "another") is None
    assert load_scan(tmp_path / "absent.jsonl", "it") is None


def test_a_disk_that_is_too_small_is_refused_before_the_first_shard(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = r"needs about 0.0 GB of disk, and 0.0 GB are free: .* config.data.prepared_dir"
    with pytest.raises(UserError, match=message):
        preparing.prepare(source, prepared_dir=tmp_path)
    assert not list(tmp_path.rglob("*-of-*"))


def test_a_full_disk_is_reported_as_one_and_the_part_of_a_shard_is_removed(tmp_path):
    def records():
        yield {"gray": b"record"}
        raise RuntimeError("write() failed: No space left on device; at byte 7")

    with pytest.raises(OSError, match="No space left") as raised:
        preparing._write_shard(records(), {"gray": tmp_path / "shard"})
    assert is_full_disk(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ended", ["by its parent", "with its parent"])
def test_a_process_that_is_ended_writes_nothing(source, tmp_path, monkeypatch, ended):
    stop, parent = threading.Event(), os.getppid()
    monkeypatch.setattr(workers, "_is_ended", bool)
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    workers._begin(stop, parent)
    workers.check_wanted()
    if ended == "by its parent":
        stop.set()
    else:
        workers._begin(stop, parent + 1)
    records, _ = layouts.scan(source)
    paths = {kind: tmp_path / kind for kind in preparing.KINDS}
    with pytest.raises(workers.EndedError):
        preparing._write_part((records, paths), encode=None)
    assert not list(tmp_path.iterdir())


def test_many_files_are_checked_by_processes_with_the_same_result(source, monkeypatch):
    expected = layouts.scan(source)
    monkeypatch.setattr(workers, "_LEAST_ITEMS_FOR_PROCESSES", 2)
    monkeypatch.setattr(workers, "num_processes", lambda: 2)
    assert layouts.scan(source) == expected


def wait_until_ended(number):
    """Runs until it is no longer wanted."""
    while number:
        workers.check_wanted()
        time.sleep(0.01)
    return number


def killed(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_give_results_in_order_and_end_with_the_last_one(monkeypatch):
    monkeypatch.setattr(workers, "num_processes", lambda: 2)
    results = workers.process_map(abs, range(-9, 0))
    assert next(results) == 9
    assert worker_processes()
    assert list(results) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert not worker_processes()
    results = workers.process_map(wait_until_ended, [0, 1, 2, 3])
    assert next(results) == 0
    results.close()
    assert not worker_processes()
    with pytest.raises(UserError, match="was killed, .* the same command again, which continues"):
        list(workers.process_map(killed, range(9)))


def test_threads_work_where_there_are_no_semaphores(monkeypatch):
    def refuse(*args, **options):
        raise OSError("Function not implemented")

    monkeypatch.setattr(loky, "ProcessPoolExecutor", refuse)
    assert list(workers.process_map(abs, [-1, -2])) == [1, 2]


def test_a_strict_scan_by_processes_stops_at_a_bad_file(source, tmp_path, monkeypatch):
    root = shutil.copytree(source, tmp_path / "source")
    bad = sorted(root.glob("*/*_snap.jpg"))[3]
    bad.write_bytes(bad.read_bytes()[:300])
    monkeypatch.setattr(workers, "_LEAST_ITEMS_FOR_PROCESSES", 2)
    monkeypatch.setattr(workers, "num_processes", lambda: 2)
    with pytest.raises(DataError, match=bad.name) as raised:
        layouts.scan(root, strict=True)
    assert raised.value.__traceback__  # a notebook keeps it, too, and with it what it refers to
    assert not worker_processes()


def test_an_error_in_a_process_is_raised_as_it_is(source, tmp_path, monkeypatch, shards):
    monkeypatch.setattr(workers, "num_processes", lambda: 2)
    root = shutil.copytree(source, tmp_path / "source")
    plan = preparing._plan
    bad = sorted(root.glob("*/*_snap.jpg"))[5]

    def plan_then_damage(*args, **options):
        planned = plan(*args, **options)
        bad.write_bytes(b"not an image")
        return planned

    monkeypatch.setattr(preparing, "_plan", plan_then_damage)
    with pytest.raises(DataError, match=bad.name) as raised:
        preparing.prepare(root, prepared_dir=tmp_path / "prepared")
    assert raised.value.kind == "unreadable-image"


def test_a_set_of_an_earlier_version_is_prepared_again_with_a_message(
    source, tmp_path, monkeypatch
):
    """Format 5 was one TFDS data set with all features."""
    monkeypatch.setattr(prepared, "FORMAT_VERSION", 5)
    old = preparing.prepare(source, prepared_dir=tmp_path)
    monkeypatch.undo()
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
    new = preparing.prepare(source, prepared_dir=tmp_path)
    assert new.directory == old.directory and new.fingerprint != old.fingerprint
    assert any("was prepared by an earlier version, or its source has chang" in x for x in lines)


def test_a_plan_that_is_cut_off_is_made_again(source, tmp_path):
    records, report = layouts.scan(source)
    plan = tmp_path / "plan.jsonl"
    save_scan(plan, "it", records, report)
    lines = plan.read_text().splitlines(keepends=True)
    for cut in ("", lines[0], "".join(lines[:-1]), "".join(lines)[:-9]):
        plan.write_text(cut)
        assert load_scan(plan, "it") is None


def test_the_disk_that_is_needed_is_estimated_well(source, tmp_path):
    """A file is filled up to blocks, which many records need less of."""
    records, _ = layouts.scan(source)
    encode = functools.partial(dmr_ir.encode, reader=AS_RECOGNISED, colormap="jet")
    estimate = preparing._bytes_of_record(records, encode=encode, folder=tmp_path / "samples")
    paths = {kind: tmp_path / kind for kind in preparing.KINDS}
    many = [encode(record) for record in records] * 10
    preparing._write_shard(many, paths)
    size = sum(path.stat().st_size for path in paths.values()) / len(many)
    assert estimate == pytest.approx(size, rel=0.1)
    assert not (tmp_path / "samples").exists()


def test_a_log_shows_the_progress(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "info", lambda text, *args: lines.append(text % args))
    monkeypatch.setattr(workers, "_LOG_SECONDS", -1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    parts = workers.with_progress([3, 4], total=9, done=2, description="preparing", size_of=int)
    assert list(parts) == [3, 4]
    assert lines == ["preparing: 5 of 9", "preparing: 9 of 9"]
