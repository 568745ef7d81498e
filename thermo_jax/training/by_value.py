"""Functions that are equal where they are made of the same: what is compiled for one serves all.

JAX compiles anew for every new function object, and each run of a study makes its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any


class ByValue(partial):
    """A `functools.partial` that equals another one of the same function and arguments."""

    def _key(self) -> tuple[Callable, tuple, frozenset]:
        return self.func, self.args, frozenset(self.keywords.items())

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, ByValue) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def by_value(function: Callable) -> Callable:
    """The same function, equal to others as above where it is a partial one.

    All that it is made of must be hashable, as models, optimisers that are made once, and frozen
    configurations are; else it equals no other.
    """
    if not isinstance(function, partial):
        return function
    comparable = ByValue(function.func, *function.args, **function.keywords)
    try:
        hash(comparable)
    except TypeError:
        return function
    return comparable
