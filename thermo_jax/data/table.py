"""The table type of the package: one row per image, with its name, its patient and other values."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Self

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of images in host memory; row i of every array is about the same image.

    A subclass may add fields. Those that are arrays have one entry per row, too.
    """

    names: np.ndarray  # str [N]
    patients: np.ndarray  # str [N]
    views: np.ndarray  # int32 [N], keys of VIEW_NAMES
    protocols: np.ndarray  # str [N], keys of PROTOCOL_NAMES
    dates: np.ndarray  # str [N], ISO, "" = unknown
    columns: dict[str, np.ndarray]  # [N, ...]

    def __post_init__(self):
        for name in ("names", "patients", "protocols", "dates"):  # may be given as lists
            object.__setattr__(self, name, np.asarray(getattr(self, name), str))

    def __len__(self) -> int:
        return len(self.names)

    def who(self) -> dict[str, np.ndarray]:
        """The fields that are arrays, which identify each row."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def take(self, rows: Sequence[int] | np.ndarray) -> Self:
        """A table of the rows with these indices, in this order."""
        rows = np.asarray(rows, np.int64).reshape(-1)
        return dataclasses.replace(
            self,
            **{name: values[rows] for name, values in self.who().items()},
            columns={key: self._of_rows(column, rows) for key, column in self.columns.items()},
        )

    @staticmethod
    def _of_rows(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The rows of a column, as `take` keeps them."""
        return column[rows]

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """A table of the rows of several tables, which have the same columns."""
        first = tables[0]
        return dataclasses.replace(
            first,
            **{
                name: np.concatenate([table.who()[name] for table in tables])
                for name in first.who()
            },
            columns={
                key: np.concatenate([table.columns[key] for table in tables])
                for key in first.columns
            },
        )

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """The columns whose keys start with the prefix, by the rest of the key."""
        return {
            key.removeprefix(prefix): column
            for key, column in self.columns.items()
            if key.startswith(prefix)
        }

    def rows_of(self, names: Sequence[str]) -> np.ndarray:
        """The indices (int64) of the rows with these names, in the order of the names."""
        row_of = {name: row for row, name in enumerate(self.names)}
        return np.array([row_of[name] for name in names], np.int64)

    def rows_of_patients(self, patients: Collection[str]) -> np.ndarray:
        """The indices (int64) of the rows of these patients."""
        return np.flatnonzero([patient in patients for patient in self.patients])
