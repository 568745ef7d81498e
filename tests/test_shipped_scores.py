"""The model that ships, on real patients that neither training nor choosing has seen (SPEC 11)."""

import numpy as np
import pytest
from PIL import Image

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation.metrics import confusion_matrix, segmentation_measures
from thermo_jax.inference.predictor import Predictor

pytestmark = pytest.mark.slow
REPORTING = (2, 12, 16, 30, 42, 48, 51, 57, 59, 61, 70)


@pytest.fixture(scope="module")
def measures(sample_dir):
    """Scores of one pooled confusion at 480x640."""
    files = [
        next(
            path
            for path in sorted((sample_dir / f"site/{n:04d}").glob("T*.jpg"))
            if "snap" not in path.name
        )
        for n in REPORTING
    ]
    total = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
    for number, prediction in zip(REPORTING, Predictor().predict_files(files), strict=True):
        truth = np.asarray(Image.open(sample_dir / f"label_maps/T{number:04d}.png"))
        total += confusion_matrix(truth, prediction.label_map, num_classes=len(CLASS_NAMES))
    return segmentation_measures(total)


def test_mean_iou(measures):
    assert measures["miou"] >= 0.60


@pytest.mark.parametrize(("part", "least"), [("breast", 0.75), ("nipple", 0.20)])
def test_regions(measures, part, least):
    ious = [measures["iou"][CLASS_NAMES.index(f"{side}_{part}")] for side in ("left", "right")]
    assert min(ious) >= least
