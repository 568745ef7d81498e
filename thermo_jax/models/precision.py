"""The compute type of a platform: parameters, statistics and losses stay in float32 anyway."""

import jax

from thermo_jax.errors import UserError

NAMES = ("auto", "float32", "bfloat16")
_AMPERE = 8  # compute capability of NVIDIA's first GPUs that multiply bfloat16


def choose_dtype(name: str, *, device: jax.Device) -> str:
    """What "auto" stands for on a device; any other name stays.

    bfloat16 on TPUs and GPUs, but for NVIDIA's before Ampere, such as the T4, which emulate it.

    Raises:
      UserError: an unknown name.
    """
    if name not in NAMES:
        raise UserError(f"compute type {name!r} is unknown: choose one of {', '.join(NAMES)}")
    if name != "auto":
        return name
    if device.platform == "cpu":
        return "float32"
    generation = str(getattr(device, "compute_capability", "")).partition(".")[0]
    emulates = generation.isdigit() and int(generation) < _AMPERE  # AMD says such as "gfx942"
    return "float32" if emulates else "bfloat16"
