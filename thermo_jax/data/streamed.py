"""Columns that are not in memory: their rows are read from prepared records when they are taken.

A streamed column has the length, shape and dtype of the NumPy column that it replaces, and the
same values: `column[rows]` reads these rows. `subset` makes a column of some rows of another one,
without a copy.
"""

import concurrent.futures
import functools
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

# Memory that examples may use, as a share of the machine's, if config.data.memory_gb is negative.
_SHARE = 0.5
_NUM_THREADS = min(
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16
)
_ROWS_AT_ONCE = 64  # are in memory while all rows are read
_CGROUPS, _OWN_CGROUPS = pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/proc/self/cgroup")


class StreamedColumn:
    """A column of bytes whose rows are read when they are taken.

    Args:
      read: row -> its value, uint8 [...]; several threads call it at once. It must not take rows of
        another streamed column, for which it could wait for ever: all columns share the threads.
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


class RowView:
    """Some rows of an array with a leading axis of rows; they are copied when they are taken."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self._array, self._rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        return self._array[self._rows[index]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._array[row] for row in self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def subset(self, index: slice | np.ndarray) -> "RowView":
        """A view of some of the rows."""
        return RowView(self._array, self._rows[index])


Column = np.ndarray | StreamedColumn | RowView


def subset(column: Column, index: slice | np.ndarray) -> Column:
    """A column of some rows, in this order. Only arrays of single numbers are copied."""
    if not isinstance(column, np.ndarray):
        return column.subset(index)
    return column[index] if column.ndim == 1 else RowView(column, np.arange(len(column))[index])


def is_streamed(columns: Mapping[str, Column]) -> bool:
    """Whether a column is streamed."""
    return any(isinstance(column, StreamedColumn) for column in columns.values())


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------


def memory_for_examples(limit_gb: float) -> int:
    """How many bytes of memory the examples of a table may use.

    Args:
      limit_gb: the configured limit; if it is negative, half of the memory of the machine. Slurm's
        processes on one machine share this half.
    """
    if limit_gb >= 0:
        return int(limit_gb * 1e9)
    tasks = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # such as 4(x2)
    return int(_SHARE * host_memory_bytes()) // int(tasks[0] if tasks else 1)


def host_memory_bytes() -> int:
    """The size of the machine's memory, or of the part that its control group may use (Linux)."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _limit_files():
        try:
            sizes.append(int(file.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(sizes)


def _limit_files() -> list[pathlib.Path]:
    """The limits of this process's control group and of those around it, of versions 1 and 2."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:  # such as 0::/a/b (version 2) or 4:memory:/a/b (version 1)
        _, kinds, path = line.split(":", 2)
        own = pathlib.PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            if not kinds:
                files.append(_CGROUPS / group / "memory.max")
            elif "memory" in kinds.split(","):
                files.append(_CGROUPS / "memory" / group / "memory.limit_in_bytes")
    return files


def num_bytes(num_rows: int, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The size in memory of uint8 columns."""
    return num_rows * sum(math.prod(shape) for shape in shapes.values())
