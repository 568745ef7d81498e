"""The CPU convolution against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from jax import lax

from thermo_jax.models import convolution
from thermo_jax.models.convolution import choose_convolution, convolve_on_cpu, replicate_edges

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

CASES = [
    ((1, 1), "VALID"),
    ((3, 3), "SAME"),
    ((5, 5), "VALID"),
    ((5, 5), ((2, 1), (0, 3))),
    ((3, 1), "SAME"),
]


def output_and_gradients(convolve, padding, *arrays):
    """`convolve(x, kernel)` and its gradients by both."""

    def run(x, kernel, cotangent):
        y, pull_back = jax.vjp(lambda x, k: convolve(x, k, (1, 1), padding), x, kernel)
        return y, *pull_back(cotangent)

    return jax.jit(run)(*arrays)


def native(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("channels", [2, 9])  # fewer and more than are cut off again
@pytest.mark.parametrize(("size", "padding"), CASES)
def test_output_and_both_gradients_equal_xlas_in_float64(size, padding, channels, monkeypatch):
    monkeypatch.setattr(convolution, "_STRIP_PIXELS", 21)  # three of nine lines
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((3, 9, 7, channels)))
        kernel = jnp.asarray(rng.standard_normal((*size, channels, 4)))
        shape = jax.eval_shape(lambda x, k: native(x, k, (1, 1), padding), x, kernel).shape
        cotangent = jnp.asarray(rng.standard_normal(shape))
        expected = output_and_gradients(native, padding, x, kernel, cotangent)
        actual = output_and_gradients(convolve_on_cpu, padding, x, kernel, cotangent)
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv", [None, convolve_on_cpu])
@pytest.mark.parametrize(("height", "width", "size"), [(9, 7, 5), (1, 3, 5), (4, 6, 3)])
def test_replicated_edges_equal_a_padded_array_in_float64(height, width, size, conv):
    margin = size // 2

    def by_padding(x, kernel, strides, padding):
        return native(jnp.pad(x, ((0, 0), *padding, (0, 0)), mode="edge"), kernel, strides, "VALID")

    def ours(x, kernel, strides, padding):
        names = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        return replicate_edges(conv)(x, kernel, strides, padding, dimension_numbers=names)

    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel, cotangent = (
            jnp.asarray(rng.standard_normal(shape))
            for shape in ((2, height, width, 3), (size, size, 3, 4), (2, height, width, 4))
        )
        padding = ((margin, margin), (margin, margin))
        expected = output_and_gradients(by_padding, padding, x, kernel, cotangent)
        actual = output_and_gradients(ours, padding, x, kernel, cotangent)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_replicated_edges_refuse_a_padding_that_changes_the_size():
    x, kernel = jnp.ones((1, 9, 9, 2)), jnp.ones((5, 5, 2, 2))
    with pytest.raises(ValueError, match="does not keep the size under a kernel"):
        replicate_edges(convolve_on_cpu)(x, kernel, (1, 1), ((1, 1), (1, 1)))


@pytest.mark.parametrize("channels", [3, 128])
def test_few_and_many_channels_equal_xlas_in_float32(channels):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 6, 7, channels)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, channels, channels)), jnp.float32)
    cotangent = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    expected = output_and_gradients(native, "SAME", x, kernel, cotangent)
    actual = output_and_gradients(convolve_on_cpu, "SAME", x, kernel, cotangent)
    for ours, theirs in zip(actual, expected, strict=True):
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < 1e-5


def test_the_kernels_gradient_of_many_pixels_is_not_rounded_away_in_bfloat16(monkeypatch):
    monkeypatch.setattr(convolution, "_STRIP_PIXELS", 16)
    x, cotangent = jnp.ones((8, 64, 16, 1), jnp.bfloat16), jnp.ones((8, 64, 16, 2), jnp.bfloat16)
    kernel = jnp.zeros((1, 1, 1, 2), jnp.bfloat16)
    gradient = output_and_gradients(convolve_on_cpu, "SAME", x, kernel, cotangent)[2]
    np.testing.assert_array_equal(gradient, 8 * 64 * 16)  # 512 strips of 16


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (2, 2)},
        {"window_strides": (1, 2)},
        {"lhs_dilation": (2, 1)},
        {"rhs_dilation": (1, 2)},
        {"feature_group_count": 2},
    ],
)
def test_strides_dilation_and_groups_are_refused(options):
    arguments = {"window_strides": (1, 1), "padding": "SAME", **options}
    with pytest.raises(ValueError, match="stride 1, no dilation and one group only"):
        convolve_on_cpu(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 2)), **arguments)


@pytest.mark.parametrize(
    ("name", "platform", "expected"),
    [
        ("auto", "cpu", convolve_on_cpu),
        ("auto", "gpu", None),
        ("auto", "tpu", None),
        ("native", "cpu", None),
        ("cpu", "gpu", convolve_on_cpu),
    ],
)
def test_auto_is_the_cpu_form_on_the_cpu_only(name, platform, expected):
    assert choose_convolution(name, platform=platform) is expected


def test_an_unknown_convolution_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="config.model.conv='fft'.*auto, native, cpu"):
        choose_convolution("fft", platform="cpu")
