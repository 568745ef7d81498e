"""Counts the programs that JAX compiles, or takes from its cache."""

import contextlib
from collections.abc import Iterator

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def counted() -> Iterator[list[float]]:
    """A list that gets an entry for every program, within the context."""
    found = []

    def listen(event: str, seconds: float, **_) -> None:
        if event == _COMPILED:
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
