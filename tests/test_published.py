"""Names and layouts of the published weights, as Flax variables."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from conftest import golden_file

from thermo_jax.models import cuts, decoders, unet
from thermo_jax.models.published import from_published, to_published

RNG = np.random.default_rng(0)


def leaves(weights):
    """Return the variables as {"params/encoder/...": array}."""
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
def test_a_published_name_becomes_the_path_of_a_variable(published, shape, expected):
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


def test_a_decoders_prefix_is_its_u_net():
    weights = {
        "up2.conv.double_conv.0.weight": RNG.standard_normal((3, 2, 3, 3)),
        "outc.conv.bias": RNG.standard_normal(8),
    }
    plain = leaves(weights)
    prefixed = leaves({f"unet.{name}": array for name, array in weights.items()})
    assert len(plain) == len(prefixed) == 2
    for name, array in plain.items():
        np.testing.assert_array_equal(array, prefixed[name.replace("params", "params/unet")])


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


# --------------------------------------------------------------------------------------------------
# To published weights and back
# --------------------------------------------------------------------------------------------------


def random_variables(model, *shape):
    """Return random variables in the shapes of a model."""
    inputs = jax.ShapeDtypeStruct(shape, np.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), inputs)
    return jax.tree.map(lambda leaf: RNG.standard_normal(leaf.shape), shapes)


DECODERS = {
    "classifier": (decoders.Classifier(width=2), (1, 1, 16, 16, 4)),
    "segmenter": (decoders.Segmenter(width=2), (1, 1, 16, 16, 4)),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_converted_and_back(name):
    model, shape = DECODERS[name]
    variables = random_variables(model, *shape)
    weights = to_published(variables)
    assert weights["unet.up1.conv.double_conv.3.weight"].shape[2:] == (3, 3)
    jax.tree.map(np.testing.assert_array_equal, from_published(weights), variables)
    if name == "classifier":
        assert weights["project.weight"].shape == (1, 256)
        assert weights["project.bias"].shape == (1,)


def test_an_encoder_is_converted_and_back_with_the_published_names():
    variables = {
        "params": {
            "encoder": random_variables(cuts.CutsEncoder(3, num_kernels=2), 1, 8, 8, 3)["params"],
            "reconstruction": {"linear": {"kernel": RNG.random((16, 75)), "bias": RNG.random(75)}},
        },
        "batch_stats": {
            "encoder": random_variables(cuts.CutsEncoder(3, num_kernels=2), 1, 8, 8, 3)[
                "batch_stats"
            ]
        },
    }
    weights = to_published(variables)
    jax.tree.map(np.testing.assert_array_equal, from_published(weights), variables)
    arrays = np.load(golden_file("encoder_c3.npz"))
    published = {name.removeprefix("init/") for name in arrays if name.startswith("init/")}
    assert {name for name in weights if "num_batches" not in name} == {
        name for name in published if "num_batches" not in name
    }


def test_a_u_net_has_the_published_names_and_shapes():
    arrays = np.load(golden_file("unet_8.npz"))
    variables = random_variables(unet.UNet(8), 1, 16, 16, 128)
    shapes = {name: weight.shape for name, weight in to_published(variables).items()}
    for name, shape in zip(arrays["names"].tolist(), arrays["shapes"].tolist(), strict=True):
        assert shapes[name] == tuple(json.loads(shape))


def test_a_pooled_classifier_has_no_published_form():
    variables = random_variables(decoders.Classifier(head="pooled", width=2), 1, 1, 16, 16, 4)
    with pytest.raises(ValueError, match="a pooled classifier has no published form"):
        to_published(variables)


def test_a_variable_that_no_published_model_has_is_refused():
    with pytest.raises(ValueError, match="other/kernel is no variable of the published models"):
        to_published({"params": {"other": {"kernel": np.zeros((2, 2))}}})
