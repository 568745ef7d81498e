"""The networks of rivals: evidence, sizes, attention, and whole runs by our own program."""

import functools
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax import main
from thermo_jax.configs import classify, common, segment, table1
from thermo_jax.configs import convert as convert_config
from thermo_jax.data.dataset import open_dataset
from thermo_jax.errors import UserError
from thermo_jax.evaluation.predictions import Predictions
from thermo_jax.inference.trained_models import load_model
from thermo_jax.models.operations import NATIVE
from thermo_jax.models.unet import UNet
from thermo_jax.programs import convert, settings
from thermo_jax.programs.initial_decoder import check_start
from thermo_jax.rivals import networks
from thermo_jax.rivals.attention_cnn import hard_weights
from thermo_jax.rivals.pooled_classifier import pad_to_cells, spread
from thermo_jax.rivals.transformer_layers import SelfAttention, TransformerLayer
from thermo_jax.rivals.vision_transformer import cut_patches
from thermo_jax.training.train_decoder import abstract_variables, make_decoder

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

KEY = jax.random.key(0, impl="rbg")  # compiles faster than the default
CLASSIFIERS = ("cnn", "soft_attention", "hard_attention", "self_attention", "vgg", "vit")
NETWORKS = [*(("classify", name) for name in CLASSIFIERS), ("segment", "transformer_unet")]
IDS = [name for _, name in NETWORKS]
SIZE = (37, 50)  # no multiple of 16; its rows are none of 10 either
PIXELS = np.random.default_rng(0).standard_normal((4, 1, *SIZE, 1)).astype(np.float32)


def count(variables) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def network(task, name, *, width=1):
    return networks.make_network(name, task=task, width=width, operations=NATIVE)


@functools.cache
def initialised(task, name):
    """(a narrow network, random variables, its compiled forward pass)."""
    model = network(task, name)
    variables = jax.jit(partial(model.init, train=False))(KEY, jnp.asarray(PIXELS))
    return model, variables, jax.jit(partial(model.apply, train=False))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_evidence_of_all_pixels_adds_up_to_the_logit_less_its_bias(name):
    _, variables, apply = initialised("classify", name)
    logits, evidence = apply(variables, PIXELS)
    sums = np.asarray(evidence, np.float64).sum((1, 2)) + variables["params"]["head_bias"]
    np.testing.assert_allclose(sums, logits, rtol=1e-5, atol=1e-6)
    assert np.ptp(np.asarray(logits)) > 1e-4 and np.ptp(np.asarray(evidence[0])) > 0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_outputs_of_the_views_are_averaged(name):
    _, variables, apply = initialised("classify", name)
    together = apply(variables, np.moveaxis(PIXELS, 0, 1))
    one_by_one = apply(variables, PIXELS)
    for both, single in zip(together, one_by_one, strict=True):
        np.testing.assert_allclose(both[0], single.mean(0), atol=1e-6)


@pytest.mark.parametrize("size", [(60, 80), (37, 51), (120, 160)])
@pytest.mark.parametrize(("task", "name"), NETWORKS, ids=IDS)
def test_outputs_have_the_size_of_the_image(task, name, size):
    model = network(task, name, width=16)
    pixels = jax.ShapeDtypeStruct((2, 3, *size, 1), jnp.float32)
    init = partial(model.init_with_output, train=False)
    outputs, _ = jax.eval_shape(init, jax.random.key(0), pixels)
    expected = [(2,), (2, *size)] if task == "classify" else [(2, *size, 8)]
    assert [leaf.shape for leaf in jax.tree.leaves(outputs)] == expected


@pytest.mark.parametrize(("task", "name"), NETWORKS, ids=IDS)
def test_outputs_and_variables_are_float32_where_layers_compute_in_bfloat16(task, name):
    model = make_decoder(task, architecture=name, width=1, dtype="bfloat16")
    pixels = jnp.zeros((1, 1, *SIZE, 1), jnp.bfloat16)
    init = partial(model.init_with_output, train=False)
    outputs, variables = jax.eval_shape(init, jax.random.key(0), pixels)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((outputs, variables))}
    assert dtypes == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn", 144 + 4608 + 18432 + 73728 + 2 * (16 + 32 + 64 + 128) + 129),
        ("soft_attention", 97_521 + 128),
        ("hard_attention", 97_521 + 128),
        ("self_attention", 97_521 + 4 * 128**2 + 128),
        ("vgg", 293_841),
        # Patches, positions, six layers, layer norm, head.
        ("vit", 101 * 192 + 48 * 192 + 6 * (12 * 192**2 + 10 * 192) + 2 * 192 + 193),
    ],
)
def test_a_classifier_has_the_stated_size(name, expected):
    model = make_decoder("classify", architecture=name, width=16)
    assert count(abstract_variables(model, (1, 60, 80, 1))) == expected


@pytest.mark.parametrize("size", [(60, 80), (480, 640)])
def test_the_transformer_unet_is_about_as_large_as_our_unet(size):
    model = make_decoder("segment", architecture="transformer_unet", width=16)
    pixels = jax.ShapeDtypeStruct((1, *size, 1), jnp.float32)
    ours = jax.eval_shape(partial(UNet(8, width=16).init, train=False), jax.random.key(0), pixels)
    assert count(ours) == 1_080_760
    theirs = count(abstract_variables(model, (1, *size, 1)))
    assert theirs == {(60, 80): 987_960, (480, 640): 1_011_640}[size]
    assert abs(theirs / count(ours) - 1) < 0.15


@pytest.mark.parametrize(("task", "name"), NETWORKS, ids=IDS)
def test_every_parameter_has_a_gradient(task, name):
    model, variables, _ = initialised(task, name)
    wanted = np.random.default_rng(1).standard_normal(4 if task == "classify" else (4, *SIZE, 8))

    @jax.jit
    def gradient(params):
        def loss(params):
            given = variables | {"params": params}
            pixels = jnp.asarray(PIXELS)
            outputs, _ = model.apply(given, pixels, train=True, mutable=["batch_stats"])
            logits = outputs[0] if task == "classify" else outputs
            return ((logits - wanted) ** 2).mean()

        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert np.abs(leaf).max() > 1e-7, jax.tree_util.keystr(path)


def test_hard_attention_reads_a_quarter_of_the_positions():
    scores = np.random.default_rng(0).permutation(20).astype(np.float32)[None] / 10
    weights = np.asarray(hard_weights(jnp.asarray(scores)))
    best = scores >= np.sort(scores)[:, -5:].min()
    assert weights[~best].max() == 0 and weights[best].min() > 0
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(
        np.log(weights[best] / weights[best][0]), scores[best] - scores[best][0], atol=1e-5
    )


def test_equal_scores_do_not_add_positions_to_hard_attention():
    assert (np.asarray(hard_weights(jnp.zeros((3, 20)))) > 0).sum(1).tolist() == [5, 5, 5]
    np.testing.assert_array_equal(hard_weights(jnp.zeros((1, 1))), [[1.0]])


def test_hard_attention_ignores_what_is_outside_its_mask():
    _, variables, apply = initialised("classify", "hard_attention")
    image = np.random.default_rng(0).standard_normal((1, 1, 160, 160, 1)).astype(np.float32)
    _, evidence = apply(variables, image)
    assert (np.asarray(evidence) != 0).mean() == 0.25
    # A network that attends everywhere has a part of the logit in every cell.
    _, variables, apply = initialised("classify", "soft_attention")
    _, evidence = apply(variables, image)
    assert (np.asarray(evidence) != 0).all()


@pytest.mark.parametrize(
    ("name", "sees"),
    [
        ("cnn", False),
        ("vgg", False),
        ("self_attention", True),
        ("vit", True),
        ("transformer_unet", True),
    ],
)
def test_only_transformers_see_far_positions(name, sees):
    # A segmenter of width 1 would have one channel before its logits, which may be 0.
    task, width = ("segment", 2) if name == "transformer_unet" else ("classify", 1)
    model = network(task, name, width=width)
    image = np.random.default_rng(0).standard_normal((1, 1, 16, 240, 1)).astype(np.float32)
    changed = image.copy()
    changed[:, :, :, :8] += 3

    @jax.jit
    def outputs(image, changed):
        variables = model.init(KEY, image, train=False)
        _, updates = model.apply(variables, image, train=True, mutable=["batch_stats"])
        # Statistics of the image, as if trained; with the initial ones, deep signals fade away.
        fit = lambda new, old: (new - 0.9 * old) / 0.1  # noqa: E731
        variables |= jax.tree.map(fit, updates, {"batch_stats": variables["batch_stats"]})
        both = (model.apply(variables, x, train=False) for x in (image, changed))
        return [jax.tree.leaves(output)[-1] for output in both]  # evidence or logits

    before, after = map(np.asarray, outputs(image, changed))
    change = np.abs(before - after)[0, :, -16:].max() / np.ptp(before)
    assert change > 1e-3 if sees else change == 0


def test_attention_is_the_softmax_of_scaled_products_of_queries_and_keys():
    tokens = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    output, variables = SelfAttention(heads=2).init_with_output(KEY, jnp.asarray(tokens))
    params = jax.tree.map(np.asarray, variables["params"])
    heads = (tokens @ params["query_key_value"]["kernel"]).reshape(2, 5, 3, 2, 3)
    query, key, value = np.moveaxis(heads, 2, 0)
    weights = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(3))
    weights /= weights.sum(-1, keepdims=True)
    read = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(2, 5, 6)
    expected = read @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_a_transformer_layer_does_not_depend_on_the_order_of_tokens():
    tokens = np.random.default_rng(0).standard_normal((1, 5, 6)).astype(np.float32)
    layer = TransformerLayer(heads=2)
    output, variables = layer.init_with_output(KEY, jnp.asarray(tokens))
    np.testing.assert_allclose(
        layer.apply(variables, jnp.asarray(tokens[:, ::-1])),
        output[:, ::-1],
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_patch_contains_its_own_pixels():
    image = np.arange(20 * 30 * 2, dtype=np.float32).reshape(1, 20, 30, 2)
    patches = cut_patches(jnp.asarray(image), size=10)
    assert patches.shape == (1, 2, 3, 200)
    np.testing.assert_array_equal(patches[0, 1, 2], image[0, 10:20, 20:30].ravel())


def test_images_are_padded_with_their_edges_on_both_sides():
    image = np.random.default_rng(0).standard_normal((2, 5, 8, 1)).astype(np.float32)
    expected = np.pad(image, ((0, 0), (1, 2), (0, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(pad_to_cells(jnp.asarray(image), cell=4), expected)


def test_a_cell_spreads_its_part_over_its_pixels_inside_the_image():
    parts = np.float32([[[6, 12], [20, 40]]])
    # Rows: one of four is padding before, two of four after. Columns: four and four.
    expected = np.repeat(
        np.repeat([[6 / 12, 12 / 12], [20 / 8, 40 / 8]], [3, 2], axis=0), 4, axis=1
    )
    actual = spread(jnp.asarray(parts), height=5, width=8, cell=4)
    np.testing.assert_allclose(actual[0], expected, rtol=1e-6)


# --------------------------------------------------------------------------------------------------
# Configurations and whole runs
# --------------------------------------------------------------------------------------------------


def test_the_rule_and_the_comment_name_every_network():
    assert sorted(networks.ARCHITECTURES) == sorted(("unet", *IDS))
    lines = inspect.getsource(common.decoder)
    assert all(f'"{name}"' in lines for name in networks.ARCHITECTURES)


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (classify, "resnet", "config.model.architecture='resnet' must be one of unet, cnn, "),
        (classify, "transformer_unet", "is not for the task 'classify': choose unet or cnn or "),
        (segment, "vit", "is not for the task 'segment': choose unet or transformer_unet"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_read(module, name, message, tmp_path):
    config = module.get_config("small")  # without data
    config.model.architecture = name
    with pytest.raises(UserError, match=message):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_study_refuses_a_network_of_the_other_task():
    config = table1.get_config("smoke")
    config.stages.segment.model.architecture = "vgg"
    with pytest.raises(UserError, match="'vgg' is not for the task 'segment'"):
        settings.check_fields(config)


def small_run(workdir, task, name):
    """A run of the recipe `small`, as short as possible; returns its configuration and results."""
    config = {"classify": classify, "segment": segment}[task].get_config("small,phantom")
    config.data.update({"phantom_patients": 4, "downscale": 16, "loader": "numpy"})
    config.split.folds = 2
    config.parallel.devices = 1
    config.train.update({"steps": 5, "batch_size": 2, "ema": 0.0})
    config.model.update({"architecture": name, "unet_width": 1, "mirror_average": False})
    config.augment = common.augment()  # none, which compiles faster
    config.report.bootstrap = 20
    return config, main.run(config, workdir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(config, results, workdir) by task, of one classifier and one segmenter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        made = {}
        for task, name in (("classify", "hard_attention"), ("segment", "transformer_unet")):
            workdir = tmp_path_factory.mktemp("runs") / name
            made[task] = (*small_run(workdir, task, name), workdir)
        yield made


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_run_saves_a_model_that_gives_the_same_predictions(task, runs):
    config, outcome, workdir = runs[task]
    assert outcome["run"]["decoder"] == f"{config.model.architecture}, a network of others"
    saved = Predictions.load(workdir / "predictions.npz")
    model = load_model(workdir)
    dataset = open_dataset(settings.data_settings(config))
    examples = dataset.load(task)
    rows = examples.rows_of(saved.names)
    outputs = model(examples.columns["images"][rows], shape=(30, 40))
    if task == "classify":
        np.testing.assert_allclose(
            outputs["probabilities"], saved.columns["probabilities"], atol=1e-6
        )
    else:
        same = np.asarray(outputs["classes"]).argmax(-1) == saved.columns["label_maps"]
        assert same.all()


def test_a_run_cannot_start_from_another_architecture(runs):
    config = settings.resolve(runs["classify"][0])
    config.init_from = str(runs["classify"][2])
    check_start(config)
    config.model.architecture = "unet"
    with pytest.raises(UserError, match="of architecture 'hard_attention', but config.model.arch"):
        check_start(config)


def test_only_a_unet_can_be_converted_to_published_weights(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_torch", lambda: None)  # the package may be absent
    config = convert_config.get_config("export")
    config.run = str(runs["classify"][2])
    with pytest.raises(UserError, match="'hard_attention', which has no published form"):
        convert.run(config, tmp_path / "weights")
