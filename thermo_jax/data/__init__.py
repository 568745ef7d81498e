"""Thermograms: find, read, render, annotate, split and stream them; `read` reads one of them.

from thermo_jax import data

thermogram = data.read("exported.csv")
thermogram.temperatures, thermogram.gray, thermogram.heat, thermogram.notes
thermogram.plot()
"""

import os
from typing import Any


def read(
    path: str | os.PathLike, *, frame: int = 0, unit: str = "auto", emissivity: float = 0.0
) -> Any:
    """Reads one thermogram as training and prediction do; returns a `picture.Picture`.

    Args:
      frame: the number, from 0, of a frame in a file of several.
      unit: of temperatures: "celsius", "fahrenheit", "kelvin", "centikelvin", or "auto".
      emissivity: replaces the one recorded in a FLIR file; 0 = as recorded.
    Raises:
      DataError: the file cannot be used.
      FileNotFoundError: there is no such file.
    """
    import pathlib  # imports here keep the import of the package instant

    from thermo_jax.data.picture import read_one
    from thermo_jax.data.reader import ReaderSettings

    settings = ReaderSettings(unit=unit, emissivity=emissivity)
    return read_one(pathlib.Path(path).expanduser(), settings, frame=frame)
