"""Partial functions that are equal if their parts are, so that they share a compiled program.

JAX compiles a program for every new function object, and every run of a study creates new ones. A
function that is not partial is equal to itself only. Whether a function that it calls was replaced
meanwhile, as tests do, is not noticed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any


class ByValue(partial):
    """A `functools.partial` that is equal to another one of the same function and arguments."""

    def _key(self) -> tuple[Callable, tuple, frozenset]:
        return self.func, self.args, frozenset(self.keywords.items())

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, ByValue) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def by_value(function: Callable) -> Callable:
    """The same function; a partial one becomes a `ByValue`.

    A partial function with an argument that is not hashable stays as it is, and equals no other.
    Models, cached optimisers and frozen configurations are hashable.
    """
    if not isinstance(function, partial):
        return function
    comparable = ByValue(function.func, *function.args, **function.keywords)
    try:
        hash(comparable)
    except TypeError:
        return function
    return comparable
