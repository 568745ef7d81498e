"""The CPU's convolution, and three with replicated edges, compared with XLA's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax.models import cpu_convolution
from thermo_jax.models.convolution import convolve, convolve_padded, same_padding
from thermo_jax.models.cpu_convolution import convolve_on_cpu
from thermo_jax.models.operations import CPU, GPU, NATIVE, choose_operations

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

NOTHING = (0, 0), (0, 0)
CASES = [
    ((1, 1), NOTHING),
    ((3, 3), ((1, 1), (1, 1))),
    ((5, 5), NOTHING),
    ((5, 5), ((2, 1), (0, 3))),
    ((3, 1), ((1, 1), (0, 0))),
]


def output_and_gradients(function, *arrays):
    """Returns `function(x, kernel)` and its gradients with respect to both."""

    def run(x, kernel, cotangent):
        y, pull_back = jax.vjp(function, x, kernel)
        return y, *pull_back(cotangent)

    return jax.jit(run)(*arrays)


def both(padding, *arrays):
    """Returns output and gradients of the CPU's convolution and of XLA's."""
    return [
        output_and_gradients(partial(function, padding=padding), *arrays)
        for function in (convolve_on_cpu, convolve)
    ]


@pytest.mark.parametrize("channels", [2, 9])  # fewer and more than _FEW_CHANNELS
@pytest.mark.parametrize(("size", "padding"), CASES)
def test_output_and_both_gradients_equal_xlas_in_float64(size, padding, channels, monkeypatch):
    monkeypatch.setattr(cpu_convolution, "_STRIP_PIXELS", 21)  # a strip is three of the nine lines
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((3, 9, 7, channels)))
        kernel = jnp.asarray(rng.standard_normal((*size, channels, 4)))
        shape = jax.eval_shape(lambda x, k: convolve(x, k, padding), x, kernel).shape
        cotangent = jnp.asarray(rng.standard_normal(shape))
        actual, expected = both(padding, x, kernel, cotangent)
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operations", [NATIVE, CPU, GPU], ids=["native", "cpu", "gpu"])
@pytest.mark.parametrize(("height", "width", "size"), [(9, 7, 5), (1, 3, 5), (4, 6, 3)])
def test_replicated_edges_equal_a_padded_array_in_float64(height, width, size, operations):
    margin = size // 2

    def by_padding(x, kernel):
        padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        return convolve(padded, kernel, NOTHING)

    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        arrays = [
            jnp.asarray(rng.standard_normal(shape))
            for shape in ((2, height, width, 3), (size, size, 3, 4), (2, height, width, 4))
        ]
        expected = output_and_gradients(by_padding, *arrays)
        actual = output_and_gradients(operations.convolve_edges, *arrays)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_replicated_edges_refuse_an_even_kernel():
    x, kernel = jnp.ones((1, 9, 9, 2)), jnp.ones((4, 4, 2, 2))
    with pytest.raises(ValueError, match="for odd, square kernels only"):
        convolve_padded(x, kernel)


@pytest.mark.parametrize("channels", [3, 128])
def test_few_and_many_channels_equal_xlas_in_float32(channels):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 6, 7, channels)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, channels, channels)), jnp.float32)
    cotangent = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    actual, expected = both(same_padding(kernel), x, kernel, cotangent)
    for ours, theirs in zip(actual, expected, strict=True):
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < 1e-5


def test_the_kernels_gradient_of_many_pixels_is_not_rounded_away_in_bfloat16(monkeypatch):
    monkeypatch.setattr(cpu_convolution, "_STRIP_PIXELS", 16)
    x, cotangent = jnp.ones((8, 64, 16, 1), jnp.bfloat16), jnp.ones((8, 64, 16, 2), jnp.bfloat16)
    kernel = jnp.zeros((1, 1, 1, 2), jnp.bfloat16)
    (_, _, gradient), _ = both(NOTHING, x, kernel, cotangent)
    np.testing.assert_array_equal(gradient, 8 * 64 * 16)  # 512 strips of 16


@pytest.mark.parametrize(
    ("name", "platform", "expected"),
    [
        ("auto", "cpu", CPU),
        ("auto", "gpu", GPU),
        ("auto", "tpu", NATIVE),
        ("native", "cpu", NATIVE),
        ("cpu", "gpu", CPU),
        ("gpu", "cpu", GPU),
    ],
)
def test_operations_are_chosen_by_name_or_platform(name, platform, expected):
    assert choose_operations(name, platform=platform) is expected
