"""A user's mistake ends the program with one line, a bug with a traceback."""

import errno
import os

import numpy as np
import pytest

from thermo_jax import errors, main
from thermo_jax.data.thermogram import DataError
from thermo_jax.training.checkpoints import Checkpoints


def system_error(number, filename=None):
    return OSError(number, os.strerror(number), filename)


@pytest.mark.parametrize(
    "error",
    [
        errors.UserError("config.seed=-1 must be ..."),
        errors.MissingFileError("/data does not exist"),
        errors.DivergedError("loss is nan"),
        DataError("unreadable-image", "a.jpg", "truncated"),
        system_error(errno.EACCES, "/data/a.jpg"),
        system_error(errno.ENOSPC),
        system_error(errno.EDQUOT),
    ],
)
def test_these_errors_are_users_mistakes(error):
    assert errors.is_users(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("operands could not be broadcast together"),
        FloatingPointError("divide by zero"),
        OSError("a library's"),
        system_error(errno.EBADF),
        KeyError("a"),
    ],
)
def test_these_errors_are_bugs(error):
    assert not errors.is_users(error)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.MissingFileError, FileNotFoundError),
        (errors.ClosedFolderError, PermissionError),
        (errors.UnwrittenError, OSError),
        (errors.DivergedError, FloatingPointError),
    ],
)
def test_a_notebook_can_catch_errors_by_pythons_names(kind, builtin):
    with pytest.raises(builtin, match="^what happened$"):
        raise kind("what happened")


@pytest.fixture
def start(monkeypatch, capsys):
    """Runs the program with a flag parser that raises; returns (exit code, stderr)."""

    def run(error, *arguments):
        def fail(argv):
            raise error

        monkeypatch.setattr(main, "_parse_flags", fail)
        monkeypatch.setattr("sys.argv", ["thermo_jax", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        return exit_.value.code, capsys.readouterr().err

    return run


def test_a_users_mistake_is_one_line_and_exit_code_2(start):
    assert start(errors.UserError("wrong")) == (2, "thermo_jax: wrong\n")


@pytest.mark.parametrize("raise_", [lambda: np.zeros(2) + np.zeros(3), lambda: int("x")])
def test_a_bug_keeps_its_type_and_traceback(start, raise_):
    with pytest.raises(ValueError) as bug:
        raise_()
    with pytest.raises(ValueError) as caught:
        start(bug.value)
    assert caught.value is bug.value


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--traceback"], True),
        (["--traceback=true"], True),
        (["-traceback"], True),
        (["--notraceback", "--traceback=1"], True),
        (["--traceback=false"], False),
        (["--traceback", "--notraceback"], False),
        (["traceback"], False),
    ],
)
def test_the_traceback_flag_is_honoured_in_every_form(start, flags, shown):
    if shown:
        with pytest.raises(errors.UserError):
            start(errors.UserError("wrong"), *flags)
    else:
        assert start(errors.UserError("wrong"), *flags)[0] == 2


STATUS = "RESOURCE_EXHAUSTED: Error writing: Quota exceeded"


@pytest.mark.parametrize("error", [ValueError(STATUS), OSError(5, "Input/output error")])
def test_a_storage_error_while_saving_a_checkpoint_is_a_failed_write(tmp_path, error):
    message = "a checkpoint cannot be written .*the same command continues"
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(errors.UnwrittenError, match=message),
        checkpoints._writing(),
    ):
        raise error


def test_a_bug_while_saving_a_checkpoint_is_not_a_failed_write(tmp_path):
    bug = ValueError("cannot reshape array")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError) as caught,
        checkpoints._writing(),
    ):
        raise bug
    assert caught.value is bug
