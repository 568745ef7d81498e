"""Splits by patient: grouped, stratified, seeded, independent of the order of rows.

The unit of every split is the patient (SPEC section 5): her frames are near-copies, so one patient
on two sides would leak. Arguments come one entry per image, as the columns of a data set do.

Patients are sorted by stratum (label x annotated), shuffled within it, and dealt to the folds like
cards. So folds differ by at most one patient in size, in each label and, with two labels, in
annotated patients. That also holds for strata with fewer members than folds, which
scikit-learn's StratifiedKFold warns about and, where all are that small, refuses.
"""

import dataclasses
import json
import os
from collections.abc import Collection, Sequence

import numpy as np
from etils import epath

from thermo_jax.data.thermogram import HEALTHY, LABEL_NAMES, UNLABELLED
from thermo_jax.errors import UserError
from thermo_jax.files import write_whole


@dataclasses.dataclass(frozen=True)
class Split:
    """Three disjoint sets of patients. ValueError if a patient is in two of them."""

    train: frozenset[str]
    val: frozenset[str]
    test: frozenset[str]

    def __post_init__(self):
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            shared = getattr(self, one) & getattr(self, other)
            if shared:
                raise ValueError(
                    f"a split must not share patients: {sorted(shared)} are in {one} and in {other}"
                )

    def save(self, path: str | os.PathLike) -> None:
        """Write the split as JSON, whole or not at all."""
        sets = {f.name: sorted(getattr(self, f.name)) for f in dataclasses.fields(self)}
        write_whole(path, json.dumps(sets, indent=1) + "\n")

    def check_names(self, patients: Collection[str], *, path: str | os.PathLike) -> None:
        """UserError if a patient of the data is in no set; the file is named."""
        missing = sorted(set(patients) - self.train - self.val - self.test)
        if missing:
            raise UserError(
                f"{path} names no set for {len(missing)} patients of the data, such as "
                f"{missing[0]}: it was made for other data; leave config.split.file empty to deal "
                "patients anew"
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Split":
        """Read what `save` wrote. UserError, naming the file, if it is no disjoint split."""
        names = [f.name for f in dataclasses.fields(cls)]
        try:
            sets = json.loads(epath.Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a split in JSON ({error}); write it anew") from error
        if not isinstance(sets, dict) or sorted(sets) != sorted(names):
            raise UserError(f"{path}: a split is an object with the keys {', '.join(names)}")
        for name in names:
            if not isinstance(sets[name], list) or not all(isinstance(p, str) for p in sets[name]):
                raise UserError(f"{path}: {name!r} must be a list of patients (strings)")
        try:
            return cls(**{name: frozenset(sets[name]) for name in names})
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error


def patient_folds(
    patients: Sequence[str],
    *,
    labels: Sequence[int],
    annotated: Sequence[bool],
    folds: int,
    seed: int,
) -> dict[str, int]:
    """Patient -> test fold in 0..folds-1; labels and annotated patients are spread evenly.

    `patients`, `labels` (HEALTHY, SICK, UNLABELLED) and `annotated` have one entry per image; a
    patient counts as annotated if any of her images is. Raises UserError for fewer than 2 folds,
    fewer patients than folds, and a patient with two labels; ValueError for columns of unequal
    length.
    """
    if folds < 2:
        raise UserError(f"folds={folds}: at least 2 are needed")
    strata = _strata(patients, labels=labels, annotated=annotated)
    if len(strata) < folds:
        raise UserError(
            f"{len(strata)} patients are too few for {folds} folds: use fewer folds or add patients"
        )
    ordered = _by_stratum(strata, rng=np.random.default_rng((seed, 0)))
    return {patient: position % folds for position, patient in enumerate(ordered)}


def three_way_split(
    patients: Sequence[str],
    *,
    labels: Sequence[int],
    annotated: Sequence[bool],
    folds: int,
    fold: int,
    val_fraction: float,
    seed: int,
) -> Split:
    """Fold `fold` of `patient_folds` as test; of the others, `val_fraction` (0: none) as val.

    Validation patients are spread over the strata too. Raises UserError as `patient_folds` does,
    for `fold` or `val_fraction` out of range, and where training would lack patients or a label
    that the data has.
    """
    if not 0 <= fold < folds:
        raise UserError(f"fold={fold} must be in 0..{folds - 1} (folds={folds})")
    if not 0 <= val_fraction < 1:
        raise UserError(f"val_fraction={val_fraction} must be at least 0 and below 1")
    of_patient = patient_folds(patients, labels=labels, annotated=annotated, folds=folds, seed=seed)
    strata = _strata(patients, labels=labels, annotated=annotated)
    rng = np.random.default_rng((seed, 1, fold))
    rest = _by_stratum({p: s for p, s in strata.items() if of_patient[p] != fold}, rng=rng)
    count = max(round(val_fraction * len(rest)), 1) if val_fraction else 0
    # Evenly spaced along the strata, from a random start: every stratum gets its share.
    chosen = np.floor((np.arange(count) + rng.random()) * (len(rest) / max(count, 1))).astype(int)
    val = frozenset(rest[i] for i in chosen)
    split = Split(
        train=frozenset(rest) - val,
        val=val,
        test=frozenset(p for p, where in of_patient.items() if where == fold),
    )
    _check_training(split, strata)
    return split


def with_more_validation(
    split: Split,
    *,
    patients: Sequence[str],
    labels: Sequence[int],
    annotated: Sequence[bool],
    val_fraction: float,
    seed: int,
) -> Split:
    """The split with more of its training patients in val, spread over the strata.

    Then val is `val_fraction` of those who are not tested; it stays where it is that much already.
    Raises UserError where training would lack patients or a label that the data has.
    """
    strata = _strata(patients, labels=labels, annotated=annotated)
    train = _by_stratum(
        {p: s for p, s in strata.items() if p in split.train},
        rng=np.random.default_rng((seed, 4)),
    )
    count = round(val_fraction * (len(train) + len(split.val))) - len(split.val)
    if count <= 0:
        return split
    moved = frozenset(train[i * len(train) // count] for i in range(count))
    wider = Split(train=split.train - moved, val=split.val | moved, test=split.test)
    _check_training(wider, strata)
    return wider


def _strata(patients, *, labels, annotated) -> dict[str, tuple[int, bool]]:
    """Patient -> (label, annotated), sorted by patient."""
    if not len(patients) == len(labels) == len(annotated):
        raise ValueError(
            "patients, labels and annotated need one entry per image, but have "
            f"{len(patients)}, {len(labels)} and {len(annotated)}"
        )
    strata: dict[str, tuple[int, bool]] = {}
    for patient, label, drawn in zip(map(str, patients), labels, annotated, strict=True):
        known, before = strata.get(patient, (int(label), False))
        if known != label:
            names = sorted(LABEL_NAMES.get(int(each), str(each)) for each in (known, label))
            raise UserError(
                f"patient {patient} is both {' and '.join(names)}: leave her out or correct a label"
            )
        strata[patient] = (known, before or bool(drawn))
    return dict(sorted(strata.items()))


def _by_stratum(strata: dict[str, tuple[int, bool]], *, rng: np.random.Generator) -> list[str]:
    """Patients by stratum, shuffled within; annotated ones of both labels lie side by side."""

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
    have = {strata[patient][0] for patient in split.train}
    for label in sorted({label for label, _ in strata.values()} - have - {UNLABELLED}):
        count = sum(each == label for each, _ in strata.values())
        raise UserError(
            f"training has no {LABEL_NAMES.get(label, label)} patient ({count} of {len(strata)} in "
            "all): use a smaller val_fraction, other folds, or more patients"
        )
