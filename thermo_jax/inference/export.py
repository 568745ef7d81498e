"""A trained decoder as one StableHLO file: it runs wherever JAX does, without this package.

    model = load_model("runs/segment_HH")
    export_model(model, "segment_HH.stablehlo")

    import jax, json, pathlib                        # elsewhere
    exported = jax.export.deserialize(pathlib.Path("segment_HH.stablehlo").read_bytes())
    outputs = exported.call(images)                  # uint8 [any batch, H, W, C]

The weights are inside. Beside the file, a .json says what goes in and what comes out.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from thermo_jax.data.examples import IMAGE_SHAPES, downscaled_size
from thermo_jax.data.thermogram import CLASS_NAMES, LABEL_NAMES
from thermo_jax.evaluation.wording import DISCLAIMER, SIDES_NOTE
from thermo_jax.inference.predictor import Model, forward

PLATFORMS = ("cpu", "cuda", "tpu")


def export_model(
    model: Model, path: str | os.PathLike, *, platforms: tuple[str, ...] = PLATFORMS
) -> list[Path]:
    """Writes `path` and its .json; returns both.

    Args:
      platforms: where it shall run; "cpu", "cuda", "rocm" or "tpu".
    """
    height, width, channels = IMAGE_SHAPES[model.data_type]
    size = downscaled_size(height, width, model.downscale)
    # XLA's own convolution: the one that is chosen for the CPU would be slower elsewhere.
    encoder = model.encoder.clone()
    if hasattr(encoder, "conv_general_dilated"):
        encoder = encoder.clone(conv_general_dilated=None)
    decoder = model.decoder.clone(conv_general_dilated=None)

    @jax.jit
    def run(images):
        return forward(
            model.variables,
            model.frozen,
            images,
            encoder=encoder,
            decoder=decoder,
            channels=model.channels,
        )

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *size, channels), jnp.uint8)
    exported = export.export(run, platforms=platforms)(images)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(exported.serialize())
    facts = path.with_suffix(".json")
    facts.write_text(json.dumps(_facts(model, size, channels, platforms), indent=2) + "\n")
    return [path, facts]


def _facts(model: Model, size, channels: int, platforms) -> dict:
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
        "platforms": list(platforms),
        "input": f"images: uint8 [batch, {size[0]}, {size[1]}, {channels}], 0..255",
        "images": rendering[model.data_type],
        "reduced_by": model.downscale,
        "outputs": outputs,
        "classes": list(CLASS_NAMES) if model.task == "segment" else list(LABEL_NAMES.values())[:2],
        "sides": SIDES_NOTE,
        "caution": DISCLAIMER,
    }
