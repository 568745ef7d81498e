"""The program as a user starts it: one clear line and exit code 2 for a mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from thermo_jax import main
from thermo_jax.configs import benchmark, encoder

ROOT = Path(__file__).resolve().parent.parent


def start(*arguments, **environment):
    """Run the program in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "thermo_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


MISTAKES = [
    (["--config=configs/encodr.py"], "no configuration 'configs/encodr.py'; installed ones"),
    (["--config=configs/encoder.py:grey"], "no preset 'grey'. Did you mean 'gray'?"),
    (
        ["--config=configs/encoder.py", "--config.data.rot=x"],
        "config has no field 'rot'. Did you mean \"root\"",
    ),
    (["--config=configs/encoder.py", "--config.dta.root=x"], "config has no field 'dta'."),
    (["--config=configs/encoder.py", "--config.seed.x=1"], "names a field of a value that has"),
    (["--config=configs/encoder.py", "--workdri=x"], "Did you mean: workdir"),
    (
        ["--config=encoder", "--config.train.epochs=many"],
        "epochs=many: 'many' is not a whole number",
    ),
    (["--config=encoder", "--config.train.ema=high"], "ema=high: 'high' is not a number"),
    (["--config=encoder", "--config.data.strict=yes"], "'yes' is neither True nor False"),
    (["--config=encoder", "--config.train.epochs"], "Missing value for flag --config.train.epochs"),
    (["--workdir=x"], "--config is missing: give one"),
    (["--config=encodr"], "Did you mean 'encoder'?"),
    (["--config", "configs/encoder.py:grey"], "no preset 'grey'. Did you mean 'gray'?"),
    (["--config=/nowhere/encoder.py:gray"], "no configuration '/nowhere/encoder.py'"),
    (["--config=common"], "no configuration 'common'"),
    (["--config=configs/small.py"], "starts no program, because it has no function get_config"),
]
# Importing the program is slow, so one process imports it and forks once for each mistake.
RUN_IN_FORKS = """
import json, os, sys
from thermo_jax import main

folder, cases = sys.argv[1], json.loads(sys.argv[2])
for number, arguments in enumerate(cases):
    if not os.fork():
        os.dup2(os.open(f"{folder}/{number}.txt", os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
        sys.argv[1:] = arguments
        try:
            code = main.main()
        except SystemExit as ended:
            code = ended.code
        sys.stderr.flush()
        os._exit(code or 0)  # skips Python's slow shutdown
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """The exit code and the standard error of the program for each of MISTAKES."""
    folder = tmp_path_factory.mktemp("mistakes")
    cases = json.dumps([arguments for arguments, _ in MISTAKES])
    program = [sys.executable, "-c", RUN_IN_FORKS, str(folder), cases]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    codes = map(int, done.stdout.split())
    return [(code, (folder / f"{n}.txt").read_text()) for n, code in enumerate(codes)]


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_in_the_flags_is_one_line_and_exit_code_2(number, mistaken):
    code, errors = mistaken[number]
    assert code == 2
    assert MISTAKES[number][1] in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_bug_of_a_configuration_file_shows_where_it_is(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config():\n    return len(3)  # the bug\n")
    done = start(f"--config={file}")
    assert done.returncode not in (0, main.EXIT_USER_ERROR)
    assert "len(3)" in done.stderr and "has no len()" in done.stderr


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = start("--config=data_report:phantom", f"--workdir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_task_is_refused(tmp_path):
    config = encoder.get_config()
    config.task = "encode"
    with pytest.raises(ValueError, match="config.task='encode' is unknown"):
        main.run(config, tmp_path)


def test_without_a_data_root_the_message_offers_the_phantom(tmp_path):
    with pytest.raises(ValueError, match="config.data.root is empty.*phantom"):
        main.run(encoder.get_config(), tmp_path)


def test_more_devices_than_there_are_is_refused(tmp_path):
    config = encoder.get_config("heat,phantom")
    config.parallel.devices = 1000
    with pytest.raises(ValueError, match="this machine has"):
        main.run(config, tmp_path)


def test_the_traceback_is_shown_when_asked_for():
    done = start("--config=configs/encoder.py", "--traceback")
    assert done.returncode != 0
    assert "Traceback" in done.stderr and "--workdir is missing" in done.stderr


def test_compiled_programs_are_kept_for_the_next_start_but_not_those_of_a_benchmark(
    tmp_path, monkeypatch
):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path / "cache"))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        timed = benchmark.get_config("quick")
        timed.cases = ("nothing",)
        with pytest.raises(ValueError, match="no case 'nothing'"):
            main.run(timed, tmp_path / "benchmark")
        assert jax.config.jax_compilation_cache_dir is None
        with pytest.raises(ValueError, match=r"config\.data\.root"):
            main.run(encoder.get_config("heat"), tmp_path / "run")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "xla")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
