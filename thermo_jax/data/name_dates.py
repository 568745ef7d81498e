"""Dates and times in the names of files and folders, so that no date is taken for a patient."""

import datetime
import re

_MONTHS = {
    **{"jan": 1, "ene": 1, "feb": 2, "fev": 2, "mar": 3, "apr": 4, "abr": 4, "may": 5, "mai": 5},
    **{"jun": 6, "jul": 7, "aug": 8, "ago": 8, "sep": 9, "set": 9, "oct": 10, "out": 10},
    **{"nov": 11, "dec": 12, "dez": 12, "dic": 12},
}
_START, _END = r"(?<![0-9])", r"(?![0-9])"
_ALONE = r"(?<![a-z0-9])(?<![a-z][-. ])"  # not the number after a prefix, as in sub-05-2019
_YEAR = r"(?P<y>(?:19|20)[0-9]{2})"
_MONTH, _DAY = r"(?P<m>[0-9]{1,2})", r"(?P<d>[0-9]{1,2})"
_MM, _DD = r"(?P<m>[0-9]{2})", r"(?P<d>[0-9]{2})"
_01_TO_12 = r"(?P<m>0[1-9]|1[0-2])"
_NAME = rf"(?P<name>{'|'.join(_MONTHS)})[a-z]{{0,7}}"
_MARK, _SAME_MARK, _GAP = r"(?P<s>[-. ])", r"(?P=s)", r"[-. ]?"
_TIME = (
    r"(?:[ t-]{1,3}[0-2]?[0-9][-.:h ][0-5][0-9](?:[-.:m ][0-5][0-9]s?)?(?![0-9])"
    r"|[ t-]?[0-2][0-9](?:[0-5][0-9]){2}(?![0-9]))?"
)
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_START}{_YEAR}{_MARK}{_MONTH}{_SAME_MARK}{_DAY}{_END}{_TIME}",  # 2019-05-03 12:30
        rf"{_START}{_DAY}{_MARK}{_MONTH}{_SAME_MARK}{_YEAR}{_END}{_TIME}",  # 3.5.2019
        rf"{_START}{_YEAR}{_MM}{_DD}(?:[0-9]{{4}}|[0-9]{{6}}){_END}",  # 20190503123000
        rf"{_START}{_YEAR}{_MM}{_DD}{_END}{_TIME}",  # 20190503
        rf"{_START}{_DD}{_MM}{_YEAR}{_END}{_TIME}",  # 03052019
        rf"{_START}{_DAY}{_GAP}(?:de )?{_NAME}{_GAP}(?:de )?{_YEAR}{_END}{_TIME}",  # 3 de maio de
        rf"{_START}{_YEAR}{_GAP}{_NAME}{_GAP}{_DAY}{_END}{_TIME}",  # 2019 May 3
        rf"(?<![a-z]){_NAME}{_GAP}{_YEAR}{_END}",  # May2019
        rf"{_START}{_YEAR}[-. ]{_01_TO_12}{_END}",  # 2019-05
        rf"{_ALONE}{_01_TO_12}[-. ]{_YEAR}{_END}",  # 05-2019
        rf"(?<![a-z0-9]){_YEAR}(?![a-z0-9])",  # 2019
    )
)
_OTHER_TIMES = re.compile(  # 03-05-19 and 12h30
    rf"{_ALONE}[0-9]{{2}}([-.])[0-9]{{2}}\1[0-9]{{2}}(?![a-z0-9])"
    r"|(?<![a-z0-9])[0-9]{1,2}h[0-9]{2}(?:m?[0-9]{2}s?)?(?![a-z0-9])"
)


def without_dates(text: str) -> tuple[str, str]:
    """(the fullest date in a text, the text with a bar for every date and time).

    A date is in ISO form: a day, a month or a year; "" if there is none.

    Args:
      text: in lower case, without accents and underscores.
    """
    found = []

    def remove(match: re.Match) -> str:
        if (date := _date(match.groupdict())) is None:
            return match[0]
        found.append(date)
        return "|"

    for pattern in _DATES:
        text = pattern.sub(remove, text)
    return max(found, key=len, default=""), _OTHER_TIMES.sub("|", text)


def _date(parts: dict[str, str | None]) -> str | None:
    """An ISO date, or None if there is no such day."""
    year, month, day = int(parts["y"]), parts.get("m"), parts.get("d")
    if name := parts.get("name"):
        month = str(_MONTHS[name])
    if month is None:
        return f"{year}"
    months, days = int(month), int(day or 1)
    if months > 12 >= days:  # month before day
        months, days = days, months
    try:
        date = datetime.date(year, months, days).isoformat()
    except ValueError:
        return None
    return date if day else date[:7]
