"""Columns that are not in memory: their rows are read from prepared records when they are taken.

A streamed column has the length, shape and dtype of the NumPy column that it replaces, and the
same values: `column[rows]` reads these rows, and `subset` makes a column of some rows.
"""

import concurrent.futures
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

# Memory that examples may use, as a share of the machine's, if config.data.memory_gb is negative.
_SHARE = 0.5
_NUM_THREADS = min(os.cpu_count() or 1, 16)
_ROWS_AT_ONCE = 64  # of an iteration
_CGROUP = pathlib.Path("/sys/fs/cgroup")  # limits of a control group, of a container for example


class StreamedColumn:
    """A column of bytes whose rows are read when they are taken.

    Args:
      read: row -> its value, uint8 [...]; several threads call it at once.
      shape: (N, ...).
      rows: the N numbers that are given to `read`; default 0 to N - 1.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        shape: tuple[int, ...],
        *,
        rows: np.ndarray | None = None,
    ):
        self.shape = shape
        self._read = read
        self._rows = np.arange(shape[0]) if rows is None else rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """Reads one row, or several rows in parallel; a row that is repeated is read once."""
        chosen = self._rows[index]
        positions: dict[int, list[int]] = {}
        for position, row in enumerate(np.atleast_1d(chosen).tolist()):
            positions.setdefault(row, []).append(position)
        values = np.empty((np.size(chosen), *self.shape[1:]), self.dtype)

        def fill(rows: list[int]) -> None:
            for row in rows:
                value = self._read(row)
                for position in positions[row]:
                    values[position] = value

        distinct = list(positions)
        shares = [distinct[start::_NUM_THREADS] for start in range(_NUM_THREADS)]
        for _ in _threads().map(fill, filter(None, shares)):
            pass  # raises the error of a row
        return values if np.ndim(chosen) else values[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Reads all rows, some at a time."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self[start : start + _ROWS_AT_ONCE]

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("a streamed column may be larger than the memory: take some of its rows")

    def subset(self, index: slice | np.ndarray) -> "StreamedColumn":
        """A column of some of the rows, which are not read."""
        rows = self._rows[index]
        return StreamedColumn(self._read, (len(rows), *self.shape[1:]), rows=rows)


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    """The threads that read rows."""
    return concurrent.futures.ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="read_rows")


Column = np.ndarray | StreamedColumn


def subset(column: Column, index: slice | np.ndarray) -> Column:
    """Some rows of a column, in this order: a copy in memory, or a streamed column."""
    return column.subset(index) if isinstance(column, StreamedColumn) else column[index]


def rows_of(column: Column, index: np.ndarray) -> Iterator[np.ndarray]:
    """Yields some rows of a column, in this order; few of them are in memory at once."""
    if isinstance(column, StreamedColumn):
        return iter(column.subset(index))
    return (column[row] for row in index)


def is_streamed(columns: Mapping[str, Column]) -> bool:
    """Whether a column is streamed."""
    return any(isinstance(column, StreamedColumn) for column in columns.values())


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------


def memory_for_examples(limit_gb: float) -> int:
    """How many bytes of memory examples may use.

    Args:
      limit_gb: the configured limit; if it is negative, half of the memory of the machine.
    """
    return int(limit_gb * 1e9) if limit_gb >= 0 else int(_SHARE * host_memory_bytes())


def host_memory_bytes() -> int:
    """The size of the machine's memory, or of the part that its control group may use (Linux)."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1
        try:
            sizes.append(int((_CGROUP / file).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(sizes)


def num_bytes(num_rows: int, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The size in memory of uint8 columns."""
    return num_rows * sum(math.prod(shape) for shape in shapes.values())
