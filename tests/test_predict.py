"""The program on a folder: what it writes for good files, bad files, and a reader."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_training as tiny
from PIL import Image
from saved_decoders import save_decoder
from thermogram_files import write_gray, write_matrix

from thermo_jax import main
from thermo_jax.configs import predict as predict_config
from thermo_jax.programs import predict

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_decoder(folder / "classify0", "classify", seed=0)
    save_decoder(folder / "classify1", "classify", seed=1)
    save_decoder(folder / "segment", "segment")
    return folder


@pytest.fixture(scope="module")
def outcome(models, tmp_path_factory):
    """(workdir, results) of a folder with temperatures, a photograph, and a broken file."""
    data = tmp_path_factory.mktemp("data")
    write_matrix(data / "visit 1" / "=T.txt")
    write_gray(data / "photograph.jpg")
    (data / "broken.npy").write_bytes(b"not NumPy")
    workdir = tmp_path_factory.mktemp("out")
    return workdir, main.run(config(data, models), workdir)


def config(data, models):
    found = predict_config.get_config()
    found.input, found.models = str(data), str(models)
    return found


def read_csv(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_every_thermogram_has_a_row_the_unreadable_with_its_reason(outcome):
    rows = {row["name"]: row for row in read_csv(outcome[0] / "predictions.csv")}
    assert set(rows) == {"broken", "photograph", "visit 1/=T"}
    assert rows["broken"]["status"] == "unreadable"
    assert "broken.npy: no NumPy array" in rows["broken"]["notes"]
    row = rows["visit 1/=T"]
    low, high = float(row["lowest_of_models"]), float(row["highest_of_models"])
    assert 0 <= low <= float(row["probability_sick"]) <= high <= 1
    assert (row["classifiers"], row["pixels"]) == ("2", "temperatures")
    assert "not a radiometric image" in rows["photograph"]["notes"]


def test_regions_have_temperatures_where_there_are(outcome):
    workdir, results = outcome
    rows = read_csv(workdir / "regions.csv")
    label_map = np.asarray(Image.open(workdir / "label_maps" / "visit 1" / "=T.png"))
    ours = [row for row in rows if row["name"] == "visit 1/=T"]
    assert sum(int(row["area_pixels"]) for row in ours) == (label_map != 6).sum() > 0
    assert all(28 <= float(row["mean_c"]) <= 38 for row in ours)
    assert all(row["mean_c"] == "" for row in rows if row["name"] == "photograph")
    assert len(results["regions"]) == len(rows)


def test_label_maps_evidence_and_polygons_are_written(outcome):
    workdir, _ = outcome
    evidence = np.load(workdir / "evidence" / "photograph.npz")
    assert {evidence[name].shape for name in evidence} == {(30, 40)} and len(evidence.files) == 2
    document = json.loads((workdir / "regions_coco.json").read_text())
    names = [image["file_name"] for image in document["images"]]
    assert names == ["photograph.jpg", "visit 1/=T.txt"]


def test_every_thermogram_has_a_page_with_its_picture_inside(outcome):
    workdir, _ = outcome
    page = (workdir / "reports" / "visit 1" / "=T.html").read_text()
    for text in ("data:image/png;base64", "Probability of sick", "image left", "not a diagnostic"):
        assert text in page
    assert (workdir / "overlays" / "visit 1" / "=T.png").stat().st_size > 10_000
    assert "No temperatures: areas only" in (workdir / "reports" / "photograph.html").read_text()


def test_reports_can_be_left_out(models, tmp_path):
    write_matrix(tmp_path / "data" / "a.txt")
    wanted = config(tmp_path / "data" / "a.txt", models)
    wanted.reports = False
    main.run(wanted, tmp_path / "out")
    assert (tmp_path / "out" / "label_maps" / "a.png").exists()
    assert not (tmp_path / "out" / "reports").exists()


def test_names_that_are_no_text_are_written_all_the_same(models, tmp_path, capsys):
    name = os.fsdecode(b"S\xe3o")
    write_matrix(tmp_path / "data" / f"{name}.txt")
    (tmp_path / "data" / f"{name}2.txt").write_text("nothing")
    rows = main.run(config(tmp_path / "data", models), tmp_path / "out")["predictions"]
    assert [row["status"] for row in rows] == ["predicted", "unreadable"]
    names = [row["name"] for row in read_csv(tmp_path / "out" / "predictions.csv")]
    assert names == ["S\\udce3o", "S\\udce3o2"]
    assert "S\\udce3o2" in capsys.readouterr().out


def test_what_is_done_is_kept_when_a_run_is_stopped(models, tmp_path, monkeypatch):
    write_matrix(tmp_path / "data" / "a.txt")
    write_matrix(tmp_path / "data" / "b.txt")

    def interrupted(workdir, found, *args, **kwargs):
        if found.name == "b":
            raise KeyboardInterrupt

    monkeypatch.setattr(predict, "_save_page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main.run(config(tmp_path / "data", models), tmp_path / "out")
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert [row["name"] for row in rows] == ["a", "b"]


def test_results_of_two_inputs_are_not_mixed(outcome, models, tmp_path):
    write_matrix(tmp_path / "other.txt")
    with pytest.raises(ValueError, match="holds predictions already: choose another --workdir"):
        main.run(config(tmp_path / "other.txt", models), outcome[0])


def test_a_mistyped_colour_map_is_told_before_any_work(models, tmp_path):
    wanted = config(tmp_path, models)
    wanted.colormap = "infernoo"
    with pytest.raises(ValueError, match="unknown colour map 'infernoo'"):
        main.run(wanted, tmp_path / "out")


def test_prediction_runs_where_tensorflow_is_not_installed(models, tmp_path):
    write_matrix(tmp_path / "a.txt")
    program = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets"):
    sys.modules[name] = None  # an import now fails
from thermo_jax import main
from thermo_jax.configs import predict
config = predict.get_config()
config.input, config.models = {str(tmp_path / "a.txt")!r}, {str(models / "segment")!r}
main.run(config, {str(tmp_path / "out")!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "label_maps" / "a.png").is_file()


@pytest.mark.parametrize("field", ["input", "models"])
def test_what_is_missing_is_asked_for(field, tmp_path):
    wanted = config(tmp_path, tmp_path)
    wanted[field] = ""
    with pytest.raises(ValueError, match=f"config.{field} is empty: give --config.{field}"):
        main.run(wanted, tmp_path / "out")
