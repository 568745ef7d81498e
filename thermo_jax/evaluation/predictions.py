"""What a trained decoder said of images, kept so that scores can be pooled over folds.

One row per image. Columns of a classifier:

    labels               int32, 0 healthy, 1 sick
    probabilities        float64, of Sick
    threshold/<name>     float64, an operating point of this row's model, chosen on validation data
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
from etils import epath

from thermo_jax.data.examples import Examples
from thermo_jax.errors import UserError
from thermo_jax.files import write_whole

_ROWS = ("names", "patients", "views", "protocols", "dates", "models", "repeats")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """Row i of everything is the same image, judged by the same model."""

    names: np.ndarray  # str [N]
    patients: np.ndarray  # str [N]
    views: np.ndarray  # int32 [N]
    protocols: np.ndarray  # str [N]
    dates: np.ndarray  # str [N], ISO, "" = unknown
    models: np.ndarray  # str [N], which model (fold) judged the row
    repeats: np.ndarray  # int32 [N], in which repeat of the cross-validation, from 0
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, examples: Examples, *, model: str, columns: dict[str, np.ndarray]) -> "Predictions":
        """One model's `columns` for a table of examples."""
        return cls(
            names=np.array(examples.names, str),
            patients=np.array(examples.patients, str),
            views=np.asarray(examples.views),
            protocols=np.array(examples.protocols, str),
            dates=np.array(examples.dates, str),
            models=np.array([model] * len(examples), str),
            repeats=np.zeros(len(examples), np.int32),
            columns=columns,
        )

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """The columns whose keys start with the prefix, by the rest of the key."""
        return {
            key.removeprefix(prefix): column
            for key, column in self.columns.items()
            if key.startswith(prefix)
        }

    def save(self, path: str | os.PathLike) -> epath.Path:
        """Writes a compressed .npz, whole or not at all; no pickle."""
        rows = {name: getattr(self, name) for name in _ROWS}
        file = io.BytesIO()  # a bucket takes whole files only
        np.savez_compressed(file, **rows, **{f"column:{k}": v for k, v in self.columns.items()})
        return write_whole(path, file.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Predictions":
        """Reads what `save` wrote. UserError, naming the file, if it is something else."""
        try:
            data = io.BytesIO(epath.Path(path).read_bytes())
            with np.load(data, allow_pickle=False) as file:
                arrays = dict(file)
            columns = {
                key.removeprefix("column:"): arrays.pop(key)
                for key in list(arrays)
                if key.startswith("column:")
            }
            # Files of the first format knew no repeats.
            arrays.setdefault("repeats", np.zeros(len(arrays["names"]), np.int32))
            return cls(**arrays, columns=columns)
        except FileNotFoundError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds
            raise UserError(
                f"{path} holds no predictions ({error}): remove it, and run the stage again"
            ) from error


def pool(parts: Sequence[Predictions]) -> Predictions:
    """All rows of several models; every part has the same columns.

    Raises:
      ValueError: an image was judged twice by models of one name, or columns differ.
    """
    first = parts[0].columns.keys()
    if any(part.columns.keys() != first for part in parts):
        raise ValueError("predictions of different tasks cannot be pooled")
    pooled = Predictions(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ROWS},
        columns={key: np.concatenate([part.columns[key] for part in parts]) for key in first},
    )
    judged = list(zip(pooled.models.tolist(), pooled.names.tolist(), strict=True))
    if len(set(judged)) < len(judged):
        raise ValueError("an image was judged twice by one model")
    return pooled
