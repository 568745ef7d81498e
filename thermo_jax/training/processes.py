"""Several processes that make one run: how they find each other, and which of them writes files.

Every process runs the same program on its own devices and its own part of each batch. Process 0
alone writes the workdir (Orbax's checkpoints apart, which all of them take part in), and all read
it: it must be a folder that every process sees.
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

LAST = 5  # seconds by which the first process leaves later, after an error
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Joins the run's other processes, where the environment names some; before any use of JAX.

    In this order: the three variables of `EXPLICIT`; a Slurm step of several tasks; a TPU VM.

    Raises:
      UserError: the variables are incomplete or no numbers.
    """
    given = {name: os.environ[name] for name in EXPLICIT if os.environ.get(name)}
    if given:
        jax.distributed.initialize(**_explicit(given))
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        jax.distributed.initialize()
    elif _has_tpu():
        # Outside Google's own machines (a notebook's TPU, say) JAX finds no others to join.
        with contextlib.suppress(ValueError):
            jax.distributed.initialize()


def _explicit(given: dict[str, str]) -> dict[str, Any]:
    missing = [name for name in EXPLICIT if name not in given]
    if missing:
        raise UserError(
            f"{', '.join(given)} of several processes set, but not {', '.join(missing)}: set all "
            "three (host:port of process 0, how many processes, this one's number), or none"
        )
    address, count, index = (given[name] for name in EXPLICIT)
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"JAX_PROCESS_ID={index} and JAX_NUM_PROCESSES={count} must be numbers, the first from "
            "0 to below the second"
        )
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        # Nothing else is to be detected, and every process has all of its devices.
        "cluster_detection_method": "deactivate",
    }


def _has_tpu() -> bool:
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_writer() -> bool:
    """Whether this process writes the run's files and messages."""
    return jax.process_index() == 0


def leave_at_once(code: int) -> None:
    """After an error, the interpreter's end does not wait for the other processes.

    They cannot go on without this one, and are ended by JAX within two minutes, or by what started
    them. JAX aborts them as soon as the first process is gone, so that it leaves some seconds
    later: where all have met the same error, each says so and exits with its own code.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if jax.process_index() == 0:
            time.sleep(LAST)
        os._exit(code)

    if jax.process_count() > 1:
        atexit.register(leave)  # runs before JAX's own, which waits for all


def wait(what: str) -> None:
    """Until every process is here; `what` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agree(digest: str) -> bool:
    """Whether every process gives the same hexadecimal digest."""
    if jax.process_count() == 1:
        return True
    mine = np.frombuffer(bytes.fromhex(digest), np.uint8)
    return bool((multihost_utils.process_allgather(mine) == mine).all())


def all_true(value: bool) -> bool:
    """Whether it is true in every process."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array([value])).all())


def first_says(value: bool) -> bool:
    """What is true in the first process, in every process."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
