"""A matrix of numbers in a text file, as cameras' programs, spreadsheets and scripts write it.

Lines before or after the matrix, an index row and an index column, names of rows, quoted numbers,
decimal commas and separators at the end of lines are understood. The matrix is the largest block of
lines with equally many numbers (SPEC section 9).
"""

import collections
import os
import re
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from thermo_jax.data.thermogram import DataError
from thermo_jax.files import decoded

SMALLEST = 16  # rows and columns of the smallest matrix
_MAX_LINES = 100_000
# Characters of a line: 4096 numbers of 30 characters. Splitting 64 MB into words needs gigabytes.
_MAX_LINE = 2**17
_MAX_QUOTED = 4_000_000  # numbers in quotes; 480x640 are 0.3 million
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # those of str.splitlines
# Cells that stand for a missing number.
_MISSING = re.compile(
    r"[-*#?]*|-?nan(?:\(.*\))?|-?1\.#\w+|#?n/?a|null|none|[<>].{0,15}|ovr?|ol|over\w*|under\w*"
)
# (separator of columns, None for white space; decimal mark), in the order of preference.
_FORMS = ((";", "."), (";", ","), ("\t", "."), ("\t", ","), (",", "."), (None, "."), (None, ","))
_QUOTED = re.compile(r'"([^"]*)"')


def parse_matrix(path: str | os.PathLike, data: bytes) -> Float64[np.ndarray, "h w"]:
    """Returns the matrix in the content of a text file; NaN for missing numbers.

    Raises:
      DataError: the content is not text, or contains no block of at least 16x16 numbers.
    """
    text = decoded(data)
    if "\0" in text:
        raise DataError("unreadable-matrix", path, "not a text file")
    _check_length(path, text)
    if '"' in text:
        # Inside quotes, a comma is part of a number, not a separator.
        text = _QUOTED.sub(lambda match: match[1].strip().replace(",", "."), text)
    numbered = enumerate(text.splitlines())
    lines = {number: line for number, line in numbered if line and not line.isspace()}
    if len(lines) > _MAX_LINES:
        detail = f"{len(lines)} lines; expected at most {_MAX_LINES}"
        raise DataError("unreadable-matrix", path, detail)
    longest = max(map(len, lines.values()), default=0)
    if longest > _MAX_LINE:
        detail = f"a line of {longest} characters; expected at most {_MAX_LINE}"
        raise DataError("unreadable-matrix", path, detail)
    form = _form(list(lines.values()))
    block, others = _largest_block(lines, *form) if form else ({}, 0)
    matrix = _without_indexes(np.stack(list(block.values())) if block else np.empty((1, 0)))
    if min(matrix.shape) < SMALLEST:
        rows, columns = matrix.shape
        size = f"{rows} x {columns}" if matrix.size else "none"
        detail = (
            f"no matrix of temperatures: the largest block of numbers is {size} (rows x columns); "
            f"expected at least {SMALLEST} lines of equally many numbers"
        )
        raise DataError("unreadable-matrix", path, detail)
    if others:
        count = len(next(iter(block.values())))
        detail = (
            f"{len(block)} lines of {count} numbers, and elsewhere {others} more: the file is "
            "damaged, or contains several matrices; split it"
        )
        raise DataError("unreadable-matrix", path, detail)
    if (parts := _equal_parts(list(block))) > 1:
        detail = f"{parts} matrices of equal size with empty lines between them; split the file"
        raise DataError("unreadable-matrix", path, detail)
    return matrix


def _check_length(path: str | os.PathLike, text: str) -> None:
    """Counts lines and quotes before anything is split: each piece would need 50 bytes."""
    # A line may end with \r\r\n, and empty lines are ignored.
    num_lines = sum(map(text.count, _LINE_ENDS))
    if num_lines > 6 * _MAX_LINES:
        detail = f"{num_lines} line ends; expected at most {_MAX_LINES} lines"
        raise DataError("unreadable-matrix", path, detail)
    if (quotes := text.count('"')) > 2 * _MAX_QUOTED:
        detail = f"{quotes} quotation marks; expected at most {_MAX_QUOTED} quoted numbers"
        raise DataError("unreadable-matrix", path, detail)


def _form(lines: list[str]) -> tuple[str | None, str] | None:
    """The form in which most numbers of some typical lines can be read; None if there is none."""
    longest = sorted(lines, key=len)[-len(lines) // 4 :]
    sample = longest[:: max(1, len(longest) // 16)]
    counts = [
        sum(len(row) for line in sample if (row := _numbers(line, separator, mark)))
        for separator, mark in _FORMS
    ]
    best = max(counts, default=0)
    return _FORMS[counts.index(best)] if best else None


def _numbers(line: str, separator: str | None, mark: str) -> list[float] | None:
    """The numbers of a line; None if one of its cells is no number.

    The first cell may be a name. A last cell that is empty is not counted, because many programs
    end each line with a separator.
    """
    cells = line.split(separator)
    if separator is not None and len(cells) > 1 and not cells[-1].strip():
        cells.pop()
    to_number = _with_comma if mark == "," else float
    first = _number(cells[0].strip(), to_number)
    if first is None and len(cells) > 1:
        first = np.nan
    others = cells[1:]
    try:
        numbers = [first, *map(to_number, others)]  # the common case, which is fast
    except ValueError:
        numbers = [first, *(_number(cell.strip(), to_number) for cell in others)]
    return numbers if None not in numbers and np.isfinite(numbers).any() else None


def _with_comma(cell: str) -> float:
    if "." in cell:
        raise ValueError(f"{cell!r} has a decimal point")
    return float(cell.replace(",", "."))


def _number(cell: str, to_number: Callable[[str], float]) -> float | None:
    if _MISSING.fullmatch(cell.lower()):
        return np.nan
    try:
        return to_number(cell)
    except ValueError:
        return None


def _largest_block(
    lines: dict[int, str], separator: str | None, mark: str
) -> tuple[dict[int, np.ndarray], int]:
    """The consecutive lines with equally many numbers that have the most numbers together.

    Returns the numbers by the number of their line, and how many other lines have as many.
    """
    best: dict[int, np.ndarray] = {}
    block: dict[int, np.ndarray] = {}
    width = best_width = 0  # numbers of a line
    lengths: collections.Counter[int] = collections.Counter()
    for position, line in lines.items():
        row = _numbers(line, separator, mark)
        if row is None or len(row) != width:
            block, width = {}, len(row or ())
        if row is not None:
            lengths[width] += 1
            block[position] = np.array(row, np.float64)  # a quarter of the list's memory
            if len(block) * width > len(best) * best_width:
                best, best_width = block, width
    return best, lengths[best_width] - len(best)


def _equal_parts(positions: list[int]) -> int:
    """Into how many parts of equal length, of at least 16 lines, empty lines divide a block.

    Where every line is followed by an empty one, the block is not divided.
    """
    steps = np.diff(positions)
    starts = np.flatnonzero(steps > steps.min()) + 1
    lengths = np.diff([0, *starts, len(positions)])
    return len(lengths) if lengths.min() == lengths.max() >= SMALLEST else 1


def _without_indexes(matrix: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h2 w2"]:
    """Removes a row and a column of consecutive numbers (indexes), and empty columns.

    With an index column, the first cell of the index row is empty or a name. The column is empty if
    the lines begin with a name, or end with two separators.
    """
    if min(matrix.shape) < 2:
        return matrix
    if _counts(matrix[0]) or _counts(matrix[0, 1:]):
        matrix = matrix[1:]
    if _counts(matrix[:, 0]):
        matrix = matrix[:, 1:]
    filled = np.flatnonzero(~np.isnan(matrix).all(axis=0))
    return matrix[:, filled[0] : filled[-1] + 1] if len(filled) else matrix[:, :0]


def _counts(values: np.ndarray) -> bool:
    """Whether values are indexes: 0, 1, 2, ..., or more consecutive numbers than temperatures."""
    steps = np.diff(values)
    if len(values) > 36:  # 10..45 degrees C
        return bool((steps == 1).all() or (steps == -1).all())
    return len(values) > 1 and values[0] in (0, 1) and bool((steps == 1).all())
