"""The rows of the tables that `predict` writes. All temperatures are in degrees C."""

from collections.abc import Sequence
from typing import Any

from thermo_jax.inference.findings import Prediction
from thermo_jax.inference.inputs import Unreadable
from thermo_jax.inference.patients import Patient
from thermo_jax.inference.provenance import Provenance
from thermo_jax.inference.regions import PAIRS


def prediction_row(prediction: Prediction, *, models: Sequence[Provenance]) -> dict[str, Any]:
    """One row of predictions.csv."""
    picture, values = prediction.picture, list(prediction.probabilities.values())
    is_predicted = values or prediction.label_map is not None
    row = {
        "name": prediction.name,
        "patient": prediction.patient,
        "status": "predicted" if is_predicted else "no model reads it",
        "in_doubt": "yes" if prediction.doubts else "no",
        "probability_sick": prediction.probability,
        "lowest_of_models": min(values, default=None),
        "highest_of_models": max(values, default=None),
        "classifiers": len(values),
        "pixels": "+".join(picture.kinds),
        "height": prediction.shape[0],
        "width": prediction.shape[1],
    }
    known = prediction.differences
    for pair in PAIRS:
        for measure in ("mean", "max"):
            value = known.get(f"{pair}, {measure}")
            row[f"{pair}_image_left_minus_right_{measure}_c"] = value
    spots = [region for region in prediction.measurements if region.hottest]
    hottest = max(spots, key=lambda region: region.max, default=None)
    row["hottest_region"] = hottest.class_name if hottest else None
    row["hottest_c"] = hottest.max if hottest else None
    row["hottest_x"], row["hottest_y"] = hottest.hottest if hottest else (None, None)
    notes = [prediction.models_note.removesuffix(".")] if prediction.probabilities else []
    row["notes"] = "; ".join(filter(None, [*notes, *prediction.notes]))
    return row | {"models": " | ".join(model.sentence for model in models)}


def unreadable_row(item: Unreadable) -> dict[str, Any]:
    """The row of predictions.csv of a thermogram without a usable file."""
    return {
        "name": item.name,
        "patient": item.patient,
        "status": "unreadable",
        "notes": item.reason,
    }


def patient_row(patient: Patient, *, page: str, models: Sequence[Provenance]) -> dict[str, Any]:
    """One row of patients.csv; `page` is the path of the patient's page, "" if there is none."""
    images, by_model = patient.by_image, patient.by_model.values()
    notes = [note for finding in patient.findings for note in finding.notes]
    notes += [item.reason for item in patient.unreadable]  # the reasons name the files
    return {
        "patient": patient.name,
        "patient_known": "yes" if patient.known else "no",
        "thermograms": len(patient.findings),
        "in_mean": len(images),
        "in_doubt": sum(bool(finding.doubts) for finding in patient.findings),
        "unreadable": len(patient.unreadable),
        "probability_sick": patient.probability,
        "lowest_of_thermograms": min(images, default=None),
        "highest_of_thermograms": max(images, default=None),
        "lowest_of_models": min(by_model, default=None),
        "highest_of_models": max(by_model, default=None),
        "breasts_image_left_minus_right_mean_c": patient.asymmetry,
        "hottest_c": patient.hottest,
        "report": page or None,
        "notes": "; ".join(dict.fromkeys(notes)),
        "models": " | ".join(model.sentence for model in models),
    }
