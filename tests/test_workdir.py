"""A workdir belongs to one configuration, and nothing in it is overwritten by another."""

import errno
import fcntl
import json
import os

import pytest
from folder_contents import contents

from thermo_jax import main
from thermo_jax.configs import (
    benchmark,
    classify,
    cluster,
    convert,
    data_report,
    demo,
    encoder,
    export,
    few_shot,
    predict,
    table1,
)
from thermo_jax.errors import UserError
from thermo_jax.programs import settings
from thermo_jax.programs import workdir as workdirs
from thermo_jax.programs.lock import only_run_in
from thermo_jax.programs.workdir import check_workdir, open_workdir
from thermo_jax.training.metrics_log import METRICS


def test_a_second_run_in_a_workdir_is_refused_while_the_first_one_runs(tmp_path):
    config = demo.get_config()
    with only_run_in(tmp_path):
        message = rf"another run .process {os.getpid()} on .*another --workdir"
        with pytest.raises(ValueError, match=message):
            main.run(config, tmp_path)
    with only_run_in(tmp_path):
        pass


def test_a_run_leaves_no_lock_behind(tmp_path):
    with only_run_in(tmp_path / "a" / "run"):
        (tmp_path / "a" / "run" / "results.txt").write_text("")
    assert [path.name for path in contents(tmp_path)] == ["a", "run", "results.txt"]


REFUSED = {
    "encoder": (encoder.get_config(), "config.data.root is empty"),
    "classify": (classify.get_config(), "config.encoder.workdir is empty"),
    "cluster": (cluster.get_config(), "config.encoder.workdir is empty"),
    "few_shot": (few_shot.get_config(), "config.data.root is empty"),
    "table1": (table1.get_config(), "config.data.root is empty"),
    "data_report": (data_report.get_config(), "config.data.root is empty"),
    "predict": (predict.get_config(), "config.input is empty"),
    "predict from nowhere": (predict.get_config(), "/nowhere contains no trained decoder"),
    "export": (export.get_config(), "/nowhere contains no trained decoder"),
    "convert": (convert.get_config("import"), "config.weights is empty"),
    "demo": (demo.get_config(), "data root /nowhere does not exist"),
    "benchmark": (benchmark.get_config("quick"), "config.repeats=0 must be at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_run_leaves_no_folder_behind(tmp_path, name):
    config, message = REFUSED[name]
    if message.startswith("/nowhere"):
        config.update({"models": "/nowhere"} | ({"input": "/data"} if "input" in config else {}))
    if name == "benchmark":
        config.repeats = 0
    if name == "demo":
        config.stages.encoder.data.root = "/nowhere"
    with pytest.raises(UserError, match=message):
        main.run(config, tmp_path / "a" / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lock", [None, "process 1 on a machine that lost its power"])
def test_a_refused_run_changes_no_file_of_a_finished_one(tmp_path, lock):
    workdir = open_workdir(tmp_path / "run", data_report.get_config("phantom"))
    if lock is not None:
        (workdir / ".lock").write_text(lock)
        os.utime(workdir / ".lock", (10**9, 10**9))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="config.task was 'data_report', is 'encoder'"):
        main.run(encoder.get_config("heat,phantom"), workdir)
    assert contents(tmp_path) == before


def test_the_lock_of_a_run_that_was_killed_stops_no_other_run(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on a machine that lost its power, long ago")
    with only_run_in(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        assert "long ago" not in (tmp_path / ".lock").read_text()
    assert not (tmp_path / ".lock").exists()


def test_a_lock_that_another_run_removes_meanwhile_is_acquired_again(tmp_path, monkeypatch):
    flock, lock = fcntl.flock, tmp_path / ".lock"
    first = []

    def end_of_the_other_run(file, operation):
        if not first:
            first.append(True)
            lock.unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", end_of_the_other_run)
    with only_run_in(tmp_path):
        assert lock.exists()
        with (
            pytest.raises(ValueError, match="is being written by another run"),
            only_run_in(tmp_path),
        ):
            pass
    assert first and not lock.exists()


def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_run_in(tmp_path):
        assert "cannot be locked" in caplog.text


@pytest.fixture
def trained(tmp_path):
    """A workdir with a checkpoint."""
    workdir = open_workdir(tmp_path / "run", encoder.get_config())
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    return workdir


def test_the_resolved_configuration_and_versions_are_written(tmp_path):
    workdir = open_workdir(tmp_path / "run", encoder.get_config("gray"))
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["config"]["data"]["type"] == "gray"
    assert saved["versions"]["jax"] and saved["versions"]["thermo_jax"]


def test_the_same_configuration_may_continue(trained):
    assert open_workdir(trained, encoder.get_config()) == trained


def test_another_configuration_is_refused_with_every_difference(trained):
    config = encoder.get_config()
    config.train.epochs = 3
    config.seed = 7
    message = r"config.seed was 0, is 7; config.train.epochs was 200, is 3.*another --workdir"
    with pytest.raises(ValueError, match=message):
        open_workdir(trained, config)
    assert json.loads((trained / "config.json").read_text())["config"]["seed"] == 0


def test_fields_that_change_no_result_may_differ(trained):
    config = encoder.get_config()
    config.data.loader = "numpy"
    config.train.checkpoint_minutes = 5.0
    config.parallel.devices = 4
    open_workdir(trained, config)


@pytest.mark.parametrize("program", ["data_report", "demo"])
def test_a_folder_that_another_task_wrote_is_refused_and_stays_as_it_is(tmp_path, program):
    configs = {"data_report": data_report.get_config("phantom"), "demo": demo.get_config()}
    config = configs.pop(program)
    (other,) = configs.values()
    workdir = open_workdir(tmp_path / "run", other)
    before = contents(workdir)
    message = (
        rf"{workdir} contains .*config.task was '{other.task}', is '{program}'.*another --workdir"
    )
    with pytest.raises(ValueError, match=message):
        main.run(config, workdir)
    assert contents(workdir) == before


def test_a_folder_is_checked_without_being_made(tmp_path):
    assert not check_workdir(tmp_path / "run", encoder.get_config()).exists()


def test_a_demo_whose_last_stage_is_refused_changes_nothing(tmp_path):
    config = demo.get_config()
    workdir = open_workdir(tmp_path, config)
    stage = open_workdir(workdir / "segment", settings.resolve(config.stages.segment))
    (stage / "checkpoints" / "5").mkdir(parents=True)
    before = contents(workdir)
    config.stages.segment.seed = 3
    with pytest.raises(ValueError, match="segment contains .*config.seed was 0, is 3"):
        main.run(config, workdir)
    assert contents(workdir) == before


def test_a_run_in_a_subfolder_checks_its_own_configuration(tmp_path):
    config = demo.get_config()
    stage = open_workdir(open_workdir(tmp_path, config) / "encoder", config.stages.encoder)
    (stage / "checkpoints" / "5").mkdir(parents=True)
    config.stages.encoder.seed = 1
    open_workdir(tmp_path, config)
    with pytest.raises(ValueError, match="config.seed was 0, is 1"):
        open_workdir(stage, config.stages.encoder)


@pytest.mark.parametrize("content", ["", "{}", "[]", None])
def test_checkpoints_without_a_readable_configuration_are_refused(trained, content):
    (trained / "config.json").unlink()
    if content is not None:
        (trained / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json cannot be read.*another --workdir"):
        open_workdir(trained, encoder.get_config())


def test_a_run_that_failed_before_its_first_checkpoint_does_not_occupy_its_workdir(tmp_path):
    open_workdir(tmp_path, encoder.get_config())
    (tmp_path / METRICS).write_text("")
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    config = encoder.get_config("gray")
    open_workdir(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["data"]["type"] == "gray"


def test_a_missing_workdir_and_a_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--workdir is missing"):
        open_workdir("", encoder.get_config())
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        open_workdir(tmp_path / "file", encoder.get_config())


def test_a_field_that_an_old_configuration_lacks_counts_as_its_old_default(trained, monkeypatch):
    saved = json.loads((trained / "config.json").read_text())
    del saved["config"]["data"]["frames"]
    (trained / "config.json").write_text(json.dumps(saved))
    config = encoder.get_config()
    with pytest.raises(ValueError, match="config.data.frames was None, is 'first'"):
        open_workdir(trained, config)
    monkeypatch.setitem(workdirs.OLD_DEFAULTS, "data.frames", "first")
    assert check_workdir(trained, config) == trained
    config.data.frames = "all"
    with pytest.raises(ValueError, match="config.data.frames was 'first', is 'all'"):
        check_workdir(trained, config)
