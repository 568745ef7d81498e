"""Pretraining of the encoder: where patches come from, how losses add up, what is decayed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_training as tiny

from thermo_jax.training import passes, train_encoder
from thermo_jax.training.optimizer import make_optimizer

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

# Its state is the gradient, and it does not change the parameters.
GRADIENTS_ONLY = optax.chain(optax.trace(decay=0.0), optax.set_to_zero())
LAMBDA = 0.01  # the shipped weight of the contrastive loss


@functools.cache
def compiled(**loss):
    """(initial state, wrapped training step, wrapped evaluation step) for a config.loss."""
    trainer = tiny.encoder_trainer(tx=GRADIENTS_ONLY, **loss)
    parallel = tiny.devices(1)
    return (
        parallel.replicate(trainer.state),
        parallel.wrap(trainer.train_step),
        parallel.wrap(trainer.eval_step),
    )


@functools.cache
def heatmaps() -> dict[str, np.ndarray]:
    """Return a batch of heatmaps."""
    return tiny.batch_of({"images": tiny.columns(8)["images"]})


def train(state=None, batch=None, **loss):
    """Return the next state and the metrics of one step."""
    initial, step, _ = compiled(**loss)
    batch = tiny.devices(1).put_batch(heatmaps() if batch is None else batch)
    new, metrics = step(initial if state is None else state, batch)
    return new, {name: float(value) for name, value in metrics.items()}


def evaluate(state=None, batch=None):
    """Return the sums over a batch."""
    initial, _, step = compiled()
    batch = tiny.devices(1).put_batch(heatmaps() if batch is None else batch)
    sums = step(initial if state is None else state, batch)
    return {name: float(value) for name, value in sums.items()}


def gradients(**loss):
    return jax.device_get(train(**loss)[0].opt_state[0].trace)


def permuted(batch, order):
    return {name: column[order] for name, column in batch.items()}


def test_patches_differ_from_step_to_step():
    state, first = train()
    _, second = train(state)
    tiny.assert_same_tree(state.params, compiled()[0].params)
    assert first["reconstruction"] != second["reconstruction"]
    assert first["contrastive"] != second["contrastive"]


def test_patches_are_the_same_for_the_same_seed_step_and_slot():
    assert train()[1] == train()[1]


def test_patches_differ_between_seeds():
    other = compiled()[0].replace(rng=jax.random.key_data(jax.random.key(99)))
    assert train(other)[1]["reconstruction"] != train()[1]["reconstruction"]


def test_training_patches_depend_on_the_slot_not_on_the_place_on_the_device():
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    expected, together = train()[1], train(batch=permuted(heatmaps(), order))[1]
    np.testing.assert_allclose(together["reconstruction"], expected["reconstruction"], rtol=1e-5)
    moved = train(batch=heatmaps() | {"slot": heatmaps()["slot"][order]})[1]
    assert abs(moved["reconstruction"] / expected["reconstruction"] - 1) > 1e-4


def test_training_patches_do_not_depend_on_the_row_in_the_table():
    assert train(batch=heatmaps() | {"index": heatmaps()["index"] + 100})[1] == train()[1]


def test_validation_patches_are_the_same_at_every_step():
    later = compiled()[0].replace(step=jnp.int32(1000))
    assert evaluate(later) == evaluate()


def test_validation_patches_depend_on_the_row_of_the_table():
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    expected, together = evaluate(), evaluate(batch=permuted(heatmaps(), order))
    np.testing.assert_allclose(list(together.values()), list(expected.values()), rtol=1e-5)
    moved = evaluate(batch=heatmaps() | {"index": heatmaps()["index"][order]})
    assert abs(moved["reconstruction"] / expected["reconstruction"] - 1) > 1e-4
    assert evaluate(batch=heatmaps() | {"slot": heatmaps()["slot"][order]}) == expected


def test_validation_weights_examples_equally():
    singles = [
        evaluate(batch=heatmaps() | {"mask": np.eye(8, dtype=np.float32)[i]}) for i in range(8)
    ]
    together = evaluate()
    assert together["count"] == 8 and all(single["count"] == 1 for single in singles)
    for name in ("loss", "contrastive", "reconstruction"):
        total = sum(single[name] for single in singles)
        np.testing.assert_allclose(total, together[name], rtol=1e-5)


def test_validation_leaves_out_the_padding():
    table = {"images": tiny.columns(11)["images"]}
    parallel, (state, _, step) = tiny.devices(1), compiled()
    means = passes.evaluate(state, step, table, batch_size=tiny.BATCH_SIZE, parallel=parallel)
    first = evaluate(batch=tiny.batch_of(table))
    rest = {"images": np.roll(table["images"], 3, axis=0)[:8]}  # rows 8, 9, 10, 0, ...
    rest |= {"index": np.array([8, 9, 10, 0, 1, 2, 3, 4], np.int32)}
    rest |= {"mask": np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)}
    last = evaluate(batch=heatmaps() | rest)
    expected = {k: (first[k] + last[k]) / 11 for k in first if k != "count"}
    assert means == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    for values in (train()[1], evaluate()):
        expected = LAMBDA * values["contrastive"] + (1 - LAMBDA) * values["reconstruction"]
        assert values["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_ablations_train_on_one_term_each():
    no_recon, no_contrastive = train(contrastive_weight=1.0)[1], train(contrastive_weight=0.0)[1]
    assert no_recon["loss"] == no_recon["contrastive"]
    assert no_contrastive["loss"] == no_contrastive["reconstruction"]


def test_without_reconstruction_its_layer_gets_no_gradient():
    tree = gradients(contrastive_weight=1.0)
    assert all(not leaf.any() for leaf in jax.tree.leaves(tree["reconstruction"]))
    assert tree["encoder"]["conv4"]["kernel"].any()


def test_a_contrastive_loss_of_weight_0_adds_nothing_to_the_gradient():
    paper = gradients(contrastive_weight=0.0)
    tiny.assert_same_tree(gradients(contrastive_weight=0.0, form="nt_xent"), paper)
    assert all(leaf.any() for leaf in jax.tree.leaves(paper["reconstruction"]))


def test_the_gradient_is_the_weighted_sum_of_both_terms_gradients():
    contrastive = gradients(contrastive_weight=1.0)
    reconstruction = gradients(contrastive_weight=0.0)
    expected = jax.tree.map(lambda c, r: LAMBDA * c + (1 - LAMBDA) * r, contrastive, reconstruction)
    for actual, wanted in zip(jax.tree.leaves(gradients()), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-6)


def test_nt_xent_differs_from_the_papers_loss():
    paper, unweighted = (train(contrastive_weight=w)[1] for w in (1.0, 0.0))
    nt_xent = train(contrastive_weight=0.0, form="nt_xent")[1]
    assert paper["contrastive"] == pytest.approx(unweighted["contrastive"], rel=1e-5)
    assert np.isfinite(nt_xent["contrastive"])
    assert nt_xent["contrastive"] != pytest.approx(paper["contrastive"], rel=1e-2)


def test_all_parameters_are_decayed():
    tx = make_optimizer(0.1, weight_decay=0.5)
    params = jax.tree.map(jnp.ones_like, compiled()[0].params)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(optax.apply_updates(params, updates)):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, 1 - 0.1 * 0.5, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(("data_type", "channels"), [("gray", 1), ("heat", 3)])
def test_the_model_reads_the_channels_of_its_data_type(data_type, channels):
    model, tx = train_encoder.make_model(data_type=data_type), optax.sgd(0.1)
    state = jax.eval_shape(
        lambda rng: train_encoder.create_state(
            model, tx=tx, rng=rng, image_shape=(16, 24, channels)
        ),
        jax.random.key(0),
    )
    assert state.params["encoder"]["conv1"]["kernel"].shape == (5, 5, channels, 16)
    assert state.params["reconstruction"]["linear"]["kernel"].shape == (128, 25 * channels)


def test_bfloat16_is_for_convolutions_only():
    trainer, parallel = tiny.encoder_trainer(), tiny.devices(1)
    step = trainer.train_step
    model = step.keywords["model"]
    operations = dataclasses.replace(model.operations, dtype=jnp.dtype("bfloat16"))
    narrow = model.clone(operations=operations)
    wrapped = parallel.wrap(functools.partial(step.func, **step.keywords | {"model": narrow}))
    state, batch = parallel.replicate(trainer.state), parallel.put_batch(heatmaps())
    new, metrics = jax.eval_shape(wrapped, state, batch)
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    assert {value.dtype for value in metrics.values()} == {np.dtype("float32")}
