"""tf.data and NumPy give the same batches; the accelerator belongs to JAX."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from thermo_jax.data import pipeline


def table(num_rows: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (num_rows, 4, 5, 3), dtype=np.uint8),
        "labels": np.arange(num_rows, dtype=np.int32) % 2,
        "temperatures": rng.standard_normal((num_rows, 2)).astype(np.float32),
    }


def assert_same_batches(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("process", [{}, {"process_index": 1, "process_count": 2}])
def test_training_batches_of_both_loaders_are_bit_identical(process):
    pytest.importorskip("tensorflow")
    common = {"batch_size": 4, "seed": 5, "start_step": 3, "num_steps": 6, **process}
    assert_same_batches(
        pipeline.train_batches(table(), loader="tf.data", **common),
        pipeline.train_batches(table(), loader="numpy", **common),
    )


@pytest.mark.parametrize("process", [{}, {"process_index": 1, "process_count": 2}])
def test_evaluation_batches_of_both_loaders_are_bit_identical(process):
    pytest.importorskip("tensorflow")
    assert_same_batches(
        pipeline.eval_batches(table(), batch_size=4, loader="tf.data", **process),
        pipeline.eval_batches(table(), batch_size=4, loader="numpy", **process),
    )


def test_tensorflow_sees_no_accelerator():
    pytest.importorskip("tensorflow")
    tf = pipeline.import_tensorflow()
    assert tf.config.get_visible_devices("GPU") == []
    assert tf.config.get_visible_devices("TPU") == []


def test_the_numpy_loader_runs_where_tensorflow_is_not_installed():
    program = """
        import sys
        sys.modules["tensorflow"] = None
        import numpy as np
        from thermo_jax.data import pipeline
        columns = {"images": np.zeros((3, 2, 2, 1), np.uint8)}
        batches = pipeline.train_batches(
            columns, batch_size=2, seed=0, num_steps=2, loader="numpy")
        assert len(list(batches)) == 2
        assert len(list(pipeline.eval_batches(columns, batch_size=2, loader="numpy"))) == 2
        try:
            pipeline.eval_batches(columns, batch_size=2, loader="tf.data")
        except ValueError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install tensorflow" in done.stdout


def test_an_unknown_loader_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown loader 'torch': choose one of tf.data, numpy"):
        pipeline.eval_batches(table(), batch_size=2, loader="torch")


@pytest.mark.parametrize("loader", pipeline.LOADERS)
def test_an_impossible_batch_is_refused_before_the_first_one_is_asked_for(loader):
    with pytest.raises(ValueError, match="batch_size"):
        pipeline.train_batches(table(), batch_size=0, seed=0, num_steps=1, loader=loader)


def test_prefetch_keeps_the_order_and_starts_two_batches_ahead():
    started = []

    def put(batch):
        started.append(batch)
        return batch * 10

    batches = pipeline.prefetch(range(5), put, size=2)
    assert next(batches) == 0
    assert started == [0, 1]
    assert next(batches) == 10
    assert started == [0, 1, 2]
    assert list(batches) == [20, 30, 40]


def test_prefetch_raises_an_error_of_the_source_after_the_batches_before_it():
    def source():
        yield 1
        yield 2
        raise OSError("disk gone")

    batches = pipeline.prefetch(source(), lambda batch: batch, size=3)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)


def test_closing_prefetch_closes_the_source():
    closed = []

    def source():
        try:
            yield from range(10)
        finally:
            closed.append(True)

    batches = pipeline.prefetch(source(), lambda batch: batch)
    next(batches)
    batches.close()
    assert closed == [True]


def test_prefetch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="size must be 1 or more"):
        pipeline.prefetch([], lambda batch: batch, size=0)
