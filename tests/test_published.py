"""Names and layouts of the published weights, as Flax variables."""

import jax
import numpy as np
import pytest

from thermo_jax.models.published import from_published

RNG = np.random.default_rng(0)


def leaves(weights):
    """{"params/encoder/...": array}"""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(from_published(weights))
    }


@pytest.mark.parametrize(
    ("published", "shape", "expected"),
    [
        ("conv2.weight", (3, 2, 5, 5), "params/encoder/conv2/kernel"),
        ("conv2.bias", (3,), "params/encoder/conv2/bias"),
        ("batch_norm4.weight", (3,), "params/encoder/batch_norm4/scale"),
        ("batch_norm4.bias", (3,), "params/encoder/batch_norm4/bias"),
        ("batch_norm4.running_mean", (3,), "batch_stats/encoder/batch_norm4/mean"),
        ("batch_norm4.running_var", (3,), "batch_stats/encoder/batch_norm4/var"),
        ("recon.recon.weight", (4, 3), "params/reconstruction/linear/kernel"),
        ("recon.recon.bias", (4,), "params/reconstruction/linear/bias"),
        ("inc.double_conv.0.weight", (3, 2, 3, 3), "params/in/conv1/kernel"),
        ("inc.double_conv.1.weight", (3,), "params/in/batch_norm1/scale"),
        (
            "down3.maxpool_conv.1.double_conv.3.weight",
            (3, 2, 3, 3),
            "params/down3/conv2/kernel",
        ),
        (
            "down3.maxpool_conv.1.double_conv.4.running_var",
            (3,),
            "batch_stats/down3/batch_norm2/var",
        ),
        ("up1.conv.double_conv.4.bias", (3,), "params/up1/batch_norm2/bias"),
        ("outc.conv.weight", (8, 3, 1, 1), "params/out/kernel"),
        ("outc.conv.bias", (8,), "params/out/bias"),
    ],
)
def test_a_published_name_finds_its_place(published, shape, expected):
    assert list(leaves({published: np.zeros(shape)})) == [expected]


def test_convolutions_become_height_width_in_out():
    weight = RNG.standard_normal((3, 2, 5, 4))  # OIHW
    ((_, kernel),) = leaves({"conv1.weight": weight}).items()
    assert kernel.shape == (5, 4, 2, 3)
    assert kernel[4, 1, 0, 2] == weight[2, 0, 4, 1]


def test_linear_layers_become_in_out():
    weight = RNG.standard_normal((4, 3))
    ((_, kernel),) = leaves({"recon.recon.weight": weight}).items()
    np.testing.assert_array_equal(kernel, weight.T)


def test_a_decoders_prefix_makes_no_difference():
    weights = {
        "up2.conv.double_conv.0.weight": RNG.standard_normal((3, 2, 3, 3)),
        "outc.conv.bias": RNG.standard_normal(8),
    }
    plain = leaves(weights)
    prefixed = leaves({f"unet.{name}": array for name, array in weights.items()})
    assert plain.keys() == prefixed.keys() and len(plain) == 2
    for name, array in plain.items():
        np.testing.assert_array_equal(array, prefixed[name])


@pytest.mark.parametrize(
    "name",
    ["batch_norm1.num_batches_tracked", "unet.inc.double_conv.1.num_batches_tracked"],
)
def test_counts_of_batches_are_ignored(name):
    assert leaves({name: np.array(7), "conv1.bias": np.zeros(2)}).keys() == {
        "params/encoder/conv1/bias"
    }


@pytest.mark.parametrize(
    "name",
    ["fc.weight", "conv1.gamma", "encoder.conv1.weight", "inc.double_conv.2.weight", "conv1"],
)
def test_a_name_that_no_published_model_has_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is no weight of the published"):
        from_published({name: np.zeros(3)})
