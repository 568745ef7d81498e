"""Thermograms by patient: means equal to those of the evaluation, and who has no patient."""

import dataclasses

import numpy as np
from example_tables import table

from thermo_jax.evaluation import assessment
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.inference.findings import Finding
from thermo_jax.inference.inputs import Unreadable
from thermo_jax.inference.patients import by_patient
from thermo_jax.inference.regions import RegionMeasurement


def finding(patient, name, probabilities, **fields):
    return Finding(
        name=name,
        patient=patient,
        shape=(120, 160),
        celsius=False,
        probabilities=probabilities,
        measurements=[],
        **fields,
    )


def test_a_patients_probability_is_that_of_the_evaluation():
    rng = np.random.default_rng(0)
    of_images = ["0001", "0002", "0002", "0001", "0002"]
    scores = rng.uniform(size=(len(of_images), 2))
    patients = by_patient(
        finding(patient, str(image), {"model A": a, "model B": b})
        for image, (patient, (a, b)) in enumerate(zip(of_images, scores.tolist(), strict=True))
    )
    examples = table(of_images)
    by_image = Predictions.of(examples, model="", columns={"probabilities": scores.mean(1)})
    expected = assessment.units(by_image)["patient"].columns["probabilities"]
    assert [patient.name for patient in patients] == ["0001", "0002"]
    np.testing.assert_allclose([patient.probability for patient in patients], expected)


def test_probabilities_are_given_by_thermogram_and_by_model():
    (patient,) = by_patient(
        [finding("0001", "a", {"A": 0.25, "B": 0.75}), finding("0001", "b", {"A": 0.0, "B": 0.25})]
    )
    assert patient.by_image == [0.5, 0.125]
    assert patient.by_model == {"A": 0.125, "B": 0.5}


def test_a_thermogram_that_no_classifier_reads_is_not_in_the_mean():
    (patient,) = by_patient([finding("0001", "a", {}), finding("0001", "b", {"A": 0.5})])
    assert len(patient.findings) == 2 and patient.probability == 0.5
    (alone,) = by_patient([finding("0001", "a", {})])
    assert alone.probability is None


def test_a_finding_that_does_not_count_is_in_no_mean():
    (patient,) = by_patient(
        [finding("0001", "a", {"A": 0.5}), finding("0001", "b", {"A": 1.0}, counts=False)]
    )
    assert len(patient.findings) == 2 and patient.by_image == [0.5]
    assert (patient.probability, patient.by_model) == (0.5, {"A": 0.5})


def test_thermograms_of_unknown_patients_are_not_grouped():
    who = [(None, "a"), (None, "b"), (None, "0001"), ("0001", "T0001")]
    patients = by_patient([finding(patient, name, {}) for patient, name in who])
    named = [(patient.name, patient.known) for patient in patients]
    assert named == [("a", False), ("b", False), ("0001", False), ("0001", True)]


def test_an_unreadable_file_is_listed_with_its_patient():
    bad = Unreadable("b", "b.txt: reason", "0001")
    (patient,) = by_patient([finding("0001", "a", {"A": 0.5}), bad])
    assert patient.unreadable == [bad] and patient.probability == 0.5


def test_asymmetry_is_the_mean_without_doubts_side_views_and_mirrored_copies():
    def of(difference, **fields):
        sides = [
            RegionMeasurement(name, 9, 0.1, mean, mean, mean, mean, 0.0, (0, 0))
            for name, mean in (("left_breast", 30 + difference), ("right_breast", 30.0))
        ]
        return dataclasses.replace(finding("0001", "a", {}), measurements=sides, **fields)

    (patient,) = by_patient(
        [
            of(3.0),
            of(1.0),
            of(-3.0, mirrored=True),
            of(9.0, doubts=("no breasts were found",)),
            of(9.0, region_doubts=("neck below a breast",)),
            of(9.0, is_frontal=False),
        ]
    )
    assert patient.asymmetry == 2.0
    assert by_patient([of(1.0, mirrored=True)])[0].asymmetry is None
