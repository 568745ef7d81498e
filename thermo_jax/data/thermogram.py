"""One thermogram: its patient, date, view and diagnosis, and the paths of its pixels.

A `Thermogram` contains no pixels; `picture.load_pixels` reads them. The forms of file names are
those of DMR-IR (Silva et al. 2014, doi 10.1166/jmihi.2014.1226).
"""

import dataclasses
import datetime
import functools
import pathlib
import re
from collections.abc import Sequence

from thermo_jax.errors import UserError

HEALTHY, SICK, UNLABELLED = 0, 1, -1
LABEL_NAMES = {HEALTHY: "healthy", SICK: "sick", UNLABELLED: "unlabelled"}

VIEW_NAMES = {0: "unknown", 1: "frontal", 2: "right 45", 3: "right 90", 4: "left 45", 5: "left 90"}
PROTOCOL_NAMES = {"S": "static", "D": "dynamic", "": "unknown"}

GRAY_SHAPE = (480, 640)  # pixels, rows x columns, of a gray thermogram and of a temperature matrix
HEAT_SHAPE = (120, 160)  # pixels of a heatmap ("snap")

# Left and right are sides of the *image*: on an unmirrored frontal view, image left is the
# patient's right. The order is that of DMR-IR's annotation file, which calls background "ROI".
CLASS_NAMES = (
    "left_breast",
    "right_breast",
    "left_nipple",
    "right_nipple",
    "left_armpit",
    "right_armpit",
    "background",
    "neck",
)
BACKGROUND = CLASS_NAMES.index("background")
MIRRORED_CLASSES = (1, 0, 3, 2, 5, 4, 6, 7)  # what each class becomes in a mirrored image

# Kind of pixels -> the field of a `Thermogram` that contains its path.
PATH_FIELDS = {"gray": "gray_path", "heat": "heat_path", "temperatures": "temperature_path"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotation:
    """One annotated region, as polygons or as a mask.

    Attributes:
      class_index: an index of `CLASS_NAMES`.
      rings: (x, y) vertices of polygons, pixels of the annotated image.
      runs: run lengths of a mask, column by column, of pixels outside and inside in turn (the
        uncompressed form of COCO).
    """

    class_index: int
    rings: tuple[tuple[tuple[float, float], ...], ...] = ()
    runs: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsedName:
    """The parts of a file name; 0, "", -1 and None stand for a part that it does not contain."""

    patient: str | None = None  # four digits
    visit: int = 0
    view: int = 0  # key of VIEW_NAMES
    protocol: str = ""  # key of PROTOCOL_NAMES
    date: str = ""  # ISO
    frame: int = -1  # 00..19 for dynamic
    mirrored: bool = False  # a mirrored copy ("R" before a known name): same patient

    @property
    def complete(self) -> bool:
        """Whether the name has every part of DMR-IR's present form, with possible values."""
        return bool(self.visit and self.view and self.protocol and self.date and self.frame >= 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thermogram(ParsedName):
    """Metadata of one thermogram. Paths are absolute; None if that kind of pixels is missing."""

    name: str  # unique in its data set: path relative to the root, without suffix, "/" separated
    files: tuple[pathlib.Path, ...] = ()  # all files of this name; a scan opens them
    frame_in_file: int = 0  # 0, 1, ... within a file that is a stack of several frames
    shape: tuple[int, int] = GRAY_SHAPE  # pixels, rows x columns, of the file that is read
    patient: str  # "0001", or "folder:<relative folder>" if the patient is unknown
    patient_known: bool  # False: used for pretraining only
    label: int = UNLABELLED
    gray_path: pathlib.Path | None = None
    heat_path: pathlib.Path | None = None
    temperature_path: pathlib.Path | None = None
    mean_temperature: float | None = None  # degrees C; None if there is no matrix
    regions: tuple[Annotation, ...] = ()  # in drawing order; empty = not annotated
    regions_shape: tuple[int, int] = GRAY_SHAPE  # rows x columns of the image that was annotated
    recovered: bool = False  # whether its gray levels come from the colours of a known palette
    notes: tuple[str, ...] = ()  # what the reader decided about its files

    @property
    def stack(self) -> str:
        """The name of the stack of which the thermogram is a frame; "" for another file."""
        return match[1] if (match := _FRAME.fullmatch(self.name)) else ""

    @property
    def known_patient(self) -> str | None:
        """The patient; None if unknown."""
        return self.patient if self.patient_known else None

    @property
    def paths(self) -> dict[str, pathlib.Path]:
        """The files that exist, by the kind of their pixels: "gray", "heat", "temperatures"."""
        paths = {kind: getattr(self, field) for kind, field in PATH_FIELDS.items()}
        return {kind: path for kind, path in paths.items() if path is not None}

    def origin(self, data_type: str) -> str:
        """How the image of a data type, "gray" or "heat", is made; "" if it cannot be made."""
        if data_type == "heat" and self.heat_path not in (None, self.gray_path):
            return "stored heatmaps"
        if data_type == "gray" and self.gray_path is not None and not self.recovered:
            return "gray pictures"
        if self.temperature_path is not None:
            return "rendered from temperatures"
        if self.recovered:
            return "recovered from a colour palette"
        return "rendered from gray pictures" if self.gray_path == self.heat_path else ""


class DataError(UserError):
    """A source file that cannot be used.

    `kind` is a key of `data_report.KINDS`; `size` is "rows x columns", or "" if they are unknown.
    """

    def __init__(self, kind: str, file: object, detail: str, *, size: str = ""):
        super().__init__(f"{file}: {detail}")
        self.kind, self.file, self.detail, self.size = kind, str(file), detail, size

    def __reduce__(self):  # so that processes can send it
        return functools.partial(DataError, size=self.size), (self.kind, self.file, self.detail)


_SUFFIX = re.compile(r"(\.(jpe?g|png|tiff?|bmp|webp|gif|txt|csv|asc|np[yz]))+$", re.IGNORECASE)
_FRAME = re.compile(r"(.*)\.frame\d{2,}", re.DOTALL)  # what `frame_name` writes
_SNAP = re.compile(r"_snap$", re.IGNORECASE)
_NAMES = tuple(
    re.compile(f"(?P<mirrored>R)?{pattern}", re.IGNORECASE)
    for pattern in (
        r"T(?P<patient>\d{1,4})\.(?P<visit>\d{1,2})\.(?P<view>\d{1,2})\.(?P<protocol>[SD])"
        r"\.(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})\.(?P<frame>\d{1,2})",
        # Older exports; V is the volunteer, that is, the patient.
        r"T(?P<frontal>FRON)_V(?P<patient>\d{1,4})"
        r"_(?P<day>\d{1,2})-(?P<month>\d{1,2})-(?P<year>\d{4})_(?P<frame>\d{1,2})",
        # Names that the camera gives: a date and a running number, no patient.
        r"IR_(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})_\d+",
        # Copies of the database on other sites: patient-frame, and matrices named T0001.txt.
        r"(?P<patient>\d{1,4})-(?P<frame>\d{1,2})",
        r"T(?P<patient>\d{1,4})",
    )
)
_PATIENT_FOLDER = re.compile(r"(?:T|P|V|ID|PAT|PATIENT|PACIENTE)?[ _#-]*(\d{1,4})", re.IGNORECASE)


def split_name(file_name: str) -> tuple[str, bool]:
    """Returns a file's name without its suffix and `_snap`, and whether it had `_snap`.

    Only suffixes of thermograms are removed, because the names themselves contain dots.
    """
    stem = _SUFFIX.sub("", file_name) or file_name
    bare = _SNAP.sub("", stem) or stem  # a file may be called just _snap.jpg
    return bare, bare != stem


def stem_of(path: pathlib.PurePath) -> str:
    """A file's name without suffix and `_snap`."""
    return split_name(path.name)[0]


def without_suffix(path: pathlib.PurePath) -> pathlib.PurePath:
    """A path whose last part is without suffix and `_snap`, as names of thermograms are."""
    return path.parent / stem_of(path)


def parse_name(file_name: str) -> ParsedName | None:
    """Reads a DMR-IR file name of the present form or an older one; None if it has no such form.

    A view outside 1..5 is returned as 0 (unknown), a date that does not exist as "".
    """
    stem, _ = split_name(file_name)
    match = next(filter(None, (pattern.fullmatch(stem) for pattern in _NAMES)), None)
    if match is None:
        return None
    parts = match.groupdict()
    try:
        date = datetime.date(*(int(parts[name]) for name in ("year", "month", "day"))).isoformat()
    except (KeyError, ValueError):
        date = ""
    view = int(parts.get("view", "frontal" in parts))  # frontal is view 1
    return ParsedName(
        patient=f"{int(parts['patient']):04d}" if "patient" in parts else None,
        visit=int(parts.get("visit", 0)),
        view=view if view in VIEW_NAMES else 0,
        protocol=parts.get("protocol", "").upper(),
        date=date,
        frame=int(parts.get("frame", -1)),
        mirrored=parts["mirrored"] is not None,
    )


def patients_of_folders(folders: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (sure, unsure) patients in the folder names of a path, innermost folder first.

    Names of four digits (0001) or with a prefix (T1, patient 1) are sure. A folder named 1 is
    unsure: it may also be a visit or a fold.
    """
    sure: list[str] = []
    unsure: list[str] = []
    for folder in reversed(folders):
        if patient := patient_of_folder(folder):
            short = len(folder.strip()) < 4 and folder.strip().isdigit()
            (unsure if short else sure).append(patient)
    return sure, unsure


def frame_name(name: str, frame: int) -> str:
    """The name of the thermogram that is one frame of a file."""
    return f"{name}.frame{frame:02d}"


def contradiction(patient: str | None, folders: Sequence[str]) -> str:
    """Returns a message if a file name and its folders name different patients; else ""."""
    sure, unsure = patients_of_folders(folders)
    if patient is None or not sure or patient in sure + unsure:
        return ""
    return f"name says patient {patient}, folder says {sure[0]}"


def patient_of_folder(folder_name: str) -> str | None:
    """Returns the patient in a folder name (`0001`, `1`, `T0001`, `patient 1`), or None.

    1900 to 2099 are years, not patients.
    """
    match = _PATIENT_FOLDER.fullmatch(folder_name.strip())
    if match is None or 1900 <= int(match[1]) <= 2099:
        return None
    return f"{int(match[1]):04d}"
