"""The command `thermo_jax`, or `python -m thermo_jax.main --config=demo --workdir=runs/demo`.

It parses the flags and runs the program that `config.task` names. A notebook can call `run`. JAX,
and the modules that use it, take seconds to import. They are imported by the functions that need
them, so that help and mistakes in the flags are answered at once.
"""

import importlib
import logging as python_logging
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from thermo_jax import help_pages
from thermo_jax.config_files import NO_PROGRAM, find_config
from thermo_jax.errors import EXIT_STOPPED, Stopped, UserError, is_full_disk, is_users
from thermo_jax.files import cache_dir, is_remote

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file, with its preset after a colon (configs/encoder.py:gray); a name without a "
    "folder, such as encoder:gray, means the installed file. Fields are set by "
    "--config.train.epochs=5.",
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error was raised.")
# help_pages.page answers it; as a flag, absl can suggest it after a typing error.
flags.DEFINE_bool("version", False, "Show the versions of thermo_jax, JAX, Flax and Python.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder for everything that the run writes.")

# Values of config.task: a module of thermo_jax.programs, or one of the two kinds of decoders.
TRAINING = ("encoder", "classify", "segment")
CONTINUE = (*TRAINING, "comparators", "demo", "few_shot", "table1")
TASKS = (
    *CONTINUE,
    "benchmark",
    "cluster",
    "convert",
    "data_report",
    "evaluate",
    "export",
    "predict",
)
EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130  # a shell's code for Ctrl-C is 130
_PLAIN = {  # what Python says about a flag's value of the wrong type, and what we say
    r"\('Non-boolean argument to boolean flag', (.*)\)": r"\1 is neither True nor False",
    r"invalid literal for int\(\) with base 10: (.*)": r"\1 is not a whole number",
    r"could not convert string to float: (.*)": r"\1 is not a number",
}


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Runs the program that `config.task` names; returns its results."""
    import jax

    from thermo_jax.programs.lock import only_run_in
    from thermo_jax.training import memory, timeline

    if config.task not in TASKS:
        raise UserError(f"config.task={config.task!r} is unknown: choose one of {sorted(TASKS)}")
    if config.task not in TRAINING:
        _check_alone(config.task, workdir)
    # Compiled programs are cached on disk for the next start, except if compilation is measured.
    if config.task != "benchmark" and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    if jax.default_backend() == "cpu":
        memory.keep_freed_memory()
    module = "decoder" if config.task in ("classify", "segment") else config.task
    program = importlib.import_module(f"thermo_jax.programs.{module}")
    with only_run_in(workdir), timeline.record():
        return program.run(config, workdir)


def _check_alone(task: str, workdir: str | Path) -> None:
    import jax

    if jax.distributed.is_initialized() and jax.process_count() > 1:
        raise UserError(
            f"config.task={task!r} runs in one process ({', '.join(TRAINING)} run in several): "
            "start it once, without the launcher that started several"
        )
    if is_remote(workdir):
        raise UserError(
            f"--workdir={workdir}: only {', '.join(TRAINING)} write to a bucket; give "
            f"{task!r} a local folder"
        )


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: fields are set by --config.name=value")
    if _CONFIG.value is None:
        if len(sys.argv) == 1:
            help_pages.show(help_pages.overview())
            sys.exit(EXIT_USER_ERROR)
        raise UserError("--config is missing: give one, such as --config=demo (--help lists them)")
    from thermo_jax.training import preemption, processes, xla_flags

    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(None)
    for library in ("jax", "matplotlib"):  # they log a search for TPUs and for fonts
        python_logging.getLogger(library).setLevel(python_logging.WARNING)
    added = xla_flags.set_for_gpus()  # before XLA starts and reads them
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

    The system's errors about the user's files count as such mistakes. A bug shows its traceback.
    """
    try:
        page = help_pages.page(sys.argv[1:])
        if page is not None:
            help_pages.show(page)
            return
        app.run(_main, argv=_with_config_path(sys.argv), flags_parser=_parse_flags)
    except (UserError, OSError) as error:
        if _wants_traceback(sys.argv) or not is_users(error):
            raise
        message = str(error)
        if is_full_disk(error):
            place = error.filename or f"--workdir={_WORKDIR.value} or the cache {cache_dir()}"
            message = f"{place}: {error.strerror}. Make room, and give the same command again"
        print(f"thermo_jax: {message}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except (Stopped, KeyboardInterrupt) as stop:
        continues = flags.FLAGS.is_parsed() and _CONFIG.value.task in CONTINUE
        remedy = "the same command continues" if continues else "begin again in another --workdir"
        print(f"thermo_jax: stopped; {remedy}", file=sys.stderr)
        sys.exit(EXIT_STOPPED if isinstance(stop, Stopped) and continues else EXIT_INTERRUPTED)


def _wants_traceback(argv: list[str]) -> bool:
    """The value of the last --traceback flag, even if other flags could not be parsed."""
    wanted = False
    for argument in argv:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in ("traceback", "notraceback"):
            wanted = name == "traceback" and (not equals or value.lower() in ("true", "t", "1"))
    return wanted


def _with_config_path(argv: list[str]) -> list[str]:
    """The arguments, with the value of --config as a path."""
    argv = list(argv)
    for index, argument in enumerate(argv):
        if argument == "--config" and index + 1 < len(argv):
            argv[index + 1] = find_config(argv[index + 1])
        elif argument.startswith("--config="):
            argv[index] = f"--config={find_config(argument.removeprefix('--config='))}"
    return argv


def _parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with errors of one line."""
    no_fields = "a --config flag names a field of a value that has no fields"
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # from ConfigDict: an unknown field or section
        reason = str(getattr(error.args[0], "args", error.args)[0])
        if "has no attribute 'get_config'" in reason:  # --config=configs/small.py
            raise UserError(NO_PROGRAM) from error
        if "does not support indexing" in reason:  # --config.seed.name=x
            raise UserError(no_fields) from error
        reason = ". ".join(reason.splitlines())
        raise UserError(f"config has no field {reason} (--help=NAME lists them)") from error
    except TypeError as error:  # --config.data.root.name=x
        raise UserError(no_fields) from error
    except flags.Error as error:
        # absl wraps an error that a configuration file raises into its traceback.
        own = re.findall(r"thermo_jax\.errors\.UserError: (.*)", str(error))
        if not own and "Error whilst parsing config file" in str(error):
            raise  # a bug of that file
        reason = own[-1] if own else str(error).splitlines()[0]
        for said, meant in _PLAIN.items():
            reason = re.sub(said, meant, reason)
        raise UserError(reason) from error


if __name__ == "__main__":
    main()
