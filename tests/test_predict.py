"""The prediction program on a folder: what it writes for good and bad files."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_training as tiny
from saved_decoders import save_decoder
from thermogram_files import flir_jpeg, matrix, write_gray, write_matrix

from thermo_jax import main
from thermo_jax.configs import classify
from thermo_jax.configs import predict as predict_config
from thermo_jax.data.label_map_files import read_label_map
from thermo_jax.programs import predict
from thermo_jax.programs.workdir import open_workdir

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

# A shallow U-Net is enough to test the files that are written.
shallow_unets = pytest.fixture(scope="module", autouse=True)(tiny.shallow_unets)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_decoder(folder / "classify0", "classify", seed=0)
    save_decoder(folder / "classify1", "classify", seed=1)
    save_decoder(folder / "segment", "segment")
    return folder


@pytest.fixture(scope="module")
def outcome(models, tmp_path_factory):
    """The workdir and results of a folder with temperatures, a photograph and a broken file."""
    data = tmp_path_factory.mktemp("data")
    write_matrix(data / "visit 1" / "=T.txt")
    write_gray(data / "photograph.jpg")
    (data / "broken.npy").write_bytes(b"not NumPy")
    workdir = tmp_path_factory.mktemp("out")
    return workdir, main.run(config(data, models), workdir)


def config(data, models):
    settings = predict_config.get_config()
    settings.input, settings.models = str(data), str(models)
    settings.check = False  # these pictures are stripes
    return settings


def read_csv(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_every_thermogram_has_a_row_and_unreadable_ones_a_reason(outcome):
    rows = {row["name"]: row for row in read_csv(outcome[0] / "predictions.csv")}
    assert set(rows) == {"broken", "photograph", "visit 1/=T"}
    assert rows["broken"]["status"] == "unreadable"
    assert "broken.npy: not a NumPy array" in rows["broken"]["notes"]
    row = rows["visit 1/=T"]
    low, high = float(row["lowest_of_models"]), float(row["highest_of_models"])
    assert 0 <= low <= float(row["probability_sick"]) <= high <= 1
    assert (row["classifiers"], row["pixels"]) == ("2", "temperatures")
    assert (rows["photograph"]["pixels"], rows["photograph"]["notes"]) == ("gray", "")


def test_regions_have_temperatures_if_their_thermogram_has(outcome):
    workdir, results = outcome
    rows = read_csv(workdir / "regions.csv")
    label_map = read_label_map(workdir / "label_maps" / "visit 1" / "=T.png")
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


def test_a_thermogram_of_an_unknown_patient_has_a_page_with_its_picture(outcome):
    workdir, _ = outcome
    pages = workdir / "reports" / "by_file"
    page = (pages / "visit 1" / "=T.html").read_text()
    for text in ("data:image/webp;base64", "Probability of sick", "image left", "not a diagnostic"):
        assert text in page
    assert (workdir / "overlays" / "visit 1" / "=T.png").stat().st_size > 10_000
    assert "No temperatures: areas only" in (pages / "photograph.html").read_text()


@pytest.fixture(scope="module")
def of_patients(models, tmp_path_factory):
    """The workdir and results of patient 7 in two folders, a file 0007, and a bad one of 8."""
    data = tmp_path_factory.mktemp("data")
    write_matrix(data / "a" / "T0007.txt")
    write_matrix(data / "b" / "T0007.txt", matrix()[:, ::-1])
    write_gray(data / "0007.jpg")
    (data / "T0008.txt").write_text("nothing")
    workdir = tmp_path_factory.mktemp("out")
    return workdir, main.run(config(data, models), workdir)


def test_a_patient_has_a_row_with_mean_and_spread(of_patients):
    workdir, results = of_patients
    rows = {
        row["patient"]: row
        for row in read_csv(workdir / "patients.csv")
        if row["patient_known"] == "yes"
    }
    images = [row["probability_sick"] for row in results["predictions"] if row["patient"] == "0007"]
    row = rows["0007"]
    assert (row["thermograms"], row["unreadable"]) == ("2", "0")
    assert float(row["probability_sick"]) == pytest.approx(np.mean(images))
    bounds = [float(row[f"{end}_of_thermograms"]) for end in ("lowest", "highest")]
    assert bounds == pytest.approx(sorted(images))
    low, high = float(row["lowest_of_models"]), float(row["highest_of_models"])
    assert low < float(row["probability_sick"]) < high
    assert rows["0008"]["probability_sick"] == rows["0008"]["report"] == ""
    assert "T0008.txt: no matrix of temperatures" in rows["0008"]["notes"]


def test_a_patients_mean_is_over_the_views_that_the_models_saw(models, tmp_path, capsys):
    data = tmp_path / "data"
    for name in ("T0007.1.1", "T0007.1.2", "T0009.1.5"):
        write_matrix(data / f"{name}.S.2012-10-08.00.txt")
    settings = config(data, models)
    settings.reports = False
    results = main.run(settings, tmp_path / "out")
    frontal, side, _ = results["predictions"]
    assert "right 45 view, of which the models saw none in training" in side["notes"]
    first, second = read_csv(tmp_path / "out" / "patients.csv")
    assert (first["thermograms"], first["in_mean"]) == ("2", "1")
    assert float(first["probability_sick"]) == pytest.approx(frontal["probability_sick"])
    assert (second["in_mean"], second["probability_sick"]) == ("0", "")
    assert "left 90 view" in second["notes"] and "patient's mean" in second["notes"]
    assert "2, left out of the patients' means" in capsys.readouterr().out


def test_a_patient_has_one_page_and_a_file_of_the_same_name_another(of_patients):
    workdir, results = of_patients
    pages = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*.html")}
    assert pages == {"index.html", "reports/0007.html", "reports/by_file/0007.html"}
    assert {row["report"] for row in results["patients"]} == {*pages - {"index.html"}, None}
    page = (workdir / "reports" / "0007.html").read_text()
    assert page.count("<img") == 2 * 3  # thermogram, regions, evidence


def test_files_of_one_name_in_two_folders_keep_their_own_outputs(of_patients):
    workdir, _ = of_patients
    names = {"0007", "a/T0007", "b/T0007"}
    for folder in ("label_maps", "evidence", "overlays"):
        files = [path for path in (workdir / folder).rglob("*.*") if path.name != "classes.json"]
        assert {p.relative_to(workdir / folder).with_suffix("").as_posix() for p in files} == names


def test_hostile_names_stay_in_the_workdir_and_are_no_formulas(models, tmp_path):
    names = ["=1+1", "@SUM(AA)", "+x\n-y", "\t=x", "x\\..\\..\\y", "~", "%2e%2e%2fx", "<b>$(x)"]
    for name in names:
        write_matrix(tmp_path / "data" / name / f"{name}.txt", matrix()[:24, :32])
        write_matrix(tmp_path / "data" / f"{name}.txt", matrix()[:24, :32])
    main.run(config(tmp_path / "data", models / "segment"), tmp_path / "deep" / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
    assert len(list((tmp_path / "deep" / "out" / "reports").rglob("*.html"))) == 2 * len(names)
    assert "<b>$(x)" not in (tmp_path / "deep" / "out" / "index.html").read_text()
    for table, column in (("predictions", "name"), ("patients", "patient"), ("regions", "name")):
        cells = {row[column] for row in read_csv(tmp_path / "deep" / "out" / f"{table}.csv")}
        assert len(cells) == 2 * len(names)
        assert not [cell for cell in cells if cell.lstrip()[0] in "=+-@"]


def test_names_as_long_as_a_file_system_allows_have_their_own_outputs(models, tmp_path):
    names = ["x" * 250 + end for end in "ab"]
    for name in names:
        write_matrix(tmp_path / "data" / f"{name}.csv", matrix()[:24, :32])
    settings = config(tmp_path / "data", models / "segment")
    settings.labelme = True
    main.run(settings, tmp_path / "out")
    assert [row["name"] for row in read_csv(tmp_path / "out" / "predictions.csv")] == names
    for folder in ("label_maps", "labelme", "overlays", "reports/by_file"):
        assert len(list((tmp_path / "out" / folder).glob("xxx*"))) == 2


def test_input_is_a_list_of_folders_patterns_and_zips(models, tmp_path):
    small = matrix()[:24, :32]
    for name in ("x/0007/a.csv", "y/b.csv", "y/c.txt"):
        write_matrix(tmp_path / name, small)
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.write(tmp_path / "y" / "c.txt", "P051/c.txt")
    given = f"{tmp_path}/x, {tmp_path}/y/*.csv,{tmp_path}/scans.zip"
    main.run(config(given, models / "segment"), tmp_path / "out")
    patients = {row["name"]: row["patient"] for row in read_csv(tmp_path / "out/predictions.csv")}
    assert patients == {"scans/P051/c": "p-51", "x/0007/a": "0007", "y/b": ""}
    assert (tmp_path / "out" / "label_maps" / "scans" / "P051" / "c.png").is_file()
    document = json.loads((tmp_path / "out" / "regions_coco.json").read_text())
    files = [image["file_name"] for image in document["images"]]
    assert files == ["scans/P051/c.txt", "x/0007/a.csv", "y/b.csv"]


class FakeThermogram:
    """What flyr returns: temperatures that show the emissivity that was used."""

    metadata = {"emissivity": 0.95, "reflected_apparent_temperature": 294.15}

    def __init__(self, emissivity=0.95):
        self.celsius = matrix()[:24, :32] + 10 * emissivity

    def adjust_metadata(self, emissivity):
        return FakeThermogram(emissivity)


def test_unit_and_emissivity_reach_the_reader(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flyr", SimpleNamespace(unpack=lambda _: FakeThermogram()))
    camera = write_gray(tmp_path / "data" / "camera.jpg")
    camera.write_bytes(flir_jpeg(camera.read_bytes()))
    write_matrix(tmp_path / "data" / "table.csv", matrix()[:24, :32])
    settings = config(tmp_path / "data", models / "segment")
    settings.reports, settings.flir.emissivity, settings.data.unit = False, 0.5, "kelvin"
    camera, table = main.run(settings, tmp_path / "out")["predictions"]
    assert "emissivity 0.95 replaced by 0.5" in camera["notes"]
    assert table["status"] == "unreadable" and "kelvin" in table["notes"].lower()


def test_each_note_stands_once_in_the_table(models, tmp_path):
    values = matrix()[:48, :48]
    values[5, 5] = 0
    write_matrix(tmp_path / "data" / "0001" / "T0044.csv", values)
    main.run(config(tmp_path / "data", models), tmp_path / "out")
    (row,) = read_csv(tmp_path / "out" / "predictions.csv")
    notes = row["notes"].split("; ")
    assert len(notes) == len(set(notes)) == 3
    assert notes[0] == "name says patient 0044, folder says 0001" and row["patient"] == "0044"
    assert "edges repeated" in row["notes"] and "1 " in notes[1]


def test_reports_can_be_left_out(models, tmp_path):
    write_matrix(tmp_path / "data" / "a.txt")
    settings = config(tmp_path / "data" / "a.txt", models)
    settings.reports = False
    main.run(settings, tmp_path / "out")
    assert (tmp_path / "out" / "label_maps" / "a.png").exists()
    assert not (tmp_path / "out" / "reports").exists()
    assert not (tmp_path / "out" / "labelme").exists()


def test_names_that_are_not_valid_text_are_written_too(models, tmp_path, capsys):
    name = os.fsdecode(b"S\xe3o")
    write_matrix(tmp_path / "data" / f"{name}.txt")
    (tmp_path / "data" / f"{name}2.txt").write_text("nothing")
    rows = main.run(config(tmp_path / "data", models), tmp_path / "out")["predictions"]
    assert [row["status"] for row in rows] == ["predicted", "unreadable"]
    names = [row["name"] for row in read_csv(tmp_path / "out" / "predictions.csv")]
    assert names == ["S\\udce3o", "S\\udce3o2"]
    assert "S\\udce3o2" in capsys.readouterr().out


@pytest.mark.filterwarnings("error:Glyph")
def test_names_that_the_figures_font_lacks_are_drawn_without_a_warning(models, tmp_path):
    name = "\t\u65e5"
    write_matrix(tmp_path / "data" / f"{name}.txt")
    main.run(config(tmp_path / "data", models), tmp_path / "out")
    assert (tmp_path / "out" / "overlays" / f"{name}.png").is_file()


def test_results_written_before_a_run_is_stopped_are_kept(models, tmp_path, monkeypatch):
    write_matrix(tmp_path / "data" / "a.txt")
    write_matrix(tmp_path / "data" / "b.txt")

    draw = predict.write_overlay

    def interrupted(path, prediction, **kwargs):
        if prediction.name == "b":
            raise KeyboardInterrupt
        return draw(path, prediction, **kwargs)

    monkeypatch.setattr(predict, "write_overlay", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main.run(config(tmp_path / "data", models), tmp_path / "out")
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert [row["name"] for row in rows] == ["a", "b"]  # b was predicted, but not drawn
    assert (tmp_path / "out" / "reports" / "by_file" / "a.html").is_file()
    index = (tmp_path / "out" / "index.html").read_text()
    assert 'href="reports/by_file/a.html"' in index and "by_file/b.html" not in index


def test_results_of_two_inputs_are_not_mixed(outcome, models, tmp_path):
    write_matrix(tmp_path / "other.txt")
    with pytest.raises(ValueError, match="already contains predictions: choose another --workdir$"):
        main.run(config(tmp_path / "other.txt", models), outcome[0])


def test_a_workdir_of_another_program_is_refused_without_advice_to_remove_it(models, tmp_path):
    write_matrix(tmp_path / "a.txt")
    trained = open_workdir(tmp_path / "trained", classify.get_config("H/H"))
    before = (trained / "config.json").read_text()
    with pytest.raises(ValueError, match="was 'classify', is 'predict'.*choose another --workdir"):
        main.run(config(tmp_path / "a.txt", models), trained)
    assert (trained / "config.json").read_text() == before


def test_results_among_the_thermograms_are_refused_before_anything_is_written(models, tmp_path):
    write_matrix(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="is config.input too: choose another --workdir"):
        main.run(config(tmp_path, models), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_earlier_results_are_not_read_as_thermograms(models, tmp_path):
    write_matrix(tmp_path / "0001" / "a.txt")
    settings = config(tmp_path, models / "segment")
    settings.reports = False
    rows = [
        main.run(settings, tmp_path / "0001" / name)["predictions"] for name in ("out1", "out2")
    ]
    assert [row["name"] for row in rows[1]] == ["0001/a"]
    assert rows[0] == rows[1]


def test_an_unknown_colour_map_is_refused_before_any_work(models, tmp_path):
    settings = config(tmp_path, models)
    settings.colormap = "infernoo"
    with pytest.raises(ValueError, match="unknown colour map 'infernoo'"):
        main.run(settings, tmp_path / "out")


@pytest.mark.slow  # test_end_to_end trains without TensorFlow in the quick suite
def test_prediction_runs_where_tensorflow_is_not_installed(models, tmp_path):
    write_matrix(tmp_path / "a.txt")
    program = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets"):
    sys.modules[name] = None  # an import now fails
sys.path.insert(0, {os.path.dirname(__file__)!r})
import tiny_training as tiny
from thermo_jax import main
from thermo_jax.configs import predict
quick = tiny.quick_compilation()
next(quick)
config = predict.get_config()
config.input, config.models = {str(tmp_path / "a.txt")!r}, {str(models / "segment")!r}
config.check = False
with tiny.shallow_decoders():
    main.run(config, {str(tmp_path / "out")!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "label_maps" / "a.png").is_file()


@pytest.mark.parametrize(("field", "value"), [("input", ""), ("models", ",")])
def test_a_missing_field_is_named(field, value, tmp_path):
    settings = config(tmp_path, tmp_path)
    settings[field] = value
    with pytest.raises(ValueError, match=f"config.{field} is empty: give --config.{field}"):
        main.run(settings, tmp_path / "out")
