"""A tiny model in place of the one that comes with the package."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from saved_decoders import save_decoder

from thermo_jax.inference.trained_models import load_model
from thermo_jax.programs.export import export_weights
from thermo_jax.training import weights_file


@contextlib.contextmanager
def tiny_shipped_model(folder: Path, row: str = "H/H") -> Iterator[Path]:
    """Saves a segmenter with random weights, and makes it the package's; yields its workdir."""
    workdir = save_decoder(folder / "source", "segment", row)
    (file,) = export_weights(load_model(workdir), folder / "segmenter.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_file, "SHIPPED_FILE", file)
        yield workdir
