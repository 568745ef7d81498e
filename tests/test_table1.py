"""Table 1: its stages, folds without leaks, the files that are kept, and the table."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny_training as tiny
from folder_contents import contents
from PIL import Image
from table1_runs import quick, write_folds

from thermo_jax import main
from thermo_jax.configs import table1 as table1_config
from thermo_jax.data import phantom
from thermo_jax.data.dataset import SplitSettings, open_dataset
from thermo_jax.data.splits import Split
from thermo_jax.evaluation import table1 as table1_text
from thermo_jax.programs import decoder, encoder, settings, stages, table1

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir and the results of the quick preset, 2 folds."""
    workdir = tmp_path_factory.mktemp("table1")
    with tiny.shallow_decoders():
        return workdir, main.run(quick(), workdir)


@pytest.fixture
def no_stage_runs(monkeypatch):
    class Refused:
        @staticmethod
        def run(config, workdir, **options):
            raise AssertionError(f"{workdir} was run again")

    monkeypatch.setattr(stages, "PROGRAMS", dict.fromkeys(stages.PROGRAMS, Refused))


# --------------------------------------------------------------------------------------------------
# The run
# --------------------------------------------------------------------------------------------------


def test_every_patient_is_tested_once_and_scored_out_of_fold(finished):
    _, outcome = finished
    rows = outcome["rows"]["H/H"]
    assert rows["classification"]["patient"]["H/H"]["counts"]["n"] == 12
    assert rows["classification"]["patient"]["H/H"]["patients"] == 12
    low, high = rows["segmentation"]["60x80"]["interval"]["miou"]
    assert low <= rows["segmentation"]["60x80"]["miou"] <= high


def test_the_table_has_the_papers_columns_and_line_beside_ours(finished):
    workdir, outcome = finished
    text = (workdir / "results.txt").read_text()
    heading, paper, ours = text[text.index("enc/dec") :].splitlines()[:3]
    assert re.split(r"  +", heading)[1:] == list(table1_text.COLUMNS)
    assert paper.split() == ["H/H", "paper", "0.983", "1.000", "0.991"] + [
        "0.888",
        "0.772",
        "0.789",
        "0.668",
    ]
    assert ours.split()[0] == "ours" and "95 % from" in text and "95 % to" in text
    assert outcome["cautions"][0].split(" per patient")[0] in text


def test_a_finished_stage_keeps_its_best_model_and_predictions_only(finished):
    workdir, _ = finished
    stages = [path.parent for path in workdir.glob("*/*/finished")]
    assert len(stages) == 2 * (1 + 2)
    assert not list(workdir.glob("*/*/checkpoints/*/training"))
    assert all(len(list(stage.glob("checkpoints/*/model"))) == 1 for stage in stages)
    assert len(list(workdir.glob("*/*/predictions.npz"))) == 4


def test_a_finished_run_repeats_no_stage_and_gives_the_same(finished, no_stage_runs):
    workdir, outcome = finished
    before = (workdir / "results.json").read_bytes()
    again = main.run(quick(), workdir)
    np.testing.assert_equal(again["rows"], outcome["rows"])
    assert (workdir / "results.json").read_bytes() == before


def test_the_run_leaves_a_report_and_pooled_predictions(finished):
    workdir, _ = finished
    page = (workdir / "report.html").read_text()
    assert "Table 1" in page and "not a diagnostic device" in page
    assert len((workdir / "predictions_classify_HH.csv").read_text().splitlines()) == 1 + 12
    saved = json.loads((workdir / "results.json").read_text())
    assert saved["paper"]["H/H"]["seg mIoU"] == 0.668


# --------------------------------------------------------------------------------------------------
# Stages and folds
# --------------------------------------------------------------------------------------------------


def names_of(config, tmp_path):
    return [stage.folder for stage in table1.plan(config, tmp_path)]


def test_a_folds_two_encoders_are_shared_by_its_eight_decoders(tmp_path):
    stages = list(table1.plan(table1_config.get_config(), tmp_path))
    assert len(stages) == 5 * (2 + 8)
    first = stages[:10]
    assert [stage.task for stage in first[:2]] == ["encoder", "encoder"]
    used = {stage.config.encoder.workdir for stage in first[2:]}
    assert used == {str(tmp_path / stage.folder) for stage in first[:2]}
    # Encoders validate on more patients than decoders, so each kind has its own file.
    assert len({stage.config.split.file for stage in first[:2]}) == 1
    assert len({stage.config.split.file for stage in first[2:]}) == 1
    assert {s.row for s in first[2:]} == {"G/G", "G/H", "H/G", "H/H"}


def test_a_transductive_row_has_encoders_of_its_own_and_its_own_name(tmp_path):
    config = quick(transductive=True, num_folds=1)
    stages = list(table1.plan(config, tmp_path))
    assert [stage.row for stage in stages] == ["", "H/H", "H/H", "", *["H/H transductive"] * 2]
    assert [stage.config.split.protocol for stage in stages] == [
        *["honest"] * 3,
        "transductive",
        *["honest"] * 2,
    ]
    assert stages[4].config.encoder.workdir.endswith("encoder_heat_transductive")


def test_every_repeat_splits_the_patients_differently(tmp_path):
    config = quick(repeats=2)
    names = names_of(config, tmp_path)
    assert len(names) == len(set(names)) == 2 * 2 * 3
    write_folds(config, tmp_path)
    tests = [Split.load(tmp_path / "folds" / f"repeat{r}_fold0.json").test for r in (0, 1)]
    assert tests[0] != tests[1]


def test_a_patient_who_is_tested_in_two_repeats_counts_once(finished, tmp_path):
    workdir, outcome = finished
    config = quick(repeats=2)
    stages = list(table1.plan(config, tmp_path))
    for stage in stages:
        folder = tmp_path / stage.folder
        finished_one = workdir / stage.folder.replace("repeat1", "repeat0")
        folder.mkdir(parents=True)
        if stage.task != "encoder":
            shutil.copy(finished_one / "predictions.npz", folder)
    # Both repeats have the same predictions, so every measure equals that of one repeat.
    repeated = table1._finish(config, tmp_path, stages, cautions=["patients assumed"])
    rows_of_both, rows_of_one = (r["rows"]["H/H"]["classification"] for r in (repeated, outcome))
    for unit in ("image", "patient"):
        for row, measures in rows_of_one[unit].items():
            expected = {k: v for k, v in measures.items() if k != "thresholds"}
            np.testing.assert_equal({k: rows_of_both[unit][row][k] for k in expected}, expected)
    regions = [r["rows"]["H/H"]["segmentation"] for r in (repeated, outcome)]
    np.testing.assert_equal(*regions)
    assert rows_of_both["patient"]["H/H"]["counts"]["n"] == 12
    text = (tmp_path / "results.txt").read_text()
    assert "2; every measure is the mean over the repeats" in text
    assert "patients assumed" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": ("X/H",)}, "config.rows=.*must be one or more of G/G"),
        # Else every image would be judged twice by one model.
        ({"rows": ("H/H", "H/H")}, "config.rows=.*each at most once"),
        ({"tasks": ("segment", "segment")}, "config.tasks=.*each at most once"),
        ({"tasks": ("clasify",)}, "config.tasks=.*classify, segment"),
        ({"repeats": 0}, "config.repeats=0 must be at least 1"),
        ({"num_folds": 3}, "config.num_folds=3 must be from 0"),
        ({"encoder_val_fraction": 1.0}, "config.encoder_val_fraction=1.0 must be at least 0 and"),
        ({"transductive": True, "split": {"protocol": "paper"}}, "config.transductive=True"),
        ({"data": {"root": ""}}, "config.data.root is empty"),
        ({"downscale": {"heat": 7}}, "downscale=7 does not divide"),
        ({"downscale": {"heat": 40}}, "config.model.patch_size=5 is too large"),
        ({"rows": ("G/H",), "stages": {"segment": {"encoder": {"kind": "none"}}}}, "kind='none'"),
    ],
)
def test_a_mistake_in_the_configuration_is_reported_before_the_first_stage(
    fields, message, tmp_path, no_stage_runs
):
    with pytest.raises(ValueError, match=message):
        main.run(quick(**fields), tmp_path)


def test_a_finished_stage_of_another_configuration_is_refused(finished, no_stage_runs):
    workdir, _ = finished
    config = quick()
    config.stages.classify.train.learning_rate = 1.0
    with pytest.raises(ValueError, match=r"classify_HH contains .*train.learning_rate was 0.005"):
        main.run(config, workdir)


def test_the_error_for_a_run_of_an_earlier_version_gives_its_encoder_val_fraction(
    finished, no_stage_runs
):
    workdir, _ = finished
    message = "val_fraction was 0.3, is 0.2.*is config.encoder_val_fraction here"
    with pytest.raises(ValueError, match=message):
        main.run(quick(encoder_val_fraction=0.2), workdir)


def test_a_refused_run_changes_no_file(finished, no_stage_runs):
    workdir, _ = finished
    before = contents(workdir)
    config = quick(seed=3)
    config.split.seed = 4
    with pytest.raises(ValueError, match=r"encoder_heat contains .*config.seed was 0, is 3"):
        main.run(config, workdir)
    config = quick()
    config.data.phantom_patients = 16
    with pytest.raises(ValueError, match=r"data.phantom_patients was 12, is 16"):
        main.run(config, workdir)
    assert contents(workdir) == before


def test_a_disk_that_is_too_small_is_reported_before_the_run(tmp_path, monkeypatch):
    usage = stages.shutil._ntuple_diskusage(10**9, 10**9, 10**3)
    monkeypatch.setattr(stages.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"needs .* GB of disk, and 0.0 GB are free"):
        stages._check_disk(list(table1.plan(quick(), tmp_path)), tmp_path)


# --------------------------------------------------------------------------------------------------
# Leaks
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Annotated patients with static and dynamic frames, a second visit, and mirrored copies."""
    root = phantom.write_phantom(
        tmp_path_factory.mktemp("crowded") / "site", patients=8, frames=2, static=True
    )
    for folder in sorted(root.glob("0*")):
        for path in sorted(folder.glob("T*.jpg")):
            Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
                folder / f"R{path.name}"
            )
            path.with_name(path.name.replace(".1.1.", ".2.1.", 1)).write_bytes(path.read_bytes())
    return root


@pytest.mark.parametrize("protocol", ["honest", "transductive"])
def test_no_patient_is_in_two_sets(crowded, tmp_path, protocol):
    config = quick()
    config.data.update({"root": str(crowded), "frames": "all", "mirrored": True})
    write_folds(config, tmp_path)
    tested = []
    for fold in range(2):
        stages = [s for s in table1.plan(config, tmp_path) if f"_fold{fold}/" in s.folder]
        pretraining, *decoders = [stage.config for stage in stages]
        pretraining.split.protocol = protocol
        source = open_dataset(settings.data_settings(pretraining))
        split = source.split(settings.split_settings(pretraining))
        examples = source.load("pretrain")
        assert len(examples) == 8 * 3 * 3  # frames, mirrored ones, a second visit
        sets = encoder.deal_images(examples, split, pretraining)
        train, validation = ({examples.patients[row] for row in rows} for rows in sets.values())
        seen = train | validation
        assert not train & validation
        for decoder_config in decoders:
            options = settings.split_settings(decoder_config)
            examples = source.load(decoder_config.task)
            sets = decoder.deal_images(examples, source.split(options), options, seed=0)
            groups = [{examples.patients[row] for row in rows} for rows in sets.values()]
            assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
            assert set().union(*groups) == {f"{n:04d}" for n in range(1, 9)}
            # Only a transductive encoder is pretrained on images of test patients.
            assert bool(groups[2] & seen) == (protocol == "transductive")
            if decoder_config.task == "segment":
                tested += sorted(groups[2])
    assert sorted(tested) == [f"{n:04d}" for n in range(1, 9)]


def test_the_papers_protocol_validates_on_test_and_pretrains_on_every_image(crowded, tmp_path):
    config = quick()
    config.data.root = str(crowded)
    config.split.protocol = "paper"
    stage = next(table1.plan(config, tmp_path)).config
    source = open_dataset(settings.data_settings(stage))
    write_folds(config, tmp_path)
    split = source.split(settings.split_settings(stage))
    examples = source.load("pretrain")
    sets = encoder.deal_images(examples, split, stage)
    assert sorted([*sets["train"], *sets["validation"]]) == list(range(len(examples)))
    assert {examples.patients[row] for row in sets["train"]} & set(split.test)
    examples, options = source.load("classify"), SplitSettings(protocol="paper")
    sets = decoder.deal_images(examples, split, options, seed=0)
    np.testing.assert_array_equal(sets["validation"], sets["test"])
    patients = {role: {examples.patients[row] for row in rows} for role, rows in sets.items()}
    assert not patients["train"] & patients["test"]
