"""The rooms (subpackages): none imports one below it, and only programs/ uses configurations."""

from pathlib import Path

import pytest
from test_package import imported_modules

PACKAGE = Path(__file__).resolve().parent.parent / "thermo_jax"
# From top to bottom, as a thermogram passes through them; a room may import those above it.
ROOMS = ("data", "models", "rivals", "training", "evaluation", "inference", "benchmark", "programs")
# evaluation/ imports neither models/, rivals/ nor training/, and models/ does not import data/.
SEPARATE = {"evaluation": {"models", "rivals", "training"}, "models": {"data"}}
FOR_ALL = {"errors", "files"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_those_above_it_only(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1]} - SEPARATE.get(room, set()) | FOR_ALL
    if room == "programs":
        allowed |= {"configs"}
    wrong = [
        (path.name, module)
        for path in (PACKAGE / room).glob("*.py")
        for module in imported_modules(path)
        if module.startswith("thermo_jax.") and module.split(".")[1] not in allowed
    ]
    assert not wrong


def test_configurations_stay_in_programs():
    importers = {
        str(path.relative_to(PACKAGE))
        for room in ROOMS[:-1]
        for path in (PACKAGE / room).glob("*.py")
        for module in imported_modules(path)
        if module.startswith("ml_collections")
    }
    assert not importers
