"""What the models found out about one thermogram, with and without its pixels."""

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from thermo_jax.data.picture import Picture
from thermo_jax.inference.probe import Values
from thermo_jax.inference.regions import RegionMeasurement, differences, region_rows


class Panel(NamedTuple):
    """A part of the overlay's file: one picture with its heading and its scale.

    Attributes:
      box: left, top, right and bottom in pixels of the file.
      picture: the same of the thermogram itself, relative to the box: from 0 to 1.
    """

    title: str
    box: tuple[int, int, int, int]
    picture: tuple[float, float, float, float]


class Overlay(NamedTuple):
    """The file that `overlay.write_overlay` wrote, and what a page needs to show its panels.

    Attributes:
      values: the temperatures for a page, from `probe.encode_values`; None for colours.
      classes: the indexes of the regions that were drawn.
    """

    path: str | os.PathLike
    panels: tuple[Panel, ...]
    values: Values | None
    classes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The results of the models for one thermogram, without its pixels.

    Attributes:
      patient: None if nobody is known.
      shape: height and width, pixels.
      celsius: whether the thermogram has temperatures.
      probabilities: of sick, by classifier; empty if no classifier can read the thermogram.
      measurements: from `regions.measure_regions`; empty if no segmenter can read it.
      doubts: why it may not show two breasts from the front, see `plausibility.py`; () if nothing
        speaks against it, or if it was not checked.
      region_doubts: why the regions that the user's segmenters found cannot be right, although the
        picture itself is not in doubt.
      notes: those of the picture, all doubts, and notes about models that cannot read it or were
        not trained on its view.
      is_frontal: whether it may be a frontal view; others have no sides to compare.
      mirrored: whether it is a mirrored copy, whose left is the right of the original.
      counts: whether the thermogram counts for the patient's mean, which it does if there is no
        doubt, and every classifier was trained on its view.
      overlay: the picture that was drawn; None if there is none.
    """

    name: str
    patient: str | None
    shape: tuple[int, int]
    celsius: bool
    probabilities: dict[str, float]
    measurements: list[RegionMeasurement]
    doubts: tuple[str, ...] = ()
    region_doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_frontal: bool = True
    mirrored: bool = False
    counts: bool = True
    overlay: Overlay | None = None

    @property
    def probability(self) -> float | None:
        """The probability of sick: the mean of the classifiers."""
        return float(np.mean(list(self.probabilities.values()))) if self.probabilities else None

    @property
    def regions(self) -> list[dict[str, Any]]:
        """A dictionary for each region, the rows of regions.csv: `pandas.DataFrame(x.regions)`."""
        return region_rows(self.measurements)

    @property
    def differences(self) -> dict[str, float]:
        """Image left minus image right in degrees C, see `regions.differences`.

        {} if the thermogram or its regions are in doubt, or if it is no frontal view.
        """
        if self.doubts or self.region_doubts or not self.is_frontal:
            return {}
        return differences(self.measurements)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Prediction(Finding):
    """The results of the models for one thermogram, and its pixels.

    Attributes:
      file: the path of its main file, relative to the user's folder.
      evidence: by classifier, at the size of its images (which include repeated edges): the exact
        contribution of each pixel to the logit, without the bias.
      label_map: class indexes at the picture's size, from the segmenters' mean probabilities.
      models_note: what readers must know about the models that drew the regions; "" if nothing.
    """

    picture: Picture
    file: str
    evidence: dict[str, Float[np.ndarray, "eh ew"]]
    label_map: UInt8[np.ndarray, "h w"] | None
    models_note: str = ""

    def __repr__(self) -> str:
        height, width = self.shape
        parts = [repr(self.name), f"{width} x {height} {self.picture.kinds[0]}"]
        if self.patient is not None:
            parts.insert(1, f"patient {self.patient}")
        if self.probability is not None:
            parts.append(f"probability of sick {self.probability:.3f}")
        if self.label_map is not None:
            parts.append(f"{len(self.measurements)} regions")
        doubts = self.doubts or self.region_doubts
        parts += [f"in doubt: {'; '.join(doubts)}"] if doubts else []
        return f"Prediction({', '.join(parts)})"

    def plot(self, *, colormap: str = "inferno") -> list[Any]:
        """Draws the thermogram, its regions and the evidence; returns matplotlib's axes."""
        from thermo_jax.inference.overlay import show_overlay  # imports matplotlib

        return show_overlay(self, colormap=colormap)

    def finding(self, *, overlay: Overlay | None) -> Finding:
        """The results without the pixels, and the picture that was drawn of them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Finding)}
        return Finding(**(values | {"overlay": overlay}))
