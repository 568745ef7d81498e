"""Endless phantoms: a step renders its own images and labels, by its number and its slots.

Rendering has its own tests. Here, most tests replace it by noise, which compiles faster.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from augmented_trainers import augmented, endless

from thermo_jax.configs import segment
from thermo_jax.data import phantom_scene
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.programs import settings

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


def noisy_example(key, *, shape):
    """Noise in place of a phantom; each pixel's class follows from its level."""
    levels = jax.random.randint(key, shape, 0, 256)
    labels = jax.nn.one_hot(levels // 32, len(CLASS_NAMES))
    return levels[..., None].astype(jnp.uint8), labels


@pytest.fixture(scope="module", autouse=True)
def shallow_and_noisy():
    with tiny.shallow_decoders(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom_scene, "example", noisy_example)
        yield


@functools.cache
def trainer() -> tiny.Trainer:
    return endless(tiny.decoder_trainer("segment", "G/G"))


@functools.cache
def wrapped(count: int):
    parallel = tiny.devices(count)
    return parallel, parallel.wrap(trainer().train_step)


def after_step(*, number: int = 0, seed: int = 0, first_slot: int = 0, devices: int = 1):
    """Return parameters and metrics after an update of step `number` with images of `seed`."""
    parallel, step = wrapped(devices)
    batch = tiny.batch_of(tiny.columns(8, data_type="gray", seed=seed))
    rows = {name: batch[name] for name in trainer().column_names}
    rows["slot"] = batch["slot"] + first_slot
    state = parallel.replicate(trainer().state.replace(step=np.int32(number)))
    state, metrics = step(state, parallel.put_batch(rows))
    return jax.device_get((state.params, metrics))


def test_an_endless_step_does_not_read_the_batchs_images_and_labels():
    tiny.assert_same_tree(after_step(seed=0), after_step(seed=1))


def test_an_endless_step_renders_by_its_number_and_the_slots():
    losses = [float(after_step(**of)[1]["loss"]) for of in ({}, {"number": 1}, {"first_slot": 8})]
    assert len(set(losses)) == 3, losses


def test_the_number_of_devices_does_not_change_what_is_rendered():
    one, eight = after_step()[1], after_step(devices=8)[1]
    np.testing.assert_allclose(eight["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(eight["accuracy"], one["accuracy"], rtol=1e-5)


def test_rendered_images_are_augmented():
    plain = after_step()[1]["loss"]
    parallel = tiny.devices(1)
    step = parallel.wrap(augmented(trainer()).train_step)
    batch = tiny.batch_of(tiny.columns(8, data_type="gray"))
    rows = {name: batch[name] for name in (*trainer().column_names, "slot")}
    _, metrics = step(parallel.replicate(trainer().state), parallel.put_batch(rows))
    assert np.isfinite(metrics["loss"]) and metrics["loss"] != plain


def test_the_preset_that_makes_the_shipped_model_renders_endlessly():
    config = segment.get_config("shipped")
    assert settings.data_settings(config).endless and config.data.phantom_version == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.root", "/data"),
        ("data.type", "heat"),
        ("data.phantom_version", 1),
        ("task", "classify"),
    ],
)
def test_endless_phantoms_with_other_settings_are_refused(field, value):
    config = segment.get_config("shipped")
    config.update_from_flattened_dict({field: value})
    message = "config.data.endless=True needs config.task=segment, config.data.root=phantom, "
    with pytest.raises(ValueError, match=message + "config.data.type=gray"):
        settings.data_settings(config)
