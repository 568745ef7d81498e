"""Writes trained decoders as StableHLO files, which run wherever JAX does, without this package.

    python -m thermo_jax.main --config=configs/export.py --workdir=exported \
        --config.models=runs/classify_HH,runs/segment_HH

The weights and the frozen encoder are inside; a .json beside each file says what goes in and what
comes out. Takes some seconds a model.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The configuration."""
    config = ConfigDict()
    # What to run.
    config.task = "export"
    # Workdirs of trained decoders, joined by commas; a folder above several gives all of them.
    config.models = ""
    # Where the files shall run: any of "cpu", "cuda", "rocm" and "tpu".
    config.platforms = ("cpu", "cuda", "tpu")
    config.model = ConfigDict()
    # Compute type of the files: "float32" or "bfloat16".
    config.model.dtype = "float32"
    return config
