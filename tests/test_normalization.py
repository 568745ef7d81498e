"""Batch norm: which statistics are used, which are kept, and over which batch."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermo_jax.models.layers import BatchNorm
from thermo_jax.models.operations import GPU, NATIVE
from thermo_jax.training.parallel import pmean

X = np.random.default_rng(0).normal(3, 2, (4, 3, 2, 5)).astype(np.float32)
VARIABLES = {
    "params": {"scale": np.linspace(0.5, 2, 5), "bias": np.linspace(-1, 1, 5)},
    "batch_stats": {"mean": np.linspace(0, 3, 5), "var": np.linspace(1, 4, 5)},
}
VARIABLES = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), VARIABLES)


def normalize(x, *, train, axis_name=None):
    model = BatchNorm(slope=1.0, operations=dataclasses.replace(NATIVE, axis_name=axis_name))
    return model.apply(VARIABLES, x, train=train, mutable=["batch_stats"])


def affine(x, mean, var):
    params = VARIABLES["params"]
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def test_training_normalises_by_the_biased_variance_of_the_batch():
    y, _ = normalize(jnp.asarray(X), train=True)
    expected = affine(X, X.mean((0, 1, 2)), X.var((0, 1, 2)))
    np.testing.assert_allclose(y, expected, atol=2e-6)


def test_running_statistics_decay_by_a_tenth_and_use_the_unbiased_variance():
    _, updates = normalize(jnp.asarray(X), train=True)
    old, new = VARIABLES["batch_stats"], updates["batch_stats"]
    mean, unbiased = X.mean((0, 1, 2)), X.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * unbiased, rtol=1e-6)


def test_the_variance_is_exact_although_the_mean_is_far_from_zero():
    far = X + np.float32(1000)
    variables = {
        **VARIABLES,
        "batch_stats": {"mean": jnp.asarray(far.mean((0, 1, 2)) + 1), "var": jnp.ones(5)},
    }
    _, updates = BatchNorm(slope=1.0).apply(
        variables, jnp.asarray(far), train=True, mutable=["batch_stats"]
    )
    variance = (updates["batch_stats"]["var"] - 0.9) / 0.1
    exact = far.astype(np.float64).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(variance, exact, rtol=1e-4)  # 1 % off without the shift


def test_selected_vectors_are_normalised_by_the_statistics_of_all():
    whole, updates = normalize(jnp.asarray(X), train=True)
    some, same = BatchNorm(slope=1.0).apply(
        VARIABLES, jnp.asarray(X), train=True, only=jnp.asarray(X[0, 1]), mutable=["batch_stats"]
    )
    np.testing.assert_array_equal(some, whole[0, 1])
    jax.tree.map(np.testing.assert_array_equal, updates, same)


def test_a_batch_of_one_sample_keeps_finite_statistics():
    _, updates = normalize(jnp.ones((1, 1, 1, 5)), train=True)
    np.testing.assert_allclose(updates["batch_stats"]["var"], VARIABLES["batch_stats"]["var"] * 0.9)


def test_inference_uses_the_running_statistics_and_keeps_them():
    y, updates = normalize(jnp.asarray(X), train=False)
    statistics = VARIABLES["batch_stats"]
    np.testing.assert_allclose(y, affine(X, statistics["mean"], statistics["var"]), atol=2e-6)
    for name, value in updates["batch_stats"].items():
        np.testing.assert_array_equal(value, statistics[name])


def test_devices_share_the_statistics_of_the_global_batch():
    if jax.device_count() < 2:
        pytest.skip("one device only")
    y, updates = normalize(jnp.asarray(X), train=True)
    over_devices = jax.pmap(
        lambda x: normalize(x, train=True, axis_name="data"),
        axis_name="data",
        devices=jax.devices()[:2],
    )
    y2, updates2 = over_devices(X.reshape(2, 2, *X.shape[1:]))
    np.testing.assert_allclose(np.reshape(y2, X.shape), y, atol=2e-6)
    for name, value in updates["batch_stats"].items():
        for device in range(2):
            np.testing.assert_allclose(updates2["batch_stats"][name][device], value, rtol=1e-6)


def test_initialising_runs_outside_the_data_axis_and_leaves_mean_0_and_variance_1():
    model = BatchNorm(slope=1.0, operations=dataclasses.replace(NATIVE, axis_name="data"))
    variables = model.init(jax.random.key(0), jnp.asarray(X), train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)


def test_bfloat16_is_normalised_with_float32_statistics():
    half = jnp.asarray(X + 100, jnp.bfloat16)
    y, updates = normalize(half, train=True)
    assert y.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
    exact = np.asarray(half, np.float32).mean((0, 1, 2))
    expected = 0.9 * VARIABLES["batch_stats"]["mean"] + 0.1 * exact
    np.testing.assert_allclose(updates["batch_stats"]["mean"], expected, rtol=1e-5)


def gradients(operations, slope, x, weights):
    """Return the output, the statistics and the gradients for one device's part of x."""
    operations = dataclasses.replace(operations, axis_name="data")
    model = BatchNorm(slope=slope, operations=operations)

    wide = jax.tree.map(lambda v: v.astype(x.dtype), VARIABLES)

    def loss(x, params):
        variables = wide | {"params": params}
        y, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return (y * weights).sum(), (y, updates)

    (_, (y, updates)), (d_x, d_params) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        x, wide["params"]
    )
    return {"y": y, "d_x": d_x}, pmean({"updates": updates, "d_params": d_params})


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_the_two_pass_gradient_equals_the_automatic_one_on_two_devices(slope):
    if jax.device_count() < 2:
        pytest.skip("one device only")
    weights = np.random.default_rng(1).standard_normal(X.shape)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a.reshape(2, 2, *X.shape[1:]), jnp.float64) for a in (X, weights)]
        expected, actual = (
            jax.pmap(partial(gradients, ops, slope), "data", devices=jax.devices()[:2])(*arrays)
            for ops in (NATIVE, GPU)
        )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12), actual, expected)


@pytest.mark.parametrize("slope", [0.0, 0.01])
@pytest.mark.parametrize("x", [X, np.full_like(X, 0.7)], ids=["random", "constant"])
def test_the_two_pass_gradient_in_bfloat16_is_near_the_automatic_one(x, slope):
    def step(operations):
        model = BatchNorm(slope=slope, operations=operations)

        def loss(x, params):
            variables = VARIABLES | {"params": params}
            y, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return y.astype(jnp.float32).sum()

        return jax.grad(loss, argnums=(0, 1))(jnp.asarray(x, jnp.bfloat16), VARIABLES["params"])

    for actual, expected in zip(*map(jax.tree.leaves, (step(GPU), step(NATIVE))), strict=True):
        actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
        np.testing.assert_allclose(actual, expected, atol=0.02 * max(np.abs(expected).max(), 1))
