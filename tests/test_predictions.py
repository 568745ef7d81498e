"""Predictions on disk, and pooled over models."""

import numpy as np
import pytest
from example_tables import table

from thermo_jax.errors import UserError
from thermo_jax.evaluation.predictions import Predictions, pool


def predictions(names, *, model="fold 0", **columns):
    examples = table(patients=[f"{i:04d}" for i in range(len(names))], names=list(names))
    columns = columns or {"labels": np.arange(len(names), dtype=np.int32)}
    return Predictions.of(examples, model=model, columns=columns)


def assert_same(actual: Predictions, expected: Predictions):
    for field in ("names", "patients", "views", "protocols", "dates", "models"):
        np.testing.assert_array_equal(getattr(actual, field), getattr(expected, field))
    assert actual.columns.keys() == expected.columns.keys()
    for key in actual.columns:
        np.testing.assert_array_equal(actual.columns[key], expected.columns[key])


def test_loading_returns_what_was_saved(tmp_path):
    saved = predictions(["a.jpg", "ü=.jpg"], **{"baseline/majority class": np.array([0.5, 0.25])})
    path = saved.save(tmp_path / "predictions.npz")
    assert_same(Predictions.load(path), saved)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.npz"]


def test_columns_are_found_by_their_prefix():
    columns = {"threshold/image, best": np.zeros(1), "labels": np.zeros(1)}
    thresholds = predictions(["a"], **columns)
    assert list(thresholds.named("threshold/")) == ["image, best"]


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x03\x04half a file"])
def test_another_file_is_refused_and_named(tmp_path, content):
    path = tmp_path / "predictions.npz"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"predictions.npz contains no predictions .* run the stage"
    ):
        Predictions.load(path)


def test_a_file_with_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez(path, names=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(ValueError, match="contains no predictions"):
        Predictions.load(path)


def test_pooling_keeps_every_row_and_its_model():
    pooled = pool([predictions(["a", "b"]), predictions(["c"], model="fold 1")])
    assert pooled.names.tolist() == ["a", "b", "c"]
    assert pooled.models.tolist() == ["fold 0", "fold 0", "fold 1"]
    assert pooled.columns["labels"].tolist() == [0, 1, 0]


def test_predictions_of_different_tasks_are_not_pooled():
    with pytest.raises(ValueError, match="different tasks"):
        pool([predictions(["a"]), predictions(["b"], label_maps=np.zeros((1, 2, 2)))])


def judged(name, *, model, baselines):
    columns = {f"baseline/{key}": np.array([0.5]) for key in baselines}
    return predictions([name], model=model, labels=np.zeros(1, np.int32), **columns)


@pytest.mark.parametrize("order", [1, -1])
def test_a_baseline_that_folds_of_an_earlier_version_lack_is_left_out_with_a_message(caplog, order):
    parts = [
        judged("a", model="fold 0", baselines=["histogram"]),
        judged("b", model="fold 1", baselines=["histogram", "border", "marker"]),
    ]
    pooled = pool(parts[::order])
    assert pooled.columns.keys() == {"labels", "baseline/histogram"}
    assert pooled.names.tolist() == ["a", "b"][::order]
    assert "border, marker" in caplog.text and "earlier version" in caplog.text


def test_folds_of_one_version_keep_all_baselines_without_a_message(caplog):
    parts = [judged(name, model=name, baselines=["border"]) for name in "ab"]
    assert pool(parts).columns["baseline/border"].tolist() == [0.5, 0.5]
    assert not caplog.text


def test_the_predictions_that_lack_a_column_are_named():
    parts = [
        predictions(
            ["a"], model="fold 0", labels=np.zeros(1), **{"threshold/image, x": np.ones(1)}
        ),
        predictions(["b"], model="fold 1", labels=np.zeros(1)),
    ]
    with pytest.raises(UserError, match=r"fold 1 have no column 'threshold/image, x'.* run their"):
        pool(parts)
