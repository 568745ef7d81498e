"""A tiny training as a program, one of several processes where the environment says so.

`python tests/tiny_program.py TRAINER WORKDIR LOADER DTYPE EPOCHS [SIGNAL EPOCH]`: the last process
gets the signal while that epoch is saved. CHECKPOINT_MINUTES of the environment is the plan's.
"""

import os
import signal
import sys
from pathlib import Path

import jax
import tiny_training as tiny
from absl import logging

from thermo_jax.training import preemption, processes

if __name__ == "__main__":
    name, workdir, loader, dtype, epochs, *interruption = sys.argv[1:]
    processes.join()
    preemption.listen()

    def interrupt(epoch: int) -> None:
        is_last = jax.process_index() == jax.process_count() - 1
        if is_last and str(epoch) in interruption[1:]:
            os.kill(os.getpid(), signal.Signals[interruption[0]])

    logging.set_verbosity(logging.INFO if processes.is_writer() else logging.WARNING)
    tiny.compile_quickly()
    jax.config.update("jax_enable_x64", dtype == "float64")
    count = jax.device_count() if jax.process_count() > 1 else 1
    run = tiny.make_run(tiny.TRAINERS[name](dtype=dtype), device_count=count)
    minutes = float(os.environ.get("CHECKPOINT_MINUTES", 0))
    plan = tiny.plan(epochs=int(epochs), loader=loader, checkpoint_minutes=minutes)
    run.fit(Path(workdir), plan, on_epoch=interrupt)
