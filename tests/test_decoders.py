"""The decoders: averaged views, evidence, heads, soft labels."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax.models.decoders import Classifier, Segmenter, soft_labels

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

KEY = jax.random.key(0, impl="rbg")  # compiles faster than the default
LATENTS = np.random.default_rng(0).standard_normal((2, 3, 16, 17, 6)).astype(np.float32)


@pytest.fixture(scope="module", params=["segmenter", "linear", "pooled"])
def decoder(request):
    """(head, variables, outputs of a narrow decoder for three views together, and one by one)."""
    head = request.param
    model = Segmenter(width=2) if head == "segmenter" else Classifier(head=head, width=2)
    init = jax.jit(partial(model.init, train=False))
    variables = init(KEY, jnp.asarray(LATENTS))
    apply = jax.jit(partial(model.apply, train=False))
    together = apply(variables, LATENTS)
    one_by_one = apply(variables, LATENTS.reshape(6, 1, *LATENTS.shape[2:]))
    return head, variables, together, one_by_one


def test_the_logits_of_the_views_are_averaged(decoder):
    head, _, together, one_by_one = decoder
    if head != "segmenter":
        together, one_by_one = together[0], one_by_one[0]
    expected = one_by_one.reshape(2, 3, *one_by_one.shape[1:]).mean(1)
    np.testing.assert_allclose(together, expected, atol=1e-6)
    assert np.ptp(np.asarray(one_by_one)) > 1e-4


def test_segmentation_gives_logits_per_pixel_and_classification_a_logit_with_evidence(decoder):
    head, _, together, _ = decoder
    if head == "segmenter":
        assert together.shape == (2, 16, 17, 8)
    else:
        assert [x.shape for x in together] == [(2,), (2, 16, 17)]


@pytest.mark.parametrize("decoder", ["linear", "pooled"], indirect=True)
def test_evidence_adds_up_to_the_logit_less_its_bias(decoder):
    _, variables, (logits, evidence), _ = decoder
    bias = variables["params"]["head_bias"]
    sums = np.asarray(evidence, np.float64).sum((1, 2))
    np.testing.assert_allclose(sums, logits - bias, rtol=1e-5, atol=1e-7)
    assert np.ptp(np.asarray(evidence[0])) > 0


def test_the_linear_head_weighs_each_pixel_row_by_row():
    model = Classifier(width=2)
    latents = jnp.asarray(LATENTS[:, :1])
    variables = jax.jit(partial(model.init, train=False))(KEY, latents)
    params = dict(variables["params"])
    apply = jax.jit(partial(model.apply, train=False))

    def logits(weight, bias):
        params.update(head_weight=jnp.asarray(weight), head_bias=jnp.asarray(bias))
        return apply({**variables, "params": params}, latents)

    _, channel = logits(np.ones((272, 1), np.float32), np.float32(0))  # the evidence u * 1
    one_pixel = np.zeros((272, 1), np.float32)
    one_pixel[3 * 17 + 5] = 2
    values, _ = logits(one_pixel, np.float32(0.25))
    np.testing.assert_allclose(values, 2 * channel[:, 3, 5] + 0.25, rtol=1e-5)


def sizes_of_head(model, *size):
    latents = jnp.zeros((1, 1, *size, 128))
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), latents)
    return variables["params"]["head_weight"].shape, sum(
        leaf.size for leaf in jax.tree.leaves(variables["params"])
    )


def test_the_linear_head_is_the_published_one_with_a_weight_per_pixel():
    assert sizes_of_head(Classifier(), 120, 160) == ((19200, 1), 17_334_977 + 19200 + 1)


def test_the_pooled_head_has_the_same_parameters_at_every_size():
    expected = ((), 17_334_977 + 2)
    assert sizes_of_head(Classifier(head="pooled"), 120, 160) == expected
    assert sizes_of_head(Classifier(head="pooled"), 31, 50) == expected


def test_soft_labels_are_the_block_means_of_the_one_hot_map():
    label_map = np.random.default_rng(0).integers(0, 8, (480, 640)).astype(np.uint8)
    expected = np.eye(8)[label_map].reshape(120, 4, 160, 4, 8).mean((1, 3))
    actual = soft_labels(jnp.asarray(label_map)[None], height=120, num_classes=8)
    assert actual.dtype == jnp.float32
    np.testing.assert_array_equal(actual[0], expected)


def test_soft_labels_at_full_size_are_the_one_hot_map():
    label_map = np.random.default_rng(0).integers(0, 8, (2, 6, 8)).astype(np.uint8)
    actual = soft_labels(jnp.asarray(label_map), height=6, num_classes=8)
    np.testing.assert_array_equal(actual, np.eye(8)[label_map])


@pytest.mark.parametrize("decoder", [Segmenter(width=2), Classifier(width=2)])
def test_logits_are_float32_where_layers_compute_in_bfloat16(decoder):
    # In bfloat16, many classes would tie, and ties go to the class with the lowest number.
    decoder = decoder.clone(
        operations=dataclasses.replace(decoder.operations, dtype=jnp.dtype("bfloat16"))
    )
    latents = jnp.zeros((1, 1, 16, 16, 4), jnp.bfloat16)
    init = functools.partial(decoder.init_with_output, train=False)
    outputs, variables = jax.eval_shape(init, jax.random.key(0), latents)
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {np.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
