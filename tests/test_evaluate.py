"""Program `evaluate`: who is tested, which scores are shown, and what the pages say."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_training as tiny
from saved_decoders import save_decoder

from thermo_jax import main
from thermo_jax.configs import classify, segment
from thermo_jax.configs import evaluate as evaluate_config
from thermo_jax.data.dataset import DataSettings, open_dataset
from thermo_jax.data.phantom import write_phantom
from thermo_jax.evaluation import assessment, metrics
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.files import digest
from thermo_jax.inference.provenance import ABOUT_PHANTOMS
from thermo_jax.programs import evaluate
from thermo_jax.training.known_images import image_digests, trained_with

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
shallow_unets = pytest.fixture(scope="module", autouse=True)(tiny.shallow_unets)

PATIENTS = [f"{number:04d}" for number in range(1, 13)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve patients, six of them sick, in a folder that is not known to be synthetic."""
    return write_phantom(tmp_path_factory.mktemp("data") / "site", patients=len(PATIENTS))


@pytest.fixture(scope="module")
def dataset(data):
    return open_dataset(DataSettings(root=str(data), type="heat", downscale=4, loader="numpy"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with two classifiers and two segmenters, which read two types of images."""
    folder = tmp_path_factory.mktemp("models")
    for task in ("classify", "segment"):
        for seed, row in enumerate(("H/H", "G/G")):
            save_decoder(folder / f"{task}_{row[0]}", task, row, seed=seed)
    return folder


def config_of(data, *models, **fields):
    config = evaluate_config.get_config()
    config.models = ",".join(map(str, models))
    config.data.update({"root": str(data), "loader": "numpy"})
    config.parallel.devices, config.report.bootstrap = 1, 20
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def loaded(models):
    """These models by name."""
    return {model.name: model for model in evaluate.load_models([models], dtype="float32")}


@pytest.fixture(scope="module")
def run(data, models, tmp_path_factory):
    """The workdir and the results of an evaluation of all four models."""
    workdir = tmp_path_factory.mktemp("out")

    def no_distances(truth, maps, *, num_classes):  # the real ones take most of the time
        return np.ones((len(truth), num_classes))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "hd95_by_class", no_distances)
        return workdir, main.run(config_of(data, models), workdir)


# --------------------------------------------------------------------------------------------------
# Ensembles
# --------------------------------------------------------------------------------------------------


def test_an_ensemble_averages_probabilities_and_each_model_has_a_row_of_its_own(run):
    workdir, outcome = run
    saved = Predictions.load(workdir / "predictions_classify.npz").columns
    names = [f"member/classify_{letter} alone" for letter in "HG"]
    np.testing.assert_array_equal(
        saved["probabilities"], np.mean([saved[name] for name in sorted(names)], axis=0)
    )
    for unit in ("image", "patient"):
        rows = list(outcome["classification"][unit])
        assert rows[:3] == ["mean of 2 models", "classify_G alone", "classify_H alone"]
        assert "histogram" in rows and "at best" not in " ".join(rows)


def test_the_label_map_of_an_ensemble_has_the_classes_of_the_mean_probabilities(run, loaded, data):
    workdir, outcome = run
    probabilities = []
    for letter, data_type, downscale in (("H", "heat", 4), ("G", "gray", 16)):
        settings = DataSettings(root=str(data), type=data_type, downscale=downscale, loader="numpy")
        examples = open_dataset(settings).load("segment")
        model = loaded[f"segment_{letter}"]
        probabilities.append(model(examples.columns["images"][:2], shape=(30, 40))["classes"])
    expected = np.mean(jax.device_get(probabilities), axis=0).argmax(-1)
    saved = Predictions.load(workdir / "predictions_segment.npz").columns["label_maps"][:2]
    np.testing.assert_array_equal(saved, expected)
    sizes = ["30x40", "480x640"]
    assert list(outcome["segmentation"]) == sizes + [
        f"{size}, segment_{letter} alone" for letter in "GH" for size in sizes
    ]


def test_models_of_different_sizes_are_compared_at_full_size_only():
    shares = np.random.default_rng(0).random((2, 1, 4, 4, 8), np.float32)
    results = [
        {"classes": shares[k][:, :size, :size], "full_classes": shares[k]}
        for k, size in enumerate((2, 3))
    ]
    together = evaluate._together(results)
    assert set(together) == {"full_label_maps"}
    np.testing.assert_array_equal(together["full_label_maps"], shares.mean(0).argmax(-1))


def test_one_report_has_both_tasks_with_a_table_of_predictions_for_each(run):
    workdir, outcome = run
    page = (workdir / "report.html").read_text()
    for words in ("Classification per patient", "Over all pixels of all images", "ROC curve"):
        assert words in page
    for task in ("classify", "segment"):
        with (workdir / f"predictions_{task}.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(PATIENTS)
    assert outcome["run"]["images to classify"] == "12 with a diagnosis (12 patients)"
    assert not (workdir / "split.json").exists()


def test_every_page_says_that_patients_may_have_trained_a_model(run):
    workdir, outcome = run
    sentence = f"classify_H was {evaluate.UNKNOWN}."
    assert sentence in outcome["cautions"]
    for name in ("report.html", "report.md", "results.txt"):
        assert evaluate.UNKNOWN in " ".join((workdir / name).read_text().split()), name


# --------------------------------------------------------------------------------------------------
# Baselines and thresholds
# --------------------------------------------------------------------------------------------------


def test_the_page_says_on_whom_the_baselines_were_fitted(run):
    workdir, outcome = run
    assert outcome["note"] == evaluate.FITTED
    for name in ("report.html", "report.md", "results.txt"):
        assert evaluate.FITTED in " ".join((workdir / name).read_text().split()), name


def test_with_few_patients_of_a_diagnosis_the_baselines_are_left_out(dataset):
    few = [record for record in dataset.records if record.patient <= "0008"]
    few = dataclasses.replace(dataset, records=few)
    scores, note = evaluate._baselines(few, few.load("classify"))
    assert not scores and "the folder has 4 healthy and 4 sick ones" in note


def test_the_thresholds_of_the_models_own_run_are_shown(loaded, tmp_path):
    chosen = {f"H/H at {assessment.TUNED}": {"threshold": 0.25}, "H/H": {"threshold": 0.5}}
    chosen |= {f"H/H at {assessment.SENSITIVE}": {"threshold": None}}  # was NaN
    (tmp_path / "results.json").write_text(json.dumps({"classification": {"patient": chosen}}))
    model = loaded["classify_H"]._replace(source=tmp_path)
    assert evaluate.own_thresholds(model) == {f"patient, {assessment.TUNED}": 0.25}
    assert evaluate.own_thresholds(loaded["classify_H"]) == {}  # its run wrote no results


# --------------------------------------------------------------------------------------------------
# Who is tested
# --------------------------------------------------------------------------------------------------


def seen_in(dataset, *patients, data=None, images=(), synthetic=False):
    """What a checkpoint says about a run that was trained on these patients."""
    key = dataset.fingerprint if data is None else data
    return {
        "data": digest(key),
        "synthetic": synthetic,
        "patients": sorted(digest([key, patient]) for patient in patients),
        "images": sorted(images),
    }


def sets_of(data, *models, **fields):
    """The one set that these models are evaluated on."""
    config = config_of(data, **fields)
    (found,) = evaluate.tested_sets(config, models, evaluate.open_datasets(config, models))
    return found


def trained(model, *runs):
    """The same model, whose checkpoint says this about the patients who trained it."""
    return model._replace(meta=model.meta | {"trained_on": list(runs)})


def test_patients_who_trained_the_model_are_left_out(data, dataset, loaded):
    run = seen_in(dataset, "0001", "0002")
    found = sets_of(data, trained(loaded["classify_H"], run))
    assert found.patients == set(PATIENTS) - {"0001", "0002"}
    assert (found.left_out, found.doubtful) == (2, [])


def test_a_copied_or_changed_folder_is_recognised_by_its_images(data, dataset, loaded):
    images = dataset.load("classify").columns["images"]
    run = seen_in(dataset, "0001", data="other", images=image_digests(images[2:5]))
    found = sets_of(data, trained(loaded["classify_H"], run))
    assert found.patients == set(PATIENTS) - {"0003", "0004", "0005"}
    assert [model.name for model in found.doubtful] == ["classify_H"]  # of other images


def test_synthetic_bodies_are_no_patients_but_a_classifier_of_them_is_marked(data, dataset, loaded):
    run = seen_in(dataset, "0001", data="phantom", synthetic=True)
    for task, marked in (("classify", [f"classify_H {ABOUT_PHANTOMS}."]), ("segment", [])):
        found = sets_of(data, trained(loaded[f"{task}_H"], run))
        assert found.patients == set(PATIENTS)
        assert evaluate._cautions(found) == marked


def test_a_run_on_all_patients_leaves_nobody_to_test(data, dataset, loaded):
    model = trained(loaded["classify_H"], seen_in(dataset, *PATIENTS))
    with pytest.raises(ValueError, match="all 12 patients who could be used to classify trained"):
        sets_of(data, model)


def test_a_split_file_restricts_the_patients_to_its_test_set(data, loaded, tmp_path):
    file = tmp_path / "split.json"
    sets = {"train": [], "val": ["0001"], "test": ["0002", "0005", "0099"]}
    file.write_text(json.dumps(sets))
    model = loaded["segment_G"]
    assert sets_of(data, model, split_file=str(file)).patients == {"0002", "0005"}
    file.write_text(json.dumps(sets | {"test": ["0099"]}))
    with pytest.raises(ValueError, match="split.json: none of its test patients has a thermogram"):
        sets_of(data, model, split_file=str(file))


def test_an_ensemble_is_tested_on_the_thermograms_that_all_of_its_models_read(
    data, loaded, tmp_path
):
    part = shutil.copytree(data, tmp_path / "part")
    for path in (*part.glob("0003/*_snap.jpg"), *part.glob("0003/*.txt")):
        path.unlink()
    found = sets_of(part, loaded["classify_H"], loaded["classify_G"])
    heat, gray = found.examples
    assert heat.names.tolist() == gray.names.tolist()
    assert found.patients == set(PATIENTS) - {"0003"}
    shapes = [examples.columns["images"].shape[1:] for examples in found.examples]
    assert shapes == [(30, 40, 3), (30, 40, 1)]


def test_an_image_is_recognised_by_its_pixels():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    (known,) = image_digests([image])
    assert len(known) == 16
    meta = {"trained_on": [None, {"patients": []}, {"images": [known]}]}
    assert trained_with(meta, [image, image[::-1]]) == [True, False]
    assert trained_with({}, [image]) == trained_with({"trained_on": None}, [image]) == [False]


# --------------------------------------------------------------------------------------------------
# A training run's own test patients
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("module", [classify, segment])
def test_the_test_patients_of_a_run_have_exactly_the_scores_of_that_run(module, data, tmp_path):
    config = module.get_config("H/H")
    config.data.update({"root": str(data), "downscale": 4, "loader": "numpy"})
    config.parallel.devices, config.report.bootstrap, config.split.folds = 1, 20, 3
    config.encoder.update({"kind": "random", "num_kernels": 1})
    config.train.update({"batch_size": 4, "epochs": 2})
    config.model.unet_width = 2
    trained = main.run(config, tmp_path / "run")
    outcome = main.run(config_of(data, tmp_path / "run"), tmp_path / "out")
    left_out = outcome["run"][evaluate.NOT_USED[config.task]]
    assert left_out.startswith("8 patients, who trained the ")
    if module is segment:
        np.testing.assert_equal(outcome["segmentation"], trained["segmentation"])
        return
    for unit, rows in trained["classification"].items():
        ours = [name for name in rows if name.startswith("H/H")]
        assert len(ours) == 3  # at .5, and at the two operating points
        for name in ours:
            again = outcome["classification"][unit][name.replace("H/H", "run")]
            np.testing.assert_equal(again, rows[name])


@pytest.mark.slow
def test_the_same_command_evaluates_again(data, models, tmp_path):
    config = config_of(data, models / "classify_H")
    main.run(config, tmp_path / "out")
    before = (tmp_path / "out" / "results.json").read_text()
    main.run(config, tmp_path / "out")
    assert (tmp_path / "out" / "results.json").read_text() == before
