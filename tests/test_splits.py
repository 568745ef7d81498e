"""Splits: by patient, even, seeded, independent of the order of rows."""

import collections
import json
import random

import pytest

from thermo_jax.data import splits
from thermo_jax.data.thermogram import HEALTHY, SICK, UNLABELLED


def rows(healthy=24, sick=12, annotated=11, images=3):
    """Columns of a data set: the first `annotated` healthy patients have one annotated image."""
    patients, labels, drawn = [], [], []
    for number in range(healthy + sick):
        for image in range(images):
            patients.append(f"{number:04d}")
            labels.append(HEALTHY if number < healthy else SICK)
            drawn.append(number < annotated and image == 1)
    return {"patients": patients, "labels": labels, "annotated": drawn}


def fold_of(columns, *, folds=5, seed=0):
    columns = dict(columns)
    return splits.patient_folds(columns.pop("patients"), **columns, folds=folds, seed=seed)


def split_of(columns, *, folds=5, fold=0, val_fraction=0.2, seed=0):
    columns = dict(columns)
    return splits.three_way_split(
        columns.pop("patients"),
        **columns,
        folds=folds,
        fold=fold,
        val_fraction=val_fraction,
        seed=seed,
    )


def spread(folds, members, count=5):
    """How many of `members` each fold holds."""
    return [sum(folds[p] == fold for p in members) for fold in range(count)]


def test_no_patient_is_on_two_sides_and_none_is_lost():
    columns = rows()
    for fold in range(5):
        split = split_of(columns, fold=fold)
        counts = collections.Counter([*split.train, *split.val, *split.test])
        assert set(counts) == set(columns["patients"]) and set(counts.values()) == {1}


def test_every_patient_is_tested_exactly_once():
    columns = rows()
    tested = [p for fold in range(5) for p in split_of(columns, fold=fold).test]
    assert sorted(tested) == sorted(set(columns["patients"]))


def test_three_way_split_tests_the_fold_of_patient_folds():
    columns = rows()
    folds = fold_of(columns)
    assert split_of(columns, fold=3).test == {p for p, fold in folds.items() if fold == 3}


def test_labels_and_annotated_patients_are_spread_evenly():
    columns = rows(healthy=24, sick=13, annotated=11)
    folds = fold_of(columns)
    patients = sorted(folds)
    for members in (patients, patients[:24], patients[24:], patients[:11]):
        held = spread(folds, members)
        assert max(held) - min(held) <= 1


def test_annotated_patients_of_both_labels_are_spread_evenly():
    columns = rows(healthy=9, sick=9)
    chosen = {f"{number:04d}" for number in (0, 1, 2, 9, 10, 11, 12)}
    columns["annotated"] = [p in chosen for p in columns["patients"]]
    for seed in range(10):
        held = spread(fold_of(columns, seed=seed), chosen)
        assert max(held) - min(held) <= 1


def test_strata_with_fewer_members_than_folds_are_handled():
    columns = rows(healthy=3, sick=3, annotated=1)
    held = spread(fold_of(columns), {f"{number:04d}" for number in range(6)})
    assert sorted(held) == [1, 1, 1, 1, 2]


def test_validation_has_its_share_of_each_label():
    columns = rows(healthy=20, sick=20)
    sick = {f"{number:04d}" for number in range(20, 40)}
    for seed in range(10):
        val = split_of(columns, val_fraction=0.25, seed=seed).val
        assert len(val) == 8 and len(val & sick) == 4


def test_validation_can_be_left_out():
    split = split_of(rows(), val_fraction=0)
    assert not split.val and len(split.train) + len(split.test) == 36


def test_same_seed_same_split_other_seed_other_split():
    assert split_of(rows(), seed=1) == split_of(rows(), seed=1)
    assert split_of(rows(), seed=1) != split_of(rows(), seed=2)


def test_order_and_number_of_rows_do_not_matter():
    columns = rows()
    table = list(zip(*columns.values(), strict=True))
    table += table[::7]  # duplicates
    random.Random(0).shuffle(table)
    shuffled = dict(zip(columns, zip(*table, strict=True), strict=True))
    assert fold_of(shuffled) == fold_of(columns)
    assert split_of(shuffled) == split_of(columns)


def test_unlabelled_patients_may_be_split():
    columns = rows()
    columns["labels"] = [UNLABELLED] * len(columns["labels"])
    assert sorted(spread(fold_of(columns), set(columns["patients"]))) == [7, 7, 7, 7, 8]


def test_conflicting_labels_of_one_patient_are_named():
    columns = rows()
    columns["labels"][4] = SICK
    with pytest.raises(ValueError, match="patient 0001 is both healthy and sick"):
        fold_of(columns)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (rows(), {"folds": 1}, "folds=1"),
        (rows(healthy=2, sick=1), {"folds": 5}, "3 patients are too few for 5 folds"),
        (rows(), {"fold": 5}, r"fold=5 must be in 0\.\.4"),
        (rows(), {"fold": -1}, "fold=-1"),
        (rows(), {"val_fraction": 1.0}, "val_fraction=1.0"),
        (rows(healthy=1, sick=1), {"folds": 2, "val_fraction": 0.5}, "no patient is left"),
        (rows() | {"labels": [HEALTHY]}, {}, "one entry per image"),
    ],
)
def test_impossible_requests_are_refused(columns, options, message):
    with pytest.raises(ValueError, match=message):
        split_of(columns, **options)


def test_a_label_missing_in_training_is_refused():
    columns = rows(healthy=9, sick=1)
    fold = fold_of(columns)["0009"]
    with pytest.raises(ValueError, match="training has no sick patient"):
        split_of(columns, fold=fold)


def test_a_split_survives_its_file(tmp_path):
    split = split_of(rows())
    split.save(tmp_path / "split.json")
    assert splits.Split.load(tmp_path / "split.json") == split


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"train": ["1", "2"], "val": ["2"], "test": []}), "'2'.*train and in val"),
        (json.dumps({"train": ["1"], "val": []}), "keys train, val, test"),
        (json.dumps({"train": "12", "val": [], "test": []}), "list of patients"),
        ("{", "not a split in JSON"),
    ],
)
def test_a_bad_split_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"split.json.*{message}"):
        splits.Split.load(path)
