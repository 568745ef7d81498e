"""A run of several processes: how they connect, and which of them writes files.

Every process runs the same program on its own devices and its own part of each batch. Only process
0 writes the workdir, except for checkpoints, which all processes write together. All read it, so it
must be a folder that every process can reach.
"""

import atexit
import contextlib
import glob
import importlib.util
import os
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from thermo_jax.errors import UserError

_PATIENCE = 5  # seconds that the first process waits for the others after an error
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Connects to the run's other processes if there are any. Call it before any use of JAX.

    The first of these that is present decides: the variables `EXPLICIT` of the environment; a Slurm
    step of several tasks; a TPU VM.

    Raises:
      UserError: the variables are incomplete, or are not numbers.
    """
    given = {name: os.environ[name] for name in EXPLICIT if os.environ.get(name)}
    if given:
        jax.distributed.initialize(**_explicit(given))
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        jax.distributed.initialize()
    elif _has_tpu():
        # JAX raises an error if there are no other processes, as for a notebook's TPU.
        with contextlib.suppress(ValueError):
            jax.distributed.initialize()


def _explicit(given: dict[str, str]) -> dict[str, Any]:
    missing = [name for name in EXPLICIT if name not in given]
    if missing:
        raise UserError(
            f"the environment contains {', '.join(given)}, but not {', '.join(missing)}: set all "
            "three (host:port of process 0, number of processes, this process's number), or none"
        )
    address, count, index = (given[name] for name in EXPLICIT)
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"JAX_PROCESS_ID={index} and JAX_NUM_PROCESSES={count} must be numbers, and the first "
            "must be less than the second"
        )
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        # JAX must not detect a cluster, and every process uses all of its devices.
        "cluster_detection_method": "deactivate",
    }


def _has_tpu() -> bool:
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_writer() -> bool:
    """Returns whether this process writes the run's files and messages."""
    return jax.process_index() == 0


def leave_at_once(code: int) -> None:
    """Makes the interpreter exit after an error without waiting for the other processes.

    The others cannot continue; JAX ends them within two minutes. When the first process exits, JAX
    aborts them at once. So the first one waits some seconds: if all have the same error, each can
    show it and exit with its own code.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if jax.process_index() == 0:
            time.sleep(_PATIENCE)
        os._exit(code)

    if jax.process_count() > 1:
        atexit.register(leave)  # runs before JAX's own function, which waits for all processes


def wait(name: str) -> None:
    """Waits until every process has called this with the same name."""
    multihost_utils.sync_global_devices(name)


def agree(digest: str) -> bool:
    """Returns whether every process passes the same hexadecimal digest."""
    mine = np.frombuffer(bytes.fromhex(digest), np.uint8)
    return bool((multihost_utils.process_allgather(mine) == mine).all())


def all_true(value: bool) -> bool:
    """Returns whether the value is true in every process."""
    return bool(multihost_utils.process_allgather(np.array([value])).all())


def first_says(value: bool) -> bool:
    """Returns, in every process, the first process's value."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
