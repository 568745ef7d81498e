"""Writes trained decoders as files: StableHLO or ONNX to run without this package, or safetensors.

    python -m thermo_jax.main --config=configs/export.py --workdir=exported \
        --config.models=runs/classify_HH,runs/segment_HH

Presets: `stablehlo` (default), which runs wherever JAX does, or `onnx` (`pip install
'thermo_jax[onnx]'`), which onnxruntime and others run. The weights and the frozen encoder are
inside; a .json beside each file describes its inputs and outputs. An ONNX file is written only if
onnxruntime's results agree with JAX's to 1e-4. A model takes some seconds.

The preset `safetensors` writes weights for this package, to be shared: one file, which
configs/predict.py reads like a workdir, and from which a run can start (config.init_from). It also
contains the configuration without paths, the scores, and digests of the patients on whom the model
was trained, which only those who have the same data can recognise.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def _build(file_format: str = "stablehlo") -> ConfigDict:
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "export"
    # "stablehlo", "onnx" or "safetensors": set by the preset.
    config.format = file_format
    # Workdirs of trained decoders, separated by commas; a folder that contains several stands for
    # all of them.
    config.models = ""
    if file_format == "stablehlo":
        # Where the files can run: any of "cpu", "cuda", "rocm" and "tpu".
        config.platforms = ("cpu", "cuda", "tpu")
        config.model = ConfigDict()
        # Compute type of the files: "float32", "tensorfloat32" or "bfloat16".
        config.model.dtype = "float32"
    return config


get_config = common.presets(_build, choices=("stablehlo", "onnx", "safetensors"))
