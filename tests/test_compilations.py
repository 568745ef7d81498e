"""Folds, numbers of training images and lengths of an epoch share their compiled programs."""

from functools import partial

import jax
import numpy as np
import pytest
import tiny_training as tiny
from compilations import counted
from table1_runs import quick

from thermo_jax import main
from thermo_jax.configs import encoder as encoder_config
from thermo_jax.configs import segment as segment_config
from thermo_jax.programs import decoder, encoder, stages
from thermo_jax.training import feeding, resident, train_encoder
from thermo_jax.training.optimizer import make_optimizer
from thermo_jax.training.placement import Placement

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

FOLDS = 5


def test_epochs_of_any_number_of_steps_share_their_programs(tmp_path):
    run = tiny.make_run(tiny.line_trainer())
    table = {"images": tiny.columns(263 * 8, height=4, width=4)["images"]}
    steps = (53, 237, 263)
    sets = {str(number): range(number * 8 - 3) for number in steps} | {"validation": range(31)}
    placed = resident.place_sets(table, sets, parallel=run.parallel)
    train_steps = resident.train_steps(run.trainer.train_step, at_most=50)
    eval_steps = resident.eval_steps(run.trainer.eval_step, whole=True)
    run = run._replace(
        train_step=run.parallel.wrap(train_steps, donate_state=True, resident=True),
        eval_step=run.parallel.wrap(eval_steps, resident=True),
        validation=placed["validation"],
    )
    plan = tiny.plan(epochs=1, steps_per_dispatch=50)
    compiled = {}
    for number in steps:
        with counted() as programs:
            state = run._replace(train=placed[str(number)]).fit(tmp_path / str(number), plan)
        assert int(state.step) == number
        compiled[number] = len(programs)
    assert compiled[53] >= 2 and compiled[237] == compiled[263] == 0


def shrink(config, *, fold):
    config.data.update({"phantom_patients": 13, "downscale": 5, "loader": "numpy"})
    config.split.update({"folds": FOLDS, "fold": fold})
    config.parallel.devices = 1
    config.train.update({"epochs": 1, "batch_size": 4})


def tiny_encoder(fold):
    config = encoder_config.get_config("heat,phantom")
    config.model.num_kernels = 1
    shrink(config, fold=fold)
    return config


@pytest.mark.slow
def test_the_encoders_of_five_folds_share_their_programs(tmp_path, cache):
    sizes, compiled = set(), []
    for fold in range(FOLDS):
        with counted() as programs:
            outcome = encoder.run(tiny_encoder(fold), tmp_path / str(fold))
        sizes.add(outcome["run"]["images"])
        compiled.append(len(programs))
    assert len(sizes) > 1  # the folds differ in their numbers of images
    assert compiled[0] >= 4 and compiled[1:] == [0] * (FOLDS - 1)


@pytest.mark.slow
def test_all_stages_of_five_folds_share_the_programs_of_the_first(tmp_path, cache, monkeypatch):
    compiled, tasks = [], stages.PROGRAMS

    class Counting:
        def __init__(self, task):
            self.task = task

        def run(self, config, workdir, **options):
            with counted() as programs:
                tasks[self.task].run(config, workdir, **options)
            compiled.append(len(programs))

    monkeypatch.setattr(stages, "PROGRAMS", {task: Counting(task) for task in tasks})
    config = quick(num_folds=0)
    config.data.phantom_patients = 23
    config.split.folds = FOLDS
    with tiny.shallow_decoders():
        main.run(config, tmp_path / "table1")
    first, others = compiled[:3], compiled[3:]
    assert len(others) == 3 * (FOLDS - 1)
    assert all(first) and not any(others)


@pytest.mark.slow
def test_segmenters_of_few_patients_and_of_many_share_their_programs(tmp_path, cache):
    compiled = []
    with tiny.shallow_decoders():
        for patients in (1, 2, 4, 0):
            config = segment_config.get_config("H/H,phantom")
            config.encoder.update({"kind": "random", "num_kernels": 1})
            config.model.unet_width = 1
            shrink(config, fold=0)
            config.data.phantom_patients = 23
            config.split.max_train_patients = patients
            with counted() as programs:
                decoder.run(config, tmp_path / str(patients))
            compiled.append(len(programs))
    assert compiled[0] >= 4 and compiled[1:] == [0, 0, 0]


def test_programs_of_the_u_net_and_of_its_shallow_replacement_are_not_confused():
    sizes = []
    for shallow in (True, False):
        with tiny.shallow_decoders(shallow):
            state = tiny.decoder_trainer("segment").state
            sizes.append(len(jax.tree.leaves(state.params)))
    assert sizes[0] < sizes[1]


def test_equal_steps_are_wrapped_once_and_different_ones_separately():
    model, tx = train_encoder.make_model(data_type="heat"), make_optimizer(1e-3, weight_decay=1e-4)
    assert tx is make_optimizer(1e-3, weight_decay=1e-4)

    def wrapped(**changes):
        new = train_encoder.make_model(data_type="heat")
        step = partial(train_encoder.train_step, **{"model": new, "tx": tx, "loss": None} | changes)
        placement = Placement(parallel=tiny.devices(1))
        return placement.map_step(step, role="train", resident=True)

    assert wrapped() is wrapped() is wrapped(model=model)
    assert wrapped() is not wrapped(tx=None)


@pytest.mark.parametrize(
    ("rows", "padded"),
    [(1, 32), (32, 32), (33, 40), (64, 64), (65, 80), (129, 160), (160, 160), (1025, 1280)],
)
def test_tables_have_one_of_a_few_sizes(rows, padded):
    assert resident.padded_rows(rows) == padded


def test_padding_is_at_most_a_fifth_of_a_table():
    sizes = {resident.padded_rows(rows) for rows in range(32, 4097)}
    assert len(sizes) == 1 + 4 * 7
    assert all(resident.padded_rows(rows) * 0.8 <= rows for rows in range(32, 4097))


@pytest.mark.parametrize("whole", [True, False])
def test_a_set_reads_its_own_rows_of_the_table_and_never_the_padding(whole):
    parallel = tiny.devices(2)
    table = {"x": np.arange(100, 110, dtype=np.float32)}
    sets = {"odd": [1, 3, 5, 7, 9], "last": [9]}
    placed = resident.place_sets(table, sets, parallel=parallel)
    step = resident.eval_steps(
        lambda _, batch: jax.lax.psum({"sum": (batch["x"] * batch["mask"]).sum()}, "data"),
        whole=whole,
    )
    step = parallel.wrap(step, resident=True)
    expected = {"odd": [101 + 103 + 105 + 107, 109], "last": [109]}
    for name, sums in expected.items():
        results = []
        for rows in feeding.eval_batches(
            placed[name], batch_size=4, loader="numpy", parallel=parallel, whole=whole
        ):
            results.append(np.asarray(step(None, rows)["sum"]).tolist())
        # A table has at least 32 rows, which are 8 batches.
        assert results == ([sums + [0] * (8 - len(sums))] if whole else [[x] for x in sums])
    assert [resident.num_rows(rows) for rows in placed.values()] == [5, 1]
