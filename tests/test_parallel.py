"""Results do not depend on the number of devices or the wrapper (SPEC section 7).

They do not depend on the operations that are chosen for a platform either.

Adam amplifies float32 rounding, so trained states are compared in float64. In float32 only the
first step's loss, gradients and statistics are compared, with images of 32x48 for the segmenter: at
16x24 its U-Net's deepest statistics are of 8 values, and a permutation of the batch on one device
changes the gradients by up to 8e-6 of the largest (JAX 0.10, 0.12), ten times as much as at 32x48.
"""

import functools

import jax
import numpy as np
import optax
import pytest
import tiny_training as tiny
from augmented_trainers import augmented
from ml_collections import ConfigDict

from thermo_jax.models.operations import GPU, NATIVE
from thermo_jax.programs import settings
from thermo_jax.training.parallel import gather, masked_sums

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


TRAINERS = {
    "pretrain": tiny.encoder_trainer,
    "classify": lambda **options: tiny.decoder_trainer("classify", **options),
    "segment": lambda **options: tiny.decoder_trainer("segment", **options),
    "augmented": lambda **options: augmented(tiny.decoder_trainer("segment", **options)),
}
SIZES = {"pretrain": (8, 12), "classify": (16, 24), "segment": (16, 24)}
SIZES["augmented"] = SIZES["segment"]
SLOW = [("pmap2", "pretrain"), ("pmap2", "segment"), ("smap8", "segment"), ("gpu2", "segment")]
SLOW += [("pmap2", "augmented"), ("pmap8", "augmented"), ("smap8", "augmented")]
SHALLOW = ("classify", "augmented")  # tracing a whole U-Net takes seconds; the segmenter has one
# Where one model's case is slow, the other models cover its number of devices and its wrapper.
CASES = [
    pytest.param(way, name, marks=pytest.mark.slow if (way, name) in SLOW else ())
    for way in ("pmap2", "pmap8", "smap8")
    for name in TRAINERS
]
# The operations that are chosen for GPUs, on two devices.
ON_GPUS = [
    pytest.param("gpu2", name, marks=pytest.mark.slow if ("gpu2", name) in SLOW else ())
    for name in ("pretrain", "segment")
]
WAYS = {"pmap1": (1, "pmap"), "pmap2": (2, "pmap"), "pmap8": (8, "pmap"), "smap8": (8, "shard_map")}
WAYS["gpu2"] = WAYS["pmap2"]
GRADIENTS = optax.sgd(1.0, momentum=0.0)  # its state is the gradient


@functools.cache
def make_trainer(name: str, **options) -> tiny.Trainer:
    with tiny.shallow_decoders(name in SHALLOW):
        return TRAINERS[name](**options)


def train(name: str, way: str, *, steps: int, size: tuple[int, int] | None = None, **options):
    """Train for a few steps; return the final state and the metrics of every step."""
    count, mode = WAYS[way]
    trainer, parallel = make_trainer(name, **options), tiny.devices(count, mode=mode)
    step = parallel.wrap(trainer.train_step, donate_state=True)
    state, history = parallel.replicate(trainer.state), []
    height, width = size or SIZES[name]
    table = tiny.columns(steps * tiny.BATCH_SIZE, height=height, width=width)
    names = (*trainer.column_names, "slot")
    for number in range(steps):
        batch = tiny.batch_of(table, start=number * tiny.BATCH_SIZE)
        with tiny.shallow_decoders(name in SHALLOW):  # the first call traces
            state, metrics = step(state, parallel.put_batch({k: batch[k] for k in names}))
        history.append(jax.device_get(metrics))
    return state, history


@pytest.fixture(scope="module")
def in_float64():
    """Return a cached function of (trainer, way): state and metrics of 3 steps in float64."""

    @functools.cache
    def get(name, way):
        with jax.enable_x64(True):
            operations = GPU if way.startswith("gpu") else NATIVE
            return train(name, way, steps=3, dtype="float64", operations=operations)

    return get


@pytest.fixture(scope="module")
def first_float32_step():
    """Return a cached function of (trainer, way): loss, gradients, statistics of the first step."""

    @functools.cache
    def get(name, way):
        size = (32, 48) if name == "segment" else None
        state, (metrics,) = train(name, way, steps=1, size=size, tx=GRADIENTS)
        assert jax.tree.leaves(state.params)[0].dtype == np.float32
        return metrics, state.opt_state[0].trace, state.batch_stats

    return get


def largest_difference(left, right) -> float:
    """Return the largest difference of floating-point leaves; all others must be equal."""
    differences = [0.0]
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        if a.dtype.kind == "f":
            differences.append(float(np.abs(a - b).max()))
        else:
            np.testing.assert_array_equal(a, b)
    return max(differences)


@pytest.mark.parametrize(("way", "name"), CASES + ON_GPUS)
def test_three_steps_in_float64_agree_with_one_device(in_float64, name, way):
    state, history = in_float64(name, way)
    expected_state, expected_history = in_float64(name, "pmap1")
    assert jax.tree.leaves(state.params)[0].dtype == np.float64
    differences = {
        "losses": largest_difference(history, expected_history),
        "params": largest_difference(state.params, expected_state.params),
        "batch_stats": largest_difference(state.batch_stats, expected_state.batch_stats),
        "opt_state": largest_difference(state.opt_state, expected_state.opt_state),
    }
    assert max(differences.values()) < 1e-9, differences


@pytest.mark.parametrize("name", TRAINERS)
def test_training_moves_parameters_and_statistics(in_float64, name):
    state, _ = in_float64(name, "pmap1")
    start = make_trainer(name, dtype="float64", operations=NATIVE).state
    assert int(state.step) == 3
    for part in ("params", "batch_stats"):
        pairs = zip(
            jax.tree.leaves(getattr(state, part)),
            jax.tree.leaves(getattr(start, part)),
            strict=True,
        )
        assert all(np.abs(np.asarray(new) - np.asarray(old)).max() > 0 for new, old in pairs)


@pytest.mark.parametrize(("way", "name"), [case for case in CASES if "pmap2" not in case.values])
def test_all_shards_of_the_state_stay_bit_equal(in_float64, name, way):
    state, _ = in_float64(name, way)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 8
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0], err_msg=jax.tree_util.keystr(path))


# The slow case here is compared more closely in float64 above.
FLOAT32 = [
    pytest.param(*case.values, marks=[*case.marks, pytest.mark.slow], id=case.id)
    if case.values == ("pmap8", "segment")
    else case
    for case in CASES
    if "smap8" not in case.values
]


@pytest.mark.parametrize(("way", "name"), FLOAT32)
def test_the_first_float32_step_agrees_with_one_device(first_float32_step, name, way):
    losses, gradients, stats = first_float32_step(name, way)
    expected_losses, expected_gradients, expected_stats = first_float32_step(name, "pmap1")
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(expected_gradients))
    differences = {
        "losses": largest_difference(losses, expected_losses),
        "gradients": largest_difference(gradients, expected_gradients) / largest,
        "batch_stats": largest_difference(stats, expected_stats),
    }
    assert max(differences.values()) < 1e-5, differences
    assert largest > 1e-2


def one_parameter_step(state, batch):
    return {"w": state["w"] + jax.lax.pmean(batch["x"].sum(), "data")}


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_a_donating_step_frees_the_state_it_was_given(mode):
    parallel = tiny.devices(2, mode=mode)
    state = parallel.replicate({"w": np.zeros(1000, np.float32)})
    batch = parallel.put_batch({"x": np.ones(8, np.float32)})
    new = parallel.wrap(one_parameter_step, donate_state=True)(state, batch)
    assert state["w"].is_deleted() and not new["w"].is_deleted()
    kept = parallel.wrap(one_parameter_step)(new, batch)
    assert not new["w"].is_deleted() and float(kept["w"][0]) == 8.0


def test_replicating_copies_so_that_donation_does_not_free_the_original():
    parallel = tiny.devices(1)
    original = {"w": jax.numpy.zeros(1000)}
    state = parallel.replicate(original)
    batch = parallel.put_batch({"x": np.ones(8, np.float32)})
    parallel.wrap(one_parameter_step, donate_state=True)(state, batch)
    assert float(original["w"].sum()) == 0.0


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_gathered_results_are_in_the_order_of_the_batch(mode):
    parallel = tiny.devices(4, mode=mode)
    step = parallel.wrap(lambda state, batch: gather({"y": batch["x"] + state}))
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    result = step(parallel.replicate(np.float32(1)), parallel.put_batch({"x": x}))
    np.testing.assert_array_equal(result["y"], x + 1)


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_masked_sums_leave_out_the_padding_of_every_device(mode):
    parallel = tiny.devices(4, mode=mode)
    step = parallel.wrap(lambda _, batch: masked_sums({"loss": batch["loss"]}, batch["mask"]))
    mask = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    batch = {"loss": np.arange(8, dtype=np.float32), "mask": mask}
    sums = jax.device_get(step(parallel.replicate(np.float32(0)), parallel.put_batch(batch)))
    assert sums == {"loss": 10.0, "count": 5.0}


def test_a_batch_that_devices_do_not_divide_is_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"config\.train\.batch_size=12 .* 8 devices: choose 8 or 16"
    ):
        tiny.devices(8).check_batch_size(12)
    with pytest.raises(
        ValueError, match=r"batch_size=3 cannot .* choose 8, or set config\.parallel"
    ):
        tiny.devices(8).check_batch_size(3)
    tiny.devices(8).check_batch_size(16)


def test_fit_refuses_a_batch_that_devices_do_not_divide(tmp_path):
    run = tiny.toy_run([1.0], device_count=8)
    with pytest.raises(ValueError, match=r"config\.train\.batch_size=12"):
        run.fit(tmp_path, tiny.plan(epochs=1, batch_size=12))


def parallel_config(devices: int, mode: str = "pmap") -> ConfigDict:
    return ConfigDict(
        {
            "parallel": {
                "devices": devices,
                "mode": mode,
                "resident_gb": -1.0,
                "steps_per_dispatch": 0,
            },
            "model": {"dtype": "float32"},
        }
    )


@pytest.mark.parametrize("count", [99, -1])
def test_more_devices_than_there_are_is_an_error(count):
    with pytest.raises(
        ValueError, match=rf"config\.parallel\.devices={count}: .* has 8 cpu device"
    ):
        settings.placement(parallel_config(count))


def test_zero_devices_means_all_of_them():
    assert settings.placement(parallel_config(0)).parallel.devices == tuple(jax.devices())
    assert settings.placement(parallel_config(2)).parallel.devices == tuple(jax.devices()[:2])
