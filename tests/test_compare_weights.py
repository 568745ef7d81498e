"""launch/compare_weights.py: equal weights, different weights, a package without weights."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_training as tiny
from shipped_model import tiny_shipped_model

from thermo_jax.training import weights_file
from thermo_jax.training.weights_file import read_weights, write_weights

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


@pytest.fixture(scope="module")
def program():
    path = Path(__file__).resolve().parent.parent / "launch" / "compare_weights.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The package's segmenter, in place of which a tiny one is."""
    with tiny.shallow_decoders(), tiny_shipped_model(tmp_path_factory.mktemp("shipped")):
        yield weights_file.SHIPPED_FILE


def test_equal_weights_are_reported_whatever_their_description(program, file, tmp_path, capsys):
    variables, meta = read_weights(file)
    write_weights(tmp_path / "new.safetensors", variables, meta | {"scores": {"other": 1}})
    assert program.main([str(tmp_path / "new.safetensors")]) == 0
    assert capsys.readouterr().out.startswith("equal to the bit: the weights' SHA-256 is ")


@pytest.mark.slow
def test_the_label_pixels_that_differ_are_counted(program, file, tmp_path, capsys):
    variables, meta = read_weights(file)
    # Without weights, the last layer's bias decides: every pixel is class 3.
    variables["model"] = jax.tree.map(np.zeros_like, variables["model"])
    variables["model"]["params"]["unet"]["out"]["bias"][3] = 1
    write_weights(tmp_path / "new.safetensors", variables, meta)
    assert program.main([str(tmp_path / "new.safetensors"), str(file), "--images=1"]) == 0
    text = capsys.readouterr().out
    assert "the weights differ. On 1 synthetic images, " in text and "of 307200 label" in text


def test_a_missing_file_ends_with_one_line(program, tmp_path, capsys):
    assert program.main([str(tmp_path / "new.safetensors")]) == 2
    assert "new.safetensors does not exist" in capsys.readouterr().err
