"""Zips of a user: what is unpacked, what is refused, and that nothing is left on the disk."""

import struct
import tempfile
import zipfile

import pytest
from folder_contents import contents
from thermogram_files import matrix, matrix_text

from thermo_jax.inference import inputs, zip_files
from thermo_jax.inference.inputs import Unreadable
from thermo_jax.inference.predictor import Predictor

CSV = matrix_text(matrix()[:24, :32], separator=",")


def write_zip(path, files, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return path


@pytest.fixture
def find(tmp_path):
    """Return a function that finds the thermograms in zips, which it unpacks in `unpacked`."""

    def found(*paths):
        return inputs.find_thermograms(paths, unpack_dir=tmp_path / "unpacked").items

    (tmp_path / "unpacked").mkdir()
    return found


def test_a_zip_is_read_like_the_folder_in_it(find, tmp_path):
    files = {"0001/visit 2/a.csv": CSV, "b.csv": CSV, "notes.doc": "x", "inner.zip": "x"}
    hidden = {"__MACOSX/b.csv": "x", "0001/._a.csv": "x", ".c.csv": "x"}
    items = find(write_zip(tmp_path / "clinic.zip", files | hidden))
    named = [(item.name, item.known_patient) for item in items]
    assert named == [("0001/visit 2/a", "0001"), ("b", None)]
    assert items[0].visit == 2


def test_thermograms_of_several_inputs_are_below_the_names_of_their_zips(find, tmp_path):
    write_zip(tmp_path / "x" / "one.zip", {"a.csv": CSV})
    write_zip(tmp_path / "x" / "two.ZIP", {"a.csv": CSV})
    (tmp_path / "y" / "one").mkdir(parents=True)
    (tmp_path / "y" / "one" / "a.csv").write_text(CSV)
    assert [item.name for item in find(tmp_path / "x" / "*")] == ["one/a", "two/a"]
    items = find(tmp_path / "x" / "one.zip", tmp_path / "y" / "one" / "a.csv")
    assert [item.name for item in items] == ["x/one/a", "y/one/a"]


def test_equal_names_get_numbers(find, tmp_path):
    write_zip(tmp_path / "one.zip", {"a.csv": CSV})
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.csv").write_text(CSV)
    assert [item.name for item in find(tmp_path / "one.zip", tmp_path / "one", tmp_path / "*")] == [
        "one/a",
        "one/a (2)",
    ]


@pytest.mark.parametrize("folder", ["", "clinic/"])
def test_the_table_at_the_root_of_a_zip_is_used(find, tmp_path, folder):
    files = {"thermograms.csv": "file,patient\na.csv,Ana\n", "a.csv": CSV, "b.csv": CSV}
    path = write_zip(tmp_path / "a.zip", {folder + name: text for name, text in files.items()})
    assert [(item.name, item.known_patient) for item in find(path)] == [("a", "Ana")]


def test_masks_and_workdirs_in_a_zip_are_passed_over(find, tmp_path):
    config = '{"config": {"task": "predict"}, "versions": {"thermo_jax": "1"}}'
    files = {"a.csv": CSV, "m/classes.json": '{"neck": 7}', "m/a.png": "x"}
    files |= {"out/config.json": config, "out/overlays/a.png": "x"}
    assert [item.name for item in find(write_zip(tmp_path / "a.zip", files))] == ["a"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("../../evil.csv", "evil"),
        ("/etc/evil.csv", "etc/evil"),
        ("C:\\clinic\\..\\evil.csv", "clinic/evil"),
        ("\\\\server\\evil.csv", "server/evil"),
        ("~/./evil.csv", "~/evil"),
    ],
)
def test_nothing_is_written_outside_of_the_folder(find, tmp_path, name, found):
    path = write_zip(tmp_path / "deep" / "a.zip", {name: CSV})
    (item,) = find(path)
    assert item.name == found and item.files[0].is_relative_to(tmp_path / "unpacked" / "0")
    written = {file for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {path, *item.files}


def test_a_link_in_a_zip_is_unpacked_as_a_file(find, tmp_path):
    info = zipfile.ZipInfo("link.csv")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    (item,) = find(tmp_path / "a.zip")
    assert not item.files[0].is_symlink() and item.files[0].read_text() == "/etc/passwd"


def test_a_damaged_file_in_a_zip_is_named_and_the_others_are_read(find, tmp_path):
    path = write_zip(tmp_path / "a.zip", {"x/bad.csv": CSV, "good.csv": CSV})
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    good, bad = find(path)
    assert good.name == "good" and isinstance(bad, Unreadable) and bad.name == "x/bad"
    assert bad.reason.startswith("bad.csv: cannot be unpacked (")


def test_a_damaged_zip_is_refused(find, tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.csv": CSV})
    for data in (b"", b"hello", path.read_bytes()[:-30]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.zip cannot be unpacked .*unpack it yourself"):
            find(path)


def zip_with_header(path, value, *, local, central):
    """Write a zip; then write a number at these offsets of both headers of its file."""
    data = bytearray(write_zip(path, {"a.csv": CSV}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        place = data.index(mark) + offset
        data[place : place + 2] = struct.pack("<H", value)
    path.write_bytes(data)
    return path


def test_an_encrypted_zip_is_refused(find, tmp_path):
    path = zip_with_header(tmp_path / "a.zip", 1, local=6, central=8)  # the flags
    with pytest.raises(ValueError, match=r"a\.zip cannot be unpacked \(.*encrypted"):
        find(path)


def test_an_unknown_compression_is_refused(find, tmp_path):
    path = zip_with_header(tmp_path / "a.zip", 99, local=8, central=10)
    with pytest.raises(ValueError, match="cannot be unpacked .*compression"):
        find(path)


def test_a_file_that_is_larger_than_any_thermogram_is_not_unpacked(find, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", CSV)
        with archive.open("bomb.csv", "w") as file:
            for _ in range(65):
                file.write(bytes(2**20))
    good, bad = find(tmp_path / "a.zip")
    assert good.name == "a" and bad.reason == "bomb.csv: 65 MB; expected at most 64 MB"
    assert not list((tmp_path / "unpacked").rglob("bomb*"))


@pytest.mark.parametrize(("limit", "value"), [("MAX_ZIP_FILES", 2), ("MAX_ZIP_BYTES", 5000)])
def test_too_many_files_or_bytes_are_refused(find, tmp_path, monkeypatch, limit, value):
    path = write_zip(tmp_path / "a.zip", {f"{name}.csv": CSV for name in "abc"})
    monkeypatch.setattr(zip_files, limit, value)
    with pytest.raises(ValueError, match="contains 3 files of 0.0 GB.*unpack a part of it"):
        find(path)
    assert not contents(tmp_path / "unpacked" / "0")


def test_a_zip_that_claims_to_be_small_is_not_unpacked_beyond_its_claim(find, tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.csv": CSV, "bomb.csv": bytes(2**20)})
    data = path.read_bytes().replace(struct.pack("<I", 2**20), struct.pack("<I", 100))
    path.write_bytes(data)
    good, bad = find(path)
    assert good.name == "a" and bad.name == "bomb"
    assert not list((tmp_path / "unpacked").rglob("bomb*"))


def test_a_file_in_the_place_of_a_folder_is_named(find, tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.csv": CSV, "a.csv/b.csv": CSV})
    first, second = find(path)
    assert first.name == "a" and second.name == "a.csv/b"


# --------------------------------------------------------------------------------------------------
# The folder for the content of zips
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def predictor(monkeypatch):
    """A predictor without models, which returns what was read."""
    predictor = Predictor.__new__(Predictor)
    monkeypatch.setattr(Predictor, "predict_read", lambda self, items, count: iter(items))
    return predictor


def test_the_content_of_a_zip_is_removed_at_the_end(temporary, predictor, tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"{name}.csv": CSV for name in "abc"})
    items = predictor.predict_files(path)
    assert next(items).file == "a.csv" and list(temporary.rglob("c.csv"))
    assert len(list(items)) == 2 and not list(temporary.iterdir())


def test_the_content_of_a_zip_is_removed_if_the_reader_stops_early(temporary, predictor, tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"{name}.csv": CSV for name in "abc"})
    items = predictor.predict_files(path)
    next(items)
    items.close()
    assert not list(temporary.iterdir())


def test_the_content_of_a_zip_is_removed_after_an_error(temporary, predictor, tmp_path):
    good = write_zip(tmp_path / "a.zip", {"a.csv": CSV})
    (tmp_path / "bad.zip").write_bytes(b"hello")
    with pytest.raises(ValueError, match="bad.zip cannot be unpacked"):
        predictor.predict_files([good, tmp_path / "bad.zip"])
    assert not list(temporary.iterdir())


def test_the_content_of_a_zip_is_removed_if_nothing_is_read(temporary, predictor, tmp_path):
    items = predictor.predict_files(write_zip(tmp_path / "a.zip", {"a.csv": CSV}))
    items.close()
    assert not list(temporary.iterdir())
