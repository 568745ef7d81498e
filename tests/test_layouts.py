import shutil

import numpy as np
import pytest
from thermogram_files import (
    NAME,
    coco,
    write_coco,
    write_gray,
    write_matrix,
    write_page,
    write_patient,
)

from thermo_jax.data import layouts
from thermo_jax.data.picture import load_pixels, read_one
from thermo_jax.data.thermogram import HEALTHY, SICK, UNLABELLED, split_name

STEM = NAME.format(patient=1)


def files_of(report, kind):
    """The files that the report names for one kind of oddity."""
    return [oddity.file for oddity in report.oddities if oddity.kind == kind]


def only(root, **options):
    """Scan a root with one usable thermogram; return its record and the report."""
    records, report = layouts.scan(root, **options)
    assert len(records) == 1
    return records[0], report


# ---------------------------------------------------------------- the three layouts


def test_site_layout(tmp_path):
    write_patient(tmp_path, 1, "Healthy")
    write_patient(tmp_path, 2, "Sick")
    write_coco(tmp_path, coco({1: f"{STEM}.jpg"}, [{"image_id": 1, "category_id": 8}]))
    records, report = layouts.scan(tmp_path)
    assert report.layout == "site" and not report.oddities
    assert [record.label for record in records] == [HEALTHY, SICK]
    first = records[0]
    assert (first.name, first.patient, first.patient_known) == (f"0001/{STEM}", "0001", True)
    assert (first.visit, first.view, first.protocol, first.frame) == (1, 1, "S", 0)
    assert first.date == "2012-10-08" and len(first.regions) == 1 and not records[1].regions
    pixels = load_pixels(first)
    assert pixels.gray.shape == (480, 640, 1) and pixels.heat.shape == (120, 160, 3)


def test_matrices_layout(tmp_path):
    for patient in (1, 138, 7):
        write_matrix(tmp_path / "txt_files" / f"T{patient:04d}.txt")
    (tmp_path / "id_diagnosis.csv").write_text("ID,Diagnosis\n1,Healthy\n0138,sick\n7,Cyst\n")
    records, report = layouts.scan(tmp_path)
    assert report.layout == "matrices"
    assert {r.patient: r.label for r in records} == {"0001": 0, "0138": 1, "0007": UNLABELLED}
    assert {(r.view, r.visit, r.protocol, r.date) for r in records} == {(1, 0, "", "")}
    assert files_of(report, "unknown-diagnosis") == ["id_diagnosis.csv"]
    assert "'Cyst'" in report.oddities[0].detail


@pytest.mark.parametrize(
    ("healthy", "sick"),
    [("healthy", "Sick"), ("Normal", "abnormal"), ("saudavel", "doente"), ("benign", "MALIGNANT")],
)
def test_class_folders_layout_and_its_synonyms(tmp_path, healthy, sick):
    write_gray(tmp_path / healthy / "0001" / f"{STEM}.jpg")
    write_matrix(tmp_path / sick / "2" / "T0002.txt")
    records, report = layouts.scan(tmp_path)
    assert report.layout == "class_folders"
    assert {r.patient: r.label for r in records} == {"0001": HEALTHY, "0002": SICK}


def test_class_folders_of_mirrored_data_sets_with_split_folders(tmp_path):
    write_gray(tmp_path / "1" / "normal" / "198-1.txt.jpg")
    write_gray(tmp_path / "1" / "normal" / "R198-1.txt.jpg", 1)
    records, _ = layouts.scan(tmp_path)
    assert [(r.patient, r.mirrored, r.label) for r in records] == [
        ("0198", False, HEALTHY),
        ("0198", True, HEALTHY),
    ]


def test_layout_can_be_forced(tmp_path):
    write_gray(tmp_path / "sick" / "0001" / f"{STEM}.jpg")
    assert only(tmp_path)[0].label == SICK
    assert only(tmp_path, layout="site")[0].label == UNLABELLED
    with pytest.raises(ValueError, match="class_folders"):
        layouts.scan(tmp_path, layout="folders")


def test_the_real_sample_is_read_whole(sample_dir):
    records, report = layouts.scan(sample_dir / "site", strict=True)
    pages = {page.parent.name: page.read_text() for page in sample_dir.glob("site/*/*.html")}
    assert not report.oddities
    assert {r.patient: r.label for r in records} == {p: int("Sick" in pages[p]) for p in pages}
    expected = {path.stem for path in (sample_dir / "label_maps").glob("*.png")}
    assert {f"T{record.patient}" for record in records if record.regions} == expected
    matrices, report = layouts.scan(sample_dir / "matrices", strict=True)
    assert not report.oddities
    assert len(matrices) == len(list(sample_dir.glob("matrices/txt_files/*.txt")))


def test_images_rendered_from_the_sample_resemble_its_own_images(sample_dir):
    ours = layouts.scan(sample_dir / "matrices")[0][0]
    folder = sample_dir / "site" / ours.patient
    theirs = {split_name(path.name)[1]: path for path in folder.glob("*.jpg")}
    rendered = load_pixels(ours)
    gray = read_one(theirs[False]).model_image("gray")
    heat = read_one(theirs[True]).model_image("heat")
    assert np.abs(rendered.gray.astype(int) - gray).mean() < 1
    assert np.abs(rendered.heat.astype(int) - heat).mean() < 2


# ---------------------------------------------------------------- roots without thermograms


def test_a_root_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*config.data.root"):
        layouts.scan(tmp_path / "nowhere")


def test_an_empty_root_is_named(tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        layouts.scan(tmp_path)


def test_a_root_that_is_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="is a file"):
        layouts.scan(write_gray(tmp_path / "a.jpg"))


def test_a_root_without_thermograms_says_what_it_expected(tmp_path):
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(ValueError, match="no thermograms.*expected pictures.*or temperatures"):
        layouts.scan(tmp_path)


def test_a_root_with_bad_files_only_says_what_is_wrong_with_them(tmp_path):
    (tmp_path / "T0001.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="no usable thermogram.*T0001.txt: the file is empty"):
        layouts.scan(tmp_path)


# ---------------------------------------------------------------- missing parts


def test_without_a_snap_the_thermogram_stays_usable_as_gray(tmp_path):
    write_patient(tmp_path, 1)
    (tmp_path / "0001" / f"{STEM}_snap.jpg").unlink()
    record, report = only(tmp_path)
    assert record.heat_path is None and record.gray_path is not None
    assert files_of(report, "missing-snap") == [f"0001/{STEM}.jpg"]
    assert load_pixels(record).heat is None


def test_a_missing_heatmap_is_rendered_from_temperatures_beside_the_picture(tmp_path):
    write_patient(tmp_path, 1)
    write_matrix(tmp_path / "0001" / f"{STEM}.txt")
    (tmp_path / "0001" / f"{STEM}_snap.jpg").unlink()
    record, report = only(tmp_path)
    assert record.temperature_path is not None
    assert "rendered" in report.oddities[0].detail
    pixels = load_pixels(record)
    assert pixels.heat.shape == (120, 160, 3)
    assert record.mean_temperature == pytest.approx(pixels.temperatures.mean(), abs=1e-3)


def test_temperatures_alone_are_no_oddity(tmp_path):
    write_page(tmp_path / "0001", "Sick")
    write_matrix(tmp_path / "0001" / f"{STEM}.txt")
    record, report = only(tmp_path)
    assert record.label == SICK and not report.oddities


def test_a_snap_alone_is_noted(tmp_path):
    write_patient(tmp_path, 1).unlink()
    record, report = only(tmp_path)
    assert record.heat_path is not None
    assert files_of(report, "missing-gray") == [f"0001/{STEM}_snap.jpg"]


def test_without_a_page_the_patient_is_unlabelled(tmp_path):
    write_patient(tmp_path, 1)
    (tmp_path / "0001" / "description.html").unlink()
    record, report = only(tmp_path)
    assert record.label == UNLABELLED
    assert files_of(report, "missing-diagnosis") == ["0001/description.html"]


@pytest.mark.parametrize("diagnosis", ["Unknown", "", "Healthy?", "<b>Cyst</b>"])
def test_another_diagnosis_is_unlabelled_and_quoted(tmp_path, diagnosis):
    write_patient(tmp_path, 1, diagnosis)
    record, report = only(tmp_path)
    assert record.label == UNLABELLED
    assert files_of(report, "unknown-diagnosis") == ["0001/description.html"]


@pytest.mark.parametrize("diagnosis", ["Sick", " SICK ", "sick\n", "<b>Sick</b>"])
def test_a_diagnosis_is_read_in_any_case(tmp_path, diagnosis):
    write_patient(tmp_path, 1, diagnosis)
    assert only(tmp_path)[0].label == SICK


def test_a_page_without_a_diagnosis_line_is_reported(tmp_path):
    write_patient(tmp_path, 1)
    (tmp_path / "0001" / "description.html").write_text("<html>Diagnosis pending, healthy?</html>")
    record, report = only(tmp_path)
    assert record.label == UNLABELLED and report.count("unknown-diagnosis") == 1


def test_a_page_applies_to_the_folders_below_it(tmp_path):
    write_page(tmp_path / "0001", "Sick")
    write_gray(tmp_path / "0001" / "static" / f"{STEM}.jpg")
    assert only(tmp_path)[0].label == SICK


def test_without_a_table_every_matrix_is_unlabelled(tmp_path):
    write_matrix(tmp_path / "T0001.txt")
    record, report = only(tmp_path)
    assert report.layout == "matrices" and record.label == UNLABELLED
    assert files_of(report, "missing-diagnosis") == ["id_diagnosis.csv"]


# ---------------------------------------------------------------- tables


def table(tmp_path, content, patients=(1,)):
    for patient in patients:
        write_matrix(tmp_path / "txt_files" / f"T{patient:04d}.txt")
    (tmp_path / "id_diagnosis.csv").write_bytes(content)
    return layouts.scan(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfID,Diagnosis\r\n\r\n0001,Sick\r\n\r\n",
        b"id;diagnosis\n1;sick\n",
        b"Diagnosis, ID, Age\n Sick , 1 , 50\n",
    ],
)
def test_tables_are_read_in_the_forms_spreadsheets_write(tmp_path, content):
    records, report = table(tmp_path, content)
    assert records[0].label == SICK and not report.oddities


def test_a_patient_without_a_row_and_a_row_without_a_patient_are_reported(tmp_path):
    records, report = table(tmp_path, b"ID,Diagnosis\n2,Healthy\n")
    assert records[0].label == UNLABELLED
    assert files_of(report, "missing-diagnosis") == ["txt_files/T0001.txt"]
    assert [o.detail for o in report.oddities if o.kind == "missing-file"] == ["patient 0002"]


def test_a_repeated_row_is_reported_and_a_conflicting_one_leaves_the_patient_out(tmp_path):
    content = b"ID,Diagnosis\n1,Healthy\n01,Healthy\n2,Healthy\n0002,Sick\n"
    records, report = table(tmp_path, content, patients=(1, 2))
    assert [r.patient for r in records] == ["0001"]
    assert report.count("duplicate-row") == 1
    assert files_of(report, "conflicting-diagnosis") == ["txt_files/T0002.txt"]


def test_rows_that_are_not_usable_are_quoted(tmp_path):
    records, report = table(tmp_path, b"ID,Diagnosis\n1,Sick\nx,Sick\n5\n")
    assert records[0].label == SICK
    assert [o.detail for o in report.oddities] == ["line 3: 'x,Sick'", "line 4: '5'"]


@pytest.mark.parametrize("content", [b"", b"1,Healthy\n", b"a,b\n1,2\n"])
def test_a_table_without_its_header_is_reported(tmp_path, content):
    records, report = table(tmp_path, content)
    assert records[0].label == UNLABELLED
    assert files_of(report, "unreadable-diagnosis") == ["id_diagnosis.csv"]


# ---------------------------------------------------------------- identity


def test_a_file_of_an_unknown_patient_is_grouped_by_its_folder(tmp_path):
    write_gray(tmp_path / "misc" / "IR_2015-04-17_0007.jpg")
    record, report = only(tmp_path)
    assert (record.patient, record.patient_known) == ("folder:misc", False)
    assert record.date == "2015-04-17" and record.view == 0
    assert files_of(report, "unknown-patient") == ["misc/IR_2015-04-17_0007.jpg"]


def test_the_folder_names_the_patient_where_the_file_name_does_not(tmp_path):
    write_gray(tmp_path / "0278" / "IR_2015-04-17_0007.jpg")
    write_gray(tmp_path / "0278" / "photo.jpg")
    records, report = layouts.scan(tmp_path)
    assert {(r.patient, r.patient_known) for r in records} == {("0278", True)}
    assert files_of(report, "unknown-name") == ["0278/photo.jpg"]


def test_a_file_whose_name_and_folder_disagree_is_left_out(tmp_path):
    write_patient(tmp_path, 1)
    write_gray(tmp_path / "0156" / "TFRON_V159_18-2-2013_00.jpg")
    record, report = only(tmp_path)
    assert record.patient == "0001"
    assert files_of(report, "patient-mismatch") == ["0156/TFRON_V159_18-2-2013_00.jpg"]


@pytest.mark.parametrize("folder", ["sick/1", "0005/1", "1/0005", "sick/patient 5/2"])
def test_a_folder_of_a_visit_or_a_fold_is_not_read_as_another_patient(tmp_path, folder):
    write_gray(tmp_path / folder / "T0005.2.1.S.2012-10-08.00.jpg")
    assert only(tmp_path)[0].patient == "0005"


def test_a_folder_of_four_digits_names_the_patient_rather_than_one_inside_it(tmp_path):
    write_gray(tmp_path / "0005" / "1" / "IR_2015-04-17_0007.jpg")
    assert only(tmp_path)[0].patient == "0005"


def test_a_diagnosis_applies_to_all_folders_of_the_patient(tmp_path):
    write_patient(tmp_path, 1, "Sick")
    write_gray(tmp_path / "mirrored" / f"R{NAME.format(patient=1)}.jpg")
    records, report = layouts.scan(tmp_path)
    assert [record.label for record in records] == [SICK, SICK]
    assert files_of(report, "missing-diagnosis") == ["mirrored/description.html"]


def test_annotations_with_a_folder_belong_to_that_folders_image(tmp_path):
    name = "IR_2015-04-17_0007.jpg"
    for folder in ("0001", "0002"):
        write_gray(tmp_path / folder / name)
    entry = {"image_id": 1, "category_id": 8}
    write_coco(tmp_path, coco({1: f"0001/{name}", 2: f"0003/{name}"}, [entry]))
    records, report = layouts.scan(tmp_path)
    assert [bool(record.regions) for record in records] == [True, False]
    assert report.count("absent-image") == 1


def test_impossible_parts_of_a_name_are_noted(tmp_path):
    write_gray(tmp_path / "0001" / "T0001.1.8.S.2012-02-31.00.jpg")
    record, report = only(tmp_path)
    assert (record.view, record.date, record.patient) == (0, "", "0001")
    assert report.count("odd-name") == 1


def test_a_mirrored_copy_is_another_thermogram_of_the_patient_without_the_annotation(tmp_path):
    gray = write_patient(tmp_path, 1)
    shutil.copy(gray, gray.with_name("R" + gray.name))
    write_coco(tmp_path, coco({1: gray.name}, [{"image_id": 1, "category_id": 8}]))
    records, report = layouts.scan(tmp_path)
    assert [(r.patient, r.mirrored, bool(r.regions)) for r in records] == [
        ("0001", True, False),
        ("0001", False, True),
    ]
    assert report.count("duplicate") == 0


def test_a_visit_filed_twice_is_kept_once(tmp_path):
    write_patient(tmp_path, 1)
    write_gray(tmp_path / "0001" / "T0001.1.1.S.2013-01-01.00.jpg")
    write_gray(tmp_path / "0001" / "copy" / f"{STEM}.jpg")
    record, report = only(tmp_path)
    assert record.name == f"0001/{STEM}"
    assert sorted(files_of(report, "duplicate")) == [
        "0001/T0001.1.1.S.2013-01-01.00.jpg",
        f"0001/copy/{STEM}.jpg",
    ]


def test_a_duplicate_takes_the_place_of_a_bad_first_file(tmp_path):
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001" / f"{STEM}.jpg").write_bytes(b"")
    write_gray(tmp_path / "0001" / "copy" / f"{STEM}.jpg")
    assert only(tmp_path)[0].name == f"0001/copy/{STEM}"


def test_frames_views_and_protocols_are_no_duplicates(tmp_path):
    for name in ("1.1.S.2012-10-08.00", "1.2.S.2012-10-08.00", "1.1.D.2012-10-08.00"):
        write_gray(tmp_path / "0001" / f"T0001.{name}.jpg")
    for name in ("1.1.D.2012-10-08.01", "2.1.D.2013-10-08.00"):
        write_gray(tmp_path / "0001" / f"T0001.{name}.jpg")
    records, report = layouts.scan(tmp_path)
    assert len(records) == 5 and report.count("duplicate") == 0


def test_two_suffixes_of_one_name_are_a_duplicate(tmp_path):
    write_gray(tmp_path / "0001" / f"{STEM}.jpg")
    write_gray(tmp_path / "0001" / f"{STEM}.jpeg")
    record, report = only(tmp_path)
    assert record.gray_path.suffix == ".jpeg"  # the first by name
    assert files_of(report, "duplicate") == [f"0001/{STEM}.jpg"]


def test_a_patient_in_both_class_folders_is_left_out_entirely(tmp_path):
    write_gray(tmp_path / "healthy" / "0001" / f"{STEM}.jpg")
    write_gray(tmp_path / "sick" / "0001" / "T0001.2.1.S.2013-10-08.00.jpg")
    write_gray(tmp_path / "sick" / "0002" / "T0002.1.1.S.2013-10-08.00.jpg")
    record, report = only(tmp_path)
    assert record.patient == "0002"
    assert report.count("conflicting-diagnosis") == 2
