"""The pixels of one thermogram: its files put together, and the images that models read.

    files of one name -> Picture: temperatures, gray levels, colours, notes, at their own size
                      -> gray [480,640,1] or heat [120,160,3] for the models

Files of one name in one folder (`a.jpg`, `a_snap.jpg`, `a.txt`) are one thermogram. What has no
file is rendered: gray and heat from temperatures, else heat from gray (SPEC section 9).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from thermo_jax.data import grids, radiometry
from thermo_jax.data.data_report import Oddity, Reading
from thermo_jax.data.file_listing import FileListing
from thermo_jax.data.reader import (
    AS_RECOGNISED,
    NO_TEMPERATURES,
    Content,
    ReaderSettings,
    count_frames,
    read_file,
)
from thermo_jax.data.thermogram import HEAT_SHAPE, DataError, Thermogram, frame_name, split_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """One thermogram with its own size; it has at least one kind of pixels.

    Attributes:
      temperatures: degrees C.
      levels: the gray levels of a picture.
      colour: the colours of a camera or a program, of no known palette, or of a `_snap` file.
      good: the pixels whose temperatures were measured; None if all were.
      sources: the file of each kind of pixels ("temperatures", "gray", "colour").
      oddities: facts that a reader of the results must know; they name files by their whole paths.
    """

    temperatures: Float32[np.ndarray, "h w"] | None = None
    levels: UInt8[np.ndarray, "h w"] | None = None
    colour: UInt8[np.ndarray, "ch cw 3"] | None = None
    good: Bool[np.ndarray, "h w"] | None = None
    sources: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    oddities: tuple[Oddity, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The texts of the oddities."""
        return tuple(dict.fromkeys(oddity.note for oddity in self.oddities))

    @property
    def main_file(self) -> pathlib.Path:
        """The file of `pixels`."""
        return self.sources[self.kinds[0]]

    @property
    def pixels(self) -> np.ndarray:
        """The pixels that determine the picture's size: temperatures, else gray, else colour."""
        return self._pixels_of_kinds[self.kinds[0]]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of pixels that were read: "temperatures", "gray", "colour", in this order."""
        return tuple(self._pixels_of_kinds)

    @property
    def _pixels_of_kinds(self) -> dict[str, np.ndarray]:
        kinds = {"temperatures": self.temperatures, "gray": self.levels, "colour": self.colour}
        return {kind: pixels for kind, pixels in kinds.items() if pixels is not None}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pixels.shape[:2]

    @property
    def sizes(self) -> list[str]:
        """The size of each kind of pixels, such as "gray 480x640"."""
        return [
            f"{'heat' if kind == 'colour' else kind} {pixels.shape[0]}x{pixels.shape[1]}"
            for kind, pixels in self._pixels_of_kinds.items()
        ]

    @property
    def grid(self) -> grids.Grid:
        """The position of the picture in a frame of 4:3."""
        return grids.grid_of(*self.shape)

    @property
    def gray(self) -> UInt8[np.ndarray, "h w"] | None:
        """Gray levels at the picture's size, rendered from temperatures if no file has them.

        None for colours of no known palette.
        """
        if self.levels is not None:
            return self.levels
        if self.temperatures is None:
            return None
        return radiometry.render_gray(self.temperatures, limits=self.limits)[..., 0]

    @property
    def heat(self) -> UInt8[np.ndarray, "h w 3"]:
        """Colours at the picture's size, rendered with the colour map jet if no file has them."""
        if self.colour is not None:
            return self.colour
        scaled = radiometry.scaled(self._scale_values, self.limits)
        return radiometry.colours(scaled, colormap="jet")

    @property
    def mean_temperature(self) -> float | None:
        """The mean of the measured pixels, degrees C; None without temperatures."""
        if self.temperatures is None:
            return None
        return radiometry.measured_mean(self.temperatures, self.good)

    def plot(self, *, colormap: str = "inferno") -> Any:
        """Draws the thermogram with its scale; returns matplotlib's axes."""
        import matplotlib.pyplot as plt

        axes = plt.subplots()[1]
        if self.colour is not None and len(self.kinds) == 1:
            axes.imshow(self.colour)
        else:
            low, high = self.limits
            drawn = axes.imshow(self._scale_values, cmap=colormap, vmin=low, vmax=high)
            is_celsius = self.temperatures is not None
            axes.figure.colorbar(drawn, label="degrees C" if is_celsius else "gray level")
        axes.set_axis_off()
        return axes

    @property
    def _scale_values(self) -> np.ndarray:
        return self.levels if self.temperatures is None else self.temperatures

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest measured temperature or gray level."""
        values = self._scale_values
        measured = values if self.good is None else values[self.good]
        return float(measured.min()), float(measured.max())

    def model_image(
        self, data_type: str, *, colormap: str = "jet"
    ) -> UInt8[np.ndarray, "mh mw mc"]:
        """The image for models: gray [480,640,1] or heat [120,160,3].

        Raises:
          DataError: the models are gray, and the thermogram has only colours.
        """
        if data_type == "heat" and self.colour is not None:
            colour_grid = grids.grid_of(*self.colour.shape[:2])
            return grids.to_model(self.colour, colour_grid, shape=HEAT_SHAPE)
        if data_type == "gray" and self.levels is not None:
            return grids.to_model(self.levels, self.grid)[..., np.newaxis]
        if self.temperatures is None and self.levels is None:
            file = next(iter(self.sources.values()), "thermogram")
            detail = (
                "a gray model cannot read colours of no known palette: give temperatures or a "
                "gray image"
            )
            raise DataError("unknown-palette", file, detail)
        values = grids.to_model(self._scale_values.astype(np.float32), self.grid)
        if data_type == "gray":
            return radiometry.render_gray(values, limits=self.limits)
        return radiometry.render_heat(values, colormap=colormap, limits=self.limits)


def read_picture(
    files: Iterable[pathlib.Path], settings: ReaderSettings = AS_RECOGNISED, *, frame: int = 0
) -> tuple[Picture | None, list[DataError]]:
    """Reads the files of one thermogram; of each kind of pixels, the first file is used.

    Args:
      frame: the number, from 0, in a file of several frames.
    Returns:
      The picture, None if no file can be used, and the errors of the files that are left out.
    """
    contents: dict[pathlib.Path, Content] = {}
    errors: list[DataError] = []
    for path in files:
        try:
            contents[path] = read_file(path, settings, frame=frame)
        except DataError as error:
            errors.append(error)
        except OSError as error:
            errors.append(DataError("unreadable-image", path, f"cannot be read ({error})"))
    return (combine(contents, frame=frame) if contents else None), errors


def read_one(
    path: pathlib.Path, settings: ReaderSettings = AS_RECOGNISED, *, frame: int = 0
) -> Picture:
    """Reads a thermogram of one file.

    Raises:
      DataError: the file cannot be used.
      FileNotFoundError: there is no such file.
    """
    return combine({path: read_file(path, settings, frame=frame)}, frame=frame)


class Pixels(NamedTuple):
    """What models read of one thermogram; None for a kind that it does not have."""

    gray: UInt8[np.ndarray, "480 640 1"] | None = None
    heat: UInt8[np.ndarray, "120 160 3"] | None = None
    temperatures: Float32[np.ndarray, "480 640"] | None = None  # degrees C


def load_pixels(
    record: Thermogram,
    settings: ReaderSettings = AS_RECOGNISED,
    *,
    colormap: str = "jet",
    wanted: Collection[str] = Pixels._fields,
) -> Pixels:
    """Reads the files of a scanned thermogram; renders gray and heat if they have no file.

    Args:
      colormap: matplotlib's name of the colours of rendered heatmaps.
      wanted: the kinds to read or render; the others are None.
    Raises:
      DataError: a file of the record cannot be used.
      UserError: an unknown colour map.
    """
    paths = record.paths
    read = functools.cache(
        lambda path: read_one(path, settings, frame=record.frame_in_file)
    )  # one file may serve all kinds
    pixels = {}
    for kind in wanted:
        path = paths.get(kind) or paths.get("temperatures")
        if path is None:
            continue
        if kind == "temperatures":
            pixels[kind] = grids.to_model(read(path).temperatures, read(path).grid)
        else:
            pixels[kind] = read(path).model_image(kind, colormap=colormap)
    return Pixels(**pixels)


def with_frames(
    records: Iterable[Thermogram],
    *,
    files: FileListing,
    chosen: Mapping[str, int] = MappingProxyType({}),
) -> Reading[list[Thermogram]]:
    """Replaces each thermogram whose file is a stack by one thermogram for each frame.

    Args:
      chosen: name of a thermogram -> the only frame to use.
    """
    kept = []
    for record in records:
        counts = {path: count_frames(path) for path in record.files}
        stack = max(counts, key=counts.get)
        if counts[stack] == 1:
            kept.append(record)
            continue
        for path in record.files:
            if path != stack:
                yield Oddity("unused-file", files.relative(path), f"left out: {stack.name} is used")
        record = dataclasses.replace(record, files=(stack,))
        if record.name in chosen:
            kept.append(dataclasses.replace(record, frame_in_file=chosen[record.name]))
            continue
        for frame in range(counts[stack]):
            name = frame_name(record.name, frame)
            changes = {"name": name, "frame": frame, "frame_in_file": frame}
            kept.append(dataclasses.replace(record, **changes))
    return kept


def combine(contents: dict[pathlib.Path, Content], *, frame: int = 0) -> Picture:
    """Puts the contents of the files of one thermogram together."""
    used: dict[str, pathlib.Path] = {}
    oddities: list[Oddity] = []
    for path, content in contents.items():
        if used.setdefault(content.kind, path) != path:
            oddities.append(_unused(path, f"{used[content.kind].name} is used"))
    shapes = {kind: contents[path].pixels.shape for kind, path in used.items()}
    if "temperatures" in used and "gray" in used and shapes["gray"] != shapes["temperatures"]:
        oddities.append(_unused(used.pop("gray"), "of another size than the temperatures"))
    if "temperatures" in used and "gray" in used and contents[used["gray"]].recovered:
        # Colours are less exact than temperatures.
        oddities.append(_unused(used.pop("gray"), "images are rendered from the temperatures"))
    if "colour" in used and len(used) > 1 and not _is_snap(used["colour"], shapes):
        oddities.append(_unused(used.pop("colour"), "heatmaps are rendered as for training"))
    for path in used.values():
        oddities += [Oddity(kind, str(path), text) for kind, text in contents[path].notes]
        if (num_frames := contents[path].num_frames) > 1:
            oddities.append(Oddity("stack", str(path), f"frame {frame} of 0..{num_frames - 1}"))
    if "temperatures" in used:
        oddities = [oddity for oddity in oddities if oddity.kind != NO_TEMPERATURES]
    pixels = {kind: contents[path].pixels for kind, path in used.items()}
    picture = Picture(
        temperatures=pixels.get("temperatures"),
        levels=pixels.get("gray"),
        colour=pixels.get("colour"),
        good=contents[used["temperatures"]].good if "temperatures" in used else None,
        sources=used,
    )
    if picture.grid.letterboxed:
        height, width = picture.shape
        text = f"{height}x{width} pixels (rows x columns) are not 4:3: edges repeated"
        oddities.append(Oddity("padded", str(picture.main_file), text))
    return dataclasses.replace(picture, oddities=tuple(oddities))


def _unused(path: pathlib.Path, reason: str) -> Oddity:
    return Oddity("unused-file", str(path), f"left out: {reason}")


def _is_snap(file: pathlib.Path, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the colours are DMR-IR's heatmap of the other pixels, by file name and aspect."""
    snap = shapes["colour"]
    shape = next(shapes[kind] for kind in ("temperatures", "gray") if kind in shapes)
    same_aspect = abs(snap[1] * shape[0] / (snap[0] * shape[1]) - 1) <= grids.TOLERANCE
    return split_name(file.name)[1] and same_aspect
