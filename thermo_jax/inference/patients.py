"""What is found in thermograms, by patient: her probability is the mean over her images.

So does the evaluation (SPEC section 5). Images of a view that a classifier was not trained on do
not count. File names and folders tell the patient; where they do not, a thermogram stands alone.
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from thermo_jax.data.thermogram import parse_name, patients_of_folders
from thermo_jax.inference.pictures import Unreadable
from thermo_jax.inference.predictor import Prediction
from thermo_jax.inference.regions import RegionMeasurement


class Finding(NamedTuple):
    """What tables and pages tell of one thermogram; its pixels can be let go.

    Attributes:
      shape: height and width, pixels.
      celsius: whether it has temperatures.
      probabilities: of sick, by classifier.
      overlay: the picture of `overlay.overlay_figure`, on disk.
      counts: for the patient's mean, as in `Prediction`.
    """

    name: str
    shape: tuple[int, int]
    celsius: bool
    probabilities: dict[str, float]
    regions: list[RegionMeasurement]
    notes: tuple[str, ...]
    overlay: str | os.PathLike | None
    counts: bool = True

    @classmethod
    def of(
        cls,
        found: Prediction,
        regions: list[RegionMeasurement],
        *,
        overlay: str | os.PathLike | None = None,
    ) -> "Finding":
        """Of a prediction, with its regions as `regions.measure_regions` gives them."""
        return cls(
            found.name,
            found.picture.pixels.shape[:2],
            found.picture.temperatures is not None,
            found.probabilities,
            regions,
            found.notes,
            overlay,
            found.counts,
        )

    @property
    def probability(self) -> float | None:
        """Of sick: the classifiers' mean."""
        return float(np.mean(list(self.probabilities.values()))) if self.probabilities else None


@dataclasses.dataclass(frozen=True)
class Patient:
    """All that was given of one patient, in the order of names.

    Attributes:
      name: four digits, or the thermogram's name where that does not tell the patient.
      known: whether it does.
    """

    name: str
    known: bool
    findings: list[Finding] = dataclasses.field(default_factory=list)
    unreadable: list[Unreadable] = dataclasses.field(default_factory=list)

    @property
    def counted(self) -> list[Finding]:
        """Those that count for her mean."""
        return [finding for finding in self.findings if finding.counts]

    @property
    def by_image(self) -> list[float]:
        """Probabilities of sick, of the thermograms that a classifier reads and that count."""
        return [f.probability for f in self.counted if f.probability is not None]

    @property
    def by_model(self) -> dict[str, float]:
        """Probability of sick by classifier: its mean over the same thermograms."""
        values: dict[str, list[float]] = {}
        for finding in self.counted:
            for model, value in finding.probabilities.items():
                values.setdefault(model, []).append(value)
        return {model: float(np.mean(each)) for model, each in values.items()}

    @property
    def probability(self) -> float | None:
        """Of sick: the mean over those thermograms, each the mean of its classifiers."""
        return float(np.mean(self.by_image)) if self.by_image else None


def patient_of(name: str) -> str | None:
    """The patient, four digits, that a thermogram's name or its folders tell; None if neither."""
    path = PurePosixPath(name)
    parsed = parse_name(path.name)
    sure, _ = patients_of_folders(path.parts[:-1])
    return (parsed.patient if parsed else None) or next(iter(sure), None)


def by_patient(items: Iterable[Finding | Unreadable]) -> list[Patient]:
    """The patients, in the order in which each is first met."""
    patients: dict[tuple[str, bool], Patient] = {}
    for item in items:
        number = patient_of(item.name)
        key = (number or item.name, number is not None)
        patient = patients.setdefault(key, Patient(*key))
        kind = patient.unreadable if isinstance(item, Unreadable) else patient.findings
        kind.append(item)
    return list(patients.values())
