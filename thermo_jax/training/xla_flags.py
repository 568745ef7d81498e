"""Flags of XLA for NVIDIA's GPUs, added to XLA_FLAGS before JAX starts a backend.

XLA reads the variable once, when the first backend starts, and ends the process at a flag that it
does not know. So nothing is added without a GPU and JAX's plugin for it, and a flag that the user
has set, whatever its value, stays as it is. main.py does this for every program. A notebook does it
before anything that uses JAX:

    from thermo_jax.training import xla_flags
    xla_flags.log(xla_flags.set_for_gpus())

TensorFlow reads the variable, too, but only where it compiles by XLA (`jit_compile=True`), and
TensorFlow 2.21 then ends the process at "+CONVOLUTION". Nothing in this package does that.
"""

import importlib.util
import itertools
import os
import re
from importlib import metadata
from pathlib import Path

from absl import logging

# XLA leaves convolutions and loops out of its command buffers (CUDA graphs), which cuts a step into
# a graph between every two convolutions. With them, a dispatch of several steps is one graph.
ONE_GRAPH = "--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE"
XLA_GRAPHS = "--xla_gpu_enable_command_buffer=-CONVOLUTION,-WHILE"  # as if nothing were set
# Batch statistics make dozens of small all-reduces: combined, at most this many bytes at once, they
# can run beside the computation.
COMBINE = "--xla_gpu_all_reduce_combine_threshold_bytes=8388608"

_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_DRIVER = Path("/proc/driver/nvidia")
_FIRST_JAXLIB_WITH_SIGNS = (0, 10, 1)  # earlier versions of jaxlib abort at the "+" of ONE_GRAPH
_PROCESSES = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS")  # how many make the run together


def set_for_gpus() -> list[str]:
    """Adds to XLA_FLAGS what this machine's GPUs are faster with; returns what was added.

    It has no effect on a backend that has started. A second call adds nothing.
    """
    present = os.environ.get("XLA_FLAGS", "").strip()
    if present and not present.startswith("-"):
        return []  # XLA takes it for the name of a file of flags
    added = [flag for flag in _for_this_machine() if not _is_set(flag, present)]
    if added:
        os.environ["XLA_FLAGS"] = " ".join([present, *added]).strip()
    return added


def log(added: list[str]) -> None:
    """Says in one line what `set_for_gpus` has added, if anything, and how to choose otherwise."""
    if added:
        logging.info(
            "Added to XLA_FLAGS for this GPU: %s (a flag that you set there yourself stays as it "
            "is; %s is XLA's own choice).",
            " ".join(added),
            XLA_GRAPHS,
        )


def graphs(flags: str) -> str:
    """What a value of XLA_FLAGS makes of a dispatch: "one" graph, "XLA's own" choice, or other."""
    name, _, one = ONE_GRAPH.partition("=")
    values = [each.partition("=")[2] for each in flags.split() if _name(each) == name]
    if not values or values[-1] == XLA_GRAPHS.partition("=")[2]:
        return "XLA's own"
    return "one" if values[-1] == one else values[-1] or "no graphs"


def _for_this_machine() -> list[str]:
    gpus = _count_gpus()
    if not gpus or not _has_plugin() or _jaxlib_version() < _FIRST_JAXLIB_WITH_SIGNS:
        return []
    several = gpus > 1 or any(os.environ.get(name, "1") not in ("", "1") for name in _PROCESSES)
    return [ONE_GRAPH, COMBINE] if several else [ONE_GRAPH]


def _count_gpus() -> int:
    """The GPUs that JAX may use here, 0 if none; 1 where the driver does not list them."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(re.split(r"[\s,]+", platforms)):
        return 0
    if not _DRIVER.is_dir():
        return 0
    count = len(list(_DRIVER.glob("gpus/*"))) or 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    # CUDA ignores an invalid entry, such as -1, and all that follow.
    entries = (entry.strip() for entry in visible.split(","))
    valid = itertools.takewhile(lambda entry: entry and not entry.startswith("-"), entries)
    return min(count, len(list(valid)))


def _has_plugin() -> bool:
    return any(importlib.util.find_spec(name) is not None for name in _PLUGINS)


def _jaxlib_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", metadata.version("jaxlib"))[:3])


def _name(flag: str) -> str:
    return flag.partition("=")[0]


def _is_set(flag: str, flags: str) -> bool:
    return _name(flag) in (_name(each) for each in flags.split())
