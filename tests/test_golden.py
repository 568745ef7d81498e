"""Parity with the published implementation: the reference vectors of SPEC section 8.

`conftest.find_golden_dir` returns the folder of the vectors. Cases, shapes and sizes are read from
the files, so that the tests can use other vectors of the same form. Errors are relative norms.
"""

import ast
import os
import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import find_golden_dir, golden_file

from thermo_jax.configs import encoder as encoder_config
from thermo_jax.evaluation import metrics
from thermo_jax.models import losses, patches
from thermo_jax.models.cuts import Cuts, CutsOutputs
from thermo_jax.models.operations import choose_operations
from thermo_jax.models.published import from_published
from thermo_jax.models.unet import UNet
from thermo_jax.training import train_encoder
from thermo_jax.training.optimizer import make_optimizer
from thermo_jax.training.parallel import DataParallel
from thermo_jax.training.state import TrainState

TOLERANCE = 1e-5  # float32, one pass
TOLERANCE_WEIGHTS = 1e-4  # Adam amplifies the rounding of small gradients
# A batch norm over so few samples divides by differences of nearly equal numbers.
FEW_SAMPLES, TOLERANCE_FEW_SAMPLES = 4, 1e-3


def file_names(pattern: str, *required: str) -> list[str]:
    """Returns the required files and all files in the folder that match `pattern`."""
    matching = [path.name for path in find_golden_dir().glob(pattern)]
    return sorted({*required, *matching})


def with_operations(names: list[str]) -> list:
    """Returns each file with this platform's operations and, for slow tests, with a GPU's."""
    ours, gpus = [(name, "auto") for name in names], [(name, "gpu") for name in names]
    return ours + [pytest.param(pair, marks=pytest.mark.slow) for pair in gpus]


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(golden_file(name)) as arrays:
        return dict(arrays)


def with_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    chosen = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    assert chosen, f"no array {prefix}*"
    return chosen


def cases(arrays: dict[str, np.ndarray], pattern: str) -> list[tuple[str, ...]]:
    """Returns the groups of every key that matches `pattern`."""
    groups = [match.groups() for key in arrays if (match := re.fullmatch(pattern, key))]
    assert groups, f"no array {pattern}"
    return groups


def relative_error(actual, expected) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30))


def assert_close(actual, expected, *, name: str, tolerance: float = TOLERANCE) -> None:
    assert relative_error(actual, expected) < tolerance, name


def assert_same_weights(tree, published: dict[str, np.ndarray], *, tolerance: float) -> None:
    """`tree` contains variables as in Flax; `published` is a part of them as in PyTorch."""
    for name, array in published.items():
        ((path, expected),) = jax.tree.leaves_with_path(from_published({name: array}))
        actual = tree
        for key in path:
            actual = actual[key.key]
        assert_close(actual, expected, name=name, tolerance=tolerance)


@pytest.fixture(scope="module", autouse=True)
def full_float32():
    """Forbids TF32 and bfloat16 products if the tests run on an accelerator."""
    with jax.default_matmul_precision("highest"):
        yield


# --------------------------------------------------------------------------------------------------
# Encoder
# --------------------------------------------------------------------------------------------------


class EncoderRun(NamedTuple):
    """What our code computes from one file's images, positions and initial weights."""

    arrays: dict[str, np.ndarray]
    evaluated: CutsOutputs
    latents: dict[str, jax.Array]  # of all pixels, by mode
    losses: np.ndarray  # [steps, (total, contrastive, reconstruction)]
    gradients: dict  # of the first step
    states: list[TrainState]  # before the first step and after each


ENCODERS = file_names("encoder_c*.npz", "encoder_c1.npz", "encoder_c3.npz")


@pytest.fixture(scope="module", params=with_operations(ENCODERS), ids="-".join)
def encoder(request) -> EncoderRun:
    name, operations = request.param
    arrays = load(name)
    arrays |= {k: arrays[k].astype(np.int32) for k in ("anchors_hw", "positives_hw")}
    variables = jax.tree.map(jnp.asarray, from_published(with_prefix(arrays, "init/")))
    ops = choose_operations(operations, platform=jax.default_backend())
    return EncoderRun(arrays, *_forward(arrays, variables, ops), *_train(arrays, variables, ops))


def _sizes(arrays) -> dict[str, int]:
    return {
        "channels": arrays["images"].shape[-1],
        "patch_size": arrays["eval/patch_real"].shape[2],
        "num_kernels": arrays["init/conv1.weight"].shape[0],
    }


def _forward(arrays, variables, operations):
    model = Cuts(**_sizes(arrays), operations=operations)

    @jax.jit
    def run(variables, images, anchors_hw, positives_hw):
        evaluated = model.apply(variables, images, anchors_hw, positives_hw, train=False)
        encode = partial(model.apply, variables, images, mutable=["batch_stats"])
        latents = {
            name: encode(method=lambda cuts, x, train=train: cuts.encoder(x, train=train))[0]
            for name, train in (("eval", False), ("train", True))
        }
        return evaluated, latents

    return run(variables, *(arrays[k] for k in ("images", "anchors_hw", "positives_hw")))


def _train(arrays, variables, operations):
    """Runs `train_encoder.train_step` as the program builds it, but at given positions."""
    sizes = _sizes(arrays)
    data_type = {1: "gray", 3: "heat"}[sizes.pop("channels")]
    config = encoder_config.get_config(data_type)
    parallel = DataParallel(jax.devices()[:1], mode="shard_map")
    tx = make_optimizer(config.train.learning_rate, weight_decay=config.train.weight_decay)
    model = train_encoder.make_model(data_type=data_type, operations=operations, **sizes)
    loss = train_encoder.LossSettings(**config.loss)
    step = parallel.wrap(partial(train_encoder.train_step, model=model, tx=tx, loss=loss))
    images = arrays["images"]
    batch = parallel.put_batch({"images": images, "slot": np.arange(len(images), dtype=np.int32)})
    states = [parallel.replicate(TrainState.create(variables, tx=tx, rng=jax.random.key(0)))]
    rows = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        # The vectors' images are scaled already, and their positions are given.
        positions = arrays["anchors_hw"], arrays["positives_hw"]
        monkeypatch.setattr(train_encoder, "scale_images", lambda images, **_: images)
        monkeypatch.setattr(
            train_encoder, "draw_positions", lambda *_, **__: tuple(map(jnp.asarray, positions))
        )
        monkeypatch.setattr(
            train_encoder, "choose_positives", lambda images, anchors, given, **_: given
        )
        for _ in arrays["train/losses_total_contrastive_recon"]:
            state, values = step(states[-1], batch)
            states.append(state)
            rows.append([values[name] for name in ("loss", "contrastive", "reconstruction")])
    # The first moment of Adam (b1 = 0.9) after one step is a tenth of the gradient.
    moments = optax.tree_utils.tree_get(states[1].opt_state, "mu")
    return np.array(rows, np.float64), jax.tree.map(lambda m: m / (1 - 0.9), moments), states


def test_the_encoder_has_the_published_parameters(encoder):
    published = from_published(with_prefix(encoder.arrays, "init/"))
    inputs = [encoder.arrays[name] for name in ("images", "anchors_hw", "positives_hw")]
    model = Cuts(**_sizes(encoder.arrays))
    initial = jax.eval_shape(partial(model.init, train=True), jax.random.key(0), *inputs)
    assert jax.tree.map(np.shape, initial) == jax.tree.map(np.shape, published)


def test_the_encoder_gives_the_published_outputs(encoder):
    names = {
        "z_anchors": "anchors",
        "z_positives": "positives",
        "patch_real": "patches",
        "patch_recon": "reconstructed",
    }
    outputs = {name: getattr(encoder.evaluated, ours) for name, ours in names.items()}
    outputs["z"] = encoder.latents["eval"]
    for name, expected in with_prefix(encoder.arrays, "eval/").items():
        assert_close(outputs[name], expected, name=name)
    if "train/z" in encoder.arrays or "THERMO_GOLDEN_DIR" in os.environ:  # not in tests/golden
        assert_close(encoder.latents["train"], encoder.arrays["train/z"], name="train/z")


def test_pretraining_steps_give_the_published_losses(encoder):
    expected = encoder.arrays["train/losses_total_contrastive_recon"]
    close = partial(np.testing.assert_allclose, atol=1e-6)
    close(encoder.losses[0], expected[0], rtol=TOLERANCE)
    close(encoder.losses, expected, rtol=TOLERANCE)


def test_the_first_pretraining_step_gives_the_published_gradients(encoder):
    # True gradients of biases before a batch norm are zero; computed ones are rounding noise.
    gradients = with_prefix(encoder.arrays, "train/grad/")
    checked = {name: array for name, array in gradients.items() if not name.endswith("bias")}
    assert checked
    assert_same_weights({"params": encoder.gradients}, checked, tolerance=TOLERANCE)


def test_pretraining_steps_give_the_published_weights(encoder):
    # Only rounding noise changes biases before a batch norm, and running means depend on them.
    noise = re.compile(r"conv\d\.bias|batch_norm\d\.running_mean")
    for number in {number for number, _ in cases(encoder.arrays, r"after(\d+)/(.+)")}:
        published = with_prefix(encoder.arrays, f"after{number}/")
        checked = {name: array for name, array in published.items() if not noise.fullmatch(name)}
        variables = encoder.states[int(number)].variables
        assert_same_weights(variables, checked, tolerance=TOLERANCE_WEIGHTS)


# --------------------------------------------------------------------------------------------------
# Patches and losses
# --------------------------------------------------------------------------------------------------


def test_patch_ssim_matches():
    arrays = load("patch_ssim.npz")
    for (case,) in cases(arrays, "(.+)/ssim"):
        first, second = (
            patches.extract_patches(
                jnp.asarray(arrays[f"{case}/image"])[None],
                jnp.asarray(arrays[f"{case}/{name}_hw"], jnp.int32)[None],
            )[0]
            for name in ("first", "second")
        )
        assert_close(patches.patch_ssim(first, second), arrays[f"{case}/ssim"], name=case)


def test_the_contrastive_loss_and_its_gradients_match():
    arrays = load("contrastive_loss.npz")
    for case, temperature in cases(arrays, "(.+)/tau([^/]+)/loss"):

        def mean_loss(anchors, positives, temperature=float(temperature)):
            return losses.patch_contrastive_loss(anchors, positives, temperature=temperature).mean()

        value, gradients = jax.jit(jax.value_and_grad(mean_loss, (0, 1)))(
            arrays[f"{case}/anchors"], arrays[f"{case}/positives"]
        )
        expected = with_prefix(arrays, f"{case}/tau{temperature}/")
        np.testing.assert_allclose(value, expected["loss"], rtol=TOLERANCE, atol=1e-6)
        for gradient, name in zip(gradients, ("grad_anchors", "grad_positives"), strict=True):
            assert_close(gradient, expected[name], name=f"{case} {temperature} {name}")


def test_the_segmentation_loss_and_its_gradient_match():
    arrays = load("decoder_losses.npz")
    for (case,) in cases(arrays, "(.+)/soft_labels"):
        group = with_prefix(arrays, f"{case}/")
        weights = tuple(group["class_weights"].tolist())

        def mean_loss(logits, group=group, weights=weights):
            as_images = (1, 1, -1, logits.shape[-1])
            soft_labels = jnp.asarray(group["soft_labels"]).reshape(as_images)
            return losses.segmentation_loss(
                logits.reshape(as_images), soft_labels, class_weights=weights
            ).mean()

        check_loss(mean_loss, group, name=case)


def test_the_classification_loss_and_its_gradient_match():
    arrays = load("decoder_losses.npz")
    for (case,) in cases(arrays, "(.+)/labels"):
        group = with_prefix(arrays, f"{case}/")

        def mean_loss(logits, group=group):
            labels = jnp.asarray(group["labels"], logits.dtype).ravel()
            return losses.classification_loss(logits.ravel(), labels).mean()

        check_loss(mean_loss, group, name=case)


def check_loss(loss, group, *, name):
    value, gradient = jax.jit(jax.value_and_grad(loss))(group["logits"])
    np.testing.assert_allclose(value, group["loss"], rtol=TOLERANCE, err_msg=name)
    assert_close(gradient, group["grad"], name=name)


# --------------------------------------------------------------------------------------------------
# U-Net
# --------------------------------------------------------------------------------------------------


class UNetCase(NamedTuple):
    arrays: dict[str, np.ndarray]
    model: UNet
    variables: dict


UNETS = file_names("unet_*.npz", "unet_1.npz", "unet_8.npz")


@pytest.fixture(scope="module", params=with_operations(UNETS), ids="-".join)
def unet(request) -> UNetCase:
    arrays = load(request.param[0])
    weights = draw_weights(arrays)
    operations = choose_operations(request.param[1], platform=jax.default_backend())
    width = weights["inc.double_conv.0.weight"].shape[0]
    model = UNet(weights["outc.conv.bias"].size, width=width, operations=operations)
    return UNetCase(arrays, model, jax.tree.map(jnp.asarray, from_published(weights)))


def draw_weights(arrays) -> dict[str, np.ndarray]:
    """The weights that SPEC section 8 defines by names, shapes and a seed."""
    rng = np.random.default_rng(int(arrays["seed"]))
    weights = {}
    for name, shape in zip(arrays["names"].tolist(), arrays["shapes"].tolist(), strict=True):
        normal = rng.standard_normal(ast.literal_eval(shape))
        if normal.ndim >= 2:
            array = normal * np.sqrt(2 / np.prod(normal.shape[1:]))
        elif name.endswith("running_var"):
            array = 1 + 0.1 * np.abs(normal)
        elif name.endswith("weight"):
            array = 1 + 0.1 * normal
        else:  # running_mean, bias
            array = 0.1 * normal
        weights[name] = array.astype(np.float32)
    return weights


def test_the_unet_has_the_published_parameters(unet):
    ((size,), *_) = cases(unet.arrays, "(.+)/latents")
    initial = jax.eval_shape(
        partial(unet.model.init, train=True), jax.random.key(0), unet.arrays[f"{size}/latents"]
    )
    assert jax.tree.map(np.shape, initial) == jax.tree.map(np.shape, unet.variables)
    count = sum(leaf.size for leaf in jax.tree.leaves(initial["params"]))
    assert count == unet.arrays["parameter_count"]


def test_the_unet_gives_the_published_logits(unet):
    @jax.jit
    def run(variables, latents):
        evaluated = unet.model.apply(variables, latents, train=False)
        trained, _ = unet.model.apply(variables, latents, train=True, mutable=["batch_stats"])
        return evaluated, trained

    for (size,) in cases(unet.arrays, "(.+)/latents"):
        latents = unet.arrays[f"{size}/latents"]
        evaluated, trained = run(unet.variables, latents)
        batch, height, width = latents.shape[:3]
        few = batch * (height // 16) * (width // 16) <= FEW_SAMPLES
        tolerance = TOLERANCE_FEW_SAMPLES if few else TOLERANCE
        assert_close(evaluated, unet.arrays[f"{size}/eval_logits"], name=f"{size} eval")
        assert_close(
            trained, unet.arrays[f"{size}/train_logits"], name=f"{size} train", tolerance=tolerance
        )


# --------------------------------------------------------------------------------------------------
# Metrics
# --------------------------------------------------------------------------------------------------


def test_segmentation_metrics_match():
    arrays = load("metrics.npz")
    for (case,) in cases(arrays, "(.+)/pred"):
        group = with_prefix(arrays, f"{case}/")
        true, predicted = group.pop("true"), group.pop("pred")
        confusion = metrics.confusion_matrix(
            true, predicted, num_classes=int(max(true.max(), predicted.max())) + 1
        )
        check_measures(metrics.segmentation_measures(confusion), group, name=case)


def test_classification_metrics_match():
    arrays = load("metrics.npz")
    for (case,) in cases(arrays, "(.+)/score"):
        group = with_prefix(arrays, f"{case}/")
        scores, true = group.pop("score"), group.pop("true")
        measures = metrics.classification_measures(scores, true, called=scores > 0.5)
        check_measures(measures, group, name=case)


def check_measures(measures, expected, *, name):
    assert expected
    for key, value in expected.items():
        np.testing.assert_allclose(measures[key], value, rtol=TOLERANCE, err_msg=f"{name} {key}")
