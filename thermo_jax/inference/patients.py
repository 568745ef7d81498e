"""Findings of thermograms by patient; a patient's probability is the mean over their images.

The evaluation uses the same mean (SPEC section 5). Images of a view on which a classifier was not
trained do not count. `data/identity.py` says who the patient is. A thermogram whose patient is
unknown is reported on its own.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from thermo_jax.inference.findings import Finding
from thermo_jax.inference.inputs import Unreadable, who


@dataclasses.dataclass(frozen=True)
class Patient:
    """The thermograms of one patient, in the order of names.

    Attributes:
      name: of the patient, or of the thermogram if the patient is not known.
    """

    name: str
    known: bool
    findings: list[Finding] = dataclasses.field(default_factory=list)
    unreadable: list[Unreadable] = dataclasses.field(default_factory=list)

    @property
    def counted(self) -> list[Finding]:
        """The findings that count for the mean."""
        return [finding for finding in self.findings if finding.counts]

    @property
    def by_image(self) -> list[float]:
        """The probabilities of sick of the counted thermograms that have one."""
        return [f.probability for f in self.counted if f.probability is not None]

    @property
    def by_model(self) -> dict[str, float]:
        """Probability of sick by classifier: the mean over the same thermograms."""
        values: dict[str, list[float]] = {}
        for finding in self.counted:
            for model, value in finding.probabilities.items():
                values.setdefault(model, []).append(value)
        return {model: float(np.mean(of_model)) for model, of_model in values.items()}

    @property
    def probability(self) -> float | None:
        """The probability of sick: the mean of `by_image`."""
        return float(np.mean(self.by_image)) if self.by_image else None

    @property
    def asymmetry(self) -> float | None:
        """Breast at image left minus image right, degrees C: the mean over the thermograms.

        Those in doubt, those that are no frontal views, and mirrored copies do not count.
        """
        originals = [finding for finding in self.findings if not finding.mirrored]
        values = [finding.differences.get("breasts, mean") for finding in originals]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    @property
    def hottest(self) -> float | None:
        """The hottest spot of any region of a thermogram that is not in doubt, degrees C."""
        certain = [f for f in self.findings if not f.doubts]
        maxima = [region.max for f in certain for region in f.measurements if region.hottest]
        return max(maxima, default=None)


def by_patient(items: Iterable[Finding | Unreadable]) -> list[Patient]:
    """The patients, in the order of their first items."""
    patients: dict[tuple[str, bool], Patient] = {}
    for item in items:
        key = who(item.name, item.patient)
        patient = patients.setdefault(key, Patient(*key))
        (patient.unreadable if isinstance(item, Unreadable) else patient.findings).append(item)
    return list(patients.values())
