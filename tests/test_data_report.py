import csv
import io
import subprocess
import sys

import pytest

from thermo_jax.data.data_report import BAD_FILES, KINDS, DataReport, Oddity
from thermo_jax.data.thermogram import HEALTHY, SICK, Annotation, DataError, Thermogram


def record(name, patient="0001", **fields):
    return Thermogram(name=name, patient=patient, patient_known=True, **fields)


def add(report, *oddity):
    def read():
        yield Oddity(*oddity)

    report.collect(read())


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


RECORDS = [
    record("0001/a", view=1, protocol="S", date="2012-10-08", label=HEALTHY, visit=1, frame=0),
    record("0001/b", view=1, protocol="D", date="2012-10-08", label=HEALTHY),
    record("0002/a", "0002", view=2, protocol="D", date="2019-01-30", label=SICK),
]


def counts(text, name):
    """The numbers on the line that starts with this name."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    return [int(cell) for cell in line.removeprefix(name).split()]


@pytest.mark.parametrize(
    ("name", "images", "patients", "healthy", "sick"),
    [
        ("total", 3, 2, 2, 1),
        ("sick", 1, 1, 0, 1),
        ("frontal", 2, 1, 2, 0),
        ("right 45", 1, 1, 0, 1),
        ("dynamic", 2, 2, 1, 1),
        ("2012", 2, 1, 2, 0),
        ("2019", 1, 1, 0, 1),
    ],
)
def test_text_counts_images_and_patients(name, images, patients, healthy, sick):
    assert counts(DataReport().text(RECORDS), name) == [images, patients, healthy, sick, 0]


def test_text_counts_patients_by_their_number_of_images():
    lines = DataReport().text(RECORDS).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("images per patient"))
    assert [line.split()[:3] for line in lines[start + 1 : start + 3]] == [
        ["1", "1", "1"],  # images of a patient, images, patients
        ["2", "2", "1"],
    ]


def test_text_counts_sizes():
    report = DataReport()
    report.sizes = {"gray 480x640": 2, "gray 600x800": 1}
    assert counts(report.text([]), "  gray 480x640") == [2]


def test_text_lists_every_oddity_by_kind_with_the_action_taken():
    report = DataReport()
    add(report, "missing-snap", "0001/a", "usable as gray only")
    add(report, "unknown-unit", "0002/b.txt", "median 150")
    add(report, "unknown-unit", "0003/c.txt", "median 150")
    lines = report.text(RECORDS).splitlines()
    heading = next(i for i, line in enumerate(lines) if "[unknown-unit], 2" in line)
    assert lines[heading].startswith("BAD") and "file left out" in lines[heading]
    assert lines[heading + 1 : heading + 3] == [
        "  0002/b.txt  median 150",
        "  0003/c.txt  median 150",
    ]
    assert any("note" in line and "[missing-snap], 1" in line for line in lines)
    assert lines[-1] == "skipped files: 2; annotations left out: 0; oddities in all: 3"


def test_a_file_with_two_faults_is_skipped_once():
    report = DataReport()
    add(report, "unknown-unit", "a.txt", "x")
    add(report, "duplicate", "a.txt", "x")
    add(report, "blank-image", "b.txt", "x")
    assert report.skipped == ["a.txt"] and report.count("unknown-unit") == 1


def test_strict_raises_at_bad_files_and_not_at_notes():
    report = DataReport(strict=True)
    add(report, "missing-snap", "a", "x")
    with pytest.raises(DataError, match="b.txt: median 150.*strict"):
        add(report, "unknown-unit", "b.txt", "median 150")


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'kelvn'"):
        Oddity("kelvn", "a", "x")
    assert set(BAD_FILES) < set(KINDS)


def test_csv_has_one_row_for_each_thermogram():
    region = Annotation(class_index=0, rings=())
    table = rows(DataReport().records_csv([*RECORDS, record("0001/c", regions=(region,))]))
    assert [row["name"] for row in table] == ["0001/a", "0001/b", "0002/a", "0001/c"]
    assert table[0]["label"] == "healthy" and table[0]["date"] == "2012-10-08"
    assert [row["annotated"] for row in table] == ["False", "False", "False", "True"]


def test_csv_shows_which_pixels_exist(tmp_path):
    table = rows(DataReport().records_csv([record("a", gray_path=tmp_path / "a.jpg")]))
    assert table[0]["mean_temperature"] == ""
    assert (table[0]["gray"], table[0]["heat"], table[0]["temperatures"]) == (
        "True",
        "False",
        "False",
    )


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_cells_that_a_spreadsheet_would_run_are_neutralised(start):
    report = DataReport()
    add(report, "unknown-diagnosis", f"{start}cmd.html", f"{start}1+1")
    row = rows(report.oddities_csv())[0]
    assert row["file"] == f"'{start}cmd.html" and row["detail"] == f"'{start}1+1"
    assert rows(report.records_csv([record(f"{start}a")]))[0]["name"] == f"'{start}a"


def test_control_characters_cannot_break_a_line():
    report = DataReport()
    add(report, "unknown-diagnosis", "a\nb.html", "\x1b[31mred")
    assert "a\\nb.html" in report.text([]) and "\x1b" not in report.text([])


def test_write_makes_the_folder_and_three_files(tmp_path):
    report = DataReport("root")
    add(report, "unreadable-image", "odd\udcff.jpg", "empty")  # a name that is not UTF-8
    paths = report.write(tmp_path / "new" / "folder", RECORDS)
    assert [path.name for path in paths] == ["data_report.txt", "records.csv", "oddities.csv"]
    assert paths[0].read_text(encoding="utf-8") == report.text(RECORDS)
    assert rows(paths[2].read_text(encoding="utf-8"))[0]["sort"] == "bad file"


def test_the_readers_import_neither_jax_nor_tensorflow_nor_drawing_libraries():
    code = (
        "import sys\n"
        "import thermo_jax.data.layouts, thermo_jax.data.radiometry\n"
        "heavy = {'jax', 'tensorflow', 'matplotlib', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
