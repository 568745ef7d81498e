"""The order of examples: an endless stream for training, every row once for evaluation."""

import itertools

import numpy as np
import pytest

from thermo_jax.data import batching


def table(num_rows: int) -> dict[str, np.ndarray]:
    images = np.arange(num_rows * 6, dtype=np.uint8).reshape(num_rows, 2, 3, 1)
    return {"images": images, "labels": np.arange(num_rows, dtype=np.int32) % 2}


def stream(num_rows: int, batch_size: int, steps: int, seed: int = 3) -> np.ndarray:
    batches = [
        batching.batch_indices(num_rows, batch_size, seed=seed, step=step) for step in range(steps)
    ]
    return np.concatenate(batches)


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "expected"), [(18, 16, 5), (80, 16, 5), (81, 16, 6), (1, 16, 5)]
)
def test_an_epoch_is_every_row_but_at_least_five_batches(num_rows, batch_size, expected):
    assert batching.steps_per_epoch(num_rows, batch_size) == expected


@pytest.mark.parametrize(("num_rows", "batch_size"), [(7, 3), (18, 16), (3, 8), (1, 4), (6, 6)])
def test_the_stream_is_seeded_permutations_one_after_the_other(num_rows, batch_size):
    whole = stream(num_rows, batch_size, steps=9)
    expected = [np.random.default_rng((3, k)).permutation(num_rows) for k in range(36)]
    np.testing.assert_array_equal(whole, np.concatenate(expected)[: len(whole)])


def test_a_batch_larger_than_the_table_repeats_rows_as_evenly_as_possible():
    rows = batching.batch_indices(3, 8, seed=0, step=0)
    assert sorted(np.bincount(rows, minlength=3)) == [2, 3, 3]


def test_another_seed_is_another_order():
    assert not np.array_equal(stream(50, 10, 5, seed=0), stream(50, 10, 5, seed=1))


def test_a_resumed_run_reads_the_batches_that_an_uninterrupted_one_would():
    columns = table(7)
    whole = list(batching.train_batches(columns, batch_size=3, seed=1, num_steps=6))
    rest = list(batching.train_batches(columns, batch_size=3, seed=1, num_steps=2, start_step=4))
    assert len(rest) == 2
    for expected, batch in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(batch["images"], expected["images"])
        np.testing.assert_array_equal(batch["index"], expected["index"])


def test_a_training_batch_holds_rows_of_every_column_and_says_which():
    columns = table(7)
    (batch,) = batching.train_batches(columns, batch_size=4, seed=0, num_steps=1)
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
    batches = list(batching.eval_batches(columns, batch_size=3))
    index = np.concatenate([batch["index"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(index, [0, 1, 2, 3, 4, 5, 6, 0, 0])
    np.testing.assert_array_equal(mask, [1, 1, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(batches[-1]["images"][1], columns["images"][0])


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_processes_share_the_global_batch_in_contiguous_slots(kind):
    def batches(**process):
        if kind == "eval":
            return batching.eval_batches(table(7), batch_size=4, **process)
        return batching.train_batches(table(7), batch_size=4, seed=2, num_steps=3, **process)

    parts = [batches(process_index=index, process_count=2) for index in range(2)]
    for whole, first, second in itertools.zip_longest(batches(), *parts):
        assert first["slot"].tolist() == [0, 1]
        assert second["slot"].tolist() == [2, 3]
        for name, column in whole.items():
            np.testing.assert_array_equal(column, np.concatenate([first[name], second[name]]))


def test_processes_that_do_not_divide_the_batch_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match="multiple of 3, such as 9 or 12"):
        batching.train_batches(
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
        batching.eval_batches(columns, batch_size=batch_size)
