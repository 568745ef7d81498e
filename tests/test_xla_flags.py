"""Which flags XLA gets for NVIDIA's GPUs; the user's own flags stay as they are."""

import os
from unittest import mock

import pytest
from ml_collections import ConfigDict

from thermo_jax import main
from thermo_jax.errors import UserError
from thermo_jax.training import processes, xla_flags
from thermo_jax.training.xla_flags import COMBINE, ONE_GRAPH, set_for_gpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with one GPU, its driver's folder and JAX's plugin; no variable is set."""
    (tmp_path / "driver" / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "some_cuda_plugin.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(xla_flags, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(xla_flags, "_PLUGINS", ("no_such_plugin", "some_cuda_plugin"))
    monkeypatch.setattr(xla_flags.metadata, "version", lambda package: "0.10.1")
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", *xla_flags._PROCESSES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")  # monkeypatch also restores it afterwards
    return tmp_path / "driver"


def test_one_gpu_gets_the_flag_for_one_graph_per_dispatch(machine):
    assert set_for_gpus() == [ONE_GRAPH]
    assert os.environ["XLA_FLAGS"] == ONE_GRAPH


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_DRIVER", "/no/such/folder"),
        ("_PLUGINS", ("no_such_plugin",)),
    ],
)
def test_without_driver_or_plugin_nothing_is_added(machine, monkeypatch, name, value):
    monkeypatch.setattr(xla_flags, name, type(getattr(xla_flags, name))(value))
    assert set_for_gpus() == []
    assert os.environ["XLA_FLAGS"] == ""


@pytest.mark.parametrize(
    ("version", "added"),
    [("0.10.0", []), ("0.9.2", []), ("0.10.1", [ONE_GRAPH]), ("0.12.0.1", [ONE_GRAPH])],
)
def test_a_jaxlib_that_would_abort_gets_no_flag(machine, monkeypatch, version, added):
    monkeypatch.setattr(xla_flags.metadata, "version", lambda package: version)
    assert set_for_gpus() == added


@pytest.mark.parametrize(
    ("platforms", "added"),
    [
        ("cpu", []),
        ("tpu,cpu", []),
        ("cuda", [ONE_GRAPH]),
        ("cpu, gpu", [ONE_GRAPH]),
        ("", [ONE_GRAPH]),
    ],
)
def test_a_gpu_that_jax_may_not_use_gets_no_flag(machine, monkeypatch, platforms, added):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert set_for_gpus() == added


@pytest.mark.parametrize(
    ("variable", "value", "added"),
    [
        ("CUDA_VISIBLE_DEVICES", "0,1,2,3", [ONE_GRAPH, COMBINE]),
        ("CUDA_VISIBLE_DEVICES", "3", [ONE_GRAPH]),
        ("CUDA_VISIBLE_DEVICES", "2,-1,3", [ONE_GRAPH]),
        ("CUDA_VISIBLE_DEVICES", "", []),
        ("CUDA_VISIBLE_DEVICES", "-1", []),
        ("JAX_PLATFORMS", "cuda", [ONE_GRAPH, COMBINE]),  # all four are visible
    ],
)
def test_several_visible_gpus_combine_their_all_reduces(
    machine, monkeypatch, variable, value, added
):
    for number in (2, 3, 4):
        (machine / "gpus" / f"0000:0{number}:00.0").mkdir()
    monkeypatch.setenv(variable, value)
    assert set_for_gpus() == added


@pytest.mark.parametrize("variable", ["JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS"])
def test_several_processes_with_a_gpu_each_combine_their_all_reduces(
    machine, monkeypatch, variable
):
    monkeypatch.setenv(variable, "1")
    assert set_for_gpus() == [ONE_GRAPH]
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv(variable, "8")
    assert set_for_gpus() == [ONE_GRAPH, COMBINE]


@pytest.mark.parametrize("own", ["", "=", "=FUSION", "=-WHILE"])
def test_a_flag_that_the_user_set_stays_as_it_is(machine, monkeypatch, own):
    (machine / "gpus" / "0000:02:00.0").mkdir()
    own = f"--xla_dump_to=/tmp/x --xla_gpu_enable_command_buffer{own}"
    monkeypatch.setenv("XLA_FLAGS", own)
    assert set_for_gpus() == [COMBINE]
    assert os.environ["XLA_FLAGS"] == f"{own} {COMBINE}"


def test_a_flag_whose_name_only_begins_the_same_is_another_flag(machine, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer_va_remapping=true")
    assert set_for_gpus() == [ONE_GRAPH]


def test_a_file_of_flags_stays_as_it_is(machine, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "my_flags.txt")
    assert set_for_gpus() == []
    assert os.environ["XLA_FLAGS"] == "my_flags.txt"


def test_what_was_added_is_logged_once(machine, caplog):
    caplog.set_level("INFO", logger="absl")
    for _ in range(2):
        xla_flags.log(set_for_gpus())
    (record,) = caplog.records
    assert record.levelname == "INFO" and ONE_GRAPH in record.message
    assert os.environ["XLA_FLAGS"] == ONE_GRAPH


def test_the_program_adds_flags_before_it_joins_other_processes(monkeypatch):
    calls = mock.Mock()
    calls.join.side_effect = UserError("the end of this test")
    monkeypatch.setattr(xla_flags, "set_for_gpus", calls.set_for_gpus)
    monkeypatch.setattr(processes, "join", calls.join)
    monkeypatch.setattr(main, "logging", mock.Mock())
    monkeypatch.setattr(main, "_CONFIG", mock.Mock(value=ConfigDict()))
    with pytest.raises(UserError, match="the end of this test"):
        main._main(["thermo_jax"])
    assert calls.mock_calls == [mock.call.set_for_gpus(), mock.call.join()]
