"""Columns that are read from prepared records when they are used equal those in memory."""

import itertools
import shutil
import sys
import threading
import time

import numpy as np
import pytest
from absl import logging
from example_tables import table

from thermo_jax.data import batches, examples, phantom, streamed
from thermo_jax.data.dataset import DataSettings, open_dataset
from thermo_jax.errors import UserError

pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Makes settings for six phantom patients, whose prepared set is in a folder of this test."""
    folder = tmp_path_factory.mktemp("streamed")
    root = phantom.write_phantom(folder / "source", patients=6)

    def make(data_type, **fields):
        options = {"root": str(root), "prepared_dir": str(folder / "prepared"), "loader": "numpy"}
        return DataSettings(type=data_type, **options | fields)

    return make


@pytest.fixture(scope="module")
def both(settings):
    """Makes the columns of a task that training reads, in memory and streamed."""

    def load(task, data_type, **fields):
        names = ["images", {"classify": "labels", "segment": "label_maps"}[task]]
        tables = [
            open_dataset(settings(data_type, streamed=is_streamed, **fields)).load(task)
            for is_streamed in (False, True)
        ]
        return [{name: table.columns[name] for name in names} for table in tables]

    return load


def assert_same_batches(actual, expected):
    count = 0
    for batch, wanted in zip(actual, expected, strict=True):
        assert batch.keys() == wanted.keys()
        for name, values in wanted.items():
            assert batch[name].dtype == values.dtype
            np.testing.assert_array_equal(batch[name], values, err_msg=name)
        count += 1
    assert count


@pytest.mark.parametrize("loader", batches.LOADERS)
@pytest.mark.parametrize(
    ("task", "data_type", "downscale"),
    [("classify", "gray", 1), ("segment", "heat", 1), ("segment", "gray", 4)],
)
def test_batches_are_bit_identical_to_those_in_memory(both, task, data_type, downscale, loader):
    in_memory, columns = both(task, data_type, downscale=downscale)
    assert isinstance(columns["images"], streamed.StreamedColumn)
    assert not streamed.is_streamed(in_memory)
    options = {"batch_size": 4, "seed": 1, "num_steps": 7}  # 6 rows: epochs end within batches
    assert_same_batches(
        batches.train_batches(columns, loader=loader, **options),
        batches.train_batches(in_memory, **options),
    )
    assert_same_batches(
        batches.eval_batches(columns, batch_size=4, loader=loader),
        batches.eval_batches(in_memory, batch_size=4),
    )


@pytest.mark.parametrize("loader", batches.LOADERS)
def test_a_resumed_run_and_several_processes_read_the_same_rows(both, loader):
    in_memory, columns = both("segment", "heat")
    options = {"batch_size": 4, "seed": 1}
    whole = list(batches.train_batches(in_memory, num_steps=6, **options))
    rest = {"num_steps": 2, "start_step": 4, "loader": loader}
    assert_same_batches(batches.train_batches(columns, **rest, **options), whole[4:])
    shares = [
        batches.train_batches(
            columns, process_index=index, process_count=2, num_steps=6, loader=loader, **options
        )
        for index in range(2)
    ]
    together = (
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    )
    assert_same_batches(together, whole)


def test_columns_for_scores_are_equal_too(settings):
    in_memory, table = (
        open_dataset(settings("heat", streamed=value)).load("segment") for value in (False, True)
    )
    for name, column in in_memory.columns.items():
        assert table.columns[name].shape == column.shape
        np.testing.assert_array_equal(table.columns[name][:], column)


def column_of(values, calls=None):
    def read(row):
        if calls is not None:
            calls.append(row)
        return values[row]

    return streamed.StreamedColumn(read, values.shape)


def test_a_column_is_indexed_like_an_array():
    values = np.random.default_rng(0).integers(0, 256, (200, 2, 3), dtype=np.uint8)
    column = column_of(values)
    assert (len(column), column.shape, column.dtype) == (200, values.shape, np.uint8)
    for index in (7, -1, slice(3, 9), slice(0), [5, 5, 2], np.arange(199, 0, -7)):
        np.testing.assert_array_equal(column[index], values[index])
    np.testing.assert_array_equal(list(column), values)
    for whole in (column, values):
        chosen = streamed.subset(whole, np.arange(100, 200))
        part = streamed.subset(chosen, slice(1, 4))
        assert chosen.shape == (100, 2, 3) and len(part) == 3
        np.testing.assert_array_equal(chosen[[3, 1]], values[[103, 101]])
        np.testing.assert_array_equal(list(part), values[101:104])
    with pytest.raises(TypeError, match="larger than the memory: take some of its rows"):
        np.asarray(column)


def test_a_row_is_read_once_for_a_batch_that_repeats_it_and_never_for_a_subset():
    calls = []
    column = column_of(np.arange(6, dtype=np.uint8).reshape(6, 1), calls)
    part = column.subset(np.array([4, 1, 4]))
    assert calls == []
    np.testing.assert_array_equal(part[[0, 1, 2, 0]], [[4], [1], [4], [4]])
    assert sorted(calls) == [1, 4]


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_table_takes_rows_of_images_without_reading_or_copying_them(is_streamed):
    calls, images = [], np.arange(3, dtype=np.uint8).reshape(3, 1)
    rows = table(["a", "b", "c"], images=column_of(images, calls) if is_streamed else images)
    taken = rows.take([2, 0])
    images[2] = 7  # seen by what is no copy
    assert calls == []
    np.testing.assert_array_equal(taken.columns["images"][:], [[7], [0]])
    assert taken.patients.tolist() == ["c", "a"]


@pytest.mark.parametrize("loader", batches.LOADERS)
def test_few_batches_are_read_ahead(loader):
    """The device gets batches in order; in memory are at most a few."""
    lock, started = threading.Lock(), []

    def read(row):
        with lock:
            started.append(row)
        return np.full(1, row, np.uint8)

    columns = {"images": streamed.StreamedColumn(read, (200, 1))}
    reading = batches.eval_batches(columns, batch_size=2, loader=loader)
    first = list(itertools.islice(reading, 3))
    np.testing.assert_array_equal(np.concatenate([b["images"] for b in first]).ravel(), range(6))
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:  # without a limit, all 100 batches would be read by then
        time.sleep(0.05)
    assert 6 < len(started) <= 2 * (3 + 3 * batches.BATCHES_AHEAD)
    reading.close()


@pytest.mark.parametrize("loader", batches.LOADERS)
def test_an_error_of_a_row_is_raised_as_it_is_after_the_batches_before_it(loader):
    def read(row):
        if row == 5:
            raise UserError("row 5 cannot be read")
        return np.zeros(1, np.uint8)

    columns = {"images": streamed.StreamedColumn(read, (8, 1))}
    reading = batches.eval_batches(columns, batch_size=2, loader=loader)
    assert len(list(itertools.islice(reading, 2))) == 2
    with pytest.raises(UserError, match="row 5 cannot be read"):
        list(reading)


def test_a_damaged_record_is_an_error_with_its_folder_and_the_remedy(settings, tmp_path):
    opened = open_dataset(settings("gray", streamed=True, prepared_dir=str(tmp_path)))
    column = opened.load("classify").columns["images"]
    (shard,) = tmp_path.glob("*/dmr_ir/gray/*/*array_record*")
    data = bytearray(shard.read_bytes())
    data[1000:-70_000] = bytes(len(data) - 71_000)
    shard.write_bytes(data)
    message = rf"{tmp_path}.*: the gray of .* cannot be read .* damaged, delete this folder: the"
    with pytest.raises(UserError, match=message):
        column[:]


def test_the_size_of_the_examples_decides(settings, tmp_path, monkeypatch):
    """120 x 160 x 3 bytes of six images, and label maps."""
    lines = []
    monkeypatch.setattr(logging, "info", lambda text, *args: lines.append(text % args))
    size = 6 * (57_600 + 307_200 + 19_200)
    prepared_dir, first = str(tmp_path), None
    for memory_gb, is_streamed in ((size / 1e9, False), ((size - 1) / 1e9, True), (-1.0, False)):
        lines.clear()
        opened = open_dataset(settings("heat", memory_gb=memory_gb, prepared_dir=prepared_dir))
        loaded = opened.load("segment")
        assert streamed.is_streamed(loaded.columns) == is_streamed
        assert any(line.startswith("The images are streamed: ") for line in lines) == is_streamed
        # The NumPy loader prepares data that are too large, and reads the prepared ones after that.
        assert bool(list(tmp_path.glob("*/prepared.json"))) == (memory_gb != size / 1e9)
        first = first or loaded
        for name, column in first.columns.items():
            np.testing.assert_array_equal(loaded.columns[name][:], column)


def test_without_tfds_data_that_are_too_large_are_refused_with_the_remedies(
    settings, tmp_path, monkeypatch
):
    opened = open_dataset(settings("heat", memory_gb=0.0, prepared_dir=str(tmp_path)))
    monkeypatch.delattr("thermo_jax.data.preparing", raising=False)
    monkeypatch.setitem(sys.modules, "thermo_jax.data.preparing", None)
    with pytest.raises(
        UserError, match=r"install tensorflow-datasets.* a config.data.memory_gb th"
    ):
        opened.load("classify")


def test_the_memory_is_that_of_the_machine_or_of_the_control_group(tmp_path, monkeypatch):
    whole = streamed.host_memory_bytes()
    assert whole > 2**28
    assert streamed.memory_for_examples(-1.0) == whole // 2
    assert streamed.memory_for_examples(1.5) == 1_500_000_000
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2),3")
    assert streamed.memory_for_examples(-1.0) == whole // 2 // 4
    own = tmp_path / "cgroup"
    monkeypatch.setattr(streamed, "_CGROUPS", tmp_path)
    monkeypatch.setattr(streamed, "_OWN_CGROUPS", own)
    assert streamed.host_memory_bytes() >= whole  # without control groups
    job = tmp_path / "slurm" / "job_7"
    (job / "step_0").mkdir(parents=True)
    (tmp_path / "memory" / "job_7").mkdir(parents=True)
    own.write_text("0::/slurm/job_7/step_0\n")
    (job / "step_0" / "memory.max").write_text("max\n")
    assert streamed.host_memory_bytes() >= whole
    (job / "memory.max").write_text("2000000\n")
    assert streamed.host_memory_bytes() == 2_000_000
    own.write_text("9:name=systemd:/job_7\n4:cpu,memory:/job_7\n0::/\n")
    (tmp_path / "memory" / "job_7" / "memory.limit_in_bytes").write_text("1000000\n")
    assert streamed.host_memory_bytes() == 1_000_000


def test_source_files_are_read_alike(settings):
    """The function that reads rows is the same for a table in memory and a streamed one."""
    opened = open_dataset(settings("heat"))
    chosen = opened.select("segment")
    options = {"data_type": "heat", "task": "segment"}
    in_memory = examples.load_examples(chosen, **options, read_pixels=opened.read_pixels)
    rows = examples.load_examples(chosen, **options, read_pixels=opened.read_pixels, stream=True)
    for name, column in in_memory.columns.items():
        np.testing.assert_array_equal(rows.columns[name][:], column)


def test_a_set_that_is_prepared_again_does_not_change_the_images_of_a_run(settings, tmp_path):
    """Rows have other numbers then. The run goes on with the old files, or has to start again."""
    root = shutil.copytree(settings("gray").root, tmp_path / "source")
    fields = {"root": str(root), "streamed": True, "prepared_dir": str(tmp_path / "prepared")}

    def load():
        return open_dataset(settings("gray", **fields)).load("classify")

    expected = load().columns["images"][:]
    column, late_column = (load().columns["images"] for _ in range(2))
    np.testing.assert_array_equal(column[0], expected[0])
    shutil.rmtree(root / "0002")
    assert len(load()) == 5
    np.testing.assert_array_equal(column[:], expected)
    with pytest.raises(UserError, match="was prepared again, because its source has changed: sta"):
        late_column[0]
