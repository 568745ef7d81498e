"""Which compute type "auto" means on a device, and the precision of products in each type."""

import collections
import pathlib
import re
from unittest import mock

import jax
import numpy as np
import pytest
import tiny_training as tiny
from saved_decoders import save_decoder

from thermo_jax.benchmark.cases import make_case
from thermo_jax.configs import benchmark as benchmark_config
from thermo_jax.data.picture import Picture
from thermo_jax.data.thermogram import Thermogram
from thermo_jax.inference import export, predictor, trained_models
from thermo_jax.inference.inputs import ReadThermogram
from thermo_jax.models.operations import NATIVE
from thermo_jax.models.precision import array_dtype, choose_dtype, matmul_precision
from thermo_jax.programs.benchmark import benchmark_settings
from thermo_jax.training.parallel import AXIS
from thermo_jax.training.placement import Placement

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

# How StableHLO writes the precision of "float32", "tensorfloat32" and of JAX's default.
FULL, SHORTER, DEFAULT = "HIGHEST", "HIGH", "DEFAULT"


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({"platform": "cpu"}, "float32"),
        ({"platform": "tpu"}, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "7.5"}, "float32"),  # T4
        ({"platform": "gpu", "compute_capability": "8.0"}, "bfloat16"),  # A100
        ({"platform": "gpu", "compute_capability": "10.3"}, "bfloat16"),  # B300
        ({"platform": "gpu", "compute_capability": "gfx942"}, "bfloat16"),  # AMD MI300
    ],
)
def test_auto_is_bfloat16_where_the_hardware_multiplies_it(device, expected):
    assert choose_dtype("auto", device=mock.Mock(spec=jax.Device, **device)) == expected


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="'bf16' is unknown: choose one of auto, float32"):
        choose_dtype("bf16", device=jax.devices()[0])


@pytest.mark.parametrize("name", ["bfloat16", "tensorfloat32"])
def test_a_type_that_the_user_chose_is_kept(name):
    old_gpu = mock.Mock(spec=jax.Device, platform="gpu", compute_capability="7.5")
    assert choose_dtype(name, device=old_gpu) == name


def test_tensorfloat32_is_float32_except_in_products():
    assert array_dtype("tensorfloat32") == np.float32
    assert array_dtype("float32") == np.float32
    assert array_dtype("bfloat16").name == "bfloat16"


def test_a_type_that_was_not_chosen_yet_has_no_precision():
    with pytest.raises(KeyError, match="auto"), matmul_precision("auto", platform="cpu"):
        pass


def precisions(text, operation):
    """Count the precisions of an operation's operands in a lowered program."""
    lines = [line for line in text.splitlines() if f"stablehlo.{operation}" in line]
    assert lines
    # Without the attribute, the precision is the default.
    matches = (re.search(r"precision(?:_config)? = \[(.*?)\]", line) for line in lines)
    named = (re.findall(r"HIGHEST|HIGH|DEFAULT", m[1]) if m else [DEFAULT] for m in matches)
    return collections.Counter(name for names in named for name in set(names))


def lowered(dtype, platform):
    """Lower a training step of a shrunk encoder as a run on that platform would."""
    parallel = tiny.devices(1, mode="shard_map")
    trainer = tiny.encoder_trainer(contrastive_weight=0.5)
    state, batch = parallel.replicate(trainer.state), parallel.put_batch(batch_of_images())
    pretended = (mock.Mock(spec=jax.Device, platform=platform),)
    object.__setattr__(parallel, "devices", pretended)  # the mesh stays
    step = Placement(parallel=parallel, dtype=dtype).map_step(
        trainer.train_step, role="train", resident=False
    )
    return step.lower(state, batch).as_text()


def batch_of_images():
    return tiny.batch_of({"images": tiny.columns(tiny.BATCH_SIZE)["images"]})


@pytest.mark.parametrize(
    ("dtype", "platform", "expected"),
    [
        ("float32", "gpu", FULL),
        ("float32", "tpu", FULL),
        ("tensorfloat32", "gpu", SHORTER),
        ("tensorfloat32", "tpu", SHORTER),
        ("bfloat16", "gpu", DEFAULT),
        ("float32", "cpu", DEFAULT),
        ("tensorfloat32", "cpu", DEFAULT),
    ],
)
def test_all_convolutions_of_a_step_and_their_gradients_have_the_precision(
    dtype, platform, expected
):
    text = lowered(dtype, platform)
    assert precisions(text, "convolution").keys() == {expected}
    # Products in the losses always have full precision.
    assert precisions(text, "dot_general").keys() == {FULL}
    assert jax.config.jax_default_matmul_precision is None


@pytest.fixture(scope="module")
def saved_classifier(tmp_path_factory):
    with tiny.shallow_decoders():
        yield save_decoder(tmp_path_factory.mktemp("run"), "classify")


def exported_text(model, platforms):
    with mock.patch.object(export, "_write") as write:
        export.export_stablehlo(model, "nowhere", platforms=platforms)
    return jax.export.deserialize(write.call_args.args[1]).mlir_module()


@pytest.mark.parametrize(
    ("dtype", "platforms", "expected"),
    [
        ("float32", ("cpu", "cuda", "tpu"), FULL),
        ("tensorfloat32", ("cuda",), SHORTER),
        ("float32", ("cpu",), DEFAULT),
    ],
)
def test_an_exported_model_has_the_precision_of_its_type(
    saved_classifier, dtype, platforms, expected
):
    model = predictor.load_model(saved_classifier, dtype=dtype)
    assert model.dtype == dtype and model.decoder.operations.dtype == np.float32
    assert precisions(exported_text(model, platforms), "convolution").keys() == {expected}


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "highest"), ("tensorfloat32", "tensorfloat32")]
)
def test_a_prediction_is_made_in_the_precision_of_its_type(saved_classifier, dtype, expected):
    inside = []

    def forward(*_, **__):
        inside.append(jax.config.jax_default_matmul_precision)
        return {"probabilities": np.zeros(1), "evidence": np.zeros((1, 4, 4))}

    record = Thermogram(name="a", patient="a", patient_known=False)
    file = pathlib.Path("a.txt")
    temperatures = np.eye(480, 640, dtype=np.float32) + 30
    picture = Picture(temperatures=temperatures, sources={"temperatures": file})
    thermogram = ReadThermogram(record, picture)
    ensemble = predictor.Predictor(saved_classifier, dtype=dtype, check=False)
    with (
        mock.patch.object(trained_models, "forward", forward),
        mock.patch.object(jax, "default_backend", lambda: "gpu"),
    ):
        list(ensemble.predict_read([thermogram], count=1))
    assert inside == [expected]
    assert jax.config.jax_default_matmul_precision is None


def test_a_benchmarks_step_has_the_precision_of_its_type():
    config = benchmark_config.get_config("quick")
    settings = benchmark_settings(config)
    case = make_case("encode H", settings, dtype="tensorfloat32", operations=NATIVE, platform="gpu")
    step = jax.vmap(case.step, in_axes=(None, 0), axis_name=AXIS)
    batch = {"images": np.zeros((1, 2, *case.columns["images"].shape), np.uint8)}
    text = jax.jit(step).lower(jax.eval_shape(case.make_state), batch).as_text()
    assert precisions(text, "convolution").keys() == {SHORTER}
