"""Thermograms by patient: the patient in a name, and means equal to those of the evaluation."""

import numpy as np
import pytest
from example_tables import table

from thermo_jax.evaluation import assessment
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.inference.patients import by_patient, patient_of
from thermo_jax.inference.pictures import Unreadable
from thermo_jax.inference.predictor import Finding


def finding(name, probabilities, **fields):
    return Finding(
        name=name,
        shape=(120, 160),
        celsius=False,
        probabilities=probabilities,
        regions=[],
        **fields,
    )


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("T0042.1.1.D.2012-11-14.00", "0042"),
        ("visit 2/T42", "0042"),
        ("0042/left side", "0042"),
        ("patient 7/2019/frontal", "0007"),
        ("0041/T0042", "0042"),
        ("0042", None),  # a file of this name that is in no patient's folder
        ("2/frontal", None),  # may be a visit
        ("clinic/frontal", None),
    ],
)
def test_the_patient_is_read_from_the_name_or_else_from_the_folders(name, patient):
    assert patient_of(name) == patient


def test_a_patients_probability_is_that_of_the_evaluation():
    rng = np.random.default_rng(0)
    names = ["T0001", "0002/a", "0002/b", "0001/c", "0002/d"]
    scores = rng.uniform(size=(len(names), 2))
    patients = by_patient(
        finding(name, {"model A": a, "model B": b})
        for name, (a, b) in zip(names, scores.tolist(), strict=True)
    )
    examples = table([patient_of(name) for name in names])
    by_image = Predictions.of(examples, model="", columns={"probabilities": scores.mean(1)})
    expected = assessment.units(by_image)["patient"].columns["probabilities"]
    assert [patient.name for patient in patients] == ["0001", "0002"]
    np.testing.assert_allclose([patient.probability for patient in patients], expected)


def test_probabilities_are_given_by_thermogram_and_by_model():
    (patient,) = by_patient(
        [finding("0001/a", {"A": 0.25, "B": 0.75}), finding("0001/b", {"A": 0.0, "B": 0.25})]
    )
    assert patient.by_image == [0.5, 0.125]
    assert patient.by_model == {"A": 0.125, "B": 0.5}


def test_a_thermogram_that_no_classifier_reads_is_not_in_the_mean():
    (patient,) = by_patient([finding("0001/a", {}), finding("0001/b", {"A": 0.5})])
    assert len(patient.findings) == 2 and patient.probability == 0.5
    (alone,) = by_patient([finding("0001/a", {})])
    assert alone.probability is None


def test_a_finding_that_does_not_count_is_in_no_mean():
    (patient,) = by_patient(
        [finding("0001/a", {"A": 0.5}), finding("0001/b", {"A": 1.0}, counts=False)]
    )
    assert len(patient.findings) == 2 and patient.by_image == [0.5]
    assert (patient.probability, patient.by_model) == (0.5, {"A": 0.5})


def test_thermograms_of_unknown_patients_are_not_grouped():
    patients = by_patient([finding(name, {}) for name in ("a", "b", "0001", "T0001")])
    named = [(patient.name, patient.known) for patient in patients]
    assert named == [("a", False), ("b", False), ("0001", False), ("0001", True)]


def test_an_unreadable_file_is_listed_with_its_patient():
    bad = Unreadable("0001/b", "b.txt: reason")
    (patient,) = by_patient([finding("T0001", {"A": 0.5}), bad])
    assert patient.unreadable == [bad] and patient.probability == 0.5
