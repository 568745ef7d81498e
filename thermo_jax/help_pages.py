"""The pages of `--help`, `--help=NAME` and `--version`."""

import ast
import contextlib
import importlib.metadata
import inspect
import json
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import thermo_jax
from thermo_jax.config_files import find_config, installed_configs, list_fields, load

_OVERVIEW = """\
thermo_jax learns from breast thermograms (infrared images) in JAX: it finds regions, measures \
their temperatures, and classifies patients as healthy or sick. It is research software, not a \
diagnostic device.

Usage: thermo_jax --config=NAME --workdir=FOLDER [--config.FIELD=VALUE ...]

Examples:

    thermo_jax --config=predict --workdir=predictions --config.input=/data/clinic
    thermo_jax --config=demo --workdir=runs/demo
    thermo_jax --help=predict

The first draws regions on the thermograms of a folder, and needs no training. The second trains \
and tests on synthetic thermograms, in minutes on a CPU. The third lists the fields of a program. \
`python -m thermo_jax` and `python -m thermo_jax.main` are the same as `thermo_jax`."""
_FLAGS = {
    "--config=NAME": "The program, from the list above. Some have presets, which follow a colon: "
    "segment:small. Or a configuration file of your own, such as mine.py.",
    "--config.FIELD=VALUE": "Sets a field, such as --config.train.epochs=20.",
    "--workdir=FOLDER": "Folder for everything that the run writes.",
    "--traceback": "Show where in the code an error was raised.",
    "--help=NAME": "Describe a program, its presets, and every field with its default. "
    "segment:small shows the defaults of a preset.",
    "--help, -h": "Show this page. (--helpfull lists the flags of libraries, too.)",
    "--version": "Show the versions of thermo_jax, JAX, Flax and Python.",
}
_READ_ON = (
    "README.md of the project: what is read, what comes out, how it is evaluated, and what to do "
    "when a run stops. The paper: https://arxiv.org/abs/2404.06589"
)


def page(arguments: Sequence[str]) -> str | None:
    """The page that command-line arguments ask for; None if they ask for no page.

    `--help` beside `--config=NAME` asks for the page of that configuration.

    Raises:
      UserError: there is no such configuration or preset.
    """
    asked, name, config = False, "", ""
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        following = "".join(arguments[index + 1 : index + 2])
        if not equals and not following.startswith("-"):
            value = following
        if flag == "--version":
            return version()
        if flag in ("--help", "-help", "-h", "-?"):
            asked, name = True, value
        elif flag == "--config":
            config = value
    if not asked:
        return None
    return configuration(name or config) if name or config else overview()


def show(text: str) -> None:
    """Prints a page."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def version() -> str:
    """The versions of the package, JAX, Flax and Python, in one line."""
    libraries = []
    for name in ("jax", "flax"):
        try:
            libraries.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            libraries.append(f"no {name}")
    python = f"Python {platform.python_version()}"
    return f"thermo_jax {thermo_jax.__version__} ({', '.join([*libraries, python])})"


def overview() -> str:
    """What the package is, its programs and its flags."""
    programs = {}
    for name, path in installed_configs().items():
        summary = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        programs[name] = summary.partition("\n\n")[0]
    width = _width()
    parts = [_reflow(_OVERVIEW, width), "Programs:", _two_columns(programs, width)]
    parts += ["Flags:", _two_columns(_FLAGS, width), "Read on:", _fill(_READ_ON, width, "  ")]
    return "\n\n".join(parts)


def configuration(name: str) -> str:
    """A configuration: its docstring, and its fields with their defaults and comments.

    Args:
      name: as after `--config=`: a name or file, with or without presets after a colon.

    Raises:
      UserError: there is no such configuration or preset.
    """
    path, _, preset = find_config(name).partition(":")
    module = load(path)
    fields = list_fields(lambda: module.get_config(*([preset] if preset else [])))
    without = {}
    with contextlib.suppress(TypeError):  # a user's get_config may need its argument
        without = {field.name: field.value for field in list_fields(module.get_config)}
    width = _width()
    parts = [f"--config={name}"]
    if module.__doc__:
        parts.append(_reflow(module.__doc__, width))
    title = f"Fields, with their defaults{f' for {preset}' if preset else ''}. "
    title += "Set a field with --config.FIELD=VALUE. "
    several = [field for field in fields if isinstance(field.value, tuple) and field.value[1:]]
    if several:
        example = f"'--config.{several[0].name}={_shown(several[0].value)}'"
        title += f"Several values need parentheses and quotes: {example}."
    parts.append(_fill(title, width))
    for field in fields:
        default = f"default {_shown(field.value)}"
        if field.name in without and without[field.name] != field.value:
            default += f"; without the preset: {_shown(without[field.name])}"
        lines = [_fill(f"--config.{field.name}  ({default})", width, "  ", "      ")]
        if field.comment:
            lines.append(_fill(field.comment, width, "      "))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _shown(value: Any) -> str:
    """A value as Python writes it, but with double quotes, as in the comments."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))}{',' * (len(value) == 1)})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _width() -> int:
    """Columns of the terminal, at most 100; 80 if there is none."""
    if not sys.stdout.isatty():
        return 80
    return min(max(shutil.get_terminal_size().columns, 40), 100)


def _lines(text: str, width: int, first: str = "", later: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _fill(text: str, width: int, first: str = "", later: str | None = None) -> str:
    return "\n".join(_lines(text, width, first, later))


def _two_columns(rows: dict[str, str], width: int) -> str:
    """Names, each with a text to its right."""
    column = max(map(len, rows)) + 4
    return "\n".join(
        _fill(text, width, f"  {name}".ljust(column), " " * column) for name, text in rows.items()
    )


def _reflow(text: str, width: int) -> str:
    """A docstring, wrapped: paragraphs, items ("- ..."), commands and rows of indented tables."""
    return "\n\n".join(
        "\n".join(_wrap_line(line, width) for line in _whole_lines(block.split("\n")))
        for block in re.split(r"\n{2,}", inspect.cleandoc(text))
    )


def _whole_lines(lines: Iterable[str]) -> list[str]:
    """The lines of a block, with a paragraph or an item as one line."""
    whole: list[str] = []
    for line in lines:
        if whole and not line.startswith(("- ", "    ")):
            whole[-1] += f" {line.strip()}"
        else:
            whole.append(line)
    return whole


def _wrap_line(line: str, width: int) -> str:
    if line.startswith("- "):
        return _fill(line, width, "", "  ")
    if not line.startswith("    "):
        return _fill(line, width)
    if line.split()[0] in ("python", "thermo_jax"):  # a command continues after a backslash
        return " \\\n".join(_lines(" ".join(line.split()), width - 2, " " * 4, " " * 8))
    column = re.match(r"\s*\S+\s*", line).end()
    return _fill(line.strip(), width, " " * 4, " " * column)
