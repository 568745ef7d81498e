"""`config.init_from`: what a run takes from a trained decoder, refuses, and says in its results."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
import tiny_training as tiny
from example_tables import table
from flax.traverse_util import flatten_dict
from saved_decoders import DOWNSCALE, frozen_encoder, save_decoder
from shipped_model import tiny_shipped_model

from thermo_jax import main
from thermo_jax.configs import few_shot as few_shot_config
from thermo_jax.configs import segment as segment_config
from thermo_jax.data.dataset import Dataset, DataSettings
from thermo_jax.data.thermogram import Thermogram
from thermo_jax.inference.trained_models import SHIPPED_TITLE, load_model
from thermo_jax.programs import decoder, few_shot
from thermo_jax.programs.export import export_weights
from thermo_jax.programs.initial_decoder import Start, own_start, start_caveat, trained_on
from thermo_jax.training import train_decoder
from thermo_jax.training.checkpoints import Checkpoints
from thermo_jax.training.known_images import trained_with
from thermo_jax.training.state import initialise

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

# A shallow U-Net is enough to test what is copied.
shallow_unets = pytest.fixture(scope="module", autouse=True)(tiny.shallow_unets)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with a trained segmenter and a trained classifier; the segmenter is shipped, too."""
    folder = tmp_path_factory.mktemp("sources")
    save_decoder(folder / "classify", "classify")
    with tiny_shipped_model(folder) as workdir:
        workdir.rename(folder / "segment")
        yield folder


def config_of(task, init_from, row="H/H", **fields):
    config = tiny.decoder_config(task, row)
    config.data.downscale = DOWNSCALE[config.data.type]
    config.init_from = str(init_from)
    config.update_from_flattened_dict(fields)
    return config


def start_of(config, tmp_path):
    return own_start(config, tmp_path / "new", encoder=frozen_encoder(config.encoder.type))


def initial_state(config, start):
    """The state before the first step, as programs/decoder.py makes it."""
    encoder, decoder = frozen_encoder(config.encoder.type), tiny.make_decoder(config)
    tx = optax.adam(1e-3)
    shape = encoder.latents((30, 40, tiny.CHANNELS[config.data.type])).shape
    create = partial(train_decoder.create_state, decoder, tx=tx, latents_shape=shape)
    arrays = {"frozen": encoder.variables, "start": start}
    return initialise(create, rng=jax.random.key(0), **arrays)


@pytest.mark.parametrize("name", ["segment", "shipped"])
def test_at_step_0_the_decoder_is_exactly_the_one_from_which_it_starts(name, sources, tmp_path):
    config = config_of("segment", sources / name if name == "segment" else name)
    start = start_of(config, tmp_path)
    state = initial_state(config, start.variables)
    source = load_model(sources / "segment", dtype="float32")
    np.testing.assert_equal(jax.device_get(state.variables), jax.device_get(source.variables))
    assert int(state.step) == 0 and not any(map(np.any, jax.tree.leaves(state.opt_state)))
    expected = SHIPPED_TITLE if name == "shipped" else f"{sources / name} (segment)"
    assert start.title == expected


def test_a_classifier_takes_a_segmenters_unet_and_new_last_layers(sources, tmp_path):
    config = config_of("classify", sources / "segment")
    start = start_of(config, tmp_path)
    assert start.title.endswith("(segment); the last layers are new")
    state = flatten_dict(jax.device_get(initial_state(config, start.variables).variables))
    source = flatten_dict(jax.device_get(load_model(sources / "segment").variables))
    new = {name for name in state if name not in source or state[name].shape != source[name].shape}
    assert {name[1] if len(name) == 2 else name[2] for name in new} == {
        "head_weight",
        "head_bias",
        "out",
    }
    for name in state.keys() - new:
        np.testing.assert_array_equal(state[name], source[name])


@pytest.mark.parametrize(
    ("task", "source", "row", "fields", "message"),
    [
        ("segment", "classify", "H/H", {}, "is a model of classify, which cannot start segment"),
        ("segment", "segment", "H/G", {}, "reads heat images, this run gray images"),
        ("segment", "segment", "G/H", {}, "pretrained heat encoder.*pretrained gray encoder"),
        ("segment", "segment", "H/H", {"model.unet_width": 3}, "width 2.*unet_width is 3: set it"),
        ("classify", "classify", "H/H", {"model.head": "pooled"}, "head_weight is .1200, 1. there"),
        (
            "classify",
            "segment",
            "H/H",
            {"average_with_init": True},
            "set config.average_with_init=",
        ),
        ("segment", "none", "H/H", {}, "none.checkpoints does not exist"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused(
    task, source, row, fields, message, sources, tmp_path
):
    config = config_of(task, sources / source, row, **fields)
    with pytest.raises(ValueError, match=message):
        start_of(config, tmp_path)


def test_a_decoder_of_another_encoder_is_refused(sources, tmp_path):
    config = config_of("segment", sources / "segment")
    encoder = frozen_encoder("heat")
    other = encoder.with_variables(jax.tree.map(lambda x: x + 1, encoder.variables))
    with pytest.raises(ValueError, match="the latents of another encoder: give the encoder of tha"):
        own_start(config, tmp_path / "new", encoder=other)


def test_a_continued_run_does_not_read_its_start_again(tmp_path, monkeypatch):
    meta = {"config": {}, "start": "a model", "trained_on": [{"own": 1}, None]}
    monkeypatch.setattr(Checkpoints, "meta", lambda self: meta)
    (tmp_path / "new" / "checkpoints" / "5").mkdir(parents=True)
    start = start_of(config_of("segment", "deleted"), tmp_path)
    assert (start.variables, start.title, start.trained_on) == ({}, "a model", [None])


def test_without_a_start_the_initial_state_is_made_by_the_same_program():
    config = config_of("segment", "")
    assert own_start(config, None, encoder=None) == ({}, "", None)
    create = partial(
        train_decoder.create_state,
        tiny.make_decoder(config),
        tx=optax.adam(1e-3),
        latents_shape=(1, 30, 40, 16),
    )
    given = {"rng": jax.random.key(0), "frozen": frozen_encoder("heat").variables}
    with_start, without = (
        jax.make_jaxpr(partial(create, **more))(**given) for more in ({"start": {}}, {})
    )
    assert str(with_start) == str(without)


def dataset_of(*patients, root="/data"):
    records = [
        Thermogram(name=f"{i}", patient=p, patient_known=True) for i, p in enumerate(patients)
    ]
    settings = DataSettings(root=root, type="heat")
    return Dataset(records=records, settings=settings, read_pixels=None, write_report=None)


REAL = dataset_of("0001", "0002", "0003")
OTHER = dataset_of("0001", "0002", "0003", "0004")
PHANTOMS = dataset_of("0001", "0002", "0003", root="phantom")
MORE_PHANTOMS = dataset_of("0001", "0002", "0003", "0004", root="phantom")
UNKNOWN = "trained on other data: whether it saw test patients is not known"
SEEN = "trained on 1 of these test patients, with their labels"


def trained(dataset, *patients):
    """What a checkpoint says about a run that was trained on these patients."""
    examples, rows = table(patients), np.arange(len(patients))
    (own,) = trained_on(dataset, examples, {"train": rows}, start=Start({}), task="segment")
    return own


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (None, UNKNOWN),
        ([None], UNKNOWN),
        ([trained(REAL, "0001", "0002")], ""),
        ([trained(REAL, "0001", "0003")], SEEN),
        ([trained(REAL, "0001"), trained(REAL, "0003")], SEEN),
        ([trained(OTHER, "0001")], UNKNOWN),
        ([None, trained(REAL, "0003")], f"{SEEN}; {UNKNOWN}"),
        ([trained(PHANTOMS, "0003")], ""),
    ],
)
def test_results_say_if_test_patients_trained_the_model_at_the_start(runs, expected):
    assert start_caveat(runs, dataset=REAL, test_patients={"0003"}) == expected


def test_phantoms_of_two_sizes_share_their_patients():
    runs = [trained(MORE_PHANTOMS, "0003")]
    assert start_caveat(runs, dataset=PHANTOMS, test_patients={"0003"}) == SEEN


def test_a_checkpoint_names_no_patient_and_no_data():
    own = trained(REAL, "0003")
    assert own["patients"] != trained(OTHER, "0003")["patients"]
    assert not {"0003", REAL.fingerprint} & {own["data"], *own["patients"]}


def test_a_checkpoint_knows_the_images_and_the_sick_patients_that_trained_or_validated():
    labels = np.array([0, 1, 1, 1], np.int32)
    examples = table(["0001", "0002", "0002", "0003"], labels=labels)
    examples.columns["images"][:] = np.arange(4, dtype=np.uint8)[:, None, None, None]
    sets = {"train": np.array([0]), "validation": np.array([1, 2]), "test": np.array([3])}
    (own,) = trained_on(REAL, examples, sets, start=Start({}), task="classify")
    assert own["sick"] == 1 and len(own["patients"]) == 2
    recognised = trained_with({"trained_on": [own]}, examples.columns["images"])
    assert recognised == [True, True, True, False]
    (other,) = trained_on(REAL, examples, sets, start=Start({}), task="segment")
    assert "sick" not in other


def test_the_few_shot_curve_of_the_shipped_model_reads_raw_pixels():
    config = few_shot_config.get_config("gray,smoke")
    config.kinds, config.patients, config.repeats = ("none", "shipped"), (1,), 1
    segmenter = few_shot.stage_config(config, "segment", data_type="gray", split={})
    none, shipped = few_shot._stages(config, segmenter, few_shot.Path("run"), available=9)
    assert (none.config.encoder.kind, none.config.init_from) == ("none", "")
    assert (shipped.config.encoder.kind, shipped.config.init_from) == ("none", "shipped")
    assert (none.config.train.epochs, none.config.train.steps) == (30, 0)
    assert (shipped.config.train.steps, shipped.config.train.learning_rate) == (100, 1e-3)
    assert shipped.folder == "shipped_1_seed0" and shipped.row in few_shot.KINDS
    assert not shipped.config.average_with_init  # no average is kept


def test_the_few_shot_curve_of_the_recipe_small_is_fine_tuned():
    config = few_shot_config.get_config("small")
    config.patients, config.repeats = (1,), 1
    segmenter = few_shot.stage_config(config, "segment", data_type="gray", split={})
    shipped, none = (
        stage.config
        for stage in few_shot._stages(config, segmenter, few_shot.Path("run"), available=9)
    )
    fine_tune = segment_config.get_config("fine_tune")
    assert shipped.average_with_init and not none.average_with_init
    for name in ("train", "augment", "loss", "init_from", "average_with_init", "model"):
        assert shipped[name] == fine_tune[name], name


@pytest.mark.parametrize("untrained", [None, 0.456])
def test_the_few_shot_results_show_the_shipped_model_as_it_is_in_a_row_of_its_own(
    untrained, tmp_path
):
    config = few_shot_config.get_config("small")
    points = {"shipped": {1: [0.5, 0.6]}, "none": {1: [0.1, 0.2]}}
    outcome = few_shot._finish(config, tmp_path, points, untrained=untrained, tested=5, cautions=[])
    assert outcome.get("untrained_miou") == untrained
    text = (tmp_path / "results.txt").read_text()
    assert ("0.456" in text and few_shot.UNTRAINED in text) == (untrained is not None)


def test_a_start_that_does_not_fit_is_refused_before_a_study_trains(sources, tmp_path):
    config = few_shot_config.get_config("heat,smoke")
    config.update({"kinds": ("shipped",), "patients": (1,), "repeats": 1})
    config.data.update({"phantom_patients": 12, "loader": "numpy"})
    with pytest.raises(ValueError, match="reads latents of a pretrained heat.*this run raw heat p"):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "shipped_1_seed0").exists()


@pytest.mark.parametrize("average_with_init", [True, False])
def test_a_run_averages_with_the_first_weights_if_its_configuration_says_so(
    average_with_init, sources, tmp_path, cache, monkeypatch
):
    class Begun(Exception):
        pass

    def fit(state, **_):
        assert (state.ema, state.average_with_init) == (0.5, average_with_init)
        raise Begun

    monkeypatch.setattr(decoder.loop, "fit", fit)
    monkeypatch.setattr(decoder, "own_encoder", lambda *_, **__: frozen_encoder("heat"))
    monkeypatch.setattr(decoder, "encoder_caveat", lambda *_, **__: "")
    config = config_of("segment", sources / "segment", average_with_init=average_with_init)
    config.update_from_flattened_dict({"train.ema": 0.5, "train.batch_size": 4})
    config.data.update({"root": "phantom", "phantom_patients": 12, "loader": "numpy"})
    config.parallel.devices = 1
    with pytest.raises(Begun):
        main.run(config, tmp_path)


@pytest.mark.slow
def test_a_run_starts_from_a_file_says_so_and_continues_without_it(tmp_path, cache):
    config = tiny.decoder_config("segment", "H/H")
    config.encoder.kind, config.data.root, config.data.loader = "none", "phantom", "numpy"
    config.data.downscale, config.data.phantom_patients, config.train.epochs = 4, 12, 1
    config.parallel.devices, config.report.bootstrap, config.train.batch_size = 1, 20, 4
    main.run(config, tmp_path / "first")
    (file,) = export_weights(load_model(tmp_path / "first"), tmp_path / "first.safetensors")
    config.init_from, config.split.fold = str(file), 1
    facts = main.run(config, tmp_path / "second")["run"]
    assert facts["started from"].startswith(f"{file} (segment); trained on ")
    with Checkpoints(tmp_path / "second", read_only=True) as checkpoints:
        own, before = checkpoints.meta()["trained_on"]
    assert own["synthetic"] and own["patients"] != before["patients"]
    file.unlink()
    assert main.run(config, tmp_path / "second")["run"] == facts
