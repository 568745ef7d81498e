"""The program data_report writes its report wherever it can, before it complains."""

import pytest
from thermogram_files import write_gray

from thermo_jax.configs import data_report
from thermo_jax.errors import UserError
from thermo_jax.programs.data_report import run


def complaint(root, workdir, **data):
    config = data_report.get_config("")
    config.data.update({"root": str(root), **data})
    with pytest.raises(UserError) as caught:
        run(config, workdir)
    assert (workdir / "thermograms.csv").exists()
    return str(caught.value), (workdir / "data_report.txt").read_text()


def test_the_report_of_an_empty_folder_says_so(tmp_path):
    (tmp_path / "data").mkdir()
    message, report = complaint(tmp_path / "data", tmp_path / "run")
    assert "is empty" in message and "NOT USABLE" in report


def test_a_strict_report_lists_all_bad_files(tmp_path):
    write_gray(tmp_path / "data" / "a.jpg")
    for name in ("b.jpg", "c.jpg"):
        (tmp_path / "data" / name).touch()
    message, report = complaint(tmp_path / "data", tmp_path / "run", strict=True)
    assert message.startswith("b.jpg: the file is empty") and "1 more bad files or rows" in message
    assert "  c.jpg" in report
