"""Splits are by patient, even, reproducible, and independent of the order of rows."""

import collections
import dataclasses
import json
import random

import pytest

from thermo_jax.data import splits
from thermo_jax.data.thermogram import HEALTHY, SICK, UNLABELLED, Annotation, Thermogram

REGION = (Annotation(class_index=0, rings=()),)


def thermograms(healthy=24, sick=12, annotated=11, images=3):
    """A data set: the first `annotated` patients, healthy ones first, have one annotated image."""
    return [
        Thermogram(
            name=f"{number:04d}/{image}",
            patient=f"{number:04d}",
            patient_known=True,
            label=HEALTHY if number < healthy else SICK,
            regions=REGION if number < annotated and image == 1 else (),
        )
        for number in range(healthy + sick)
        for image in range(images)
    ]


def changed(records, **fields_of):
    """Return the records with the named fields computed by functions of the record."""
    return [
        dataclasses.replace(record, **{name: value(record) for name, value in fields_of.items()})
        for record in records
    ]


def patients_of(records):
    return {record.patient for record in records}


def fold_of(records, *, folds=5, seed=0):
    return splits.patient_folds(records, folds=folds, seed=seed)


def split_of(records, *, folds=5, fold=0, val_fraction=0.2, seed=0):
    return splits.three_way_split(
        records, folds=folds, fold=fold, val_fraction=val_fraction, seed=seed
    )


def spread(folds, members, count=5):
    """Return how many of `members` each fold contains."""
    return [sum(folds[p] == fold for p in members) for fold in range(count)]


def test_every_patient_is_in_exactly_one_set():
    records = thermograms()
    for fold in range(5):
        split = split_of(records, fold=fold)
        counts = collections.Counter([*split.train, *split.val, *split.test])
        assert set(counts) == patients_of(records) and set(counts.values()) == {1}


def test_every_patient_is_tested_exactly_once():
    records = thermograms()
    tested = [p for fold in range(5) for p in split_of(records, fold=fold).test]
    assert sorted(tested) == sorted(patients_of(records))


def test_three_way_split_tests_the_fold_of_patient_folds():
    records = thermograms()
    folds = fold_of(records)
    assert split_of(records, fold=3).test == {p for p, fold in folds.items() if fold == 3}


def test_labels_and_annotated_patients_are_spread_evenly():
    records = thermograms(healthy=24, sick=13, annotated=11)
    folds = fold_of(records)
    patients = sorted(folds)
    for members in (patients, patients[:24], patients[24:], patients[:11]):
        counts = spread(folds, members)
        assert max(counts) - min(counts) <= 1


def test_annotated_patients_of_both_labels_are_spread_evenly():
    records = thermograms(healthy=9, sick=9)
    chosen = {f"{number:04d}" for number in (0, 1, 2, 9, 10, 11, 12)}
    records = changed(records, regions=lambda r: REGION if r.patient in chosen else ())
    for seed in range(10):
        counts = spread(fold_of(records, seed=seed), chosen)
        assert max(counts) - min(counts) <= 1


def test_strata_with_fewer_members_than_folds_are_handled():
    records = thermograms(healthy=3, sick=3, annotated=1)
    counts = spread(fold_of(records), {f"{number:04d}" for number in range(6)})
    assert sorted(counts) == [1, 1, 1, 1, 2]


def test_validation_has_its_share_of_each_label():
    records = thermograms(healthy=20, sick=20)
    sick = {f"{number:04d}" for number in range(20, 40)}
    for seed in range(10):
        val = split_of(records, val_fraction=0.25, seed=seed).val
        assert len(val) == 8 and len(val & sick) == 4


def test_validation_can_be_left_out():
    split = split_of(thermograms(), val_fraction=0)
    assert not split.val and len(split.train) + len(split.test) == 36


def test_same_seed_same_split_other_seed_other_split():
    assert split_of(thermograms(), seed=1) == split_of(thermograms(), seed=1)
    assert split_of(thermograms(), seed=1) != split_of(thermograms(), seed=2)


def test_order_and_number_of_images_do_not_matter():
    records = thermograms()
    shuffled = records + records[::7]
    random.Random(0).shuffle(shuffled)
    assert fold_of(shuffled) == fold_of(records)
    assert split_of(shuffled) == split_of(records)


def test_unlabelled_patients_may_be_split():
    records = changed(thermograms(), label=lambda r: UNLABELLED)
    assert sorted(spread(fold_of(records), patients_of(records))) == [7, 7, 7, 7, 8]


def test_conflicting_labels_of_one_patient_are_named():
    records = changed(thermograms(), label=lambda r: SICK if r.name == "0001/1" else r.label)
    with pytest.raises(ValueError, match="patient 0001 is both healthy and sick"):
        fold_of(records)


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        (thermograms(), {"folds": 1}, "folds=1"),
        (thermograms(healthy=2, sick=1), {"folds": 5}, "3 patients are too few for 5 folds"),
        (thermograms(), {"fold": 5}, r"fold=5 must be in 0\.\.4"),
        (thermograms(), {"fold": -1}, "fold=-1"),
        (thermograms(), {"val_fraction": 1.0}, "val_fraction=1.0"),
        (thermograms(healthy=1, sick=1), {"folds": 2, "val_fraction": 0.5}, "no patient is left"),
    ],
)
def test_impossible_requests_are_refused(records, options, message):
    with pytest.raises(ValueError, match=message):
        split_of(records, **options)


def test_a_label_missing_in_training_is_refused():
    records = thermograms(healthy=9, sick=1)
    fold = fold_of(records)["0009"]
    with pytest.raises(ValueError, match="training has no sick patient"):
        split_of(records, fold=fold)


def test_a_split_that_is_saved_is_loaded_unchanged(tmp_path):
    split = split_of(thermograms())
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
