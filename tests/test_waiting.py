"""Predictions whose pixels wait on disk come back as they were."""

import dataclasses
from pathlib import Path

import numpy as np

from thermo_jax.data.data_report import Oddity
from thermo_jax.data.picture import Picture
from thermo_jax.inference.findings import Prediction
from thermo_jax.inference.inputs import Unreadable
from thermo_jax.inference.waiting import Waiting


def prediction(**fields):
    rng = np.random.default_rng(0)
    picture = Picture(
        temperatures=rng.uniform(25, 35, (24, 32)).astype(np.float32),
        good=rng.uniform(size=(24, 32)) > 0.1,
        sources={"temperatures": Path("a.csv")},
        oddities=(Oddity("padded", "a.csv", "edges repeated"),),
    )
    values = {
        "name": "a",
        "patient": None,
        "file": "a.csv",
        "shape": (24, 32),
        "celsius": True,
        "picture": picture,
        "probabilities": {"x/y": 0.2, "z": 0.3},
        "evidence": {"x/y": np.ones((6, 8), np.float32), "z": np.zeros((6, 8), np.float32)},
        "label_map": rng.integers(0, 8, (24, 32), np.uint8),
        "measurements": [],
    }
    return Prediction(**(values | fields))


def assert_equal(ours, theirs):
    for field in dataclasses.fields(ours):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if dataclasses.is_dataclass(one):
            assert_equal(one, other)
        else:
            np.testing.assert_equal(one, other)


def test_predictions_come_back_as_they_were_in_their_order(tmp_path):
    colour = Picture(colour=np.zeros((24, 32, 3), np.uint8))
    items = [
        prediction(),
        Unreadable("b", "reason"),
        prediction(name="c", picture=colour, label_map=None, evidence={}),
    ]
    waiting = Waiting(tmp_path)
    for item in items:
        waiting.add(item)
    for _ in range(2):
        first, second, third = waiting
        assert second is items[1]
        assert_equal(first, items[0])
        assert_equal(third, items[2])
    assert [item.name for item in waiting.predictions()] == ["a", "c"]


def test_pixels_do_not_stay_in_memory(tmp_path):
    waiting = Waiting(tmp_path)
    waiting.add(prediction())
    (kept,) = waiting._items
    assert kept.label_map is None and kept.picture.temperatures is None
    assert set(kept.evidence.values()) == {None}
