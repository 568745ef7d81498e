"""Configuration files: found by path or name; their fields, each with its comment in the source.

Nothing here imports JAX, so that help and mistakes in the flags are answered at once.
"""

import importlib.machinery
import importlib.util
import linecache
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import ml_collections
from ml_collections import ConfigDict

from thermo_jax.errors import MissingFileError, UserError, did_you_mean

NO_PROGRAM = (
    "the configuration file starts no program, because it has no function get_config: "
    "give one that does, such as configs/segment.py:small"
)
_LIBRARY = str(Path(ml_collections.__file__).parent)
_SHARED = {"__init__", "common", "rules", "small"}  # files of configs/ that start no program


class Field(NamedTuple):
    """A field of a configuration, such as `--config.data.root`."""

    name: str  # "data.root"
    value: Any
    comment: str  # "" if the source has none


def installed_configs() -> dict[str, Path]:
    """The configuration files that come with the package, by name, in alphabetical order."""
    folder = Path(importlib.import_module("thermo_jax.configs").__path__[0])
    return {p.stem: p for p in sorted(folder.glob("*.py")) if p.stem not in _SHARED}


def find_config(value: str) -> str:
    """Returns the path of an existing file, or of the installed configuration of that name.

    Raises:
      MissingFileError: neither exists.
    """
    name, colon, preset = value.partition(":")
    if Path(name).is_file():
        return value
    installed = installed_configs()
    stem = Path(name).stem
    if stem in installed and name in (stem, f"{stem}.py", f"configs/{stem}.py"):
        return f"{installed[stem]}{colon}{preset}"
    raise MissingFileError(
        f"there is no configuration {name!r}; installed ones: {', '.join(installed)}."
        f"{did_you_mean(stem, installed)}"
    )


def load(path: str | Path) -> ModuleType:
    """Runs a configuration file; returns its module.

    Raises:
      UserError: it has no function `get_config`.
    """
    loader = importlib.machinery.SourceFileLoader(Path(path).stem, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: {NO_PROGRAM}")
    return module


def list_fields(build: Callable[[], ConfigDict]) -> list[Field]:
    """Calls the function `build`; returns the fields of its configuration, in the source's order.

    While it runs, the place in the source of every assignment `section.name = value` is recorded.
    So a field's comment is the one above the line that made it, in whichever file and function that
    is, also if fields of several sections have the same name. A later assignment, as by a preset,
    changes no comment. A field that was made together with its section, as by
    `config.batch_size = ConfigDict({"gray": 16})`, has the comment of the section.
    """
    # By the id of a section. The section is kept, so that no other one gets its id.
    places: dict[int, tuple[ConfigDict, dict[str, tuple[str, int] | None]]] = {}
    set_attribute = ConfigDict.__setattr__

    def record(section: ConfigDict, name: str, value: Any) -> None:
        caller = sys._getframe(1)
        file = caller.f_code.co_filename
        _, own = places.setdefault(id(section), (section, {}))
        own.setdefault(name, None if file.startswith(_LIBRARY) else (file, caller.f_lineno))
        set_attribute(section, name, value)

    def walk(section: ConfigDict, prefix: str = "", above: str = "") -> Iterator[Field]:
        _, own = places.get(id(section), (section, {}))
        for name in sorted(section, key=lambda name: [*own, name].index(name)):
            comment = _comment(*own[name]) if own.get(name) else above
            if isinstance(section[name], ConfigDict):
                yield from walk(section[name], f"{prefix}{name}.", comment)
            else:
                yield Field(f"{prefix}{name}", section[name], comment)

    ConfigDict.__setattr__ = record
    try:
        config = build()
    finally:
        ConfigDict.__setattr__ = set_attribute
    return list(walk(config))


def _comment(file: str, line: int) -> str:
    """The comment above a line, or else at its end, as one line."""
    above: list[str] = []
    while (text := linecache.getline(file, line - 1 - len(above)).strip()).startswith("#"):
        above.insert(0, text.lstrip("# "))
    at_end = re.search(r"  # (.*)", linecache.getline(file, line))
    return " ".join(above) or (at_end.group(1).strip() if at_end else "")
