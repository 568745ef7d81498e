"""Decoders on a frozen encoder, which does not change: all combinations train and predict.

A shallow U-Net replaces the real one, which has its own tests.
"""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_training as tiny

from thermo_jax.models import frozen
from thermo_jax.training import passes, train_decoder
from thermo_jax.training.optimizer import make_optimizer

ROWS = ("G/G", "G/H", "H/G", "H/H")
TYPES = {"G": "gray", "H": "heat"}
FULL_SHAPE = (2 * tiny.HEIGHT, 2 * tiny.WIDTH)

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


@pytest.fixture(scope="module", autouse=True)
def shallow():
    with tiny.shallow_decoders():
        yield


@functools.cache
def trainer_of(task: str, row: str = "H/H") -> tiny.Trainer:
    return tiny.decoder_trainer(task, row)


@functools.cache
def steps_of(task: str):
    """Wrapped steps of a task in the combination H/H, on two devices: (train, eval, predict)."""
    trainer, parallel = trainer_of(task), tiny.devices(2)
    models = dict(trainer.eval_step.keywords)
    predict = partial(train_decoder.predict_step, full_shape=FULL_SHAPE, **models)
    return tuple(parallel.wrap(step) for step in (trainer.train_step, trainer.eval_step, predict))


def table_of(task: str, count: int, row: str = "H/H", *, seed: int = 0) -> dict[str, np.ndarray]:
    columns = tiny.columns(count, data_type=TYPES[row[-1]], seed=seed)
    return {name: columns[name] for name in ("images", tiny.TARGETS[task])}


@functools.cache
def trained(task: str):
    """Return the state and the metrics after three steps."""
    parallel = tiny.devices(2)
    state, train_step = parallel.replicate(trainer_of(task).state), steps_of(task)[0]
    for start in (0, 8, 16):
        batch = tiny.batch_of(table_of(task, 24), start=start)
        state, metrics = train_step(state, parallel.put_batch(batch))
    return state, jax.device_get(metrics)


@functools.cache
def encoding(row: str):
    trainer = trainer_of("classify", row)
    encode = partial(
        frozen.encode,
        encoder=trainer.eval_step.keywords["encoder"],
        variables=trainer.state.frozen,
    )
    return jax.jit(encode)


def encode(images, row: str = "H/H") -> np.ndarray:
    return np.asarray(encoding(row)(images))


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_training_leaves_the_encoder_bit_identical(task):
    state, _ = trained(task)
    assert sorted(state.frozen) == ["batch_stats", "params"]
    tiny.assert_same_tree(jax.device_get(state.frozen), trainer_of(task).state.frozen)


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_training_moves_every_parameter_and_statistic_of_the_decoder(task):
    state, _ = trained(task)
    start = trainer_of(task).state
    assert int(state.step) == 3
    pairs = zip(
        jax.tree.leaves((state.params, state.batch_stats)),
        jax.tree.leaves((start.params, start.batch_stats)),
        strict=True,
    )
    assert all((np.asarray(new) != np.asarray(old)).any() for new, old in pairs)


def test_the_optimizer_has_entries_for_the_decoder_only():
    state = trainer_of("segment").state
    moments = state.opt_state[0]
    assert jax.tree.structure(moments.mu) == jax.tree.structure(state.params)
    assert jax.tree.structure(moments.nu) == jax.tree.structure(state.params)


def test_no_gradient_flows_into_the_encoder():
    keywords = trainer_of("classify").eval_step.keywords
    images = jnp.asarray(tiny.columns(2)["images"])

    def total(variables):
        return frozen.encode(images, encoder=keywords["encoder"], variables=variables).sum()

    gradient = jax.jit(jax.grad(total))(trainer_of("classify").state.frozen)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_the_encoder_runs_in_inference_mode_so_images_do_not_mix():
    images = tiny.columns(8)["images"]
    changed = images.copy()
    changed[1:] = 255 - changed[1:]
    np.testing.assert_array_equal(encode(images)[0], encode(changed)[0])
    assert (encode(images)[1] != encode(changed)[1]).any()


def test_a_gray_encoder_reads_a_heatmaps_channels_as_three_gray_images():
    images = tiny.columns(2)["images"]
    views = encode(images, "G/H")
    assert views.shape == (2, 3, tiny.HEIGHT, tiny.WIDTH, 16)
    for channel in range(3):
        alone = encode(images[..., channel : channel + 1], "G/G")[:, 0]
        np.testing.assert_allclose(views[:, channel], alone, atol=1e-5)


def test_a_heatmap_encoder_reads_gray_as_three_equal_channels():
    images = tiny.columns(2, data_type="gray")["images"]
    np.testing.assert_array_equal(
        encode(images, "H/G"), encode(np.repeat(images, 3, axis=-1), "H/H")
    )


def test_training_on_latents_computed_once_equals_encoding_in_every_step():
    parallel, train_step = tiny.devices(2), steps_of("segment")[0]
    state, metrics = parallel.replicate(trainer_of("segment").state), None
    for start in (0, 8, 16):
        batch = tiny.batch_of(table_of("segment", 24), start=start)
        batch["latents"] = encode(batch.pop("images"))
        state, metrics = train_step(state, parallel.put_batch(batch))
    expected, expected_metrics = trained("segment")
    assert float(metrics["loss"]) == pytest.approx(float(expected_metrics["loss"]), rel=1e-5)
    for actual, wanted in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, atol=1e-5)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("task", ["classify", "segment"])
def test_every_combination_trains_and_predicts(task, row):
    trainer, parallel = trainer_of(task, row), tiny.devices(2)
    models = dict(trainer.eval_step.keywords)
    assert models["encoder"].channels == tiny.CHANNELS[TYPES[row[0]]]

    def whole_step(state, batch):  # one program instead of three
        new, metrics = trainer.train_step(state, batch)
        sums = trainer.eval_step(new, batch)
        predictions = train_decoder.predict_step(new, batch, full_shape=FULL_SHAPE, **models)
        return new, metrics, sums, predictions

    batch = parallel.put_batch(tiny.batch_of(table_of(task, 8, row)))
    state = parallel.replicate(trainer.state)
    new, metrics, sums, predictions = jax.device_get(parallel.wrap(whole_step)(state, batch))
    assert sorted(metrics) == ["accuracy", "loss"]
    assert all(np.isfinite(value) for value in [*metrics.values(), *sums.values()])
    assert sums["count"] == 8 and new.step == 1
    formats = {name: (value.dtype.name, value.shape) for name, value in predictions.items()}
    image = (8, tiny.HEIGHT, tiny.WIDTH)
    assert (
        formats
        == {
            "classify": {"probabilities": ("float32", (8,)), "evidence": ("float32", image)},
            "segment": {
                "label_maps": ("uint8", image),
                "full_label_maps": ("uint8", (8, *FULL_SHAPE)),
            },
        }[task]
    )


def predict(task, table):
    state, parallel = trained(task)[0], tiny.devices(2)
    images = {"images": table["images"]}
    return passes.predict(
        state, steps_of(task)[2], images, batch_size=tiny.BATCH_SIZE, parallel=parallel
    )


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_predictions_follow_the_table_and_padding_is_dropped(task):
    table = table_of(task, 11)
    backward = {name: column[::-1] for name, column in table.items()}
    forward, reverse = predict(task, table), predict(task, backward)
    for name, values in forward.items():
        assert len(values) == 11
        np.testing.assert_allclose(values, reverse[name][::-1], atol=1e-6, err_msg=name)
        assert len(np.unique(values.reshape(11, -1), axis=0)) == 11


def test_evidence_adds_up_to_the_logit():
    predictions = predict("classify", table_of("classify", 11))
    logits = predictions["evidence"].sum((1, 2)) + np.asarray(
        trained("classify")[0].params["head_bias"]
    )
    np.testing.assert_allclose(predictions["probabilities"], 1 / (1 + np.exp(-logits)), rtol=1e-5)


def evaluate(task, batch):
    parallel = tiny.devices(2)
    return jax.device_get(steps_of(task)[1](trained(task)[0], parallel.put_batch(batch)))


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_evaluation_weights_examples_equally_and_leaves_out_padding(task):
    table = table_of(task, 11)
    means = passes.evaluate(
        trained(task)[0],
        steps_of(task)[1],
        table,
        batch_size=tiny.BATCH_SIZE,
        parallel=tiny.devices(2),
    )
    rolled = {name: np.roll(column, 3, axis=0)[:8] for name, column in table.items()}
    singles = [
        evaluate(task, tiny.batch_of(source) | {"mask": np.eye(8, dtype=np.float32)[row]})
        for source, rows in ((table, range(8)), (rolled, range(3)))  # rolled: rows 8, 9, 10
        for row in rows
    ]
    assert [single["count"] for single in singles] == [1] * 11
    for name, mean in means.items():
        assert mean == pytest.approx(np.mean([single[name] for single in singles]), rel=1e-5)
    assert len({float(single["loss"]) for single in singles}) == 11


def test_accuracy_is_the_share_of_right_answers():
    table = table_of("classify", 11)
    sick = predict("classify", table)["probabilities"] > 0.5
    means = passes.evaluate(
        trained("classify")[0],
        steps_of("classify")[1],
        table,
        batch_size=tiny.BATCH_SIZE,
        parallel=tiny.devices(2),
    )
    assert means["accuracy"] == pytest.approx((sick == (table["labels"] == 1)).mean())


def test_the_optimizer_is_adam_without_decay():
    tx = make_optimizer(5e-3)
    params = {"w": jnp.array([3.0])}
    updates, _ = tx.update({"w": jnp.array([0.0])}, tx.init(params), params)
    assert float(optax.apply_updates(params, updates)["w"][0]) == 3.0
    updates, _ = tx.update({"w": jnp.array([7.0])}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -5e-3, rtol=1e-5)
