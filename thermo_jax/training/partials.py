"""Partial functions that are equal if their functions and their arguments are equal.

JAX compiles a program for every new function object, and every run of a study creates new ones.
Equal functions share a compiled program. A test that replaces a function inside a step must clear
the caches itself, because the partial functions stay equal.
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
    """Returns a partial function as a `ByValue`, and any other function as it is.

    All arguments of the partial function must have a hash; models, cached optimisers and frozen
    settings have one.
    """
    if not isinstance(function, partial):
        return function
    return ByValue(function.func, *function.args, **function.keywords)
