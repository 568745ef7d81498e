"""A decoder exported as ONNX gives the same outputs in onnxruntime, on batches of any size."""

import json
import sys

import jax
import numpy as np
import pytest
import tiny_training as tiny
from saved_decoders import save_decoder

from thermo_jax import main
from thermo_jax.configs import export as export_config
from thermo_jax.inference import export, predictor
from thermo_jax.inference.trained_models import forward, load_model

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
REASON = "ONNX needs the extra: pip install 'thermo_jax[onnx]'"


@pytest.mark.parametrize(("task", "row"), [("classify", "H/H"), ("segment", "G/H")])
def test_onnxruntime_gives_the_same_outputs_for_batches_of_any_size(task, row, tmp_path):
    pytest.importorskip("jax2onnx", reason=REASON)
    onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
    model = load_model(save_decoder(tmp_path / "run", task, row))
    file, facts = export.export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(file)
    images = np.random.default_rng(1).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    ours = model(images)
    names = [output.name for output in session.get_outputs()]
    assert set(names) == set(ours) == set(json.loads(facts.read_text())["outputs"])
    for count in (1, 3):
        theirs = session.run(names, {"images": images[:count]})
        for name, values in zip(names, theirs, strict=True):
            np.testing.assert_allclose(values, ours[name][:count], atol=1e-4)


def test_the_program_writes_onnx_by_its_preset(tmp_path):
    pytest.importorskip("jax2onnx", reason=REASON)
    config = export_config.get_config("onnx")
    config.models = str(save_decoder(tmp_path / "run", "classify"))
    outcome = main.run(config, tmp_path / "out")
    assert outcome["files"] == [str(tmp_path / "out" / f"run.{s}") for s in ("onnx", "json")]


def test_a_file_that_gives_other_outputs_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("jax2onnx", reason=REASON)
    model = load_model(save_decoder(tmp_path / "run", "classify"))

    def wrong(*arguments, **options):
        return jax.tree.map(lambda x: x + 1e-3, forward(*arguments, **options))

    # The first call, the export, gets the wrong model; the comparison gets the right one.
    answers = iter([wrong, forward])
    monkeypatch.setattr(predictor, "forward", lambda *a, **options: next(answers)(*a, **options))
    with pytest.raises(ValueError, match="run was converted wrongly: onnxruntime differs .* 0.001"):
        export.export_onnx(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_without_jax2onnx_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    model = load_model(save_decoder(tmp_path / "run", "classify"))
    with pytest.raises(ValueError, match=r"package jax2onnx: pip install 'thermo_jax\[onnx\]'"):
        export.export_onnx(model, tmp_path / "model.onnx")


def test_an_unknown_format_is_refused(tmp_path):
    config = export_config.get_config()
    config.format = "tflite"
    with pytest.raises(ValueError, match="config.format='tflite' must be one of stablehlo, onnx"):
        main.run(config, tmp_path)
