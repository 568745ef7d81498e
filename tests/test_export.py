"""An exported decoder runs without this package, on batches of any size, and says the same."""

import json
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
from thermo_jax.inference.predictor import forward, load_model

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

ALONE = """
import json, pathlib, sys
import jax, numpy as np
exported = jax.export.deserialize(pathlib.Path(sys.argv[1]).read_bytes())
images = np.load(sys.argv[2])
for count in (1, 3):
    outputs = exported.call(images[:count])
np.savez(sys.argv[3], **outputs)
assert not any(name.startswith(("thermo_jax", "flax")) for name in sys.modules)
"""


@pytest.mark.parametrize(("task", "row"), [("classify", "H/H"), ("segment", "H/H")])
def test_an_exported_model_runs_without_this_package(task, row, tmp_path):
    model = load_model(save_decoder(tmp_path / "run", task, row))
    file, facts = export_stablehlo(model, tmp_path / "model.stablehlo")
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    program = [sys.executable, "-c", ALONE, file, tmp_path / "images.npy", tmp_path / "out.npz"]
    done = subprocess.run(list(map(str, program)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours = forward(
        model.variables,
        model.frozen,
        images,
        encoder=model.encoder,
        decoder=model.decoder,
        channels=model.channels,
    )
    theirs = np.load(tmp_path / "out.npz")
    described = json.loads(facts.read_text())
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
def test_a_platform_that_jax_does_not_know_is_refused_by_name(platforms, tmp_path):
    config = export_config.get_config()
    config.models, config.platforms = str(tmp_path), platforms
    message = rf"config.platforms={re.escape(repr(platforms))} must be among cpu, cuda, rocm, tpu"
    with pytest.raises(ValueError, match=message):
        main.run(config, tmp_path / "out")
