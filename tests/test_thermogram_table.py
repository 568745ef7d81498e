"""thermograms.csv: which files are thermograms, of whom and of what, in the user's own words."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermo_jax.data.data_report import DataReport
from thermo_jax.data.file_listing import THERMOGRAM_TABLE, list_files
from thermo_jax.data.identity import CLASS_AND_FOLDER, ONE_PER_FILE, identify
from thermo_jax.data.table_proposal import propose_table
from thermo_jax.data.thermogram import HEALTHY, SICK, UNLABELLED, DataError, frame_name
from thermo_jax.data.thermogram_table import COLUMNS, identify_listed
from thermo_jax.errors import UserError


def write(root, *names):
    """Empty files, since nothing opens them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root, table):
    """(what the table lists, report)."""
    content = table if isinstance(table, bytes) else table.encode("utf-8", "backslashreplace")
    (root / THERMOGRAM_TABLE).write_bytes(content)
    report = DataReport(root)
    return report.collect(identify_listed(list_files(root))), report


def one(root, header, row):
    """The record of a table of one row, and the report."""
    write(root, "a.png")
    found, report = listed(root, f"file,{header}\na.png,{row}\n")
    return (found.records[0] if found.records else None), report


def said(report, kind):
    return [(o.file, o.detail) for o in report.oddities if o.kind == kind]


def test_only_listed_files_are_used(tmp_path):
    write(tmp_path, "x/a.png", "x/b.png", "P1.png")
    found, report = listed(tmp_path, "file,patient,label\nx/b.png,Anna,sick\n")
    (record,) = found.records
    assert (record.name, record.patient, record.label) == ("x/b", "Anna", SICK)
    assert record.files == (tmp_path / "x/b.png",) and record.patient_known
    assert not report.num_bad


@pytest.mark.parametrize(
    "table",
    [
        "file,patient,label\nfotos/mãe 1.png,Ana,doente\n".encode(),
        b"\xef\xbb\xbf" + "File;Patient;Label\r\nfotos\\mãe 1.png;Ana;SICK\r\n;;\r\n".encode(),
        "label\tfile\tpatient\nCancer\t./fotos/mãe 1.png\tAna\n".encode("cp1252"),
        "file,patient,label\nfotos/mãe 1.png,Ana,sick\n".encode("utf-16"),
        'sep=;\nfile;notes;patient;label;\n"fotos/mãe 1.png";;Ana;sick;\n'.encode("cp1252"),
        "file,patient,label\nfotos/ma\u0303e 1.png,Ana,unhealthy".encode(),
    ],
    ids=["utf-8", "mark", "tabs, cp1252", "utf-16", "sep", "decomposed"],
)
def test_tables_are_read_in_the_forms_that_spreadsheets_write(tmp_path, table):
    write(tmp_path, "fotos/mãe 1.png")
    found, report = listed(tmp_path, table)
    assert [(r.patient, r.label) for r in found.records] == [("Ana", SICK)]
    assert not report.num_bad


@pytest.mark.parametrize(
    ("column", "text", "field", "value"),
    [
        ("patient", "7", "patient", "0007"),
        ("patient", "7.0", "patient", "0007"),
        ("patient", "A/7", "patient", "A-7"),
        ("patient", "'-7x", "patient", "-7x"),
        ("label", "No cancer", "label", HEALTHY),
        ("label", "unlabelled", "label", UNLABELLED),
        ("view", "2", "view", 2),
        ("view", "right 45", "view", 2),
        ("view", "esquerda lateral", "view", 5),
        ("view", "Frontal", "view", 1),
        ("protocol", "s", "protocol", "S"),
        ("protocol", "Dynamic", "protocol", "D"),
        ("date", "2019-05-03", "date", "2019-05-03"),
        ("date", "20190503", "date", "2019-05-03"),
        ("date", "2019-05-03 00:00:00", "date", "2019-05-03"),
        ("date", "2019-05", "date", "2019-05"),
        ("date", "31/05/2019", "date", "2019-05-31"),
        ("date", "03.05.2019", "date", "2019-05-03"),
        ("date", "05/31/2019", "date", "2019-05-31"),
        ("visit", "3", "visit", 3),
        ("frame", "0", "frame", 0),
    ],
)
def test_values_may_be_written_in_several_forms(tmp_path, column, text, field, value):
    record, report = one(tmp_path, column, text)
    assert getattr(record, field) == value and not report.num_bad


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("label", "cyst", "healthy, sick"),
        ("view", "9", "1 (frontal), 2 (right 45)"),
        ("view", "left", "1 (frontal)"),
        ("protocol", "X", "S (static) or D (dynamic)"),
        ("date", "2019-02-31", "a day that exists"),
        ("date", "05/03/2019", "day and month are not clear"),
        ("date", "May", "YYYY-MM-DD"),
        ("visit", "0", "a whole number from 1"),
        ("frame", "-1", "a whole number from 0"),
        ("patient", "x" * 200, "at most 100"),
    ],
)
def test_a_value_that_cannot_be_used_names_line_column_value_and_what_is(
    tmp_path, column, text, expected
):
    record, report = one(tmp_path, column, text)
    assert record is None
    ((file, detail),) = said(report, "bad-table-row")
    assert file == "a.png" and f"line 2 of {THERMOGRAM_TABLE}: {column} {text[:60]!r}" in detail
    assert expected in detail


def test_days_and_months_of_a_table_have_one_order(tmp_path):
    write(tmp_path, "a.png", "b.png")
    found, _ = listed(tmp_path, "file,date\na.png,05/03/2019\nb.png,31/03/2019\n")
    assert [record.date for record in found.records] == ["2019-03-05", "2019-03-31"]


def test_an_absent_file_names_line_file_and_what_may_be_meant(tmp_path):
    write(tmp_path, "P1/Front.PNG")
    _, report = listed(tmp_path, "file\nP1/front.png\nmore/x.png\n")
    (first, second) = said(report, "absent-file")
    assert first == ("P1/front.png", "line 2 of thermograms.csv: no such file; did you mean "
                     "'P1/Front.PNG'?")  # fmt: skip
    assert second == ("more/x.png", "line 3 of thermograms.csv: no such file")
    with pytest.raises(DataError, match="no such file"):
        DataReport(strict=True).collect(identify_listed(list_files(tmp_path)))


@pytest.mark.parametrize("path", ["../a.png", "/etc/a.png", "C:\\a.png", "x/../../a.png", ""])
def test_a_path_that_is_not_below_the_root_is_refused(tmp_path, path):
    write(tmp_path, "root/a.png", "a.png")
    found, report = listed(tmp_path / "root", f"file,patient\n{path},1\n")
    assert not found.records and "root" in said(report, "bad-table-row")[0][1]


def test_a_file_of_another_kind_and_a_row_with_too_many_cells_are_refused(tmp_path):
    write(tmp_path, "a.doc", "b.png")
    found, report = listed(tmp_path, "file,patient\na.doc,1\nb.png,Silva, Ana\n")
    assert not found.records and len(said(report, "bad-table-row")) == 2


def test_a_file_listed_twice_is_a_duplicate(tmp_path):
    write(tmp_path, "a.png")
    found, report = listed(tmp_path, "file,patient\na.png,1\na.png,2\n")
    assert [record.patient for record in found.records] == ["0001"]
    ((file, detail),) = said(report, "duplicate")
    assert file == "a.png" and "line 3" in detail and "line 2" in detail


def test_files_of_one_name_are_one_thermogram_whose_rows_must_agree(tmp_path):
    write(tmp_path, "a.png", "a.csv", "a_snap.jpg")
    table = "file,patient,label\na.png,1,\na.csv,,sick\na_snap.jpg,2,\n"
    found, report = listed(tmp_path, table)
    (record,) = found.records
    assert (record.patient, record.label, len(record.files)) == ("0001", SICK, 2)
    ((file, detail),) = said(report, "bad-table-row")
    assert file == "a_snap.jpg" and "another patient than line 2" in detail


def test_a_file_listed_with_several_frames_is_a_stack(tmp_path):
    write(tmp_path, "s.tif", "t.tif")
    found, report = listed(tmp_path, "file,patient,frame\ns.tif,1,0\ns.tif,1,2\nt.tif,2,1\n")
    names = [frame_name("s", 0), frame_name("s", 2), "t"]
    assert [record.name for record in found.records] == names
    assert [record.frame for record in found.records] == [0, 2, 1]
    assert [record.frame_in_file for record in found.records] == [0, 2, 0]
    assert found.frames == dict(zip(names, (0, 2, 1), strict=True)) and not report.num_bad


def test_empty_cells_fall_back_to_names_of_files_and_folders(tmp_path):
    names = ("healthy/P1/left_90.png", "healthy/P2/front.png", "sick/P3/2019-05-03.png")
    write(tmp_path, *names)
    rows = f"{names[0]},,,\n{names[1]},P001,sick,2\n{names[2]},,,\n"
    found, _ = listed(tmp_path, f"file,patient,label,view\n{rows}")
    values = [(r.patient, r.label, r.view, r.date) for r in found.records]
    # P1 of the folder is the patient whom the table calls P001.
    assert values == [
        ("P001", HEALTHY, 5, ""),
        ("P001", SICK, 2, ""),
        ("p-3", SICK, 0, "2019-05-03"),
    ]


def test_a_named_patient_replaces_one_per_file_and_a_mismatch(tmp_path):
    write(tmp_path, "healthy/a.png", "healthy/b.png", "0008/T0009.png")
    table = "file,patient\nhealthy/a.png,Ana\nhealthy/b.png,\n0008/T0009.png,9\n"
    found, report = listed(tmp_path, table)
    assert [record.patient for record in found.records][:2] == ["0009", "Ana"]
    assert [ONE_PER_FILE in record.notes for record in found.records] == [False, False, True]
    assert not report.num_bad


def test_annotations_are_paths_by_thermogram_and_an_absent_one_is_reported(tmp_path):
    write(tmp_path, "P1.png", "P2.png", "masks/P1.png")
    table = "file,annotation\nP1.png,masks/P1.png\nP2.png,masks/P2.png\n"
    found, report = listed(tmp_path, table)
    assert found.annotations == {"P1": tmp_path / "masks/P1.png"}
    assert len(found.records) == 2
    assert said(report, "absent-file")[0][0] == "masks/P2.png"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,pacient\n", "unknown column 'pacient': did you mean 'patient'"),
        ("file,Diagnosis\n", "unknown column 'diagnosis': did you mean 'label'"),
        ("file,age\n", "unknown column 'age': remove it"),
        ("patient,label\n", "no column 'file'"),
        ("file,label,label\n", "column 'label' twice"),
        ("", "no column 'file'"),
        ("\x00\x01", "unknown column"),
    ],
)
def test_a_header_that_cannot_be_used_stops_the_run(tmp_path, table, message):
    with pytest.raises(UserError, match=message):
        listed(tmp_path, table)


# ---------------------------------------------------------------- the proposal

SETS = {
    "class and folder": [f"{c}/{n}/IR_{n}.jpg" for c in ("Normal", "Abnormal") for n in (1, 2)],
    "one per file": ["healthy/2019-01.jpg", "sick/2019-01.jpg", "sick/=1+1.jpg"],
    "dmr": ["0001/T0001.1.2.D.2012-10-08.05.jpg", "0001/RT0001.1.2.D.2012-10-08.05.txt"],
    "mixed": ["sub-02/ses-1/y.tif", "sub-02/ses-1/y.csv", "mug.png", "'q.png", '-é,\x01 ".png'],
    "views": ["P1/front.png", "P1/left45.png", "P2/2018/x.png", "0008/T0009.jpg"],
}


@pytest.mark.parametrize("names", SETS.values(), ids=SETS)
def test_the_unchanged_proposal_gives_the_same_thermograms(tmp_path, names):
    write(tmp_path, *names)
    files = list_files(tmp_path)
    groups = {}
    for path in files.pixels:
        groups.setdefault((path.parent, path.stem), []).append(path)
    report = DataReport(tmp_path)
    records = report.collect(identify(list(groups.values()), files))
    left_out = {oddity.file: oddity.detail for oddity in report.oddities if oddity.is_bad}
    table = propose_table(records, left_out, root=tmp_path)
    assert table.startswith(",".join(COLUMNS)) and table.count("\n") == len(names) + 1
    found, again = listed(tmp_path, table)
    assert sorted(found.records, key=str) == sorted(records, key=str)
    assert again.skipped == report.skipped == sorted(left_out)


def test_the_proposal_says_what_was_assumed_and_left_out(tmp_path):
    names = [*SETS["one per file"], "0008/T0009.jpg"]
    write(tmp_path, *names)
    files = list_files(tmp_path)
    report = DataReport(tmp_path)
    records = report.collect(identify([[path] for path in files.pixels], files))
    lines = propose_table(records, {"0008/T0009.jpg": "why"}, root=tmp_path).splitlines()
    assert lines[1] == "0008/T0009.jpg,,,,,,,,,left out: why"
    assert lines[2] == f"healthy/2019-01.jpg,,healthy,frontal,,2019-01,,,,{ONE_PER_FILE}"
    assert CLASS_AND_FOLDER not in "".join(lines)


@pytest.mark.parametrize("name", ["P1/s.tif", "healthy/IR_1.tif"])
def test_the_proposal_has_a_row_for_each_frame_of_a_stack(tmp_path, name):
    write(tmp_path, name)
    files = list_files(tmp_path)
    (record,) = DataReport().collect(identify([files.pixels], files))
    frames = [
        dataclasses.replace(record, name=frame_name(record.name, i), frame=i, frame_in_file=i)
        for i in range(3)
    ]
    found, _ = listed(tmp_path, propose_table(frames, {}, root=tmp_path))
    assert found.records == frames and list(found.frames.values()) == [0, 1, 2]


@settings(max_examples=25, database=None, deadline=None, derandomize=True)
@given(table=st.binary(max_size=60), start=st.sampled_from([b"file,date,view\n", b"file;frame\n"]))
def test_a_damaged_table_ends_with_a_report_or_one_clear_error(tmp_path_factory, table, start):
    root = tmp_path_factory.getbasetemp() / "damaged"
    write(root, "a.png")
    for content in (table, start + b"a.png," + table):
        try:
            listed(root, content)
        except UserError as error:
            assert THERMOGRAM_TABLE in str(error)


def test_files_that_are_not_listed_are_counted_in_a_note(tmp_path):
    write(tmp_path, "a.png", "b.png", "c.png", "mask.png")
    _, report = listed(tmp_path, "file,annotation\na.png,mask.png\n")
    ((_, detail),) = said(report, "ignored-file")
    assert detail.startswith("2 other files are not listed")


def test_a_table_without_rows_is_reported(tmp_path):
    write(tmp_path, "a.png")
    _, report = listed(tmp_path, "file,patient\n")
    assert "lists no file" in said(report, "bad-table-row")[0][1]


def test_a_stack_listed_with_and_without_a_frame_is_used_for_the_frame_alone(tmp_path):
    write(tmp_path, "s.npy")
    found, report = listed(tmp_path, "file,patient,frame\ns.npy,,\ns.npy,Bea,1\n")
    assert [record.patient for record in found.records] == ["Bea"]
    assert "no frame" in said(report, "bad-table-row")[0][1]


def test_two_files_of_one_thermogram_may_spell_the_patient_differently(tmp_path):
    write(tmp_path, "a.png", "a.csv")
    found, report = listed(tmp_path, "file,patient\na.png,P001\na.csv,p 1\n")
    assert len(found.records[0].files) == 2 and not report.num_bad


def test_the_name_of_the_table_may_be_in_capitals_and_counts_in_the_root_only(tmp_path):
    write(tmp_path, "Thermograms.CSV", "x/thermograms.csv", "x/a.png")
    files = list_files(tmp_path)
    assert files.thermogram_table == tmp_path / "Thermograms.CSV"
    assert files.others == [tmp_path / "x/thermograms.csv"]
