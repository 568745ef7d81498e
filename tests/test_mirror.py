"""Predictions that are averaged over an image and its mirror image."""

import jax
import numpy as np
import pytest
import tiny_training as tiny
from saved_decoders import save_decoder

from thermo_jax.data.thermogram import MIRRORED_CLASSES
from thermo_jax.inference.trained_models import load_model
from thermo_jax.training import train_decoder

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
MIRRORED = np.ascontiguousarray(IMAGES[:, :, ::-1])


@pytest.fixture(scope="module", params=["segment", "classify"])
def model(request, tmp_path_factory):
    """A decoder of a run with `mirror_average`."""
    with tiny.shallow_decoders():
        folder = tmp_path_factory.mktemp(request.param)
        yield load_model(save_decoder(folder, request.param, mirror_average=True))


def test_the_prediction_of_a_mirror_image_is_the_mirrored_prediction(model):
    assert model.mirror_average
    direct, mirrored = model(IMAGES), model(MIRRORED)
    if model.task == "segment":
        expected = direct["classes"][:, :, ::-1][..., list(MIRRORED_CLASSES)]
        np.testing.assert_allclose(mirrored["classes"], expected, atol=1e-5)
    else:
        expected = direct["evidence"][:, :, ::-1]
        np.testing.assert_allclose(mirrored["evidence"], expected, atol=1e-6)
        np.testing.assert_allclose(mirrored["probabilities"], direct["probabilities"], atol=1e-6)
    once = model._replace(mirror_average=False)(MIRRORED)
    assert all(np.abs(once[name] - mirrored[name]).max() > 1e-6 for name in once)


@pytest.mark.parametrize("model", ["classify"], indirect=True)
def test_evidence_still_adds_up_to_the_logit(model):
    outputs = model(IMAGES)
    logits = np.asarray(outputs["evidence"], np.float64).sum((1, 2))
    logits += model.variables["params"]["head_bias"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), outputs["probabilities"], rtol=1e-4)


def test_a_run_predicts_what_its_saved_model_predicts(model):
    step = tiny.devices(1).wrap(
        lambda state, batch: train_decoder.predict_step(
            state,
            batch,
            encoder=model.encoder.module,
            decoder=model.decoder,
            full_shape=(480, 640),
            mirror_average=True,
        )
    )
    frozen = model.encoder.variables
    state = tiny.TrainState(0, **model.variables, opt_state=(), rng=0, frozen=frozen)
    predicted = jax.device_get(step(state, {"images": IMAGES[None]}))
    outputs = model(IMAGES)
    if model.task == "segment":
        np.testing.assert_array_equal(predicted["full_label_maps"], outputs["classes"].argmax(-1))
    else:
        for name, values in outputs.items():
            np.testing.assert_allclose(predicted[name], values, atol=1e-6)
