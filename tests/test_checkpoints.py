"""Checkpoints: which are kept, which are refused on loading, and the encoder that they contain."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from absl import logging as absl_logging
from folder_contents import kept_steps
from jax.experimental import multihost_utils

from thermo_jax.training.checkpoints import FOLDER, Checkpoints, keep_best_model, load_encoder
from thermo_jax.training.optimizer import make_optimizer
from thermo_jax.training.position import Position
from thermo_jax.training.state import TrainState

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ([3.0, 1.0, 2.0, 2.5], [10, 20]),  # best and latest
        ([4.0, 3.0, 2.0, 1.0], [20]),  # the best is the latest
        ([2.0, 1.0, 1.0, 1.0], [10, 20]),  # of equal ones, the earlier
        ([1.0, 2.0, 3.0, 4.0], [5, 20]),
    ],
)
def test_the_best_and_the_latest_checkpoint_are_kept_and_no_other(tmp_path, losses, kept):
    tiny.toy_run(losses).fit(tmp_path, tiny.plan(epochs=4))
    assert kept_steps(tmp_path) == kept


@pytest.mark.parametrize(
    ("losses", "kept"), [([3.0, 1.0, 2.0, 2.5], [10, 20]), ([4.0, 3.0, 2.0, 1.0], [20])]
)
@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_an_interrupted_run_keeps_the_same_checkpoints(tmp_path, losses, kept, interrupted_after):
    def stop(epoch):
        if epoch == interrupted_after:
            raise KeyboardInterrupt

    run = tiny.toy_run(losses)
    with pytest.raises(KeyboardInterrupt):
        run.fit(tmp_path, tiny.plan(epochs=4), on_epoch=stop)
    run.fit(tmp_path, tiny.plan(epochs=4))
    assert kept_steps(tmp_path) == kept


def test_a_checkpoint_contains_the_whole_state_and_the_position_in_the_run(tmp_path):
    run = tiny.toy_run([1.0, 2.0, 3.0])
    run.fit(tmp_path, tiny.plan(epochs=3, patience=5))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        last, meta = checkpoints.restore(run.state()), checkpoints.meta()
    assert int(last.step) == 15 and float(last.batch_stats["seen"]) == 15.0
    np.testing.assert_array_equal(last.rng, run.trainer.state.rng)
    assert meta == {
        **tiny.META,
        "epoch": 3,
        "finished": True,
        "best_step": 5,
        "history": {},
        "early_stopping": {
            "patience": 5,
            "best_value": 1.0,
            "best_step": 5,
            "best_epoch": 1,
            "epochs_without": 2,
        },
    }


@pytest.mark.parametrize(
    ("weight_decay", "schedule"), [(None, "constant"), (0.1, "constant"), (0.1, "cosine")]
)
def test_the_state_of_every_optimiser_is_restored(tmp_path, weight_decay, schedule):
    """AdamW with a schedule has an empty state between two others."""
    tx = make_optimizer(1e-3, weight_decay=weight_decay, schedule=schedule, num_steps=4)
    variables = {"params": {"kernel": jnp.ones((2, 3))}, "batch_stats": {}}
    state = TrainState.create(variables, tx=tx, rng=jax.random.key(0), frozen={})
    after = state.apply_gradients(state.params, tx=tx, batch_stats={})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(after, encoder={"x": jnp.ones(1)}, meta=tiny.META, value=1.0)
        checkpoints.wait()
        restored = checkpoints.restore(state)
    assert jax.tree.structure(restored) == jax.tree.structure(after)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)


def test_later_steps_do_not_change_a_history_that_is_being_saved():
    position = Position(epochs=1, patience=0, history={"loss": [3.0]})
    meta = position.meta(step=6)
    position.history["loss"].append(2.0)
    position.history["accuracy"] = [0.5]
    assert meta["history"] == {"loss": [3.0]}


def test_saving_does_not_ask_jax_whether_to_stop(tmp_path, monkeypatch):
    # Orbax asks about earlier steps than the training, so that JAX could choose a step of the past.
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    tiny.toy_run([2.0, 1.0]).fit(tmp_path, tiny.plan(epochs=2))
    assert kept_steps(tmp_path) == [10] and asked == []


def test_a_restored_state_is_placed_on_the_requested_devices(tmp_path):
    tiny.toy_run([1.0]).fit(tmp_path, tiny.plan(epochs=1))
    like = tiny.toy_run([1.0], device_count=4).state()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore(like)
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(restored))


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (jnp.ones((2, 4)), r"params/kernel is float32\[2, 3\] .*, float32\[2, 4\] here"),
        (jnp.ones((2, 3), jnp.int32), r"params/kernel is float32\[2, 3\] .*, int32\[2, 3\] here"),
        (jnp.ones((2, 3), jnp.bfloat16), r"params/kernel is float32\[2, 3\] .*, bfloat16\[2, 3\]"),
    ],
)
def test_a_checkpoint_of_another_shape_or_type_is_refused(tmp_path, parameter, message):
    tiny.toy_run([1.0], kernel=jnp.ones((2, 3))).fit(tmp_path, tiny.plan(epochs=1))
    other = tiny.toy_run([1.0, 1.0], kernel=parameter)
    with pytest.raises(ValueError, match=message) as caught:
        other.fit(tmp_path, tiny.plan(epochs=2))
    text = str(caught.value)
    assert str(tmp_path) in text and "--workdir" in text and "\n" not in text


def test_a_checkpoint_with_other_parameters_is_refused(tmp_path):
    tiny.toy_run([1.0]).fit(tmp_path, tiny.plan(epochs=1))
    other = tiny.toy_run([1.0], extra=jnp.ones(3))
    with pytest.raises(ValueError, match=r"params/extra is absent .*, float32\[3\] here"):
        other.fit(tmp_path, tiny.plan(epochs=1))


def test_a_folder_that_is_no_workdir_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not the workdir of a training run") as caught:
        load_encoder(tmp_path / "nowhere", like=lambda meta: {})
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_a_workdir_without_a_complete_checkpoint_says_what_to_do(tmp_path):
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(FileNotFoundError, match=r"no complete checkpoint: train first"):
        load_encoder(tmp_path, like=lambda meta: {})


def test_a_meta_that_was_changed_is_refused(tmp_path):
    tiny.toy_run([2.0, 1.0]).fit(tmp_path, tiny.plan(epochs=2))
    (file,) = (tmp_path / FOLDER / "10" / "meta").glob("metadata")
    text = file.read_text()
    changed = text.replace('"best_value": 1.0', '"best_value": 7.0')
    assert changed != text
    file.write_text(changed)
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(ValueError, match="checkpoints/10 cannot be read.*meta is not what was"),
    ):
        checkpoints.meta()


def test_a_model_that_was_not_trained_here_has_no_early_stopping(tmp_path):
    """An example is the one that `convert` makes from published weights."""
    state = tiny.toy_run([1.0]).state()
    config = {"task": "encoder"}
    meta = {"config": config, "encoder": {}, "epoch": 0, "best_step": 0, "finished": True}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, encoder={"params": {"w": state.params["w"]}}, meta=meta, value=0.0)
    keep_best_model(tmp_path)
    encoder, loaded = load_encoder(tmp_path, like=toy_encoder)
    assert loaded == meta and encoder["params"]["w"] == 0


def test_opening_a_workdir_to_read_writes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Checkpoints(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


def toy_encoder(meta: dict) -> dict:
    return {"params": {"w": jax.ShapeDtypeStruct((), jnp.float32)}}


def test_the_loaded_encoder_is_that_of_the_best_step(tmp_path):
    best = tiny.toy_run([3.0, 1.0, 2.0]).fit(tmp_path, tiny.plan(epochs=3))
    variables, meta = load_encoder(tmp_path, like=toy_encoder)
    assert type(variables["params"]["w"]) is np.ndarray
    assert variables["params"]["w"] == float(best.params["w"])
    assert meta["best_step"] == 10 and meta["encoder"]["data_type"] == "heat"


def test_the_shapes_may_depend_on_the_meta(tmp_path):
    tiny.toy_run([1.0]).fit(tmp_path, tiny.plan(epochs=1))
    seen = []
    load_encoder(tmp_path, like=lambda meta: seen.append(meta) or toy_encoder(meta))
    assert seen[0]["encoder"] == {"data_type": "heat"}


def test_an_encoder_of_another_shape_is_refused(tmp_path):
    tiny.toy_run([1.0]).fit(tmp_path, tiny.plan(epochs=1))
    like = {"params": {"w": jax.ShapeDtypeStruct((5,), jnp.float32)}}
    with pytest.raises(ValueError, match=r"encoder does not fit .*params/w is float32\[\] .*\[5\]"):
        load_encoder(tmp_path, like=lambda meta: like)


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory):
    """Workdirs of an encoder and of a decoder that uses it, and the encoder's variables."""
    workdirs = [tmp_path_factory.mktemp(name) for name in ("encoder", "decoder")]
    encoder = {
        "params": {"conv1": {"kernel": np.random.default_rng(0).random((25, 4), np.float32)}},
        "batch_stats": {"batch_norm1": {"mean": np.arange(4, dtype=np.float32)}},
    }
    for workdir, frozen in zip(workdirs, ({}, encoder), strict=True):
        run = tiny.toy_run([2.0, 1.0, 3.0])
        state = run.trainer.state.replace(frozen=frozen)
        run = run._replace(trainer=run.trainer._replace(state=state))
        run.fit(workdir, tiny.plan(epochs=3), encoder_of=lambda state: state.frozen or encoder)
    return workdirs, encoder


@pytest.mark.parametrize("index", [0, 1], ids=["encoder", "decoder"])
def test_both_workdirs_contain_the_encoders_parameters_and_statistics(handed_over, index):
    workdirs, expected = handed_over
    variables, meta = load_encoder(workdirs[index], like=lambda meta: expected)
    assert sorted(variables) == ["batch_stats", "params"]
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(variables))
    tiny.assert_same_tree(variables, expected)
    assert meta["encoder"] == {"data_type": "heat"}


def test_a_decoders_state_is_restored_with_its_frozen_encoder(handed_over):
    (_, workdir), expected = handed_over
    run = tiny.toy_run([1.0])
    like = run.parallel.replicate(
        run.trainer.state.replace(frozen=jax.tree.map(np.zeros_like, expected))
    )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        tiny.assert_same_tree(jax.device_get(checkpoints.restore(like).frozen), expected)


def test_the_frozen_encoder_is_saved_once_not_twice(handed_over):
    (encoder, decoder), _ = handed_over
    sizes = [
        sum(f.stat().st_size for f in (w / FOLDER / "15" / "training").rglob("*") if f.is_file())
        for w in (encoder, decoder)
    ]
    assert abs(sizes[0] - sizes[1]) < 1000


def items(workdir) -> set[str]:
    steps = workdir / FOLDER
    return {
        f"{item.parent.name}/{item.name}"
        for item in steps.glob("*/*")
        if item.is_dir() and item.name in ("model", "training", "encoder", "meta")
    }


@pytest.mark.parametrize(
    ("losses", "left"),
    [
        ([2.0, 1.0, 3.0], {"10/model", "10/encoder", "10/meta", "15/meta"}),
        ([3.0, 2.0, 1.0], {"15/model", "15/encoder", "15/meta"}),
    ],
)
def test_a_finished_run_keeps_its_best_model_which_can_be_used(tmp_path, losses, left):
    run, plan = tiny.toy_run(losses), tiny.plan(epochs=3)
    best = run.fit(tmp_path, plan)
    keep_best_model(tmp_path)
    keep_best_model(tmp_path)  # a second call changes nothing
    assert items(tmp_path) == left
    tiny.assert_same_tree(run.fit(tmp_path, plan), best)
    variables, meta = load_encoder(tmp_path, like=toy_encoder)
    assert variables["params"]["w"] == float(best.params["w"]) and meta["finished"]


@pytest.mark.parametrize("deleted", ["nothing", "metrics", "meta", "_CHECKPOINT_METADATA"])
def test_leftovers_of_a_killed_run_are_deleted_when_it_has_finished(tmp_path, deleted):
    run, plan = tiny.toy_run([3.0, 1.0, 2.0]), tiny.plan(epochs=3)
    best = run.fit(tmp_path, plan)
    best_step, stale = tmp_path / FOLDER / "10", tmp_path / FOLDER / "5"
    shutil.copytree(best_step, stale, ignore=shutil.ignore_patterns(deleted))
    keep_best_model(tmp_path)
    assert kept_steps(tmp_path) == [10, 15]
    tiny.assert_same_tree(run.fit(tmp_path, plan), best)


def test_an_unfinished_run_keeps_its_optimiser(tmp_path):
    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.toy_run([2.0, 1.0]).fit(tmp_path, tiny.plan(epochs=2), on_epoch=stop)
    with pytest.raises(ValueError, match="has not finished, and needs its optimiser"):
        keep_best_model(tmp_path)
    assert "5/training" in items(tmp_path)


def raised_in(file):
    """Return an error with a traceback through a file of this name."""
    try:
        exec(compile("raise ValueError('the disk is full')", file, "exec"))
    except ValueError as error:
        return error


def test_unread_exceptions_of_orbaxs_tasks_are_not_logged_and_other_messages_are(tmp_path, caplog):
    with Checkpoints(tmp_path):
        pass
    logger = logging.getLogger("asyncio")
    logger.error("Task exception was never retrieved\nfuture: <coro at site-packages/orbax/a.py>")
    logger.error("Task exception was never retrieved\nfuture: <coro at mine.py>")
    logger.error('Future exception: Error writing "w/0" in "/run/15.orbax-checkpoint-tmp/d/b9"')
    for file in ("site-packages/orbax/b.py", "other.py"):  # of tasks that were gathered
        logger.error("An exception of %s", file.split("/")[-1], exc_info=raised_in(file))
    absl_logging.warning("Encoder of %s", "/data/orbax/runs")
    logged = [record.getMessage().split()[-1] for record in caplog.records]
    assert logged == ["mine.py>", "other.py", "/data/orbax/runs"]
