"""Counts the programs that JAX compiles or loads from its cache."""

import contextlib
from collections.abc import Iterator

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def counted() -> Iterator[list[float]]:
    """Yields a list that gets an entry for every program compiled or loaded in the context."""
    durations = []

    def listen(event: str, seconds: float, **_) -> None:
        if event == _COMPILED:
            durations.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield durations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
