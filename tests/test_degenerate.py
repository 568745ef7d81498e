"""Data sets with nothing to learn: training ends without an error; undefined measures are NaN."""

import json
import math

import numpy as np
import pytest
import tiny_training
from PIL import Image

from thermo_jax import main
from thermo_jax.configs import classify, encoder, segment
from thermo_jax.data.phantom import write_phantom
from thermo_jax.data.thermogram import CLASS_NAMES

PATIENTS = 6
SIZE = "60x80"  # of the reduced label maps
FULL = "480x640"

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny_training.quick_compilation)


@pytest.fixture(autouse=True, params=[True, pytest.param(False, marks=pytest.mark.slow)])
def shallow(request):
    """Replaces the U-Net by one of a single stage; the slow tests use the real one."""
    with tiny_training.shallow_decoders(request.param):
        yield


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A phantom data set of six patients, which a test may damage."""
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path / "cache"))
    return write_phantom(tmp_path / "data", patients=PATIENTS)


def tiny(module, preset: str, data, **split) -> object:
    config = module.get_config(preset)
    config.data.root = str(data)
    config.data.downscale = 2
    config.data.loader = "numpy"
    config.parallel.devices = 1
    config.split.folds = 3
    config.split.update(split)
    config.train.batch_size = 2
    config.train.epochs = 1
    if "encoder" in config:
        config.encoder.kind = "random"
        config.encoder.num_kernels = 1
        config.model.unet_width = 1
        config.report.bootstrap = 20
    else:
        config.model.num_kernels = 1
    return config


def diagnose(data, sick: set[int]):
    """Gives exactly these patients the diagnosis "Sick"."""
    for number, page in enumerate(sorted(data.glob("*/description.html")), start=1):
        text = page.read_text().replace("Sick", "Healthy")
        page.write_text(text.replace("Healthy", "Sick") if number in sick else text)


def classified(data, tmp_path, **split) -> dict:
    """Trains a classifier and returns its measures per patient."""
    outcome = main.run(tiny(classify, "H/H", data, **split), tmp_path / "run")
    assert (tmp_path / "run" / "report.html").stat().st_size
    return outcome["classification"]["patient"]["H/H"]


def test_constant_images_train_an_encoder_and_a_segmenter(data, tmp_path):
    for path in data.glob("*/*_snap.jpg"):
        Image.new("RGB", (160, 120), (90, 90, 90)).save(path)
    outcome = main.run(tiny(encoder, "heat", data), tmp_path / "encoder")
    assert all(map(math.isfinite, outcome["encoder"].values()))
    config = tiny(segment, "H/H", data)
    config.encoder.kind = "pretrained"
    config.encoder.workdir = str(tmp_path / "encoder")
    outcome = main.run(config, tmp_path / "segment")
    assert 0 <= outcome["segmentation"][SIZE]["miou"] <= 1


@pytest.mark.parametrize(
    "sick", [pytest.param(set(), marks=pytest.mark.slow), set(range(1, PATIENTS + 1))]
)
def test_one_class_has_an_accuracy_and_no_auroc(data, tmp_path, sick):
    diagnose(data, sick)
    scores = classified(data, tmp_path)
    assert math.isnan(scores["auroc"]) and 0 <= scores["accuracy"] <= 1
    assert "AUROC" in (tmp_path / "run" / "results.txt").read_text()


def patients_of(tmp_path, **sets: set[int]) -> str:
    """A split file with these patients."""
    path = tmp_path / "split.json"
    path.write_text(json.dumps({k: [f"{n:04d}" for n in sorted(v)] for k, v in sets.items()}))
    return str(path)


def test_a_fold_without_a_positive_has_no_recall(data, tmp_path):
    diagnose(data, {1, 2})
    scores = classified(
        data, tmp_path, file=patients_of(tmp_path, train={1, 2, 3}, val={4}, test={5, 6})
    )
    assert math.isnan(scores["recall"]) and math.isnan(scores["auroc"])
    assert 0 <= scores["specificity"] <= 1


def test_a_single_image_can_be_trained_on(data, tmp_path):
    diagnose(data, {1, 2, 3})
    file = patients_of(tmp_path, train={1}, val={2, 4}, test={3, 5, 6})
    assert classified(data, tmp_path, file=file)["counts"]["n"] == 3


def test_a_region_that_nobody_outlined_has_no_iou_and_does_not_spoil_the_mean(data, tmp_path):
    (file,) = data.glob("*instances*.json")
    coco = json.loads(file.read_text())
    left_out = next(c for c in coco["categories"] if c["name"].lower() == "left_nipple")
    coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != left_out["id"]]
    file.write_text(json.dumps(coco))
    scores = main.run(tiny(segment, "H/H", data), tmp_path / "run")["segmentation"][FULL]
    iou = dict(zip(CLASS_NAMES, scores["iou"], strict=True))
    assert iou["left_nipple"] == 0 or math.isnan(iou["left_nipple"])  # 0 if predicted anywhere
    assert scores["miou"] == pytest.approx(np.nanmean(scores["iou"]))


@pytest.mark.parametrize("patients", [1, 2])
def test_too_few_patients_are_refused(tmp_path, monkeypatch, patients):
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path / "cache"))
    data = write_phantom(tmp_path / "data", patients=patients)
    for module, preset in ((encoder, "heat"), (classify, "H/H"), (segment, "H/H")):
        with pytest.raises(ValueError, match="folds"):
            main.run(tiny(module, preset, data), tmp_path / module.__name__)
