"""A cache that cannot be written, such as a read-only home, is an error with a remedy."""

import errno
import os

import pytest

from thermo_jax import files
from thermo_jax.configs import data_report
from thermo_jax.data import prepared
from thermo_jax.data.dataset import DataSettings


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache inside a file, which not even root can write."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(files.CACHE_DIR_VARIABLE, str(tmp_path / "file" / "cache"))
    return tmp_path / "file" / "cache"


def test_a_cache_that_cannot_be_made_is_an_error_with_both_remedies(cache, tmp_path):
    message = (
        rf"{cache}/prepared cannot be written \(.*config.data.prepared_dir or .THERMO_JAX_CACHE"
    )
    with pytest.raises(ValueError, match=message):
        prepared.make_prepared_dir(None, root=tmp_path / "data")


def test_an_existing_cache_that_cannot_be_written_is_an_error_with_both_remedies(cache):
    with (
        pytest.raises(ValueError, match=rf"{cache} cannot be written \(.*config.data.prepared_dir"),
        prepared.lock(cache / "site-0123"),
    ):
        pass


def test_a_phantom_that_cannot_be_written_is_an_error_with_the_remedy_that_moves_it(cache):
    message = (
        rf"{cache}/phantom cannot be written \(Not a directory\): .* with .THERMO_JAX_CACHE_DIR"
    )
    with pytest.raises(ValueError, match=message):
        DataSettings(**data_report.get_config("phantom").data).find_root()


def test_a_full_disk_is_reported_as_one(tmp_path):
    with pytest.raises(OSError, match="No space left"), files.writing(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))


def test_a_corrected_annotation_in_a_workdir_changes_the_fingerprint(tmp_path):
    run = tmp_path / "predictions"
    run.mkdir()
    (tmp_path / "a.png").touch()
    (run / "config.json").write_text('{"task": "predict"}')
    (run / "a.json").write_text("{}")
    (tmp_path / "thermograms.csv").write_text("file,annotation\na.png,predictions/a.json\n")
    before = prepared.source_fingerprint(tmp_path)
    (run / "a.json").write_text('{"shapes": []}')
    assert prepared.source_fingerprint(tmp_path) != before


def test_a_bucket_is_refused_as_the_folder_of_prepared_data(tmp_path):
    with pytest.raises(ValueError, match="prepared_dir=gs://clinic/a is not on this machine: cho"):
        prepared.make_prepared_dir("gs://clinic/a", root=tmp_path)


def test_a_bucket_is_refused_as_a_data_root():
    with pytest.raises(ValueError, match="root=gs://clinic/a is not on this machine: copy"):
        DataSettings(root="gs://clinic/a", type="gray").find_root()
