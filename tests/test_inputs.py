"""What a user gives to predict: which thermograms are found, under which names, and whose."""

import errno
import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from thermogram_files import matrix, write_gray, write_matrix

from thermo_jax.configs import predict
from thermo_jax.inference import inputs
from thermo_jax.inference.inputs import Unreadable, read_thermogram
from thermo_jax.programs.workdir import open_workdir

SMALL = matrix()[:24, :32]


def write(root, *names):
    for name in names:
        write_matrix(root / name, SMALL)


@pytest.fixture
def find(tmp_path_factory):
    """Return a function that finds thermograms."""

    def found(paths, **options):
        return inputs.find_thermograms(paths, unpack_dir=tmp_path_factory.mktemp("zip"), **options)

    return found


@pytest.fixture
def names(find):
    """Return a function that finds thermograms and returns their names."""
    return lambda paths, **options: [item.name for item in find(paths, **options).items]


def read(found, row=0):
    record = found.items[row]
    return read_thermogram(record, notes=found.notes[record.name])


# --------------------------------------------------------------------------------------------------
# One folder
# --------------------------------------------------------------------------------------------------


def test_files_of_one_name_are_one_thermogram(find, tmp_path):
    stem = "T0001.1.1.S.2012-10-08.00"
    write_gray(tmp_path / "0001" / f"{stem}.jpg")
    write_gray(tmp_path / "0001" / f"{stem}_snap.jpg")
    write_matrix(tmp_path / "0001" / f"{stem}.txt")
    write(tmp_path, "other.txt", ".hidden.txt")
    (tmp_path / "description.html").write_text("x")
    found = find(tmp_path)
    assert [item.name for item in found.items] == [f"0001/{stem}", "other"]
    assert [item.known_patient for item in found.items] == ["0001", None]
    item = read(found)
    assert item.picture.kinds == ("temperatures", "gray", "colour") and not item.notes
    assert item.file == f"0001/{stem}.txt"


def test_a_bad_file_does_not_exclude_the_good_one_of_its_name(find, tmp_path):
    write_gray(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("no number")
    item = read(find(tmp_path))
    assert item.picture.kinds == ("gray",) and item.file == "a.jpg"
    (note,) = item.notes
    assert note.startswith("a.txt: no matrix of temperatures")


def test_a_thermogram_without_a_usable_file_has_its_patient_and_the_reason(find, tmp_path):
    (tmp_path / "T0008.txt").write_text("nothing")
    item = read(find(tmp_path))
    assert isinstance(item, Unreadable) and (item.name, item.patient) == ("T0008", "0008")
    assert item.reason.startswith("T0008.txt: no matrix of temperatures")


@pytest.mark.parametrize(
    ("name", "patient", "note"),
    [
        ("0001/T0044.1.1.S.2012-10-08.00", "0044", ["name says patient 0044, folder says 0001"]),
        ("0044/0001/T0044", "0044", []),
        ("2/T0044", "0044", []),  # may be a visit
        ("0001/frontal", "0001", []),
        ("sub-02/ses-1/scan", "sub-2", []),
    ],
)
def test_a_name_and_a_folder_of_two_patients_are_noted(find, tmp_path, name, patient, note):
    write(tmp_path, f"{name}.txt")
    found = find(tmp_path)
    assert [item.known_patient for item in found.items] == [patient]
    assert found.notes == {name: note} and list(read(found).notes) == note


def test_an_impossible_view_in_a_name_is_noted_once(find, tmp_path):
    write(tmp_path, "T0001.1.9.S.2012-10-08.00.txt")
    (note,) = read(find(tmp_path)).notes
    assert note.startswith("impossible view or date in the file name: expected view 1..5")


def test_one_patient_per_file_is_noted(find, tmp_path):
    write(tmp_path, "sick/left.csv")
    assert "patients assumed: one per file" in read(find(tmp_path)).notes


def test_the_folder_of_results_is_left_out(names, tmp_path):
    write(tmp_path, "a.txt")
    write_gray(tmp_path / "results" / "overlays" / "a.png")
    for given in (tmp_path, tmp_path / "*", tmp_path / "**"):
        assert names(given, leave_out=tmp_path / "results") == ["a"]


def test_workdirs_are_skipped_with_a_log_message_but_similar_folders_are_read(
    names, tmp_path, caplog
):
    write(tmp_path, "0001/a.txt")
    workdir = open_workdir(tmp_path / "0001" / "out", predict.get_config())
    write_gray(workdir / "overlays" / "a.png")
    others = ("", "[]", "{}", '{"config": {"task": "predict"}}', '{"config": {}, "versions": {}}')
    for index, text in enumerate(others):
        write(tmp_path, f"own{index}/a.txt")
        (tmp_path / f"own{index}" / "config.json").write_text(text)
    for given in (tmp_path, tmp_path / "**" / "*"):
        caplog.clear()
        expected = ["0001/a", *(f"own{index}/a" for index in range(len(others)))]
        assert names(given) == expected
        assert f"{workdir} is left out: the workdir of a run of predict" in caplog.text
    with pytest.raises(ValueError, match="out is the workdir of a run of predict.*name the folder"):
        names(workdir)


def test_a_folder_that_cannot_be_read_is_reported_and_the_rest_is_read(find, tmp_path, monkeypatch):
    write(tmp_path, "b/T0002.txt", "0001/a.txt", "c/a.txt")
    close(monkeypatch, tmp_path / "0001", tmp_path / "c")
    first, second, third = find(tmp_path).items
    reason = "folder 0001 cannot be read: check its permissions"
    assert first == Unreadable("0001/*", reason, "0001")
    assert second.name == "b/T0002" and (third.name, third.patient) == ("c/*", None)
    close(monkeypatch, tmp_path)
    with pytest.raises(PermissionError, match="cannot be read: check the permissions"):
        find(tmp_path)


def close(monkeypatch, *folders):
    """Make folders unreadable, even for root."""
    scandir = os.scandir

    def refuse(path):
        if pathlib.Path(path) in folders:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_linked_folders_are_read_once(names, tmp_path):
    data = tmp_path / "data"
    write(tmp_path, "elsewhere/a.txt", "data/own/b.txt")
    (data / "link").symlink_to(tmp_path / "elsewhere")
    (data / "own" / "loop").symlink_to(data)
    assert names(data) == ["link/a", "own/b"]


def test_files_of_other_kinds_are_counted(names, tmp_path, caplog):
    write(tmp_path, "a.txt")
    for name in ("b.doc", "c.DOC", "d.mp4", "README", ".hidden.gif"):
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a"]
    assert "ignored 4 files of other kinds: .doc (2), .mp4 (1), no suffix (1)" in caplog.text


def test_a_missing_folder_and_one_without_thermograms_are_refused(names, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        names(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"\*\.csv does not exist"):
        names(tmp_path / "*.csv")
    with pytest.raises(ValueError, match="no file or folder is given"):
        names([])
    (tmp_path / "a.html").write_text("x")
    with pytest.raises(ValueError, match="expected files of txt, csv"):
        names(tmp_path)


def test_each_frame_of_a_stack_is_a_thermogram_in_order(find, tmp_path):
    frames = [Image.fromarray(SMALL.astype(np.float32) + index / 10) for index in range(3)]
    frames[0].save(tmp_path / "P051_rest.tiff", save_all=True, append_images=frames[1:])
    np.save(tmp_path / "long.npy", np.tile(SMALL, (101, 1, 1)))
    write(tmp_path, "P051_rest.csv")
    found = find(tmp_path)
    stems = [*(f"P051_rest.frame{index:02d}" for index in range(3)), "long.frame00"]
    assert [item.name for item in found.items[:4]] == stems
    assert [item.name for item in found.items[-2:]] == ["long.frame99", "long.frame100"]
    assert [item.known_patient for item in found.items[:4]] == ["p-51"] * 3 + [None]
    item = read(found, 2)
    assert item.file == "P051_rest.frame02.tiff"
    assert item.notes == ("P051_rest.csv: left out: P051_rest.tiff is used", "frame 2 of 0..2")
    np.testing.assert_allclose(item.picture.temperatures, SMALL + 0.2, atol=0.01)


# --------------------------------------------------------------------------------------------------
# Several paths, and patterns
# --------------------------------------------------------------------------------------------------


def test_names_of_several_folders_and_files_begin_below_what_they_have_in_common(find, tmp_path):
    write(tmp_path, "x/0001/a.csv", "x/0002/a.csv", "y/b.csv")
    found = find([tmp_path / "x" / "0001", tmp_path / "x" / "0002", tmp_path / "y" / "b.csv"])
    named = [(item.name, item.known_patient) for item in found.items]
    assert named == [("x/0001/a", "0001"), ("x/0002/a", "0002"), ("y/b", None)]


def test_a_file_that_is_given_twice_is_one_thermogram(names, tmp_path):
    write(tmp_path, "x/a.csv", "x/b.csv")
    given = [tmp_path, tmp_path / "x", tmp_path / "x" / "a.csv", tmp_path / "*" / "a.csv"]
    assert names(given) == ["x/a", "x/b"]
    (tmp_path / "x" / "thermograms.csv").write_text("file,patient\na.csv,1\nb.csv,2\n")
    assert names(given) == ["x/a", "x/b"]


def test_files_of_one_name_that_a_pattern_matches_are_one_thermogram(find, tmp_path):
    write(tmp_path, "0007/a.csv", "0008/b.csv")
    write_gray(tmp_path / "0007" / "a.jpg")
    found = find(str(tmp_path / "*" / "a.*"))
    assert [(item.name, item.known_patient) for item in found.items] == [("0007/a", "0007")]
    assert len(found.items[0].files) == 2


def test_a_pattern_matches_below_a_folder_with_signs_of_patterns(names, tmp_path, monkeypatch):
    write(tmp_path, "scans [2020]/a.csv", "scans [2020]/b.txt")
    assert names(tmp_path / "scans [2020]") == ["a", "b"]
    monkeypatch.chdir(tmp_path / "scans [2020]")
    assert names("*.csv") == ["a"]
    assert names("../*/*.csv") == ["scans [2020]/a"]


def test_a_pattern_passes_over_tables_masks_and_hidden_files(names, tmp_path):
    write(tmp_path, "a.csv", ".b.csv")
    (tmp_path / "thermograms.csv").write_text("file\nb.csv\n")
    write_gray(tmp_path / "masks" / "a.png")
    assert names([tmp_path / "*.csv", tmp_path / "**" / "*.*"]) == ["a"]
    with pytest.raises(ValueError, match="only results of runs, and masks"):
        names(tmp_path / "*" / "*.png")


def test_no_name_leaves_the_common_folder(names, tmp_path, monkeypatch):
    write(tmp_path, "x/a.csv", "y/b.csv", "z/c.csv")
    (tmp_path / "x" / "link.csv").symlink_to(tmp_path / "z" / "c.csv")
    monkeypatch.chdir(tmp_path / "x")
    assert names(["a.csv", "../y", "../x/link.csv"]) == ["x/a", "x/link", "y/b"]
    assert names("../x/*.csv") == ["a", "link"]


# --------------------------------------------------------------------------------------------------
# thermograms.csv
# --------------------------------------------------------------------------------------------------


def test_only_what_the_users_table_lists_is_predicted(find, tmp_path):
    write(tmp_path, "a.csv", "b.csv", "0003/T0004.csv")
    rows = ["file,patient,view,annotation", "a.csv,Ana,right 45,gone.png", "0003/T0004.csv,,,"]
    (tmp_path / "thermograms.csv").write_text("\n".join(rows))
    for given in (tmp_path, tmp_path / "thermograms.csv"):
        found = find(given)
        listed = [(item.name, item.known_patient, item.view) for item in found.items]
        assert listed == [("0003/T0004", "0004", 0), ("a", "Ana", 2)]
        assert found.notes["0003/T0004"] == ["name says patient 0004, folder says 0003"]


def test_rows_that_cannot_be_used_are_listed_as_unreadable(find, tmp_path):
    write(tmp_path, "a.csv", "b.csv")
    rows = "file,view\na.csv,1\ngone.csv,1\nb.csv,sideways\n../out.csv,1\n,1\n"
    (tmp_path / "thermograms.csv").write_text(rows)
    reasons = {item.name: item.reason for item in find(tmp_path).items if hasattr(item, "reason")}
    assert list(reasons) == ["../out", "b", "gone", "thermograms"]
    assert "gone.csv: line 3 of thermograms.csv: no such file" in reasons["gone"]
    assert "view 'sideways': expected" in reasons["b"]


def test_the_table_chooses_frames_of_a_stack(find, tmp_path):
    np.save(tmp_path / "stack.npy", np.stack([SMALL, SMALL + 1, SMALL + 2]))
    (tmp_path / "thermograms.csv").write_text("file,frame\nstack.npy,1\nstack.npy,7\n")
    found = find(tmp_path)
    np.testing.assert_allclose(read(found).picture.temperatures, SMALL + 1, atol=0.01)
    assert "no frame 7: it has 3" in read(found, 1).reason
