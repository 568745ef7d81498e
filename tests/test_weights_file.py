"""Files of weights: exact round trips, and clear refusals of damaged or foreign files."""

import copy
import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from thermo_jax.files import digest
from thermo_jax.training import weights_file
from thermo_jax.training.weights_file import read_weights, weights_digest, write_weights

RUN = {"synthetic": True, "data": "0", "patients": ["0001"]}  # as earlier versions wrote it
META = {
    "config": {
        "task": "segment",
        "data": {"type": "gray", "colormap": "jet", "downscale": 8, "views": [1]},
        "encoder": {"type": "gray", "num_kernels": 16},
        "model": {"unet_width": 2},
    },
    "encoder": {"data_type": "gray", "channels": 1, "kind": "none"},
    "trained_on": [RUN, RUN | {"images": ["0123456789abcdef"], "sick": 1}, None],
    "scores": {"miou": 0.5},
}


# A description whose meta is a list, with the right digest.
LIST = json.dumps({"format": 1, "meta": [], "digest": digest([])})


def make_variables() -> dict:
    odd = np.array([0.0, -0.0, 1e-45, np.inf, np.pi, -1 / 3], np.float32)
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return {
        "model": {
            "params": {"unet": {"kernel": kernel.transpose(2, 0, 1), "bias": odd}},
            "batch_stats": {"mean": odd[::2]},
        },
        "encoder": {"params": {"one": np.float32(1).reshape(())}},
    }


@pytest.fixture
def file(tmp_path):
    write_weights(tmp_path / "a.safetensors", make_variables(), META)
    return tmp_path / "a.safetensors"


def test_a_round_trip_is_exact_to_the_bit(file):
    variables, meta = read_weights(file)
    np.testing.assert_equal(variables, make_variables())
    ours, theirs = make_variables()["model"]["params"]["unet"], variables["model"]["params"]["unet"]
    assert theirs["bias"].tobytes() == ours["bias"].tobytes()
    assert theirs["kernel"].dtype == np.float32
    assert meta.pop("weights_sha256") == weights_digest(variables)
    assert meta.pop("thermo_jax") == "0.1.0" and meta == META


def test_equal_weights_give_equal_files(file, tmp_path):
    write_weights(tmp_path / "b.safetensors", make_variables(), copy.deepcopy(META))
    assert (tmp_path / "b.safetensors").read_bytes() == file.read_bytes()


def test_one_changed_bit_changes_the_digest_of_the_weights():
    changed = make_variables()
    changed["model"]["params"]["unet"]["bias"][1] = 0.0  # it was -0.0
    assert weights_digest(changed) != weights_digest(make_variables())


@pytest.mark.parametrize("place", [0, 0.3, -20])
def test_a_file_with_a_changed_byte_is_refused_by_name(place, file):
    content = bytearray(file.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.safetensors is (damaged|no model of thermo_jax).*: "):
        read_weights(file)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, pickle.dumps({"a": 1}), b'{"a": 1}' * 9])
def test_a_file_of_another_kind_is_refused(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged or is no file of safetensors"):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", "[" * 9999, '{"format": 1, "meta": 3}', LIST]
)
def test_weights_of_other_programs_are_refused(text, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, path, None if text is None else {"thermo_jax": text})
    with pytest.raises(ValueError, match=r"x\.safetensors is no model of thermo_jax: give a file"):
        read_weights(path)


def test_weights_of_another_type_are_refused(tmp_path):
    save_file({"a": np.zeros(2, np.float16)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"contains float16, expected float32"):
        read_weights(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="must be float32, not float64"):
        write_weights(tmp_path / "y.safetensors", {"model": {"a": np.zeros(2)}}, META)


def test_a_later_format_is_refused_with_a_remedy(file, monkeypatch):
    monkeypatch.setattr(weights_file, "FORMAT", 0)
    with pytest.raises(ValueError, match="has format 1.* reads format 0: install the version"):
        read_weights(file)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("config.task", "encoder", "config.task is 'encoder', expected classify or segment"),
        ("config.data.type", ["gray"], "config.data.type is"),
        ("config.data.downscale", True, "config.data.downscale is True, expected from 1"),
        ("config.data.downscale", 7, "downscale=7 does not divide"),
        ("config.data.colormap", "x" * 9999, "colormap is 'xxx.{0,80}, expected a colour map"),
        ("config.data.views", [9], "config.data.views is"),
        ("config.model.unet_width", 10**9, "config.model.unet_width is 1000000000, expected"),
        ("config.encoder", None, "does not describe its model"),
        ("encoder.kind", "other", "encoder.kind is 'other'"),
        ("encoder.kind", None, ""),  # refused with the widths below
        ("trained_on", ["0001"], "trained_on is"),
        ("trained_on", [RUN | {"images": [7]}], "trained_on is"),
        ("trained_on", [RUN | {"sick": "many"}], "trained_on is"),
    ],
)
def test_a_description_that_no_run_writes_is_refused(field, value, message, tmp_path):
    meta = copy.deepcopy(META)
    *sections, name = field.split(".")
    section = meta
    for part in sections:
        section = section[part]
    section[name] = value
    if not message:
        del meta["config"]["encoder"]["num_kernels"]
        message = "encoder.num_kernels is absent"
    write_weights(tmp_path / "x.safetensors", make_variables(), meta)
    with pytest.raises(ValueError, match=rf"x\.safetensors:? .*{message}"):
        read_weights(tmp_path / "x.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist: give a file"):
        read_weights(tmp_path / "none.safetensors")


def test_an_installation_without_the_model_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_file, "SHIPPED_FILE", tmp_path / "segmenter.safetensors")
    with pytest.raises(FileNotFoundError, match="is missing.*Install thermo_jax again, or name a"):
        read_weights("shipped")


def test_the_packages_own_model_is_small_and_says_what_it_is():
    assert weights_file.SHIPPED_FILE.stat().st_size <= 8 * 10**6
    assert (weights_file.SHIPPED_FILE.parent / "MODEL_CARD.md").is_file()
    _, meta = read_weights("shipped")
    assert meta["config"]["task"] == "segment" and meta["config"]["data"]["root"] == "phantom"
    assert [seen["synthetic"] for seen in meta["trained_on"]] == [True]
    assert meta["scores"]["segmentation"]
