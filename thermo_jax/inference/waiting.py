"""Predictions of one patient that wait to be drawn; their pixels wait on disk.

All thermograms of a patient have one scale, so that none can be drawn before all are predicted. A
sequence of thousands of frames would not fit in memory.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from thermo_jax.data.picture import Picture
from thermo_jax.inference.findings import Prediction
from thermo_jax.inference.inputs import Unreadable

_PIXELS = ("temperatures", "levels", "colour", "good")  # arrays of a Picture


class Waiting:
    """Stores predictions in a folder, and reads them again as often as needed, in their order."""

    def __init__(self, folder: str | pathlib.Path):
        self._folder = pathlib.Path(folder)
        self._items: list[Prediction | Unreadable] = []

    def add(self, item: Prediction | Unreadable) -> None:
        """Stores the arrays of a prediction in the folder; the rest stays in memory."""
        if isinstance(item, Prediction):
            np.savez(self._file(len(self._items)), **_arrays(item))
            stripped = dataclasses.replace(item.picture, **dict.fromkeys(_PIXELS))
            item = dataclasses.replace(
                item, picture=stripped, evidence=dict.fromkeys(item.evidence), label_map=None
            )
        self._items.append(item)

    def __iter__(self) -> Iterator[Prediction | Unreadable]:
        for number, item in enumerate(self._items):
            yield self._whole(item, number) if isinstance(item, Prediction) else item

    def predictions(self) -> Iterator[Prediction]:
        """The items without those that are unreadable."""
        return (item for item in self if isinstance(item, Prediction))

    def _whole(self, item: Prediction, number: int) -> Prediction:
        with np.load(self._file(number), allow_pickle=False) as file:
            arrays = dict(file)
        picture: Picture = dataclasses.replace(
            item.picture, **{name: arrays.get(name) for name in _PIXELS}
        )
        evidence = {name: arrays[f"evidence{k}"] for k, name in enumerate(item.evidence)}
        return dataclasses.replace(
            item, picture=picture, evidence=evidence, label_map=arrays.get("label_map")
        )

    def _file(self, number: int) -> pathlib.Path:
        return self._folder / f"{number}.npz"


def _arrays(item: Prediction) -> dict[str, np.ndarray]:
    arrays = {name: getattr(item.picture, name) for name in _PIXELS}
    arrays |= {f"evidence{k}": evidence for k, evidence in enumerate(item.evidence.values())}
    arrays |= {"label_map": item.label_map}
    return {name: array for name, array in arrays.items() if array is not None}
