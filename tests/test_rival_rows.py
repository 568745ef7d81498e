"""The control: rivals that are fitted again with shuffled diagnoses can learn nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from thermo_jax.configs import comparators
from thermo_jax.data.dataset import Dataset, DataSettings, SplitSettings
from thermo_jax.data.thermogram import Thermogram
from thermo_jax.programs import decoder_results, rival_folds, rival_rows
from thermo_jax.programs.rival_rows import Row, Study
from thermo_jax.rivals.registry import BY_NAME

PATIENTS, SHUFFLES = 40, 12
LEAK = Row("classify", "leak", "the true diagnosis", "no family", BY_NAME["temperatures"])
SHOWN = ["majority class", "patient number"]


def dataset_of(sick):
    """Return a data set without files: 40 patients with two images each, so many of them sick."""
    order = np.random.default_rng(1).permutation(PATIENTS)  # not with the seed of the folds
    records = [
        Thermogram(
            name=f"{number}.{protocol}", patient=f"{number:04d}", patient_known=True, view=1,
            protocol=protocol, label=int(order[number] < sick), gray_path=Path("none"),
        )
        for number in range(PATIENTS)
        for protocol in "SD"
    ]  # fmt: skip
    return Dataset(
        records=records,
        settings=DataSettings(root="none", type="gray", loader="numpy", downscale=20),
        read_pixels=lambda record, kind: np.full((480, 640, 1), 7, np.uint8),
        write_report=lambda folder: None,
    )


def study_of(workdir, *, sick=PATIENTS // 2):
    """Return a study of two folds, its examples, and what its rows read."""
    config = comparators.get_config("quick")
    config.shuffles = SHUFFLES
    dataset = dataset_of(sick)
    settings = SplitSettings(**config.split)
    splits = {
        f"repeat0_fold{number}": dataset.split(dataclasses.replace(settings, fold=number))
        for number in range(2)
    }
    examples = dataset.load("classify")
    features = {LEAK: examples.columns["labels"][:, np.newaxis] + 0.0}
    no_anatomy = decoder_results.baseline_features(examples, examples.columns["images"])
    no_anatomy = {"patient number": no_anatomy["patient number"]}
    return Study(config, workdir, dataset, splits), examples, (features, no_anatomy, SHOWN)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """A study, its examples, what its rows read, and the AUROCs of its control."""
    study, examples, read = study_of(tmp_path_factory.mktemp("control"))
    return study, examples, read, rival_rows._control(study, *read)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The true examples, and the examples and folds of three shufflings; nothing is fitted."""
    calls = []

    def keep(examples, folds, **options):
        calls.append((examples, folds))
        return {}

    monkeypatch.setattr(rival_folds, "shuffled_aurocs", keep)
    study, examples, read = study_of(tmp_path, sick=14)
    for seed in range(3):
        rival_rows._shuffled(study, seed, *read)
    return examples, calls


def by_patient(examples):
    """Return the diagnosis of each patient, who must have one only."""
    pairs = set(zip(examples.patients.tolist(), examples.columns["labels"].tolist(), strict=True))
    assert len(pairs) == len(dict(pairs)) == PATIENTS
    return dict(pairs)


def test_features_that_give_away_the_diagnoses_are_worth_nothing_if_these_are_shuffled(controlled):
    study, examples, (features, no_anatomy, shown), control = controlled
    with_truth = rival_folds.shuffled_aurocs(
        examples,
        study.folds(examples),
        features={LEAK.title: (LEAK.rival.head, features[LEAK])},
        no_anatomy=no_anatomy,
        baselines_shown=shown,
        candidates=study.config.candidates,
        seed=study.config.seed,
    )
    assert with_truth[LEAK.title] == {"auroc": 1, "auroc_within": 1}
    for values in control[LEAK.title].values():
        assert len(values) == SHUFFLES and len(set(values)) > 1
        assert np.mean(values) == pytest.approx(0.5, abs=0.1)
    assert max(values) < 0.9


def test_the_control_has_every_row_that_is_fitted_or_shown(controlled):
    *_, control = controlled
    assert set(control) == {LEAK.title, *SHOWN}
    assert control["majority class"]["auroc"] == [0.5] * SHUFFLES
    assert np.mean(control["patient number"]["auroc"]) == pytest.approx(0.5, abs=0.1)


def test_a_shuffling_keeps_the_number_of_sick_patients(given):
    truth, calls = given
    diagnoses = [by_patient(truth), *(by_patient(examples) for examples, _ in calls)]
    assert [sum(some.values()) for some in diagnoses] == [14] * 4
    for number, some in enumerate(diagnoses):
        assert some not in diagnoses[:number]


def test_a_shuffling_leaves_images_patients_and_true_diagnoses_as_they_are(given):
    truth, calls = given
    assert sum(by_patient(truth).values()) == 14
    for examples, _ in calls:
        np.testing.assert_array_equal(examples.names, truth.names)
        np.testing.assert_array_equal(examples.patients, truth.patients)


def test_the_folds_of_a_shuffling_have_equal_numbers_of_its_sick_patients(given):
    _, calls = given
    for examples, folds in calls:
        assert [fold.name for fold in folds] == ["repeat0_fold0", "repeat0_fold1"]
        tested = [set(examples.patients[fold.sets["test"]].tolist()) for fold in folds]
        assert tested[0] | tested[1] == set(by_patient(examples))
        assert not tested[0] & tested[1]
        assert [sum(by_patient(examples)[p] for p in patients) for patients in tested] == [7, 7]


def test_a_finished_shuffling_is_kept_until_what_it_reads_changes(controlled, monkeypatch):
    study, _, (features, *others), control = controlled
    monkeypatch.setattr(rival_folds, "shuffled_aurocs", lambda *args, **options: 1 / 0)
    assert rival_rows._control(study, features, *others) == control
    monkeypatch.setitem(study.config, "shuffles", 2)
    fewer = rival_rows._control(study, features, *others)
    assert fewer[LEAK.title]["auroc"] == control[LEAK.title]["auroc"][:2]
    with pytest.raises(ZeroDivisionError):
        rival_rows._control(study, {LEAK: 1 - features[LEAK]}, *others)
