"""The shipped configurations: presets, comments, the rejection of unknown names."""

import ast
import importlib
import itertools
import pathlib

import pytest
from ml_collections import ConfigDict

from thermo_jax import main
from thermo_jax.configs import (
    benchmark,
    classify,
    cluster,
    common,
    convert,
    data_report,
    demo,
    encoder,
    evaluate,
    export,
    few_shot,
    predict,
    segment,
    table1,
)

FILES = [p for p in pathlib.Path(encoder.__file__).parent.glob("*.py") if p.stem != "__init__"]


SHIPPED = [benchmark, classify, cluster, convert, data_report, demo, encoder, export, few_shot]
SHIPPED += [evaluate, predict, segment, table1]


@pytest.mark.parametrize("module", SHIPPED)
def test_every_configuration_builds_and_has_a_known_task(module):
    assert module.get_config().task in main.TASKS


@pytest.mark.parametrize("module", [classify, segment])
def test_the_rows_of_table_1_choose_encoder_and_decoder_types(module):
    for row, (encoder_type, data_type) in zip(
        common.ROWS, itertools.product(("gray", "heat"), repeat=2), strict=True
    ):
        config = module.get_config(row)
        assert (config.encoder.type, config.data.type) == (encoder_type, data_type)


def test_the_published_hyperparameters_are_the_defaults():
    config = encoder.get_config("gray")
    assert (config.train.batch_size, config.train.epochs, config.train.patience) == (16, 200, 10)
    assert (config.train.learning_rate, config.train.weight_decay) == (1e-3, 1e-4)
    assert (config.loss.contrastive_weight, config.loss.temperature) == (0.01, 0.5)
    assert (config.loss.num_patches, config.loss.form) == (16, "paper")
    assert (config.split.val_fraction, config.data.type) == (0.3, "gray")
    classifier, segmenter = classify.get_config(), segment.get_config()
    assert (classifier.train.epochs, classifier.train.learning_rate) == (70, 5e-3)
    assert (segmenter.train.epochs, segmenter.train.patience) == (200, 30)
    assert segmenter.model.unet_width == 64


def test_the_ablations_set_lambda_to_0_and_1():
    assert encoder.get_config("gray,no_recon").loss.contrastive_weight == 1
    assert encoder.get_config("heat,no_contrastive").loss.contrastive_weight == 0


def test_an_unknown_preset_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="no preset 'grey'. Did you mean 'gray'"):
        encoder.get_config("grey")


def test_two_presets_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="choose one of gray, heat"):
        encoder.get_config("gray,heat")


def test_encoder_and_decoder_defaults_agree_on_the_test_patients():
    splits = [module.get_config().split.to_dict() for module in (encoder, classify, segment)]
    for split in splits:
        split.pop("val_fraction")
    assert splits[0] == splits[1] == splits[2]


def test_a_field_cannot_be_added_by_mistake():
    config = encoder.get_config()
    with pytest.raises(AttributeError):
        config.train.epoch = 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_field_has_a_comment(path):
    lines = path.read_text().splitlines()
    functions = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
    # Presets return nothing; they change fields that are commented elsewhere.
    builders = [f for f in functions if ast.unparse(f.returns) != "None"]
    for node in itertools.chain.from_iterable(ast.walk(function) for function in builders):
        # Sections need no comment, because their fields have comments.
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call):
            line, above = lines[node.lineno - 1], lines[node.lineno - 2]
            if line.strip().startswith("config."):
                assert "  # " in line or above.strip().startswith("#"), f"{path.name}: {line}"


def test_configurations_are_found_by_path_and_by_bare_name(monkeypatch):
    installed = pathlib.Path(importlib.import_module("thermo_jax.configs").__path__[0])
    assert main.find_config("encoder:gray") == f"{installed / 'encoder.py'}:gray"
    monkeypatch.chdir(installed.parent)
    assert main.find_config("configs/encoder.py:gray") == "configs/encoder.py:gray"
    with pytest.raises(FileNotFoundError, match="installed ones: benchmark, classify"):
        main.find_config("nonsense")


def test_the_demos_docstring_names_every_field_that_differs():
    stages = demo.get_config().stages
    shipped = {
        "encoder": encoder.get_config("heat,phantom"),
        "classify": classify.get_config("H/H,phantom"),
        "segment": segment.get_config("H/H,phantom"),
    }
    for name, config in shipped.items():
        differing = {
            f"{section}.{field}"
            for section, fields in config.items()
            if isinstance(fields, ConfigDict)
            for field, value in fields.items()
            if stages[name][section][field] != value
        }
        assert "train.epochs" in differing
        for field in differing:
            assert field in demo.__doc__, f"{name}: {field}"
    assert "everything else" not in demo.__doc__
