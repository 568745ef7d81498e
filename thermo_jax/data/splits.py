"""Splits of a data set by patient: stratified, seeded, independent of the order of thermograms.

All images of a patient are in the same set (SPEC section 5), because they are near-copies.

Patients are sorted by stratum (label x annotated), shuffled within each stratum, and assigned to
the folds in turn. The number of patients in any two folds therefore differs by at most one. The
same is true of each label and, if there are two labels, of annotated patients. Strata with fewer
patients than folds are allowed; scikit-learn's StratifiedKFold warns or fails for them.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Collection, Iterable

import numpy as np
from etils import epath

from thermo_jax.data.thermogram import HEALTHY, LABEL_NAMES, UNLABELLED, Thermogram
from thermo_jax.errors import UserError
from thermo_jax.files import write_whole


@dataclasses.dataclass(frozen=True)
class Split:
    """Three disjoint sets of patients; a ValueError is raised if a patient is in two of them."""

    train: frozenset[str]
    val: frozenset[str]
    test: frozenset[str]

    def __post_init__(self):
        for first, second in itertools.combinations(vars(self), 2):
            if shared := getattr(self, first) & getattr(self, second):
                raise ValueError(f"patients {sorted(shared)} are in {first} and in {second}")

    def save(self, path: str | os.PathLike) -> None:
        """Writes the split as JSON, whole or not at all."""
        sets = {name: sorted(patients) for name, patients in vars(self).items()}
        write_whole(path, json.dumps(sets, indent=1) + "\n")

    def without_validation(self) -> "Split":
        """Returns the split with its validation patients as training patients."""
        return Split(train=self.train | self.val, val=frozenset(), test=self.test)

    def check_names(self, patients: Collection[str], *, path: str | os.PathLike) -> None:
        """Raises UserError, which names the file, if a patient of the data is in no set."""
        missing = sorted(set(patients) - self.train - self.val - self.test)
        if missing:
            raise UserError(
                f"{path} does not contain {len(missing)} patients of the data, such as "
                f"{missing[0]}: it was made for other data; leave config.split.file empty to make "
                "a new split"
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Split":
        """Reads a split that `save` wrote; raises UserError, which names the file, if it cannot."""
        names = [f.name for f in dataclasses.fields(cls)]
        try:
            sets = json.loads(epath.Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a split in JSON ({error}); write it again") from error
        if not isinstance(sets, dict) or sorted(sets) != sorted(names):
            raise UserError(f"{path}: a split is an object with the keys {', '.join(names)}")
        for name in names:
            if not isinstance(sets[name], list) or not all(isinstance(p, str) for p in sets[name]):
                raise UserError(f"{path}: {name!r} must be a list of patients (strings)")
        try:
            return cls(**{name: frozenset(sets[name]) for name in names})
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error


def patient_folds(records: Iterable[Thermogram], *, folds: int, seed: int) -> dict[str, int]:
    """Returns patient -> test fold, 0 to folds - 1, with labels and annotations spread evenly.

    A patient counts as annotated if any of their images is.

    Raises:
      UserError: fewer than 2 folds, fewer patients than folds, or a patient with two labels.
    """
    if folds < 2:
        raise UserError(f"folds={folds}: at least 2 are needed")
    strata = _strata(records)
    if len(strata) < folds:
        raise UserError(
            f"{len(strata)} patients are too few for {folds} folds: use fewer folds or add patients"
        )
    ordered = _by_stratum(strata, rng=np.random.default_rng((seed, 0)))
    return {patient: position % folds for position, patient in enumerate(ordered)}


def three_way_split(
    records: Iterable[Thermogram], *, folds: int, fold: int, val_fraction: float, seed: int
) -> Split:
    """Uses a fold of `patient_folds` for testing, and a share of the other patients for validation.

    Validation patients are spread over the strata, too; with `val_fraction` 0 there are none.

    Raises:
      UserError: `patient_folds` raises it; `fold` or `val_fraction` is out of range; no training
        patient is left, or none of a label that the data contains.
    """
    if not 0 <= fold < folds:
        raise UserError(f"fold={fold} must be in 0..{folds - 1} (folds={folds})")
    if not 0 <= val_fraction < 1:
        raise UserError(f"val_fraction={val_fraction} must be at least 0 and below 1")
    fold_of = patient_folds(records, folds=folds, seed=seed)
    test = frozenset(patient for patient in fold_of if fold_of[patient] == fold)
    strata = _strata(records)
    rng = np.random.default_rng((seed, 1, fold))
    rest = _by_stratum({p: s for p, s in strata.items() if p not in test}, rng=rng)
    count = max(round(val_fraction * len(rest)), 1) if val_fraction else 0
    # Validation patients are evenly spaced in the sorted list, from a random start, so that every
    # stratum contributes its share.
    chosen = np.floor((np.arange(count) + rng.random()) * (len(rest) / max(count, 1))).astype(int)
    val = frozenset(rest[i] for i in chosen)
    split = Split(train=frozenset(rest) - val, val=val, test=test)
    _check_training(split, strata)
    return split


def with_more_validation(
    split: Split, records: Iterable[Thermogram], *, val_fraction: float, seed: int
) -> Split:
    """Moves training patients to validation, until it is `val_fraction` of both sets together.

    The moved patients are spread over the strata. A split with enough validation patients is
    returned unchanged.

    Raises:
      UserError: no training patient is left, or none of a label that the data contains.
    """
    strata = _strata(records)
    train = _by_stratum(
        {p: s for p, s in strata.items() if p in split.train}, rng=np.random.default_rng((seed, 4))
    )
    count = round(val_fraction * (len(train) + len(split.val))) - len(split.val)
    if count <= 0:
        return split
    moved = frozenset(train[i * len(train) // count] for i in range(count))
    new_split = Split(train=split.train - moved, val=split.val | moved, test=split.test)
    _check_training(new_split, strata)
    return new_split


def _strata(records: Iterable[Thermogram]) -> dict[str, tuple[int, bool]]:
    """Returns patient -> (label, annotated), sorted by patient."""
    strata: dict[str, tuple[int, bool]] = {}
    for record in records:
        label, annotated = strata.get(record.patient, (record.label, False))
        if label != record.label:
            names = sorted(LABEL_NAMES[value] for value in (label, record.label))
            raise UserError(
                f"patient {record.patient} is both {' and '.join(names)}: correct a label, or "
                "remove the patient"
            )
        strata[record.patient] = (label, annotated or bool(record.regions))
    return dict(sorted(strata.items()))


def _by_stratum(strata: dict[str, tuple[int, bool]], *, rng: np.random.Generator) -> list[str]:
    """Returns patients sorted by stratum, and shuffled within each stratum.

    The annotated patients of both labels are adjacent, so that folds share them evenly.
    """

    def place(patient: str) -> tuple[int, bool]:
        label, annotated = strata[patient]
        return label, annotated if label == HEALTHY else not annotated

    names = list(strata)
    return sorted((names[i] for i in rng.permutation(len(names))), key=place)  # sorting is stable


def _check_training(split: Split, strata: dict[str, tuple[int, bool]]) -> None:
    if not split.train:
        raise UserError(
            f"no patient is left for training ({len(split.val)} for validation, {len(split.test)} "
            "for test): use a smaller val_fraction or more patients"
        )
    labels = [label for label, _ in strata.values()]
    trained = {strata[patient][0] for patient in split.train}
    for label in sorted({*labels} - trained - {UNLABELLED}):
        raise UserError(
            f"training has no {LABEL_NAMES[label]} patient ({labels.count(label)} of {len(labels)} "
            "in all): use a smaller val_fraction, other folds, or more patients"
        )
