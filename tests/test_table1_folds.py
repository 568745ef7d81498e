"""Table 1's fold files: reuse, files of earlier versions or of other data, replacement."""

import pytest
from folder_contents import contents
from table1_runs import quick, write_folds

from thermo_jax.data.dataset import open_dataset
from thermo_jax.data.splits import Split
from thermo_jax.programs import settings, table1

pytestmark = pytest.mark.usefixtures("cache")


def test_fold_files_can_be_used_again(tmp_path):
    write_folds(quick(), tmp_path)
    config = quick(folds_dir=str(tmp_path / "folds"))
    config.split.seed = 7
    again = tmp_path / "again"
    again.mkdir()
    write_folds(config, again)
    for name in ("repeat0_fold0.json", "repeat0_fold1.json"):
        assert (again / "folds" / name).read_bytes() == (tmp_path / "folds" / name).read_bytes()


def test_fold_files_of_earlier_versions_are_used_for_encoders_too(tmp_path):
    write_folds(quick(), tmp_path)
    for path in (tmp_path / "folds").glob("*_encoder.json"):
        path.unlink()
    write_folds(quick(folds_dir=str(tmp_path / "folds")), tmp_path / "again")
    for fold in (0, 1):
        given = tmp_path / "folds" / f"repeat0_fold{fold}.json"
        folder = tmp_path / "again" / "folds"
        assert (folder / given.name).read_bytes() == given.read_bytes()
        encoders = Split.load(folder / f"repeat0_fold{fold}_encoder.json")
        assert encoders.val >= Split.load(given).val and encoders.test == Split.load(given).test


@pytest.mark.parametrize("swapped", ["test", "val"])
def test_an_encoder_that_would_train_on_patients_for_validation_or_test_is_refused(
    tmp_path, swapped
):
    write_folds(quick(), tmp_path)
    file = tmp_path / "folds" / "repeat0_fold0_encoder.json"
    split = Split.load(file)
    if swapped == "test":
        Split(split.test, split.val, split.train).save(file)
    else:
        Split(split.val, split.train, split.test).save(file)
    with pytest.raises(ValueError, match="repeat0_fold0_encoder.json lets an encoder train on"):
        write_folds(quick(folds_dir=str(tmp_path / "folds")), tmp_path / "again")


def test_the_validation_patients_of_a_decoder_also_validate_its_encoder(tmp_path):
    config = quick()
    config.data.phantom_patients = 20
    write_folds(config, tmp_path)
    for fold in (0, 1):
        files = [f"repeat0_fold{fold}.json", f"repeat0_fold{fold}_encoder.json"]
        decoders, encoders = (Split.load(tmp_path / "folds" / name) for name in files)
        assert encoders.test == decoders.test and encoders.val > decoders.val
        sizes = [len(part) for part in (decoders.train, decoders.val, encoders.train, encoders.val)]
        assert sizes == [8, 2, 7, 3]


def test_missing_fold_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"folds_dir: .*repeat0_fold0.json is missing"):
        write_folds(quick(folds_dir=str(tmp_path)), tmp_path)


def test_fold_files_of_other_data_are_refused(tmp_path):
    Split(frozenset({"0001"}), frozenset({"0002"}), frozenset({"0003"})).save(tmp_path / "a.json")
    stage = next(table1.plan(quick(), tmp_path)).config
    stage.split.file = str(tmp_path / "a.json")
    source = open_dataset(settings.data_settings(stage))
    with pytest.raises(ValueError, match=r"a.json does not contain 9 patients .* such as 0004"):
        source.split(settings.split_settings(stage))


def test_fold_files_made_for_more_folds_are_refused(tmp_path):
    config = quick()
    config.split.folds = 3
    write_folds(config, tmp_path)
    with pytest.raises(ValueError, match="folds test 8 of 12 patients:"):
        write_folds(quick(folds_dir=str(tmp_path / "folds")), tmp_path)


def test_fold_files_are_replaced_until_a_stage_has_begun(tmp_path):
    write_folds(quick(), tmp_path)
    before = Split.load(tmp_path / "folds" / "repeat0_fold0.json")
    config = quick()
    config.split.seed = 5
    write_folds(config, tmp_path)
    assert Split.load(tmp_path / "folds" / "repeat0_fold0.json") != before
    (tmp_path / "repeat0_fold0" / "encoder_heat" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="divides the patients differently"):
        write_folds(quick(), tmp_path)


def test_folds_of_other_data_are_refused_before_anything_is_written(tmp_path):
    write_folds(quick(), tmp_path)
    (tmp_path / "repeat0_fold0" / "encoder_heat" / "checkpoints").mkdir(parents=True)
    before = contents(tmp_path)
    config = quick()
    config.split.seed = 5
    with pytest.raises(ValueError, match="divides the patients differently"):
        write_folds(config, tmp_path)
    assert contents(tmp_path) == before
