"""The order of examples, for training and evaluation; tf.data and NumPy give the same batches."""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from thermo_jax.data import batches


def table(num_rows: int) -> dict[str, np.ndarray]:
    images = np.arange(num_rows * 6, dtype=np.uint8).reshape(num_rows, 2, 3, 1)
    return {"images": images, "labels": np.arange(num_rows, dtype=np.int32) % 2}


def stream(num_rows: int, batch_size: int, steps: int, seed: int = 3) -> np.ndarray:
    return np.concatenate(
        [batches.batch_indices(num_rows, batch_size, seed=seed, step=step) for step in range(steps)]
    )


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "expected"), [(18, 16, 5), (80, 16, 5), (81, 16, 6), (1, 16, 5)]
)
def test_an_epoch_is_every_row_but_at_least_five_batches(num_rows, batch_size, expected):
    assert batches.steps_per_epoch(num_rows, batch_size) == expected


@pytest.mark.parametrize(("num_rows", "batch_size"), [(7, 3), (18, 16), (3, 8), (1, 4), (6, 6)])
def test_the_stream_is_seeded_permutations_one_after_the_other(num_rows, batch_size):
    whole = stream(num_rows, batch_size, steps=9)
    expected = [np.random.default_rng((3, k)).permutation(num_rows) for k in range(36)]
    np.testing.assert_array_equal(whole, np.concatenate(expected)[: len(whole)])


def test_a_batch_larger_than_the_table_repeats_rows_as_evenly_as_possible():
    rows = batches.batch_indices(3, 8, seed=0, step=0)
    assert sorted(np.bincount(rows, minlength=3)) == [2, 3, 3]


def test_another_seed_gives_another_order():
    assert not np.array_equal(stream(50, 10, 5, seed=0), stream(50, 10, 5, seed=1))


def test_a_resumed_run_reads_the_batches_that_an_uninterrupted_one_would():
    columns = table(7)
    whole = list(batches.train_batches(columns, batch_size=3, seed=1, num_steps=6))
    rest = list(batches.train_batches(columns, batch_size=3, seed=1, num_steps=2, start_step=4))
    assert len(rest) == 2
    for expected, batch in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(batch["images"], expected["images"])
        np.testing.assert_array_equal(batch["index"], expected["index"])


def test_a_training_batch_contains_rows_of_every_column_and_their_indices():
    columns = table(7)
    (batch,) = batches.train_batches(columns, batch_size=4, seed=0, num_steps=1)
    np.testing.assert_array_equal(batch["images"], columns["images"][batch["index"]])
    np.testing.assert_array_equal(batch["labels"], columns["labels"][batch["index"]])
    np.testing.assert_array_equal(batch["slot"], np.arange(4))
    np.testing.assert_array_equal(batch["mask"], np.ones(4))
    types = {name: column.dtype.name for name, column in batch.items()}
    assert types == {
        "images": "uint8",
        "labels": "int32",
        "index": "int32",
        "slot": "int32",
        "mask": "float32",
    }


def test_evaluation_reads_every_row_once_in_order_and_masks_the_padding():
    columns = table(7)
    every = list(batches.eval_batches(columns, batch_size=3))
    index = np.concatenate([batch["index"] for batch in every])
    mask = np.concatenate([batch["mask"] for batch in every])
    np.testing.assert_array_equal(index, [0, 1, 2, 3, 4, 5, 6, 0, 0])
    np.testing.assert_array_equal(mask, [1, 1, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(every[-1]["images"][1], columns["images"][0])


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_processes_share_the_global_batch_in_contiguous_slots(kind):
    def stream_of(**process):
        if kind == "eval":
            return batches.eval_batches(table(7), batch_size=4, **process)
        return batches.train_batches(table(7), batch_size=4, seed=2, num_steps=3, **process)

    parts = [stream_of(process_index=index, process_count=2) for index in range(2)]
    for whole, first, second in itertools.zip_longest(stream_of(), *parts):
        assert first["slot"].tolist() == [0, 1]
        assert second["slot"].tolist() == [2, 3]
        for name, column in whole.items():
            np.testing.assert_array_equal(column, np.concatenate([first[name], second[name]]))


def test_processes_that_do_not_divide_the_batch_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match="multiple of 3, such as 9 or 12"):
        batches.train_batches(
            table(7), batch_size=10, seed=0, num_steps=1, process_index=0, process_count=3
        )


@pytest.mark.parametrize(
    ("columns", "batch_size", "message"),
    [
        (table(0), 2, "empty"),
        (table(2), 0, "batch_size must be 1 or more, got 0"),
        ({}, 2, "no columns"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, 2, "same number of rows"),
        ({"mask": np.zeros(2)}, 2, r"\['mask'\]"),
    ],
)
def test_a_table_that_makes_no_batches_is_refused_at_once(columns, batch_size, message):
    with pytest.raises(ValueError, match=message):
        batches.eval_batches(columns, batch_size=batch_size)


def wide_table(num_rows: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (num_rows, 4, 5, 3), dtype=np.uint8),
        "labels": np.arange(num_rows, dtype=np.int32) % 2,
        "temperatures": rng.standard_normal((num_rows, 2)).astype(np.float32),
    }


def assert_same_batches(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for batch, expected in zip(left, right, strict=True):
        assert batch.keys() == expected.keys()
        for name in batch:
            assert batch[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(batch[name], expected[name], err_msg=name)


@pytest.mark.parametrize("process", [{}, {"process_index": 1, "process_count": 2}])
def test_training_batches_of_both_loaders_are_bit_identical(process):
    pytest.importorskip("tensorflow")
    common = {"batch_size": 4, "seed": 5, "start_step": 3, "num_steps": 6, **process}
    assert_same_batches(
        batches.train_batches(wide_table(), loader="tf.data", **common),
        batches.train_batches(wide_table(), loader="numpy", **common),
    )


@pytest.mark.parametrize("process", [{}, {"process_index": 1, "process_count": 2}])
def test_evaluation_batches_of_both_loaders_are_bit_identical(process):
    pytest.importorskip("tensorflow")
    assert_same_batches(
        batches.eval_batches(wide_table(), batch_size=4, loader="tf.data", **process),
        batches.eval_batches(wide_table(), batch_size=4, loader="numpy", **process),
    )


def test_tensorflow_sees_no_accelerator():
    pytest.importorskip("tensorflow")
    tf = batches.import_tensorflow()
    assert tf.config.get_visible_devices("GPU") == []
    assert tf.config.get_visible_devices("TPU") == []


def test_the_numpy_loader_runs_where_tensorflow_is_not_installed():
    program = """
        import sys
        sys.modules["tensorflow"] = None
        import numpy as np
        from thermo_jax.data import batches
        columns = {"images": np.zeros((3, 2, 2, 1), np.uint8)}
        stream = batches.train_batches(
            columns, batch_size=2, seed=0, num_steps=2, loader="numpy")
        assert len(list(stream)) == 2
        assert len(list(batches.eval_batches(columns, batch_size=2, loader="numpy"))) == 2
        assert batches.choose_loader("auto") == "numpy"
        for refused in (
            lambda: batches.eval_batches(columns, batch_size=2, loader="tf.data"),
            lambda: batches.choose_loader("tf.data"),
        ):
            try:
                refused()
            except ValueError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the tf.data loader needs TensorFlow, which") == 2
    assert done.stdout.count("pip install tensorflow") == 2


@pytest.mark.parametrize("loader", batches.LOADERS)
def test_an_impossible_batch_size_is_refused_before_the_first_batch(loader):
    with pytest.raises(ValueError, match="batch_size"):
        batches.train_batches(wide_table(), batch_size=0, seed=0, num_steps=1, loader=loader)


def test_prefetch_keeps_the_order_and_starts_two_batches_ahead():
    started = []

    def put(batch):
        started.append(batch)
        return batch * 10

    ahead = batches.prefetch(range(5), put)
    assert next(ahead) == 0
    assert started == [0, 1]
    assert next(ahead) == 10
    assert started == [0, 1, 2]
    assert list(ahead) == [20, 30, 40]


def test_prefetch_raises_an_error_of_the_source_after_the_batches_before_it():
    def source():
        yield 1
        yield 2
        raise OSError("disk gone")

    ahead = batches.prefetch(source(), lambda batch: batch)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(ahead)


def test_closing_prefetch_closes_the_source():
    closed = []

    def source():
        try:
            yield from range(10)
        finally:
            closed.append(True)

    ahead = batches.prefetch(source(), lambda batch: batch)
    next(ahead)
    ahead.close()
    assert closed == [True]
