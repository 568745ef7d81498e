import pytest

from thermo_jax.data.thermogram import ParsedName, parse_name, patient_of_folder, split_name


def test_a_name_in_the_current_format_is_read_in_full():
    assert parse_name("T0001.2.3.D.2012-10-08.07.jpg") == ParsedName(
        patient="0001", visit=2, view=3, protocol="D", date="2012-10-08", frame=7
    )


def test_snap_is_the_same_thermogram_in_colour():
    assert split_name("T0001.1.1.S.2012-10-08.00_snap.jpg")[1]
    assert split_name("T0001.1.1.S.2012-10-08.00_snap.jpg") == ("T0001.1.1.S.2012-10-08.00", True)


@pytest.mark.parametrize("suffix", ["", ".jpg", ".JPG", ".jpeg", ".Txt", ".txt.jpg"])
def test_suffix_in_any_case_changes_nothing(suffix):
    assert parse_name("T0425.1.1.S.2020-10-14.00" + suffix).patient == "0425"


def test_older_name_of_a_volunteer():
    assert parse_name("TFRON_V185_27-8-2013_0.jpg") == ParsedName(
        patient="0185", view=1, date="2013-08-27", frame=0
    )


def test_camera_name_contains_the_date_but_no_patient():
    assert parse_name("IR_2015-04-17_0007.jpg") == ParsedName(date="2015-04-17")


@pytest.mark.parametrize(
    ("name", "patient"), [("T0138.txt", "0138"), ("198-1.txt.jpg", "0198"), ("T7.txt", "0007")]
)
def test_short_names_contain_the_patient(name, patient):
    parsed = parse_name(name)
    assert (parsed.patient, parsed.visit, parsed.date, parsed.mirrored) == (patient, 0, "", False)


@pytest.mark.parametrize(
    "name",
    [
        "T0001.1.1.S.2012-10-08.00.jpg",
        "TFRON_V185_27-8-2013_0.jpg",
        "IR_2015-04-17_0007.jpg",
        "198-10.txt.jpg",
        "T0001.txt",
    ],
)
def test_leading_r_marks_a_mirrored_copy_of_the_same_patient(name):
    plain, mirrored = parse_name(name), parse_name("R" + name)
    assert mirrored.mirrored and not plain.mirrored
    assert mirrored.patient == plain.patient and mirrored.date == plain.date


@pytest.mark.parametrize(
    "name", ["", "R", "photo.jpg", "R0001.jpg", "RRT0001.txt", "T0001.1.1.X.2012-10-08.00.jpg"]
)
def test_other_names_are_not_guessed(name):
    assert parse_name(name) is None


def test_impossible_view_and_date_are_unknown_but_the_patient_is_not():
    parsed = parse_name("T0001.1.9.S.2012-13-40.00.jpg")
    assert (parsed.patient, parsed.view, parsed.date) == ("0001", 0, "")
    assert not parsed.complete


@pytest.mark.parametrize("folder", ["0012", "12", "T0012", "patient 12", "V12"])
def test_folder_names_a_patient(folder):
    assert patient_of_folder(folder) == "0012"


@pytest.mark.parametrize("folder", ["healthy", "2013", "fold 1", "images", "12345", ""])
def test_other_folders_name_no_patient(folder):
    assert patient_of_folder(folder) is None


@pytest.mark.parametrize("name", ["_snap.jpg", ".txt", "_SNAP"])
def test_a_name_is_never_empty(name):
    assert split_name(name)[0]
