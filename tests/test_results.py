"""The table at the end of a run, and the files of results and predictions."""

import csv
import json

import numpy as np
import pytest

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation import metrics, results
from thermo_jax.evaluation.tables import PrintedTable
from thermo_jax.evaluation.wording import DISCLAIMER, OPTIMISTIC, SIDES_NOTE


def _results(protocol="honest"):
    scores, labels = np.array([0.2, 0.4, 0.9, 0.7]), np.array([0, 1, 1, 0])
    rest = {"threshold": 0.5, "counts": {"n": 4, "healthy": 2, "sick": 2}}
    model, majority = (
        metrics.classification_measures(values, labels, called=values > 0.5) | rest
        for values in (scores, np.full(4, 0.5))
    )
    confusion = np.diag(np.arange(8) * 10) + 1
    confusion[3], confusion[:, 3] = 0, 0  # no right nipple anywhere
    segmentation = metrics.segmentation_measures(confusion)
    segmentation["hd95"] = np.where(np.arange(8) == 3, np.nan, 12.34)
    return {
        "run": {"encoder": "heat", "decoder": "heat", "protocol": protocol, "patients": 4},
        "encoder": {"best_epoch": 12, "val_loss": 0.123456},
        "classification": {
            "image": {"model": model, "majority class": majority},
            "patient": {"model": model},
        },
        "segmentation": {"120x160": segmentation, "480x640": segmentation},
    }


def _line(text, start):
    return next(line for line in text.splitlines() if line.strip().startswith(start))


def test_the_table_fits_the_page_and_ends_with_the_disclaimer():
    text = results.results_text(_results())
    assert text.endswith(DISCLAIMER + "\n")
    assert max(len(line) for line in text.splitlines()) <= 100


def test_measures_are_in_the_papers_order():
    text = results.results_text(_results())
    assert _line(text, "accuracy  precision      F1").split()[:3] == ["accuracy", "precision", "F1"]
    expected = ["accuracy", "precision", "recall", "F1", "mIoU"]
    assert _line(text, "accuracy  precision  recall").split() == expected


def test_every_heading_is_above_its_own_number():
    text = results.results_text(_results())
    measures = _results()["classification"]["image"]["model"]
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Classification per image"))
    headings, cells = lines[start + 1].split(), lines[start + 2].split()[1:]
    expected = [f"{measures[key]:.3f}" for key in results.CLASSIFICATION_COLUMNS]
    assert cells == expected
    assert headings == list(results.CLASSIFICATION_COLUMNS.values())


def test_baselines_are_below_the_model():
    lines = [line.strip() for line in results.results_text(_results()).splitlines()]
    model = next(n for n, line in enumerate(lines) if line.startswith("model"))
    assert lines[model + 1].startswith("majority class")


def test_rows_of_different_thresholds_show_their_threshold():
    table = _results()
    rows = table["classification"]["image"]
    rows["model, tuned"] = {**rows["model"], "threshold": 0.43}
    text = results.results_text(table)
    assert "model >0.500" in text
    assert "model, tuned >0.430" in text
    assert "(4: 2 healthy, 2 sick; sick above 0.500)" in text  # per patient, one row


def test_thresholds_of_several_folds_are_shown_from_the_lowest_to_the_highest():
    table = _results()
    rows = table["classification"]["image"]
    by_fold = {"fold 0": 0.43, "fold 1": 0.2, "fold 2": 0.3}
    rows["model, tuned"] = {**rows["model"], "threshold": np.nan, "thresholds": by_fold}
    assert "model, tuned >0.200..0.430" in results.results_text(table)


def test_image_left_is_explained_exactly_once_and_only_with_a_segmentation():
    table = _results()
    text = " ".join(results.results_text(table).split())
    assert text.count(SIDES_NOTE) == 1
    assert "image-left breast" in text
    del table["segmentation"]
    assert SIDES_NOTE not in " ".join(results.results_text(table).split())


def test_an_absent_class_shows_as_a_dash_that_is_explained():
    text = results.results_text(_results())
    assert _line(text, "image-right nipple").split()[-3:] == ["-", "-", "-"]
    assert text.count("- = undefined") == 1
    only_numbers = {"encoder": {"val_loss": 0.1}}
    assert "undefined" not in results.results_text(only_numbers)


def test_the_papers_protocol_is_marked_optimistic_and_the_honest_one_is_not():
    assert OPTIMISTIC in results.results_text(_results("paper"))
    assert OPTIMISTIC not in results.results_text(_results("honest"))


def test_results_json_is_strict_json_with_null_for_nan(tmp_path):
    paths = results.write_results(tmp_path / "new", _results(), text="the text")
    assert [path.name for path in paths] == ["results.json", "results.txt"]

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads(paths[0].read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["segmentation"]["120x160"]["iou"][3] is None
    assert read["classification"]["image"]["model"]["counts"]["n"] == 4
    assert paths[1].read_text(encoding="utf-8") == "the text"


def test_results_json_accepts_numpy_scalars_and_infinities(tmp_path):
    table = {"run": {"loss": np.float32(0.5), "gap": np.inf, 3: True}}
    json_path, _ = results.write_results(tmp_path, table, text="")
    expected = {"loss": 0.5, "gap": None, "3": True}
    assert json.loads(json_path.read_text())["run"] == expected


def test_results_that_json_cannot_store_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(AttributeError, match="object"):
        results.write_results(tmp_path / "new", {"run": {"odd": object()}}, text="")
    assert not (tmp_path / "new").exists()


def _read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predictions_have_one_line_per_row_and_columns_in_order_of_appearance(tmp_path):
    rows = [{"name": "a", "score": np.float32(0.25)}, {"name": "b", "label": 1, "score": np.nan}]
    path = PrintedTable.of_records(rows).write_csv(tmp_path / "deep" / "predictions.csv")
    assert _read(path) == [["name", "score", "label"], ["a", "0.25", ""], ["b", "", "1"]]


def test_scores_survive_the_file_to_the_last_bit(tmp_path):
    score = np.random.default_rng(0).random()
    path = PrintedTable.of_records([{"score": score}]).write_csv(tmp_path / "p.csv")
    assert float(_read(path)[1][0]) == score


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", " =1", "\t=1", "-", "-inf", "-1_0"]
)
def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(tmp_path, cell):
    path = PrintedTable.of_records([{"name": cell, cell: 1}]).write_csv(tmp_path / "p.csv")
    assert _read(path) == [["name", "'" + cell], ["'" + cell, "1"]]


@pytest.mark.parametrize("cell", ["-1.5", "+2", "-3e-05", "-.5", "0001/T0001.1.1.S", "", "a=b"])
def test_numbers_and_plain_names_stay_as_they_are(tmp_path, cell):
    path = PrintedTable.of_records([{"name": cell, "n": -1}]).write_csv(tmp_path / "p.csv")
    assert _read(path)[1] == [cell, "-1"]


def test_without_rows_the_given_columns_are_still_written(tmp_path):
    path = PrintedTable("", ["name", "score"], []).write_csv(tmp_path / "p.csv")
    assert _read(path) == [["name", "score"]]


def test_every_class_has_a_line_in_the_class_table():
    text = results.results_text(_results())
    for name in CLASS_NAMES:
        assert _line(text, name.replace("left_", "image-left ").replace("right_", "image-right "))
