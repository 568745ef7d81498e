"""A trained decoder's predictions for images, saved so that scores can be pooled over folds.

One row per image. Columns of a classifier:

    labels               int32, 0 healthy, 1 sick
    probabilities        float64, of Sick
    threshold/<name>     float64, an operating point of this row's model, chosen on validation data
    member/<name>        float64, probability of Sick by one model of an ensemble
    baseline/<name>      float64, probability of Sick by a classifier that sees no anatomy

and of a segmenter, for each size at which it is scored:

    confusion/<size>     int64 [K, K], pixels by true (row) and predicted class
    hd95/<size>          float64 [K], pixels
    label_maps           uint8 [H, W], the prediction at the images' size
"""

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
from absl import logging
from etils import epath

from thermo_jax.data.examples import Examples
from thermo_jax.data.table import Table
from thermo_jax.errors import UserError
from thermo_jax.files import write_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions(Table):
    """Each row is an image and the model that judged it."""

    models: np.ndarray  # str [N], the name of the model (fold)
    repeats: np.ndarray  # int32 [N], the repeat of the cross-validation, from 0

    @classmethod
    def of(cls, examples: Examples, *, model: str, columns: dict[str, np.ndarray]) -> "Predictions":
        """One model's `columns` for a table of examples."""
        return cls(
            names=examples.names,
            patients=examples.patients,
            views=examples.views,
            protocols=examples.protocols,
            dates=examples.dates,
            models=np.full(len(examples), model),
            repeats=np.zeros(len(examples), np.int32),
            columns=columns,
        )

    def save(self, path: str | os.PathLike) -> epath.Path:
        """Writes a compressed .npz without pickled objects. An interrupted write leaves no file."""
        columns = {f"column:{key}": column for key, column in self.columns.items()}
        file = io.BytesIO()  # a bucket accepts whole files only
        np.savez_compressed(file, **self.who(), **columns)
        return write_whole(path, file.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Predictions":
        """Reads a file that `save` wrote. Any other file raises a UserError that names it."""
        try:
            data = io.BytesIO(epath.Path(path).read_bytes())
            with np.load(data, allow_pickle=False) as file:
                arrays = dict(file)
            columns = {
                key.removeprefix("column:"): arrays.pop(key)
                for key in list(arrays)
                if key.startswith("column:")
            }
            # Files of the first format have no repeats.
            arrays.setdefault("repeats", np.zeros(len(arrays["names"]), np.int32))
            return cls(**arrays, columns=columns)
        except FileNotFoundError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy raise errors of many types
            raise UserError(
                f"{path} contains no predictions ({error}): remove it, and run the stage again"
            ) from error


def pool(parts: Sequence[Predictions]) -> Predictions:
    """All rows of several models, whose tables have the same columns.

    The folds of a study may come from different versions of thermo_jax, of which one has more
    baselines. A baseline that any part lacks is left out, with a log message, because its score
    would be that of some of the patients.

    Raises:
      UserError: other columns differ.
    """
    common = [key for key in parts[0].columns if all(key in part.columns for part in parts)]
    others = [key for part in parts for key in part.columns if key not in common]
    for key in others:
        if not key.startswith("baseline/"):
            lacking = next(part for part in parts if key not in part.columns)
            raise UserError(
                "predictions of different tasks or versions cannot be pooled: those of "
                f"{', '.join(np.unique(lacking.models))} have no column {key!r}. Remove the older "
                "ones, and run their stage again"
            )
    if others:
        logging.warning(
            "Not all folds have the baselines %s, because some were made by an earlier version of "
            "thermo_jax. These baselines are left out. Run the earlier folds again to have them",
            ", ".join(dict.fromkeys(key.removeprefix("baseline/") for key in others)),
        )
    return Predictions.concatenate(
        [dataclasses.replace(part, columns={k: part.columns[k] for k in common}) for part in parts]
    )
