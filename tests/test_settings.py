"""Values that no run can use are refused before any data is read."""

import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from thermo_jax import main
from thermo_jax.configs import classify, demo, encoder, few_shot, segment
from thermo_jax.configs.rules import RULES
from thermo_jax.data.batches import LOADERS
from thermo_jax.models.augmentation import AugmentSettings
from thermo_jax.programs import encoder as encoder_program
from thermo_jax.programs import settings


@pytest.mark.parametrize(
    "config", [encoder.get_config(), classify.get_config("G/H"), demo.get_config()]
)
def test_shipped_configurations_are_fine(config):
    settings.resolve(config)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("train.epochs", 0, "at least 1"),
        ("train.checkpoint_minutes", -1.0, "at least 0"),
        ("train.batch_size", -4, "at least 1"),
        ("train.learning_rate", 0.0, "above 0"),
        ("train.patience", -1, "at least 0"),
        ("data.loader", "tfds", "one of auto, tf.data, numpy"),
        ("data.type", "H", "one of gray, heat"),
        ("loss.form", "ntxent", "one of paper, nt_xent"),
        ("loss.contrastive_weight", 1.5, "from 0 to 1"),
        ("model.dtype", "bf16", "one of auto, float32, tensorfloat32, bfloat16"),
        ("model.dtype", "int32", "one of auto, float32, tensorfloat32, bfloat16"),
        ("model.conv", "fft", "one of auto, native, cpu, gpu"),
        ("parallel.mode", "pjit", "one of pmap, shard_map"),
        ("model.patch_size", 4, "odd and at least 3"),
        ("augment.rotation", 200.0, "from 0 to 180"),
        ("augment.noise", -0.1, "from 0 to 1"),
        ("split.val_fraction", 1.0, "at least 0 and below 1"),
        ("split.seed", -1, "from 0 to 4294967295"),
        ("seed", -1, "from 0 to 4294967295"),
        ("seed", 2**32, "from 0 to 4294967295"),
    ],
)
def test_a_value_that_no_run_can_use_is_refused(field, value, expected):
    config = encoder.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=f"config.{field}={value!r} must be {expected}"):
        settings.resolve(config)


@pytest.mark.parametrize(
    "fields", [{"init_from": ""}, {"train.ema": 0.0}, {"init_from": "", "train.ema": 0.0}]
)
def test_without_first_weights_or_without_an_average_nothing_can_be_averaged(fields):
    config = segment.get_config("fine_tune")
    settings.resolve(config)
    config.update_from_flattened_dict(fields)
    with pytest.raises(ValueError, match="config.average_with_init=True needs config.init_from"):
        settings.resolve(config)


def test_a_study_and_its_stages_share_a_data_set_whose_loader_was_chosen_for_this_machine():
    config = segment.get_config()
    assert config.data.loader == "auto"
    of_study = settings.data_settings(config)
    assert of_study.loader in LOADERS
    assert of_study == settings.data_settings(settings.resolve(config))


@pytest.mark.parametrize("module", [encoder, classify, segment])
def test_images_are_augmented_only_if_a_field_of_augment_is_set(module):
    config = module.get_config()
    assert not settings.augment_settings(config).is_on
    config.augment.blur = 0.5
    assert settings.augment_settings(config) == AugmentSettings(blur=0.5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.head", "mean", "config.model.head='mean'.*linear, pooled"),
        ("report.seed", -1, "config.report.seed=-1 must be from 0"),
        # Only predictions use it.
        ("data.colormap", "jett", "config.data.colormap: unknown colour map 'jett'.*'jet'"),
    ],
)
def test_a_classifiers_fields_are_checked_before_training(field, value, message):
    config = classify.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        settings.resolve(config)


@pytest.mark.parametrize(
    ("downscale", "patch_size", "shape"), [(40, 5, "3x4"), (4, 99, "30x40"), (8, 15, "15x20")]
)
def test_images_without_room_for_a_patch_and_its_neighbour_are_refused(
    downscale, patch_size, shape, tmp_path
):
    config = encoder.get_config("heat,phantom")
    config.data.downscale, config.model.patch_size = downscale, patch_size
    message = (
        f"config.model.patch_size={patch_size} is too large for heat images of {shape} pixels "
        rf"\(config.data.downscale={downscale}\).*choose a smaller patch_size or downscale"
    )
    with pytest.raises(ValueError, match=message):
        main.run(config, tmp_path / "run")


def test_the_smallest_images_that_a_patch_fits_are_fine():
    config = encoder.get_config()
    config.data.downscale = 20  # 6x8 pixels
    encoder_program.check_patches(config)


def test_a_stages_field_is_checked_by_the_rule_of_its_section():
    config = few_shot.get_config()
    config.stages.segment.train.epochs = 0
    with pytest.raises(ValueError, match=r"config.stages.segment.train.epochs=0 must be at least"):
        settings.check_fields(config)


def test_a_configuration_may_lack_a_section():
    settings.resolve(ConfigDict({"task": "data_report"}))
    settings.resolve(segment.get_config())


def every_field() -> set[str]:
    """Return the dotted names of all shipped fields, without the prefix of a stage."""
    folder = Path(importlib.import_module("thermo_jax.configs").__path__[0])
    names = set()
    for path in folder.glob("*.py"):
        module = importlib.import_module(f"thermo_jax.configs.{path.stem}")
        if hasattr(module, "get_config"):
            for preset in getattr(module, "_PRESETS", [""]):
                names |= dict(flatten(module.get_config(preset).to_dict())).keys()
    return {re.sub(r"^stages\.\w+\.", "", name) for name in names}


def flatten(fields: dict, prefix: str = ""):
    for name, value in fields.items():
        if isinstance(value, dict):
            yield f"{prefix}{name}", value
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_every_rule_names_a_field_that_exists():
    assert RULES.keys() <= every_field()


def test_every_field_is_read_somewhere():
    package = Path(main.__file__).parent
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for path in package.rglob("*.py")
        if "configs" not in path.relative_to(package).parts
    )
    unread = [
        name
        for name in every_field()
        if not re.search(
            rf"""\.{name.rpartition(".")[2]}\b|["']{name.rpartition(".")[2]}["']""", code
        )
    ]
    assert not unread
