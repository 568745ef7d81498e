"""What the models found out about one thermogram, with and without its pixels."""

import dataclasses
import os

import numpy as np
from jaxtyping import Float, UInt8

from thermo_jax.data.picture import Picture
from thermo_jax.inference.regions import RegionMeasurement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The results of the models for one thermogram, without its pixels.

    Attributes:
      patient: None if nobody is known.
      shape: height and width, pixels.
      celsius: whether the thermogram has temperatures.
      probabilities: of sick, by classifier; empty if no classifier can read the thermogram.
      regions: from `regions.measure_regions`; empty if no segmenter can read it.
      notes: those of the picture, and notes about models that cannot read it or were not trained
        on its view.
      counts: whether the thermogram counts for the patient's mean, which it does if every
        classifier was trained on its view.
      overlay: the file that `overlay.overlay_figure` wrote.
    """

    name: str
    patient: str | None
    shape: tuple[int, int]
    celsius: bool
    probabilities: dict[str, float]
    regions: list[RegionMeasurement]
    notes: tuple[str, ...] = ()
    counts: bool = True
    overlay: str | os.PathLike | None = None

    @property
    def probability(self) -> float | None:
        """The probability of sick: the mean of the classifiers."""
        return float(np.mean(list(self.probabilities.values()))) if self.probabilities else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction(Finding):
    """The results of the models for one thermogram, and its pixels.

    Attributes:
      file: the path of its main file, relative to the user's folder.
      evidence: by classifier, at the size of its images (which include repeated edges): the exact
        contribution of each pixel to the logit, without the bias.
      label_map: class indexes at the picture's size, from the segmenters' mean probabilities.
    """

    picture: Picture
    file: str
    evidence: dict[str, Float[np.ndarray, "eh ew"]]
    label_map: UInt8[np.ndarray, "h w"] | None

    def finding(self, *, overlay: str | os.PathLike | None) -> Finding:
        """The results without the pixels, and the file of their figure."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Finding)}
        return Finding(**(values | {"overlay": overlay}))
