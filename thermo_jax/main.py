"""The program: `python -m thermo_jax.main --config=configs/demo.py --workdir=runs/demo`.

It parses flags and dispatches on `config.task`; everything it calls can be called from a notebook.
"""

import importlib
import logging as python_logging
import re
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from thermo_jax.errors import MissingFileError, UserError, is_full_disk, is_users
from thermo_jax.files import cache_dir, is_remote
from thermo_jax.programs.lock import only_run_in
from thermo_jax.training import memory, preemption, processes, timeline, xla_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file, with its preset after a colon (configs/encoder.py:gray); a bare name such "
    "as encoder:gray is looked up in the installed package. Override fields by "
    "--config.train.epochs=5.",
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error was raised.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder for everything that the run writes.")

TASKS = {  # config.task -> module of thermo_jax.programs
    "encoder": "encoder",
    "export": "export",
    "classify": "decoder",
    "segment": "decoder",
    "cluster": "cluster",
    "convert": "convert",
    "demo": "demo",
    "few_shot": "few_shot",
    "predict": "predict",
    "table1": "table1",
    "data_report": "data_report",
    "benchmark": "benchmark",
}
CONTINUE = ("encoder", "classify", "segment", "demo", "few_shot", "table1")
TRAINING = ("encoder", "classify", "segment")
_OWN_ERROR = re.compile(r"thermo_jax\.errors\.UserError: (.*)")  # of a configuration file
_NO_FIELDS = "a --config flag names a field of a field that has none"
EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130  # the latter as by Ctrl-C


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs the program that `config.task` names; returns its results."""
    if config.task not in TASKS:
        raise UserError(f"config.task={config.task!r} is unknown: choose one of {sorted(TASKS)}")
    if config.task not in TRAINING:
        _check_alone(config.task, workdir)
    if config.task != "benchmark":  # which tells how long a compilation takes
        _keep_compiled_programs()
    if jax.default_backend() == "cpu":
        memory.keep_freed_memory()
    program = importlib.import_module(f"thermo_jax.programs.{TASKS[config.task]}")
    with only_run_in(workdir), timeline.record():
        return program.run(config, workdir)


def _check_alone(task: str, workdir: str | Path) -> None:
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        raise UserError(
            f"config.task={task!r} runs in one process ({', '.join(TRAINING)} run in several): "
            "start it once, outside the launcher that started several"
        )
    if is_remote(workdir):
        raise UserError(
            f"--workdir={workdir}: only {', '.join(TRAINING)} write to a bucket; give "
            f"{task!r} a local folder"
        )


def _keep_compiled_programs() -> None:
    """A second start of the same run takes its programs from the user's cache."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))


def find_config(value: str) -> str:
    """A path stays; a bare name becomes the path of the installed configuration.

    Raises:
      FileNotFoundError: neither exists.
    """
    name, colon, preset = value.partition(":")
    if Path(name).is_file():
        return value
    folder = Path(importlib.import_module("thermo_jax.configs").__path__[0])
    installed = folder / f"{Path(name).stem}.py"
    bare = name in (installed.stem, installed.name, f"configs/{installed.name}")
    known = sorted({p.stem for p in folder.glob("*.py")} - {"__init__", "common"})
    if bare and installed.stem in known:
        return f"{installed}{colon}{preset}"
    raise MissingFileError(
        f"there is no configuration {name!r}; installed ones: {', '.join(known)}"
    )


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: fields are set by --config.name=value")
    if _CONFIG.value is None:
        raise UserError("--config is missing: give one, such as --config=configs/demo.py")
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(None)
    python_logging.getLogger("jax").setLevel(python_logging.WARNING)  # it probes for TPUs aloud
    added = xla_flags.set_for_gpus()  # first: what follows starts XLA, which then reads them
    processes.join()
    preemption.listen()
    if not processes.is_writer():
        logging.set_verbosity(logging.WARNING)
    xla_flags.log(added)
    try:
        run(_CONFIG.value, _WORKDIR.value)
    except Exception as error:
        processes.leave_at_once(EXIT_USER_ERROR if is_users(error) else 1)
        raise


def main() -> None:
    """Entry point: a user's mistake ends with one clear line and exit code 2.

    Such are the system's errors about the user's files, too. A bug shows its traceback.
    """
    try:
        argv = _with_found_config(sys.argv)
        app.run(_main, argv=argv, flags_parser=_parse_flags)
    except (UserError, OSError) as error:
        if _wants_traceback(sys.argv) or not is_users(error):
            raise
        print(f"thermo_jax: {_describe(error)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except (preemption.Stopped, KeyboardInterrupt):
        continues = flags.FLAGS.is_parsed() and _CONFIG.value.task in CONTINUE
        what = "the same command continues" if continues else "begin again in another --workdir"
        print(f"thermo_jax: stopped; {what}", file=sys.stderr)
        sys.exit(preemption.EXIT_STOPPED if preemption.asked() and continues else EXIT_INTERRUPTED)


def _wants_traceback(argv: list[str]) -> bool:
    """The flag's value, also where the flags could not be parsed; the last one counts."""
    wanted = False
    for argument in argv:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in ("traceback", "notraceback"):
            wanted = name == "traceback" and (not equals or value.lower() in ("true", "t", "1"))
    return wanted


def _describe(error: Exception) -> str:
    if is_full_disk(error):
        where = error.filename or f"--workdir={_WORKDIR.value} or the cache {cache_dir()}"
        return f"{where}: {error.strerror}. Make room, and give the same command again"
    return str(error)


def _with_found_config(argv: list[str]) -> list[str]:
    found = list(argv)
    for index, argument in enumerate(argv):
        if argument == "--config" and index + 1 < len(argv):
            found[index + 1] = find_config(argv[index + 1])
        elif argument.startswith("--config="):
            found[index] = f"--config={find_config(argument.removeprefix('--config='))}"
    return found


def _parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, its errors in one line."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # a ConfigDict's: an unknown field or section
        reason = str(getattr(error.args[0], "args", error.args)[0])
        if "does not support indexing" in reason:  # --config.seed.name=x
            raise UserError(_NO_FIELDS) from error
        raise UserError(f"config has no field {'. '.join(reason.splitlines())}") from error
    except TypeError as error:  # --config.data.root.name=x
        raise UserError(_NO_FIELDS) from error
    except flags.Error as error:
        # A configuration file's own error comes wrapped in its traceback.
        own = _OWN_ERROR.findall(str(error))
        if not own and "Error whilst parsing config file" in str(error):
            raise  # a bug of that file
        raise UserError(own[-1] if own else str(error).splitlines()[0]) from error


if __name__ == "__main__":
    main()
