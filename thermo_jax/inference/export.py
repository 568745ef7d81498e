"""A trained decoder as one file that runs without this package: StableHLO or ONNX.

    model = load_model("runs/segment_HH")
    export_stablehlo(model, "segment_HH.stablehlo")
    export_onnx(model, "segment_HH.onnx")

    import jax, onnxruntime, pathlib                 # elsewhere
    exported = jax.export.deserialize(pathlib.Path("segment_HH.stablehlo").read_bytes())
    outputs = exported.call(images)                  # uint8 [any batch, H, W, C]
    session = onnxruntime.InferenceSession("segment_HH.onnx")
    (classes,) = session.run(["classes"], {"images": images})

The file contains the weights. A .json beside it describes inputs and outputs.
"""

import dataclasses
import json
import logging as python_logging
import os
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path
from jax import export
from jax.extend.core import jaxpr_as_fun

from thermo_jax.data.thermogram import CLASS_NAMES, LABEL_NAMES
from thermo_jax.errors import UserError
from thermo_jax.evaluation.wording import DISCLAIMER, SIDES_NOTE
from thermo_jax.inference.trained_models import Model
from thermo_jax.models.operations import NATIVE
from thermo_jax.models.precision import array_dtype, matmul_precision

PLATFORMS = ("cpu", "cuda", "tpu")
ONNX_TOLERANCE = 1e-4  # between onnxruntime and JAX, absolute and relative


def export_stablehlo(
    model: Model, path: str | os.PathLike, *, platforms: tuple[str, ...] = PLATFORMS
) -> list[Path]:
    """Writes `path` and its .json; returns both. JAX can run the file.

    The file specifies the precision of the model's compute type, so that it does not depend on
    the machine that writes it.

    Args:
      platforms: the machines that can run it; "cpu", "cuda", "rocm" or "tpu".
    """
    model = _portable(model, dtype=model.dtype)
    images = _images_shape(model)
    accelerator = next((name for name in platforms if name != "cpu"), "cpu")
    with matmul_precision(model.dtype, platform=accelerator):
        exported = export.export(jax.jit(model.__call__), platforms=platforms)(images)
    return _write(path, exported.serialize(), _facts(model, images, platforms=list(platforms)))


def export_onnx(model: Model, path: str | os.PathLike) -> list[Path]:
    """Writes `path` and its .json if onnxruntime and JAX give the same outputs; returns both.

    Raises:
      UserError: jax2onnx is not installed, or the outputs differ.
    """
    try:
        import jax2onnx
        import onnx_ir
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"ONNX needs the package {error.name}: pip install 'thermo_jax[onnx]'"
        ) from error
    python_logging.getLogger("onnx_ir").setLevel(python_logging.ERROR)  # hides shape warnings
    # onnxruntime has no bfloat16 convolution on the CPU.
    model = _portable(model, dtype="float32")
    images = _images_shape(model)

    def one_by_one(images):  # jax2onnx 0.17 cannot pad a batch of unknown size
        return jax.lax.map(lambda image: jax.tree.map(lambda x: x[0], model(image[None])), images)

    # jax2onnx must not trace the model: it would replace Flax's convolution by one that pads zeros.
    traced, outputs = jax.make_jaxpr(one_by_one, return_shape=True)(images)
    converted = jax2onnx.to_onnx(
        jaxpr_as_fun(traced),
        [images],
        input_names=["images"],
        output_names=sorted(outputs),
        return_mode="ir",
    )
    # Without this pass, onnxruntime prints a warning for each initializer inside a subgraph.
    onnx_ir.passes.common.LiftSubgraphInitializersToMainGraphPass()(converted)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(converted)
    content = onnx_ir.to_proto(converted).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = _difference(session, model, images)
    facts = {
        "converted_by": f"jax2onnx {metadata.version('jax2onnx')}",
        "largest_difference": f"{difference:.1g}, between onnxruntime and JAX on random images",
    }
    return _write(path, content, _facts(model, images, **facts))


def _portable(model: Model, *, dtype: str) -> Model:
    """The model with XLA's standard operations; those for this machine may be slow elsewhere."""
    operations = dataclasses.replace(NATIVE, dtype=array_dtype(dtype))
    module = model.encoder.module.clone(operations=operations)
    return model._replace(
        dtype=dtype,
        encoder=dataclasses.replace(model.encoder, module=module),
        decoder=model.decoder.clone(operations=operations),
    )


def _images_shape(model: Model) -> jax.ShapeDtypeStruct:
    """Shape and type of a batch of the model's images; the batch may have any size."""
    (batch,) = export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.uint8)


def _difference(session, model: Model, images: jax.ShapeDtypeStruct) -> float:
    """The largest difference between an onnxruntime session and the model on two random images.

    Raises:
      UserError: it is above `ONNX_TOLERANCE`.
    """
    random = np.random.default_rng(0).integers(0, 256, (2, *images.shape[1:]), dtype=np.uint8)
    with jax.default_matmul_precision("highest"):  # an accelerator's default is less precise
        ours = {key: np.asarray(value) for key, value in model(random).items()}
    theirs = dict(zip(ours, session.run(list(ours), {"images": random}), strict=True))
    difference = max(float(np.abs(theirs[key] - ours[key]).max()) for key in ours)
    if not all(
        np.allclose(theirs[key], ours[key], rtol=ONNX_TOLERANCE, atol=ONNX_TOLERANCE)
        for key in ours
    ):
        raise UserError(
            f"{model.name} was converted wrongly: onnxruntime differs from JAX by {difference:.1g}."
            " Install other versions of jax2onnx and onnxruntime, or export StableHLO"
        )
    return difference


def _write(path: str | os.PathLike, content: bytes, facts: dict) -> list[Path]:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    described = path.with_suffix(".json")
    described.write_text(json.dumps(facts, indent=2) + "\n")
    return [path, described]


def _facts(model: Model, images: jax.ShapeDtypeStruct, **more) -> dict:
    height, width, channels = images.shape[1:]
    outputs = {
        "probabilities": "float32 [batch], of sick",
        "evidence": "float32 [batch, H, W], each pixel's part of the logit, less its bias",
    }
    if model.task == "segment":
        outputs = {"classes": "float32 [batch, 480, 640, 8], probabilities of the classes"}
    rendering = {
        "gray": "gray thermogram; from temperatures: (t - min) / (max - min) * 255",
        "heat": f"RGB heatmap; from temperatures: min-max, block mean, colour map {model.colormap}",
    }
    return {
        "task": model.task,
        **more,
        "input": f"images: uint8 [batch, {height}, {width}, {channels}], 0..255",
        "images": rendering[model.data_type],
        "reduced_by": model.downscale,
        "outputs": outputs,
        "classes": list(CLASS_NAMES) if model.task == "segment" else list(LABEL_NAMES.values())[:2],
        "sides": SIDES_NOTE,
        "caution": DISCLAIMER,
    }
