"""Predictions without a named model use the one of the package; a tiny one takes its place."""

import contextlib
import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import tiny_training as tiny
from shipped_model import tiny_shipped_model
from thermogram_files import write_gray, write_matrix

from thermo_jax import main
from thermo_jax.configs import export as export_config
from thermo_jax.configs import few_shot as few_shot_config
from thermo_jax.configs import predict as predict_config
from thermo_jax.data.dataset import open_dataset
from thermo_jax.inference.predictor import Predictor
from thermo_jax.inference.provenance import SHIPPED_SCORE
from thermo_jax.inference.trained_models import load_model
from thermo_jax.programs import few_shot, settings
from thermo_jax.programs.export import export_weights
from thermo_jax.training.weights_file import SHIPPED_FILE, read_weights

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
NOTE = "Regions were drawn by the segmenter that comes with thermo_jax, trained on synthetic bodies"


@pytest.fixture(scope="module", autouse=True)
def source(tmp_path_factory):
    """The workdir of the segmenter that is in the package's place."""
    folder = tmp_path_factory.mktemp("shipped")
    with tiny.shallow_decoders(), tiny_shipped_model(folder) as workdir:
        yield workdir


def config(data, models=""):
    settings = predict_config.get_config()
    settings.input, settings.models, settings.labelme = str(data), models, True
    settings.check = False  # the model in the package's place cannot check pictures
    return settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A patient with temperatures, a photograph without, and a file that cannot be read."""
    data = tmp_path_factory.mktemp("data")
    write_matrix(data / "T0007.txt")
    write_gray(data / "photograph.jpg")
    (data / "broken.npy").write_bytes(b"not NumPy")
    return data


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    """Everything that `predict` wrote without a named model, and printed (printed.txt)."""
    workdir = tmp_path_factory.mktemp("out")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main.run(config(folder), workdir)
    (workdir / "printed.txt").write_text(printed.getvalue())
    return workdir


def read_csv(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_the_tables_have_regions_and_no_probabilities(workdir):
    rows = {row["name"]: row for row in read_csv(workdir / "predictions.csv")}
    assert [row["status"] for row in rows.values()] == ["predicted", "unreadable", "predicted"]
    assert rows["T0007"]["probability_sick"] == "" and rows["T0007"]["classifiers"] == "0"
    patients = {row["patient"]: row for row in read_csv(workdir / "patients.csv")}
    assert patients["0007"]["probability_sick"] == "" and patients["0007"]["thermograms"] == "1"
    assert any(row["mean_c"] for row in read_csv(workdir / "regions.csv"))


def test_every_table_says_by_what_it_was_made(workdir):
    for table in ("predictions", "patients"):
        models = {row["models"] for row in read_csv(workdir / f"{table}.csv") if row["models"]}
        (sentence,) = models
        assert sentence.startswith("shipped (segmenter; trained on synthetic bodies only; ")
        assert SHIPPED_SCORE in sentence
    (row,) = read_csv(workdir / "models.csv")
    assert row["model"] == "shipped" and row["test_score"] == SHIPPED_SCORE
    saved = json.loads((workdir / "config.json").read_text())
    assert [model["model"] for model in saved["models"]] == ["shipped"]


def test_pages_say_by_what_the_regions_were_drawn_and_no_probability(workdir):
    for page in ("0007.html", "by_file/photograph.html"):
        text = (workdir / "reports" / page).read_text()
        assert f"{NOTE} only." in text and SHIPPED_SCORE in text
        assert "Probability of sick" not in text and "By region" in text


def test_pictures_polygons_and_labelme_files_need_no_classifier(workdir):
    assert (workdir / "overlays" / "T0007.png").stat().st_size > 10_000
    document = json.loads((workdir / "regions_coco.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["T0007.txt", "photograph.jpg"]
    description = document["info"]["description"]
    assert description.startswith("regions by shipped (segmenter; trained on synthetic bodies only")
    assert description.endswith("; research software")
    shapes = json.loads((workdir / "labelme" / "T0007.json").read_text())["shapes"]
    assert {shape["description"] for shape in shapes} == {description}
    assert not (workdir / "evidence").exists()


def test_the_run_prints_by_what_thermograms_were_segmented(workdir):
    printed = (workdir / "printed.txt").read_text()
    assert "shipped (segmenter; trained on synthetic bodies only" in printed


def test_a_predictor_without_arguments_uses_the_packages_model(source, caplog):
    (model,) = Predictor(check=False).models
    assert f"{NOTE} only." in caplog.text
    (trained,) = Predictor([source], check=False).models
    images = np.random.default_rng(0).integers(0, 256, (1, *model.image_shape), np.uint8)
    assert (model.name, model.is_shipped, trained.is_shipped) == ("shipped", True, False)
    np.testing.assert_array_equal(model(images)["classes"], trained(images)["classes"])


def test_the_packages_model_may_be_listed_with_others(source):
    predictor = Predictor([source, "shipped"], check=False)
    assert [model.name for model in predictor.models] == ["source", "shipped"]
    note = NOTE.removeprefix("Regions were drawn by ")
    expected = f"Regions are the mean of several models: {note} only; source."
    assert predictor.note_on("segment") == expected
    assert predictor.note_on("classify") == ""
    assert Predictor([source], check=False).note_on("segment") == ""


def test_the_score_of_the_packages_model_is_that_of_its_model_card():
    card = (SHIPPED_FILE.parent / "MODEL_CARD.md").read_text()
    value, low, high = re.findall(r"\.\d{3}", SHIPPED_SCORE)
    assert f"this model | {value} (95 % interval {low} to {high})" in card
    assert (
        SHIPPED_SCORE.endswith("; 11 real patients)")
        and "on the 11 reporting patients" in card.lower()
    )


def test_the_few_shot_study_scores_the_packages_model_as_it_is(tmp_path, cache):
    config = few_shot_config.get_config("small,phantom")
    config.data.update({"phantom_patients": 6, "loader": "numpy"})
    config.split.folds = 3
    with tiny.shallow_decoders(), tiny_shipped_model(tmp_path, "G/G"):
        model = load_model("shipped")
        config.downscale.gray = model.downscale
        segmenter = few_shot.stage_config(config, "segment", data_type="gray", split={"fold": 0})
        dataset = open_dataset(settings.data_settings(segmenter))
        split = dataset.split(settings.split_settings(segmenter))
        score = few_shot._untrained(dataset, split)
        segmenter.data.downscale *= 2  # the model does not read such images
        assert few_shot._untrained(open_dataset(settings.data_settings(segmenter)), split) is None
    examples = dataset.load("segment")
    tested = [row for row, name in enumerate(examples.patients) if name in split.test]
    truth, images = (examples.columns[name][tested] for name in ("scored_label_maps", "images"))
    guess = model(images, shape=images.shape[1:3])["classes"].argmax(-1)
    ious = [
        ((truth == k) & (guess == k)).sum() / ((truth == k) | (guess == k)).sum() for k in range(8)
    ]
    assert score == pytest.approx(np.mean(ious), abs=1e-3)


def test_a_decoder_is_exported_to_a_file_that_predicts_the_same(source, tmp_path):
    workdir = shutil.copytree(source, tmp_path / "runs" / "segment")
    scores = {"segmentation": {"30x40": {"miou": 0.5}}, "run": {"data": "/secret"}}
    (workdir / "results.json").write_text(json.dumps(scores))
    settings = export_config.get_config("safetensors")
    settings.models = str(tmp_path / "runs")
    (file,) = main.run(settings, tmp_path / "out")["files"]
    assert file.endswith("out/segment.safetensors")
    ours, theirs = load_model(workdir), load_model(file)
    images = np.random.default_rng(0).integers(0, 256, (1, *ours.image_shape), np.uint8)
    np.testing.assert_array_equal(theirs(images)["classes"], ours(images)["classes"])
    _, meta = read_weights(file)
    assert meta["scores"] == {"segmentation": {"30x40": {"miou": 0.5}}}
    assert meta["config"]["task"] == "segment" and meta["encoder"]["num_kernels"] == 2


def test_a_file_contains_no_path_and_no_name_of_a_patient(source, tmp_path):
    model = load_model(source)
    model.meta["encoder"] |= {"seen_patients": ["secret"], "data_fingerprint": "secret"}
    for name in ("data.root", "data.prepared_dir", "split.file", "encoder.workdir", "init_from"):
        *sections, field = name.split(".")
        section = model.meta["config"]
        for part in sections:
            section = section.setdefault(part, {})
        section[field] = "/secret"
    (file,) = export_weights(model, tmp_path / "x.safetensors")
    assert b"secret" not in file.read_bytes()
    model.meta["config"] |= {"init_from": "shipped"}
    model.meta["config"]["data"]["root"] = "phantom"
    _, meta = read_weights(*export_weights(model, tmp_path / "y.safetensors"))
    assert (meta["config"]["data"]["root"], meta["config"]["init_from"]) == ("phantom", "shipped")


def test_a_file_whose_weights_do_not_fit_its_description_is_refused(source, tmp_path):
    from thermo_jax.training.weights_file import write_weights

    variables, meta = read_weights("shipped")
    meta["config"]["model"]["unet_width"] = 3
    write_weights(tmp_path / "x.safetensors", variables, meta)
    with pytest.raises(ValueError, match="x.safetensors does not contain the model that it descri"):
        load_model(tmp_path / "x.safetensors")


def test_the_packages_model_lies_in_the_package():
    assert SHIPPED_FILE.parent.parent.name == "thermo_jax"
