"""The cells of `thermograms.csv`: text -> paths, patients, labels, views, dates and numbers."""

import datetime
import pathlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Any

from thermo_jax.data.class_folders import label_of_class, plain
from thermo_jax.data.data_report import safe_cell
from thermo_jax.data.file_listing import FileListing
from thermo_jax.data.name_parts import read_parts, view_of_words
from thermo_jax.data.thermogram import UNLABELLED, VIEW_NAMES

_FORMULA = re.compile(r"'[=+\-@\t\r]")
_MOST_CHARACTERS = 100  # of a patient's name


class CellError(Exception):
    """A cell that cannot be used; the message says what was expected."""

    kind = "bad-table-row"


class AbsentFileError(CellError):
    """A cell names a file that does not exist; the message may suggest another one."""

    kind = "absent-file"


# ---------------------------------------------------------------- paths


class PathCells:
    """Finds the files that cells name.

    Spreadsheets and other systems may write a path in another way: with "\\" for "/", with accents
    as characters of their own, or with a quote before it, as in the proposed table.
    """

    def __init__(self, files: FileListing):
        self._root = files.root
        self._paths: dict[str, pathlib.Path] = {}
        self._similar: dict[str, str] = {}  # name of a file in lower case -> relative path
        for path in (*files.sources(), *files.others):
            name = files.relative(path)
            for text in (name, safe_cell(name)):
                self._paths.setdefault(_plain_path(text), path)
            self._similar.setdefault(_plain_path(path.name).lower(), safe_cell(name))

    def find(self, text: str, *, suffixes: Collection[str] = ()) -> pathlib.Path:
        """Returns the absolute path of the file that a cell names.

        Args:
          suffixes: those of the kinds of files that are expected; () for any.
        Raises:
          CellError: the cell is empty, or its path is not below the root or of another kind.
          AbsentFileError: there is no such file.
        """
        if not text:
            raise CellError("file '': expected a path relative to the root")
        path = self._paths.get(_plain_path(text))
        if path is None:
            relative = pathlib.PurePosixPath(_plain_path(text))
            if relative.is_absolute() or ".." in relative.parts or re.match("[A-Za-z]:", text):
                raise CellError(f"file {text[:200]!r}: expected a path below the root")
            path = self._root / relative
            if not _is_file(path):  # a hidden file, or one in a workdir, is not listed
                similar = self._similar.get(relative.name.lower())
                hint = f"; did you mean {similar!r}?" if similar else ""
                raise AbsentFileError(f"no such file{hint}")
        if suffixes and path.suffix.lower() not in suffixes:
            kinds = ", ".join(suffix[1:] for suffix in suffixes)
            raise CellError(f"file {text[:200]!r}: expected one of the kinds {kinds}")
        return path


def _plain_path(text: str) -> str:
    """A text that is the same for every way to write a path."""
    path = pathlib.PurePosixPath(unquoted(text.strip()).replace("\\", "/"))
    return unicodedata.normalize("NFC", path.as_posix())


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def unquoted(text: str) -> str:
    """A cell without the quote that stops a spreadsheet from running it as a formula."""
    return text[1:] if _FORMULA.match(text) else text


# ---------------------------------------------------------------- values


def _patient(text: str) -> str:
    if number := re.fullmatch(r"([0-9]{1,12})(\.0+)?", text):  # spreadsheets write 0007 as 7
        return f"{int(number[1]):04d}"
    if not text.isprintable() or len(text) > _MOST_CHARACTERS:
        raise CellError(f"a name of at most {_MOST_CHARACTERS} printable characters")
    return re.sub(r'[/\\:*?"<>|]', "-", text)  # the names of result files contain it


def _label(text: str) -> int:
    if plain(text) in ("unlabelled", "unlabeled", "unknown"):
        return UNLABELLED
    if (label := label_of_class(text)) is None:
        raise CellError("healthy, sick or unlabelled")
    return label


def _view(text: str) -> int:
    if number := re.fullmatch(r"([1-5])(\.0+)?", text):
        return int(number[1])
    if view := view_of_words(read_parts(text).view_words):
        return view
    names = ", ".join(f"{view} ({name})" for view, name in VIEW_NAMES.items() if view)
    raise CellError(names)


def _protocol(text: str) -> str:
    if text.upper() in ("S", "D"):
        return text.upper()
    if protocol := read_parts(text).protocol:
        return protocol
    raise CellError("S (static) or D (dynamic)")


def _number_from(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,6})(\.0+)?", text)
        if match is None or int(match[1]) < low:
            raise CellError(f"a whole number from {low} to 999999")
        return int(match[1])

    return number


_DAY_OR_MONTH = re.compile(r"([0-9]{1,2})[/.-]([0-9]{1,2})[/.-]([0-9]{4})")
_YEAR_FIRST = re.compile(r"([0-9]{4})(?:[-/.]([0-9]{1,2})(?:[-/.]([0-9]{1,2}))?)?")
_TIME = re.compile(r"[ T][0-9]{1,2}:[0-9:.]{2,15}$")  # 2019-05-03 00:00:00
_EXPECTED_DATE = "YYYY-MM-DD"


def is_day_first(dates: Iterable[str]) -> bool | None:
    """Whether dates such as 05/03/2019 start with the day, by those that can be read in one way.

    Dates with dots (05.03.2019) always do. None if the dates do not show it, or contradict each
    other.
    """
    matches = [match for date in dates if (match := _DAY_OR_MONTH.fullmatch(date))]
    day_first = any(int(match[1]) > 12 or "." in match[0] for match in matches)
    month_first = any(int(match[2]) > 12 for match in matches)
    return day_first if day_first != month_first else None


def _date_reader(day_first: bool | None) -> Callable[[str], str]:
    def date(text: str) -> str:
        text = _TIME.sub("", text)
        iso = _YEAR_FIRST.fullmatch(text) or re.fullmatch(r"([0-9]{4})([0-9]{2})([0-9]{2})", text)
        other = _DAY_OR_MONTH.fullmatch(text)
        if iso:
            year, month, day = (int(part or 1) for part in iso.groups())
        elif other:
            first, second, year = (int(part) for part in other.groups())
            is_day = day_first if day_first is not None else is_day_first([text])
            if is_day is None and first != second:
                raise CellError(f"{_EXPECTED_DATE}, since day and month are not clear")
            day, month = (first, second) if is_day else (second, first)
        else:
            raise CellError(_EXPECTED_DATE)
        try:
            full = datetime.date(year, month, day).isoformat()
        except ValueError:
            raise CellError(f"{_EXPECTED_DATE}, a day that exists") from None
        # "2019" and "2019-05" are dates of which the rest is not known.
        return full if other or iso[3] else full[:7] if iso[2] else full[:4]

    return date


def readers(*, day_first: bool | None) -> dict[str, Callable[[str], Any]]:
    """Column -> the function that reads its cells, and raises `CellError`."""
    return {
        "patient": _patient,
        "label": _label,
        "view": _view,
        "protocol": _protocol,
        "date": _date_reader(day_first),
        "visit": _number_from(1),
        "frame": _number_from(0),
    }
