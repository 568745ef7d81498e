"""Where a run's thermograms come from: a folder, prepared by TFDS or read directly, or a phantom."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from thermo_jax.data import examples, layouts, phantom, splits
from thermo_jax.data.thermogram import Thermogram

PHANTOM = "phantom"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """An opened data set.

    Attributes:
      records: every usable thermogram.
      fingerprint: changes when the files or the reader's settings do.
      load: task ("pretrain", "classify" or "segment") -> the selected examples.
    """

    records: Sequence[Thermogram]
    fingerprint: str
    load: Callable[[str], examples.Examples]


def cache_dir() -> Path:
    """Where data that can be made again is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "thermo_jax"


def root_of(data: ConfigDict) -> Path:
    """The folder to read; writes the phantom data set if it is asked for and not there yet.

    Raises:
      ValueError: no folder is configured.
    """
    if not data.root:
        raise ValueError(
            "config.data.root is empty: give --config.data.root=/path/to/dmr-ir, or use the preset "
            "'phantom' (such as --config=configs/encoder.py:heat,phantom) for synthetic data"
        )
    if data.root != PHANTOM:
        return Path(data.root).expanduser()
    count = data.phantom_patients
    return phantom.write_phantom(cache_dir() / PHANTOM / f"patients{count}", patients=count)
