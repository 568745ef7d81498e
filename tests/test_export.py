"""An exported decoder runs without this package, on any batch size, with the same outputs."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny_training as tiny
from saved_decoders import save_decoder

from thermo_jax import main
from thermo_jax.configs import export as export_config
from thermo_jax.inference.export import export_stablehlo
from thermo_jax.inference.trained_models import load_model

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

ALONE = """
import json, pathlib, sys
import jax, numpy as np
images = np.load("images.npy")
for file in sys.argv[1:]:
    exported = jax.export.deserialize(pathlib.Path(file).read_bytes())
    for count in (1, 3):
        outputs = exported.call(images[:count])
    np.savez(f"{file}.npz", **outputs)
assert not any(name.startswith(("thermo_jax", "flax")) for name in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Models by task, images, and a folder with the exported files and with their outputs."""
    folder = tmp_path_factory.mktemp("exported")
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    models, files = {}, []
    for task in ("classify", "segment"):
        models[task] = load_model(save_decoder(folder / task, task))
        file, _ = export_stablehlo(models[task], folder / f"{task}.stablehlo")
        files.append(file)
    program = [sys.executable, "-c", ALONE, *map(str, files)]
    environment = os.environ | tiny.QUICK_COMPILATION
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return models, images, folder


@pytest.mark.parametrize("task", [pytest.param("classify", marks=pytest.mark.slow), "segment"])
def test_an_exported_model_runs_without_this_package(task, exported):
    models, images, folder = exported
    model = models[task]
    ours = model(images)
    theirs = np.load(folder / f"{task}.stablehlo.npz")
    described = json.loads((folder / f"{task}.json").read_text())
    assert set(theirs.files) == set(ours) == set(described["outputs"])
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=2e-5)
    assert described["input"] == "images: uint8 [batch, 30, 40, 3], 0..255"


def test_the_program_exports_every_model_of_a_folder(tmp_path):
    save_decoder(tmp_path / "runs" / "fold0" / "classify", "classify")
    config = export_config.get_config()
    config.models, config.platforms = str(tmp_path / "runs"), ("cpu",)
    outcome = main.run(config, tmp_path / "out")
    assert outcome["files"] == [
        str(tmp_path / "out" / f"classify.{suffix}") for suffix in ("stablehlo", "json")
    ]
    config.models = " , "
    with pytest.raises(ValueError, match="config.models is empty: give --config.models=<path>"):
        main.run(config, tmp_path / "out")


@pytest.mark.parametrize("platforms", [("gpu",), ("cpu", "GPU"), ()])
def test_an_unknown_platform_is_refused_by_name(platforms, tmp_path):
    config = export_config.get_config()
    config.models, config.platforms = str(tmp_path), platforms
    message = rf"config.platforms={re.escape(repr(platforms))} must be .* of cpu, cuda, rocm, tpu"
    with pytest.raises(ValueError, match=message):
        main.run(config, tmp_path / "out")
