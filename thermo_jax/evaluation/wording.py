"""Phrases that tables, figures and reports share, and functions that clean text from files."""

import re
from typing import Any

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

DISCLAIMER = "research software, not a diagnostic device"

OPTIMISTIC = "optimistic: selected on test"  # printed beside the paper's protocol

SIDES_NOTE = (
    "Left and right are sides of the image: on an unmirrored frontal view, image left is the "
    "patient's right."
)

PERFECT = (  # a note for measures with the bound of `bootstrap.perfect_bound`
    "If a measure is 1 in every resample, the lower end of its interval is .025^(1/n) instead "
    "(one-sided 97.5 %). n is the number of patients whom the measure counts; for AUROC and AUPRC, "
    "of those with the rarer diagnosis."
)


def class_title(name: str) -> str:
    """The title for readers of a class name: "left_breast" -> "image-left breast"."""
    words = name.replace("_", " ")
    return f"image-{words}" if words.startswith(("left ", "right ")) else words


def printable(text: Any) -> str:
    """Text without control characters and invalid characters, which file names may contain."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def line(text: Any) -> str:
    """Printable text on one line."""
    return " ".join(printable(text).split())


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, which blank lines separate, each on one line."""
    return [line(part) for part in re.split(r"\n\s*\n", text) if part.strip()]
