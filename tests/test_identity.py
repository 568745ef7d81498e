"""Who and what in any folder: patients, labels, views and dates from names alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermo_jax.data.class_folders import check_siblings, label_of_class, unknown_siblings
from thermo_jax.data.data_report import DataReport
from thermo_jax.data.file_listing import FileListing, list_files
from thermo_jax.data.identity import (
    CLASS_AND_FOLDER,
    ONE_PER_FILE,
    identify,
    report_assumed_patients,
    without_conflicts,
)
from thermo_jax.data.name_parts import read_parts
from thermo_jax.data.thermogram import HEALTHY, SICK, UNLABELLED
from thermo_jax.errors import UserError


def listing(root, names):
    """A listing of files that need not exist, since nothing opens them."""
    return FileListing(root, pixels=[root / name for name in sorted(names)])


def read(root, *names):
    """(record by name of its file, report); every file is a thermogram of its own."""
    files = listing(root, names)
    report = DataReport(root)
    records = report.collect(identify([[path] for path in files.pixels], files))
    return {files.relative(record.files[0]): record for record in records}, report


def patient(root, name):
    """The patient of a file that is alone in its set; None if it is not known."""
    records, _ = read(root, name)
    return records[name].patient if records[name].patient_known else None


def kinds(report):
    return [oddity.kind for oddity in report.oddities]


def both(names):
    """The names in a healthy and in a sick folder."""
    return [f"{label}/{name}" for label in ("healthy", "sick") for name in names]


# ---------------------------------------------------------------- one name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("T0042.1.1.D.2012-11-14.00.jpg", "0042"),
        ("0001/x.png", "0001"),
        ("7/x.png", "0007"),
        ("T7/photo.png", "0007"),
        ("patient 1/x.csv", "patient-1"),
        ("Paciente nº 012/x.csv", "paciente-12"),
        ("sub-02/ses-1/y.tif", "sub-2"),
        ("study 3/P012/x.png", "p-12"),
        ("X1/P012/x.png", "p-12"),  # a word for patients goes before another prefix
        ("lote 3/0007/x.png", "0007"),
        ("healthy/7/x.png", "0007"),
        ("7/2/x.png", "0007"),
        ("7/P3.png", "0007"),  # folders go before names
        ("PAC_4_DN0.png", "pac-4"),
        ("P051.png", "p-51"),
        ("P12L.png", "p-12"),
        ("P1v2.png", "p-1"),
        ("2019-05-03_P12.png", "p-12"),
        ("P12_20190503_123456.png", "p-12"),
        ("IIR0001_oblleft.png", "iir-1"),
        ("sub-01/3-1.png", "sub-1"),
        ("healthy6.jpg", "healthy-6"),
        ("sick/Healthy (6).jpg", "healthy-6"),
        ("No cancer 6.jpg", "nocancer-6"),
        ("P012/sick/IR_0001.jpg", "p-12"),
        ("sick/7/malignant/IR_0001.jpg", "0007"),
        ("T0005.1.1.S.2012-10-08.00 - Copy.jpg", "0005"),
    ],
)
def test_a_name_or_folder_names_the_patient(tmp_path, name, expected):
    assert patient(tmp_path, name) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("IR_0001.jpg", "FLIR0123.jpg", "IMG-20190503-WA0001.jpg", "DSCN0012.jpg"),
        *("DJI_20230101123456_0001_T.jpg", "thermal image 12.png", "irimage12.png"),
        *("0001.png", "frontal_1.png", "left45.png", "frame 3.png", "scan3.png", "1 of 3.png"),
        *("2019-01.jpg", "2019.jpg", "15 de maio de 2019.png", "jan2019/x.png", "2019/x.png"),
        *("03-05-2019/x.png", "20190503/x.png", "patient 2019/x.png"),
        *("day 3/x.png", "ses-1/x.png", "fold 1/x.png", "test 2/x.png", "left/45/x.png"),
        *("a3f9c2d1e4.jpg", "d41d8cd98f00b204e9800998ecf8427e.png", "a1b2c3.png"),
        "550e8400-e29b-41d4-a716-446655440000.jpg",
    ],
)
def test_cameras_dates_views_visits_and_hashes_name_nobody(tmp_path, name):
    assert patient(tmp_path, name) is None


def test_leading_zeros_and_case_make_no_difference_but_prefixes_do(tmp_path):
    names = ("P001/x.png", "p1/x.png", "P_01.png", "V001/x.png")
    records, _ = read(tmp_path, *names)
    assert [records[name].patient for name in names] == ["p-1", "p-1", "p-1", "v-1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("front.png", 1),
        ("P1/Frente/x.png", 1),
        ("P45_left_90.png", 5),
        ("right/P1_oblique.png", 2),
        ("P1_oblleft.png", 4),
        ("direita lateral.png", 3),
        ("L45.png", 4),
        ("IIR0001_anterior.png", 1),
        ("izquierda/45/x.png", 4),
        ("T0001.1.5.S.2012-10-08.00.jpg", 5),
        ("left.png", 0),  # 45 or 90?
        ("P12L.png", 0),
        ("back.png", 0),
    ],
)
def test_words_in_names_and_folders_name_the_view(tmp_path, name, expected):
    records, report = read(tmp_path, name, "other.png")
    assert records[name].view == expected
    assert records["other.png"].view == 0 and "assumed-view" not in kinds(report)


def test_views_are_assumed_frontal_only_if_no_name_contains_one(tmp_path):
    records, report = read(tmp_path, "P1/x.png", "P2/y.png")
    assert {record.view for record in records.values()} == {1}
    assert [(o.kind, o.file) for o in report.oddities if o.kind == "assumed-view"] == [
        ("assumed-view", ".")
    ]


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("2019-01.jpg", "2019-01"),
        ("P1_03.05.2019.jpg", "2019-05-03"),
        ("05-28-2019.jpg", "2019-05-28"),
        ("15 de maio de 2019/P1.jpg", "2019-05-15"),
        ("2018/P1_20190503.jpg", "2019-05-03"),
        ("2018/P1.jpg", "2018"),
        ("IR_2015-04-17_0007.jpg", "2015-04-17"),
        ("P1_2.jpg", ""),
    ],
)
def test_a_plausible_date_is_read_from_the_name_before_the_folders(tmp_path, name, date):
    records, _ = read(tmp_path, name)
    assert records[name].date == date


@pytest.mark.parametrize(
    ("name", "visit"),
    [
        ("sub-02/ses-3/x.png", 3),
        ("P12/V2/x.png", 2),
        ("P12_visit 4.png", 4),
        ("7/2/x.png", 2),
        ("0007_V1/x.png", 1),
        ("V1/x.png", 0),  # volunteer 1
        ("P12/x.png", 0),
    ],
)
def test_words_for_visits_and_folders_in_a_patients_folder_give_the_visit(tmp_path, name, visit):
    records, _ = read(tmp_path, name)
    assert records[name].visit == visit


def test_protocol_and_frame_are_read_from_words(tmp_path):
    records, _ = read(tmp_path, "P1/dinâmico/frame_03.png")
    (record,) = records.values()
    assert (record.protocol, record.frame) == ("D", 3)


@settings(max_examples=50, database=None, deadline=None, derandomize=True)
@given(st.text(max_size=40), st.text("sub-0123.ptv()_ healthy29\u0301\u00aa", max_size=40))
def test_no_name_raises_an_error(tmp_path_factory, folder, stem):
    read_parts(folder), read_parts(stem), label_of_class(folder)
    root = tmp_path_factory.getbasetemp()
    path = "".join(c for c in f"{folder}/{stem}" if c != "\0").strip("/.")
    records, _ = read(root, f"{path}.png")
    assert all(record.patient for record in records.values())


# ---------------------------------------------------------------- folder and name together


def test_a_name_of_dmr_ir_that_contradicts_its_folder_is_left_out(tmp_path):
    records, report = read(tmp_path, "0008/T0009.jpg", "0008/T0008.jpg")
    assert list(records) == ["0008/T0008.jpg"]
    assert [o.file for o in report.oddities if o.kind == "patient-mismatch"] == ["0008/T0009.jpg"]


def test_other_files_in_the_folder_of_a_dmr_ir_patient_are_the_same_patient(tmp_path):
    records, _ = read(tmp_path, "subject 5/T0005.1.1.S.2012-10-08.00.jpg", "subject 5/photo.jpg")
    assert {record.patient for record in records.values()} == {"0005"}


def test_no_class_folder_is_needed_to_know_patients(tmp_path):
    records, report = read(tmp_path, "0001/x.png", "patient 1/x.csv", "sub-02/ses-1/y.tif")
    assert all(record.patient_known for record in records.values())
    assert len({record.patient for record in records.values()}) == 3
    assert sorted(kinds(report)) == ["assumed-view", "missing-diagnosis"]


def test_unknown_patients_are_grouped_by_folder_with_one_line_for_each_folder(tmp_path):
    records, report = read(tmp_path, *(f"mug/IR_{i}.jpg" for i in range(9)), "cup.jpg")
    assert {record.patient for record in records.values()} == {"folder:mug", "folder:."}
    assert not any(record.patient_known for record in records.values())
    unknown = [o for o in report.oddities if o.kind == "unknown-patient"]
    assert sorted(oddity.file for oddity in unknown) == ["cup.jpg", "mug"]
    assert any("9 thermograms" in oddity.detail for oddity in unknown)


# ---------------------------------------------------------------- class folders


def test_the_innermost_class_folder_gives_the_label(tmp_path):
    names = ("Saudável/P1/x.png", "sick/benign/P2/x.png", "train/Cancer Patients/P3.png", "P4.png")
    records, report = read(tmp_path, *names)
    assert [records[n].label for n in names] == [HEALTHY, HEALTHY, SICK, UNLABELLED]
    assert [o.file for o in report.oddities if o.kind == "missing-diagnosis"] == ["P4.png"]


def test_if_numbers_start_again_in_every_class_a_patient_is_class_and_folder(tmp_path):
    records, report = read(tmp_path, *both(["1/IR_1.jpg", "2/IR_2.jpg"]), "sick/3/IR_3.jpg")
    assert {record.patient for record in records.values()} == {
        *("healthy-1", "healthy-2", "sick-1", "sick-2", "sick-3")
    }
    assert all(record.notes == (CLASS_AND_FOLDER,) for record in records.values())
    assert kinds(report).count("class-and-folder") == 1


def test_if_few_numbers_recur_they_are_the_same_patients(tmp_path):
    healthy, sick = [f"healthy/{i}/x.jpg" for i in range(5)], ["sick/4/x.jpg", "sick/5/x.jpg"]
    records, report = read(tmp_path, *healthy, *sick, "sick/6/x.jpg")
    assert records["healthy/4/x.jpg"].patient == records["sick/4/x.jpg"].patient == "0004"
    assert "class-and-folder" not in kinds(report)


@pytest.mark.parametrize("name", ["T0001.1.1.S.2012-10-08.00.jpg", "0001/T0001.jpg", "P01.jpg"])
def test_a_name_of_dmr_ir_or_of_a_patient_in_both_classes_is_a_conflict(tmp_path, name):
    records, _ = read(tmp_path, *both([name]), "sick/T0002.jpg")
    report = DataReport(tmp_path)
    files = listing(tmp_path, ())
    kept = report.collect(without_conflicts(list(records.values()), files))
    assert [record.patient for record in kept] == ["0002"]
    assert [oddity.file for oddity in report.oddities] == both([name])


def test_a_label_of_one_thermogram_is_used_for_all_of_the_patient(tmp_path):
    records, _ = read(tmp_path, "sick/P1/a.png", "more/P1/b.png")
    files = listing(tmp_path, ())
    kept = DataReport().collect(without_conflicts(list(records.values()), files))
    assert [record.label for record in kept] == [SICK, SICK]


def test_a_file_directly_in_a_class_folder_that_names_nobody_is_a_patient(tmp_path):
    records, report = read(tmp_path, *both(["2019-01.jpg", "a b.jpg", "a-b.jpg"]))
    patients = {record.patient for record in records.values()}
    assert len(patients) == 6 and not any("/" in patient for patient in patients)
    assert all(record.patient_known for record in records.values())
    assert all(record.notes == (ONE_PER_FILE,) for record in records.values())
    report.collect(report_assumed_patients(records.values()))
    (oddity,) = [o for o in report.oddities if o.kind == "assumed-patients"]
    assert oddity.file == "." and "6 files" in oddity.detail


def test_running_numbers_after_an_unknown_word_in_both_classes_name_pictures(tmp_path):
    records, _ = read(tmp_path, *both(["Bild_1.png", "Bild_2.png"]))
    assert len({record.patient for record in records.values()}) == 4


def test_a_folder_beside_class_folders_that_is_not_in_the_table_stops_the_run(tmp_path):
    names = ["healthy/1.png", "Sick/1.png", "suspect/deep/1.png", "fold/normal/2.png"]
    files = listing(tmp_path, [*names, "notes.png"])
    assert unknown_siblings(files) == ["fold", "suspect"]
    with pytest.raises(UserError, match="'fold', 'suspect'.*rename.*move.*thermograms.csv"):
        check_siblings(files)
    files.thermogram_table = tmp_path / "thermograms.csv"
    check_siblings(files)


@pytest.mark.parametrize(
    ("names", "label"),
    [
        ("healthy Normal SAUDÁVEIS saudavel sano Benigno benign control Controls", HEALTHY),
        ("no_cancer non-cancer NonCancer sem_câncer normais negative healthy_patients", HEALTHY),
        ("sick cancer Câncer abnormal anormal unhealthy malignant Maligno doente doentes", SICK),
        ("diseased ill enfermas breast_cancer cancer-patients positive", SICK),
        ("cancel abnormality patients healthy6 unknown test _ not_healthy", None),
    ],
)
def test_names_of_class_folders(names, label):
    assert {name: label_of_class(name) for name in names.split()} == dict.fromkeys(
        names.split(), label
    )


# ---------------------------------------------------------------- the samples


@pytest.mark.parametrize("layout", ["restart", "cancer", "dates", "subj"])
def test_layouts_as_people_make_them_have_12_patients_6_of_them_sick(foreign_dir, layout):
    files = list_files(foreign_dir / "layouts" / layout)
    report = DataReport(strict=True)
    records = report.collect(identify([[path] for path in files.pixels], files))
    records = report.collect(without_conflicts(records, files))
    labels = {record.patient: record.label for record in records}
    assert sorted(labels.values()) == [HEALTHY] * 6 + [SICK] * 6
    assert all(record.patient_known and record.view == 1 for record in records)
    assert not unknown_siblings(files)
