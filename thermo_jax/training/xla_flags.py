"""Flags of XLA for NVIDIA's GPUs, which are added to XLA_FLAGS before JAX starts a backend.

XLA reads the variable once, when the first backend starts, and ends the process at an unknown flag.
So flags are added only if there are a GPU and JAX's plugin for it. A flag that the user has set is
never changed. main.py calls this module for every program. A notebook calls it before anything that
uses JAX:

    from thermo_jax.training import xla_flags
    xla_flags.log(xla_flags.set_for_gpus())

TensorFlow also reads the variable, but only if it compiles with XLA (`jit_compile=True`). Then
TensorFlow 2.21 ends the process at "+CONVOLUTION". Nothing in this package does that.
"""

import importlib.util
import itertools
import os
import re
from importlib import metadata
from pathlib import Path

from absl import logging

# By default, XLA's command buffers (CUDA graphs) contain no convolutions or loops, so that a step
# consists of many graphs. With this flag, a dispatch of several steps is one graph.
ONE_GRAPH = "--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE"
XLA_GRAPHS = "--xla_gpu_enable_command_buffer=-CONVOLUTION,-WHILE"  # XLA's default
# Batch statistics need dozens of small all-reduces. Combined into operations of at most this many
# bytes, they run at the same time as the computation.
COMBINE = "--xla_gpu_all_reduce_combine_threshold_bytes=8388608"

_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_DRIVER = Path("/proc/driver/nvidia")
_FIRST_JAXLIB_WITH_SIGNS = (0, 10, 1)  # earlier versions of jaxlib abort at the "+" of ONE_GRAPH
_PROCESSES = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS")  # the number of the run's processes


def set_for_gpus() -> list[str]:
    """Adds to XLA_FLAGS those flags that make this machine's GPUs faster, and returns them.

    It has no effect on a backend that has started. A second call adds nothing.
    """
    present = os.environ.get("XLA_FLAGS", "").strip()
    if present and not present.startswith("-"):
        return []  # XLA reads the flags from a file of this name
    names = {_name(flag) for flag in present.split()}
    added = [flag for flag in _for_this_machine() if _name(flag) not in names]
    if added:
        os.environ["XLA_FLAGS"] = " ".join([present, *added]).strip()
    return added


def log(added: list[str]) -> None:
    """Logs the flags that `set_for_gpus` has added, if any, and how to avoid that."""
    if added:
        logging.info(
            "Added to XLA_FLAGS for this GPU: %s (flags that you set there yourself are not "
            "changed; %s is XLA's default).",
            " ".join(added),
            XLA_GRAPHS,
        )


def graphs(flags: str) -> str:
    """Returns which graphs a dispatch uses: "one", "XLA's own", or the value in these flags."""
    name, _, one_graph = ONE_GRAPH.partition("=")
    values = [flag.partition("=")[2] for flag in flags.split() if _name(flag) == name]
    if not values or values[-1] == XLA_GRAPHS.partition("=")[2]:
        return "XLA's own"
    return "one" if values[-1] == one_graph else values[-1] or "no graphs"


def _for_this_machine() -> list[str]:
    gpus = _count_gpus()
    version = tuple(int(part) for part in re.findall(r"\d+", metadata.version("jaxlib"))[:3])
    has_plugin = any(importlib.util.find_spec(name) is not None for name in _PLUGINS)
    if not gpus or not has_plugin or version < _FIRST_JAXLIB_WITH_SIGNS:
        return []
    several = gpus > 1 or any(os.environ.get(name, "1") not in ("", "1") for name in _PROCESSES)
    return [ONE_GRAPH, COMBINE] if several else [ONE_GRAPH]


def _count_gpus() -> int:
    """Returns the number of GPUs that JAX may use here; 1 if the driver does not list them."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(re.split(r"[\s,]+", platforms)):
        return 0
    if not _DRIVER.is_dir():
        return 0
    count = len(list(_DRIVER.glob("gpus/*"))) or 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    # CUDA ignores an invalid entry, such as -1, and all entries after it.
    entries = (entry.strip() for entry in visible.split(","))
    valid = itertools.takewhile(lambda entry: entry and not entry.startswith("-"), entries)
    return min(count, len(list(valid)))


def _name(flag: str) -> str:
    return flag.partition("=")[0]
