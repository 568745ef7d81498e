"""The encoder and its patch reconstruction: sizes, edges, statistics, initial values, types."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax.models.cuts import Cuts, CutsEncoder, PatchReconstruction, scale_images
from thermo_jax.models.operations import GPU, NATIVE

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

POSITIONS = jnp.full((1, 1, 2), 2, jnp.int32)
KEY = jax.random.key(0, impl="rbg")  # compiles faster than the default
NARROW = CutsEncoder(channels=3, num_kernels=2)


@partial(jax.jit, static_argnames="train")
def apply_narrow(variables, images, train=False):
    return NARROW.apply(variables, images, train=train, mutable=["batch_stats"])


@pytest.fixture(scope="module")
def narrow():
    """Variables of an encoder with 2 kernels, whose statistics differ from the initial 0 and 1."""
    variables = jax.jit(partial(NARROW.init, train=False))(KEY, jnp.zeros((1, 24, 27, 1)))
    statistics = {
        "mean": lambda x: x + 0.01,
        "var": lambda x: x * 0.05,
    }
    batch_stats = jax.tree.map_with_path(
        lambda path, x: statistics[path[-1].key](x), variables["batch_stats"]
    )
    return {"params": variables["params"], "batch_stats": batch_stats}


@pytest.fixture(scope="module", params=[1, 3])
def initial(request):
    """Initial variables of the model for pretraining, for gray images and for heatmaps."""
    init = jax.jit(partial(Cuts(channels=request.param).init, train=False))
    return init(KEY, jnp.zeros((1, 6, 6, request.param)), POSITIONS, POSITIONS)


def test_8_bit_images_are_scaled_to_plus_minus_one():
    scaled = scale_images(jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 3, 1))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(np.ravel(scaled), [-1, -0.6, 1], atol=1e-7)


@pytest.mark.parametrize("size", [(1, 1), (7, 12), (33, 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_latents_have_the_images_size_and_128_channels(size, channels):
    latents, _ = jax.eval_shape(
        partial(CutsEncoder(channels=3).init_with_output, train=True),
        KEY,
        jnp.zeros((2, *size, channels)),
    )
    assert latents.shape == (2, *size, 128)


def encode_in_numpy(variables, image):
    """SPEC section 2 for one image [H,W,C], in inference mode."""
    x = np.asarray(image, np.float64)
    layers, statistics = variables["params"], variables["batch_stats"]
    for block in range(1, 5):
        conv, norm = layers[f"conv{block}"], layers[f"batch_norm{block}"]
        running = statistics[f"batch_norm{block}"]
        padded = np.pad(x, ((2, 2), (2, 2), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1))
        x = np.einsum("hwcij,ijcd->hwd", windows, conv["kernel"]) + conv["bias"]
        x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
        x = np.where(x > 0, x, 0.01 * x)
    return x


def test_the_encoder_is_four_edge_padded_blocks(narrow):
    images = np.random.default_rng(0).uniform(-1, 1, (1, 24, 27, 1)).astype(np.float32)
    latents, _ = apply_narrow(narrow, jnp.asarray(images))
    np.testing.assert_allclose(latents[0], encode_in_numpy(narrow, images[0]), rtol=1e-3, atol=1e-5)


def test_edges_are_replicated_so_a_constant_image_has_one_latent_everywhere(narrow):
    with jax.enable_x64(True):  # sums at the edges have another order, and so another rounding
        narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), narrow)
        latents, _ = apply_narrow(narrow, jnp.full((1, 24, 27, 1), 0.7, jnp.float64))
    expected = np.broadcast_to(latents[:, 9:10, 9:10], latents.shape)
    np.testing.assert_allclose(latents, expected, rtol=1e-9)
    assert np.ptp(np.asarray(latents[0, 9, 9])) > 0.01


def test_a_pixel_reaches_latents_up_to_eight_pixels_away(narrow):
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 24, 27, 1)), jnp.float32)
    before, _ = apply_narrow(narrow, images)
    after, _ = apply_narrow(narrow, images.at[0, 10, 13].add(5.0))
    rows, columns = np.nonzero(np.any(before[0] != after[0], axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 18, 5, 21)


def test_inference_leaves_the_statistics_alone_and_training_moves_them_all(narrow):
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 24, 27, 1)), jnp.float32)
    for train in (False, True):
        _, updates = apply_narrow(narrow, images, train=train)
        same = jax.tree.map(
            lambda a, b: bool((a == b).all()), updates["batch_stats"], narrow["batch_stats"]
        )
        assert set(jax.tree.leaves(same)) == {not train}


def test_the_numbers_of_parameters_are_the_published_ones(initial):
    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    params = initial["params"]
    encoder, reconstruction = {
        1: (269_920, 3_225),
        3: (270_720, 9_675),
    }[params["encoder"]["conv1"]["kernel"].shape[2]]
    assert count(params["encoder"]) == encoder
    assert count(params["reconstruction"]) == reconstruction


def test_initial_weights_and_biases_fill_plus_minus_one_over_root_fan_in(initial):
    params = initial["params"]
    layers = {name: layer for name, layer in params["encoder"].items() if "conv" in name}
    layers |= params["reconstruction"]
    assert len(layers) == 5
    for layer in layers.values():
        bound = 1 / np.sqrt(np.prod(layer["kernel"].shape[:-1]))
        for values in layer.values():
            assert 0.5 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
            assert values.min() < 0 < values.max()
        kernel = np.asarray(layer["kernel"])
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.1)  # uniform
        np.testing.assert_allclose(kernel.mean(), 0, atol=0.15 * bound)


def test_batch_norm_starts_at_scale_one_and_bias_zero(initial):
    for number in range(1, 5):
        layer = initial["params"]["encoder"][f"batch_norm{number}"]
        np.testing.assert_array_equal(layer["scale"], 1)
        np.testing.assert_array_equal(layer["bias"], 0)
        statistics = initial["batch_stats"]["encoder"][f"batch_norm{number}"]
        np.testing.assert_array_equal(statistics["mean"], 0)
        np.testing.assert_array_equal(statistics["var"], 1)


def test_reconstruction_rows_are_ordered_channel_row_column():
    model = PatchReconstruction(channels=3)
    linear = {"kernel": jnp.zeros((4, 75)), "bias": jnp.arange(75.0)}
    patch = model.apply({"params": {"linear": linear}}, jnp.zeros((2, 4)))
    assert patch.shape == (2, 5, 5, 3)
    expected = [[[25 * c + 5 * row + column for c in range(3)] for column in range(5)]
                for row in range(5)]  # fmt: skip
    np.testing.assert_array_equal(patch[1], expected)


@pytest.mark.parametrize("train", [False, True])
def test_the_model_returns_latents_and_patches_at_the_sampled_positions(train):
    model = Cuts(channels=1, num_kernels=2)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 9, 8, 1)), jnp.float32)
    anchors = jnp.array([[[2, 5], [6, 3]], [[4, 2], [2, 2]]])
    positives = jnp.array([[[3, 4], [5, 2]], [[4, 3], [6, 5]]])

    @jax.jit
    def run():
        variables = model.init(KEY, images, anchors, positives, train=False)
        apply = partial(model.apply, variables, images, mutable=["batch_stats"])
        sampled = apply(anchors, positives, train=train)
        whole = apply(method=lambda cuts, x: cuts.encoder(x, train=train))
        return variables, sampled, whole

    variables, (outputs, statistics), (latents, statistics_of_whole) = run()
    image = np.array([[0], [1]])
    for actual, hw in ((outputs.anchors, anchors), (outputs.positives, positives)):
        np.testing.assert_allclose(actual, latents[image, hw[..., 0], hw[..., 1]], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, statistics, statistics_of_whole)
    np.testing.assert_array_equal(outputs.patches[0, 1], images[0, 4:9, 1:6])
    linear = variables["params"]["reconstruction"]["linear"]
    rows = outputs.anchors[0] @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(outputs.reconstructed[0], rows.reshape(2, 5, 5, 1), atol=1e-6)


def test_with_bfloat16_parameters_and_the_inputs_of_losses_stay_float32():
    operations = dataclasses.replace(NATIVE, dtype=jnp.dtype("bfloat16"))
    model = Cuts(channels=1, num_kernels=2, operations=operations)
    outputs, variables = jax.eval_shape(
        partial(model.init_with_output, train=True),
        KEY,
        jnp.zeros((1, 9, 8, 1)),
        POSITIONS,
        POSITIONS,
    )
    assert {x.dtype for x in outputs} == {jnp.dtype("float32")}
    encode = partial(model.apply, method=lambda cuts, x: cuts.encoder(x, train=False))
    assert jax.eval_shape(encode, variables, jnp.zeros((1, 9, 8, 1))).dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_a_convolutions_bias_changes_the_running_mean_and_nothing_else(narrow):
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 24, 27, 1)), jnp.float32)
    latents, before = apply_narrow(narrow, images, train=True)
    conv2 = narrow["params"]["conv2"]
    params = narrow["params"] | {"conv2": conv2 | {"bias": conv2["bias"] + 0.5}}
    same, after = apply_narrow(narrow | {"params": params}, images, train=True)
    np.testing.assert_allclose(same, latents, atol=1e-4)
    moved = jax.tree.map(lambda a, b: a - b, after, before)["batch_stats"]
    np.testing.assert_allclose(moved["batch_norm2"]["mean"], 0.1 * 0.5, atol=1e-6)
    np.testing.assert_allclose(moved["batch_norm2"]["var"], 0, atol=1e-6)


@pytest.mark.parametrize("operations", [NATIVE, GPU], ids=["native", "gpu"])
def test_the_gradient_of_a_bias_before_batch_norm_is_rounding_or_zero_on_a_gpu(narrow, operations):
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 24, 27, 1)), jnp.float32)
    model = NARROW.clone(operations=operations)

    @jax.jit
    def mean_square(params):
        variables = narrow | {"params": params}
        latents, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.square(latents).mean()

    gradients = jax.grad(mean_square)(narrow["params"])
    for layer in ("conv1", "conv2", "conv3", "conv4"):
        bias, kernel = (np.abs(gradients[layer][name]).max() for name in ("bias", "kernel"))
        assert kernel > 0 and (bias == 0 if operations is GPU else bias < 1e-4 * kernel)
