"""The convolution of a platform, injected into Flax through `conv_general_dilated`."""

from collections.abc import Callable


def choose_convolution(name: str, *, platform: str) -> Callable | None:
    return None
