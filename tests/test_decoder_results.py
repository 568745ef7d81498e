"""A decoder's results: its predictions, the truth that they are compared with, and thresholds."""

import dataclasses

import numpy as np
import pytest
from example_tables import table

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation import assessment
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.programs import decoder_results, reports
from thermo_jax.training import passes

SAMPLING = {"samples": 50, "seed": 0}


def classified(*, tuned=True, temperatures=None, scores=(0.4, 0.6, 0.35)):
    """The tuned threshold is near 0.3; `scores` of a healthy and a sick patient, tested twice."""
    labels = {"train": [0, 1], "validation": [0, 1], "test": [0, 1, 1]}
    patients = {"train": ["0001", "0002"], "validation": ["0003", "0004"]}
    patients["test"] = ["0005", "0006", "0006"]
    sets = {
        role: table(patients[role], labels=np.array(values, np.int32))
        for role, values in labels.items()
    }
    for role, values in (temperatures or {}).items():
        sets[role] = dataclasses.replace(sets[role], mean_temperatures=np.array(values))
    predictions = {
        "validation": {"probabilities": np.array([0.2, 0.4], np.float32)},
        "test": {"probabilities": np.array(scores, np.float32)},
    }
    gray = {role: np.zeros((len(part), 4, 4, 1), np.uint8) for role, part in sets.items()}
    return decoder_results.classified(sets, predictions, gray=gray, model="fold 0", tuned=tuned)


@pytest.fixture(scope="module")
def measures():
    assessed = assessment.assess_classification(classified(), row="H/H", **SAMPLING)
    return assessed["classification"]


def test_the_plain_row_uses_one_half_and_the_tuned_row_the_validation_threshold(measures):
    rows = measures["image"]
    counts = {"n": 3, "healthy": 1, "sick": 2, "tp": 1, "fn": 1, "tn": 1, "fp": 0}
    assert rows["H/H"]["counts"] == counts
    tuned = rows[f"H/H at {assessment.TUNED}"]
    assert (tuned["counts"]["tp"], tuned["counts"]["fp"]) == (2, 1)


def test_the_reports_table_names_the_threshold_of_every_row(measures):
    table = reports.classification_table("Classification per image", measures["image"])
    shown = {row[0]: row[table.columns.index("sick above")] for row in table.rows}
    chosen = measures["image"][f"H/H at {assessment.TUNED}"]["threshold"]
    assert 0.2 < chosen < 0.4
    assert shown["H/H"] == shown["majority class"] == "0.500"
    assert shown[f"H/H at {assessment.TUNED}"] == f"{chosen:.3f}"


def test_a_patients_score_is_the_mean_over_all_their_images(measures):
    rows = measures["patient"]
    assert rows["H/H"]["counts"]["n"] == 2
    assert rows["H/H"]["counts"]["fn"] == 1  # (.6 + .35) / 2 is below one half
    assert rows["H/H"]["auroc"] == 1.0


def test_baselines_are_reported_beside_the_model_and_use_the_training_set_only(measures):
    rows = measures["image"]
    assert rows["majority class"]["brier"] == pytest.approx(0.25)  # half of training is sick
    assert {"mean intensity", "histogram", "acquisition year", "patient number"} <= set(rows)


def test_the_mean_temperature_is_a_baseline_if_there_are_temperatures():
    assert "mean temperature" not in classified().named("baseline/")
    known = {"train": [30.0, 34.0], "test": [30.5, np.nan, 33.5]}
    healthy, _, sick = classified(temperatures=known).named("baseline/")["mean temperature"]
    assert healthy < 0.5 < sick


def test_the_predictions_file_has_a_row_per_image_with_every_decision():
    columns = decoder_results.classification_columns(classified())
    assert columns["predicted"].tolist() == ["healthy", "sick", "healthy"]
    assert columns[f"predicted, {assessment.TUNED}"].tolist() == ["sick"] * 3
    assert columns["label"].tolist() == ["healthy", "sick", "sick"]
    assert all(0.2 <= threshold < 0.4 for threshold in columns[f"threshold, {assessment.TUNED}"])


def test_float32_scores_are_compared_with_thresholds_in_float64():
    scores = classified(scores=[0.1] * 3).columns["probabilities"]
    assert (scores > 0.1).all()  # the float32 0.1 is above the float64 0.1, and equal in float32


def test_no_threshold_is_chosen_if_test_patients_validate():
    assert classified(tuned=False).named("threshold/") == {}


def test_segmentations_are_scored_at_their_size_and_at_full_size():
    scored = np.zeros((2, 4, 4), np.uint8)
    full = np.zeros((2, 16, 16), np.uint8)
    full[:, :, 8:] = CLASS_NAMES.index("neck")
    test = table(["0001", "0002"], scored_label_maps=scored, label_maps=full)
    wrong = scored.copy()
    wrong[1, :2] = 1
    predicted = {"label_maps": wrong, "full_label_maps": full}
    keep = decoder_results.keeper("segment", test)
    parts = [
        keep({name: maps[row : row + 1] for name, maps in predicted.items()}, slice(row, row + 1))
        for row in range(2)
    ]
    predictions = Predictions.of(test, model="fold 0", columns=passes.joined(parts))
    np.testing.assert_array_equal(predictions.columns["label_maps"], wrong)
    measures = assessment.assess_segmentation(predictions, **SAMPLING)["segmentation"]
    assert measures["16x16"]["accuracy"] == measures["16x16"]["miou"] == 1.0
    assert measures["4x4"]["accuracy"] == 0.75  # of all pixels of both images
    assert measures["4x4"]["iou"][0] == 0.75
    columns = decoder_results.segmentation_columns(predictions)
    assert columns["accuracy_4x4"].tolist() == [1.0, 0.5]
    assert columns["accuracy_16x16"].tolist() == [1.0, 1.0]
