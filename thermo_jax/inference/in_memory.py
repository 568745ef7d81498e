"""Thermograms that a user has in memory, as items that `Predictor` reads."""

import os
from typing import Any

from thermo_jax.data.arrays import read_array
from thermo_jax.data.reader import ReaderSettings
from thermo_jax.data.thermogram import Thermogram, frame_name
from thermo_jax.inference.inputs import ReadThermogram


def is_path(item: Any) -> bool:
    """Whether this names a file or a folder."""
    return isinstance(item, str | os.PathLike)


def of_array(array: Any, *, name: str, settings: ReaderSettings) -> list[ReadThermogram]:
    """The thermograms of an array; their patient and their view are not known.

    Arguments and errors are those of `data.arrays.read_array`.
    """
    pictures = read_array(array, name=name, settings=settings)
    names = [name] if len(pictures) == 1 else [frame_name(name, k) for k in range(len(pictures))]
    return [
        ReadThermogram(_record(one), picture, picture.notes)
        for one, picture in zip(names, pictures, strict=True)
    ]


def _record(name: str) -> Thermogram:
    return Thermogram(name=name, patient=name, patient_known=False)
