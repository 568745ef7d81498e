"""What is published of a decoder: which predictions meet which truth, at which threshold."""

import numpy as np
import pytest

from thermo_jax.data.examples import Examples
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.programs import scores


def examples(patients, **columns):
    count = len(patients)
    return Examples(
        data_type="heat",
        names=[f"image{i}" for i in range(count)],
        patients=list(patients),
        views=np.ones(count, np.int32),
        protocols=["S"] * count,
        dates=["2012-10-08"] * count,
        columns={"images": np.zeros((count, 4, 4, 3), np.uint8), **columns},
    )


@pytest.fixture(scope="module")
def classified():
    """Validation separates at .3; the test scores .4 (healthy), .6 and .35 (sick, one patient)."""
    labels = {"train": [0, 1], "validation": [0, 1], "test": [0, 1, 1]}
    patients = {"train": ["0001", "0002"], "validation": ["0003", "0004"]}
    patients["test"] = ["0005", "0006", "0006"]
    sets = {
        role: examples(patients[role], labels=np.array(values, np.int32))
        for role, values in labels.items()
    }
    predictions = {
        "validation": {"probabilities": np.array([0.2, 0.4], np.float32)},
        "test": {"probabilities": np.array([0.4, 0.6, 0.35], np.float32)},
    }
    return scores.score_classification(sets, predictions, row="H/H")


def test_the_plain_row_uses_one_half_and_the_tuned_row_the_validation_threshold(classified):
    rows = classified[0]["image"]
    assert rows["H/H"]["counts"] == {"n": 3, "healthy": 1, "sick": 2} | {
        "tp": 1,
        "fn": 1,
        "tn": 1,
        "fp": 0,
    }
    assert 0.2 <= rows["H/H tuned"]["threshold"] < 0.4
    assert rows["H/H tuned"]["counts"]["tp"] == 2
    assert rows["H/H tuned"]["counts"]["fp"] == 1


def test_a_patients_score_is_the_mean_over_her_images(classified):
    rows = classified[0]["patient"]
    assert rows["H/H"]["counts"]["n"] == 2
    assert rows["H/H"]["counts"]["fn"] == 1  # (.6 + .35) / 2 is below one half
    assert rows["H/H"]["auroc"] == 1.0


def test_baselines_stand_beside_the_model_and_see_the_training_set_only(classified):
    rows = classified[0]["image"]
    assert rows["majority class"]["brier"] == pytest.approx(0.25)  # half of training is sick
    assert {"mean intensity", "histogram", "acquisition year", "patient number"} <= set(rows)


def test_the_predictions_file_has_a_row_per_image_with_both_decisions(classified):
    rows = classified[1]
    assert [row["predicted"] for row in rows] == ["healthy", "sick", "healthy"]
    assert [row["predicted_tuned"] for row in rows] == ["sick", "sick", "sick"]
    assert [row["label"] for row in rows] == ["healthy", "sick", "sick"]
    assert all(row["tuned_threshold"] < 0.4 for row in rows)


def test_segmentations_are_scored_at_their_size_and_at_full_size():
    scored = np.zeros((2, 4, 4), np.uint8)
    full = np.zeros((2, 16, 16), np.uint8)
    full[:, :, 8:] = CLASS_NAMES.index("neck")
    test = examples(["0001", "0002"], scored_label_maps=scored, label_maps=full)
    wrong = scored.copy()
    wrong[1, :2] = 1
    measures, rows = scores.score_segmentation(test, {"label_maps": wrong, "full_label_maps": full})
    assert measures["16x16"]["accuracy"] == measures["16x16"]["miou"] == 1.0
    assert measures["4x4"]["accuracy"] == 0.75  # of all pixels of both images
    assert measures["4x4"]["iou"][0] == 0.75
    assert [row["accuracy_4x4"] for row in rows] == [1.0, 0.5]
    assert [row["accuracy_16x16"] for row in rows] == [1.0, 1.0]
