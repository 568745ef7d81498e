"""Published weights become workdirs that the programs accept, and are exported bit for bit."""

import hashlib
import json
import os
import pickle
import sys

import jax
import numpy as np
import pytest
import tiny_training as tiny
from conftest import golden_file
from saved_decoders import DOWNSCALE, save_decoder

from thermo_jax.configs import convert as convert_config
from thermo_jax.configs import encoder as encoder_config
from thermo_jax.configs import segment
from thermo_jax.inference.trained_models import load_model
from thermo_jax.models.operations import NATIVE
from thermo_jax.models.published import check_published
from thermo_jax.programs import convert
from thermo_jax.programs.frozen_encoder import open_encoder
from thermo_jax.programs.workdir import to_json
from thermo_jax.training.checkpoints import Checkpoints

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
RNG = np.random.default_rng(0)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is absent: pip install 'thermo_jax[torch]'")


def import_weights(file, workdir, *, encoder="", **fields):
    config = convert_config.get_config("import")
    config.weights, config.encoder.workdir = str(file), str(encoder)
    config.update(fields)
    convert.run(config, workdir)
    return workdir


def export_weights(run, workdir):
    config = convert_config.get_config("export")
    config.run = str(run)
    (file,) = convert.run(config, workdir)["files"]
    assert file == str(workdir / f"{run.name}.pty")
    return file


def save_encoder(workdir):
    """Writes a checkpoint with random weights, as the last epoch of a run does."""
    config = encoder_config.get_config("heat")
    config.model.num_kernels, config.model.dtype = 2, "float32"
    trainer = tiny.encoder_trainer()
    meta = {"config": to_json(config), "best_step": 0, "finished": True, "epoch": 3}
    with Checkpoints(workdir) as checkpoints:
        encoder = trainer.encoder_of(trainer.state)
        checkpoints.save(trainer.state, encoder=encoder, meta=meta, value=0.0)
    return workdir, trainer.state.variables


def meta_of(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.meta()


def same_tensors(torch, first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# --------------------------------------------------------------------------------------------------
# Import and export
# --------------------------------------------------------------------------------------------------


def test_an_encoder_comes_back_bit_for_bit(torch, tmp_path):
    run, variables = save_encoder(tmp_path / "run")
    file = export_weights(run, tmp_path / "published")
    workdir = import_weights(file, tmp_path / "imported")
    tiny.assert_same_tree(convert._best_model(workdir), jax.device_get(variables))
    again = export_weights(workdir, tmp_path / "again")
    same_tensors(torch, torch.load(file, weights_only=True), torch.load(again, weights_only=True))


@pytest.mark.parametrize(("task", "row"), [("classify", "H/H"), ("segment", "H/H")])
def test_a_decoder_comes_back_bit_for_bit_with_its_encoder(torch, task, row, tmp_path):
    run = save_decoder(tmp_path / "run", task, row)
    file = export_weights(run, tmp_path / "published")
    workdir = import_weights(file, tmp_path / "imported", encoder=run, downscale=DOWNSCALE["heat"])
    before, after = load_model(run), load_model(workdir, name="run")
    tiny.assert_same_tree(after.variables, before.variables)
    tiny.assert_same_tree(after.encoder.variables, before.encoder.variables)
    assert after.encoder.module == before.encoder.module
    # The variables were compared; the run and the import have their own workdirs.
    others = {"variables": {}, "encoder": None, "meta": {}, "source": None}
    assert after._replace(**others) == before._replace(**others)


def test_a_decoders_run_accepts_the_published_encoder(torch, tmp_path):
    arrays = np.load(golden_file("encoder_c3.npz"))
    weights = {
        name.removeprefix("init/"): torch.from_numpy(arrays[name])
        for name in arrays
        if name.startswith("init/")
    }
    file = tmp_path / "encoder.pty"
    torch.save(weights, file)
    workdir = import_weights(file, tmp_path / "imported")
    config = segment.get_config("H/H")
    config.model.dtype = "float32"
    encoder = open_encoder(config, workdir=workdir, operations=NATIVE)
    facts = encoder.facts
    assert encoder.latents((120, 160, 3)).shape == (1, 120, 160, 128)
    kernel = encoder.variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), arrays["init/conv1.weight"])
    assert (facts["data_type"], facts["channels"], facts["num_kernels"]) == ("heat", 3, 16)
    assert facts["data_fingerprint"] is None and facts["seen_patients"] is None
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert meta_of(workdir)["imported"] == {"file": "encoder.pty", "sha256": digest}
    exported = torch.load(export_weights(workdir, tmp_path / "out"), weights_only=True)
    assert {n for n in exported if "num_batches" not in n} == {
        n for n in weights if "num_batches" not in n
    }
    assert all(torch.equal(exported[n], weights[n]) for n in weights if "num_batches" not in n)


def test_a_segmenter_with_names_and_shapes_of_the_vectors_is_accepted(torch, tmp_path):
    arrays = np.load(golden_file("unet_8.npz"))
    weights = {
        f"unet.{name}": torch.from_numpy(RNG.standard_normal(json.loads(shape)).astype(np.float32))
        for name, shape in zip(arrays["names"].tolist(), arrays["shapes"].tolist(), strict=True)
    }
    torch.save(weights, tmp_path / "segmenter.pty")
    encoders = np.load(golden_file("encoder_c1.npz"))
    names = [name for name in encoders if name.startswith("init/")]
    published = {name.removeprefix("init/"): torch.from_numpy(encoders[name]) for name in names}
    torch.save(published, tmp_path / "encoder.pty")
    encoder = import_weights(tmp_path / "encoder.pty", tmp_path / "encoder")
    workdir = import_weights(
        tmp_path / "segmenter.pty", tmp_path / "segmenter", encoder=encoder, type="heat"
    )
    model = load_model(workdir)
    assert (model.task, model.data_type, model.encoder.module.channels) == ("segment", "heat", 1)
    exported = torch.load(export_weights(workdir, tmp_path / "out"), weights_only=True)
    assert all(torch.equal(exported[name], tensor) for name, tensor in weights.items())


# --------------------------------------------------------------------------------------------------
# Mistakes that are refused
# --------------------------------------------------------------------------------------------------


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_code_in_a_file_is_refused_and_not_run(torch, form, tmp_path):
    file, folder = tmp_path / "hostile.pty", tmp_path / "made"
    content = {"conv1.weight": Hostile(str(folder))}
    if form == "pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=r"hostile.pty is no plain state dict: .* is refused"):
        import_weights(file, tmp_path / "workdir")
    assert not folder.exists() and not (tmp_path / "workdir").exists()
    pickle.loads(pickle.dumps(content))  # without the check, it runs its code
    assert folder.exists()


def test_a_damaged_file_is_named(torch, tmp_path):
    (tmp_path / "bad.pty").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"bad.pty is no plain state dict: it is damaged, or"):
        import_weights(tmp_path / "bad.pty", tmp_path / "workdir")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"weights.pty contains a list, expected a state dict"),
        ({"epoch": 3}, r"weights.pty: epoch is int, expected a tensor of float32"),
        ({}, r"weights.pty is not a published model: it contains no unet.inc.*, but nothing"),
    ],
)
def test_a_file_that_contains_something_else_is_refused(torch, content, message, tmp_path):
    torch.save(content, tmp_path / "weights.pty")
    with pytest.raises(ValueError, match=message):
        import_weights(tmp_path / "weights.pty", tmp_path / "workdir")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv3.bias"), r"conv3.bias is absent, expected float32\[8\]"),
        (lambda w: w.update(extra=w["conv1.bias"]), r"extra is float32\[2\], expected absent"),
        (
            lambda w: w.update({"conv2.weight": w["conv2.weight"][:, :1]}),
            r"conv2.weight is float32\[4, 1, 5, 5\], expected float32\[4, 2, 5, 5\]",
        ),
        (
            lambda w: w.update({"conv1.bias": w["conv1.bias"].double()}),
            r"conv1.bias is float64\[2\], expected float32\[2\]",
        ),
        (
            lambda w: w.update({"conv1.weight": w["conv1.weight"][:, :2]}),
            r"conv1.weight is float32\[2, 2, 5, 5\], expected float32\[2, 3, 5, 5\]",
        ),
        (
            lambda w: w.update({"conv1.weight": w["conv1.weight"][0]}),
            r"conv1.weight is \[3, 5, 5\], expected 4 axes",
        ),
        (
            lambda w: w.update({"conv1.bias": w["conv1.bias"].bfloat16()}),
            r"conv1.bias is torch.bfloat16, expected a tensor of float32",
        ),
    ],
)
def test_the_first_wrong_tensor_is_named(torch, change, message, tmp_path):
    run, _ = save_encoder(tmp_path / "run")
    weights = torch.load(export_weights(run, tmp_path / "published"), weights_only=True)
    change(weights)
    torch.save(weights, tmp_path / "wrong.pty")
    with pytest.raises(ValueError, match=rf"wrong.pty: {message}$"):
        import_weights(tmp_path / "wrong.pty", tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


def test_a_classifier_of_another_image_size_is_refused(torch, tmp_path):
    run = save_decoder(tmp_path / "run", "classify")
    file = export_weights(run, tmp_path / "published")
    message = r"project.weight is float32\[1, 1200\], expected float32\[1, 19200\]"
    with pytest.raises(ValueError, match=message):
        import_weights(file, tmp_path / "workdir", encoder=run)


def test_a_decoder_needs_its_encoder(torch, tmp_path):
    file = export_weights(save_decoder(tmp_path / "run", "segment"), tmp_path / "published")
    with pytest.raises(ValueError, match="contains a decoder: give --config.encoder.workdir="):
        import_weights(file, tmp_path / "workdir")


def test_a_workdir_that_is_in_use_is_left_alone(torch, tmp_path):
    run, _ = save_encoder(tmp_path / "run")
    file = export_weights(run, tmp_path / "published")
    with pytest.raises(ValueError, match="run already contains a trained model: choose another"):
        import_weights(file, run)


def test_a_file_that_is_not_there_is_named(torch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.pty does not exist: name a state dict"):
        import_weights(tmp_path / "none.pty", tmp_path / "workdir")


def test_without_pytorch_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = r"need PyTorch, which is not installed: pip install 'thermo_jax\[torch\]'"
    with pytest.raises(ValueError, match=message):
        import_weights(tmp_path / "encoder.pty", tmp_path / "workdir")
    with pytest.raises(ValueError, match=message):
        export_weights(tmp_path / "run", tmp_path / "workdir")


@pytest.mark.parametrize("field", ["weights", "run"])
def test_an_empty_field_is_named(field, tmp_path):
    config = convert_config.get_config({"weights": "import", "run": "export"}[field])
    with pytest.raises(ValueError, match=f"config.{field} is empty: give --config.{field}=<"):
        convert.run(config, tmp_path)


def test_counts_of_batches_may_be_absent():
    variance = np.zeros(3, np.float32)
    variables = {"batch_stats": {"encoder": {"batch_norm1": {"var": variance}}}}
    check_published({"batch_norm1.running_var": variance}, variables, file="encoder.pty")
