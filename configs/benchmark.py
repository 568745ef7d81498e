"""Times training and inference on random images; needs neither data nor TensorFlow.

    python -m thermo_jax.main --config=configs/benchmark.py:cpu --workdir=runs/benchmark

Presets: `quick` (tiny, for the tests), `cpu` (default) and `gpu` (five cases in five minutes).
The other presets measure no time:
- `against_cpu` compares one step in each compute type with the CPU's in float32;
- `tpu_aot` compiles the real steps for TPU slices on any machine with libtpu
  (`pip install '.[tpu]'`) and says whether they fit;
- `gpu_aot` compiles them for NVIDIA's H200 on any machine with JAX's plugin for CUDA 13
  (`pip install '.[cuda13]'`; start it with JAX_PLATFORMS=cpu), and counts their kernels and bytes;
- `collectives` counts what devices send each other in a step (on the CPU, start it with
  XLA_FLAGS=--xla_force_host_platform_device_count=8).

On a GPU a dispatch is one CUDA graph (thermo_jax/training/xla_flags.py). To add rows for XLA's
own choice to the same table, run the benchmark a second time with the same workdir and
XLA_FLAGS=--xla_gpu_enable_command_buffer=-CONVOLUTION,-WHILE. `launch/gpu_check.sh` does all this.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common

_DECODERS = tuple(f"{task} {row}" for task in ("classify", "segment") for row in common.ROWS)


def _build(preset: str = "cpu") -> ConfigDict:
    config = ConfigDict()
    # What to run.
    config.task = "benchmark"
    # What is timed: "pretrain", "classify" and "segment" are training steps, "encode" and "predict"
    # inference; "encode and segment" (or classify) encodes in every training step. After this
    # comes a data type ("H") or a row of Table 1 ("H/H"). "pretrain H:64" has 64 images in a step
    # instead of config.batch_size.
    config.cases = ("pretrain H", *_DECODERS, "pretrain G", "encode H", "predict H/H")
    # Training cases that are also timed with each way of feeding batches to steps. If there are
    # any, a call of a step that does nothing is timed, too.
    config.feeding = ("pretrain H", "encode and segment H/H")
    # Cases that also run once under JAX's profiler, in the first type, to list the biggest kernels.
    config.profiled = ()
    # Compute types: "float32", "tensorfloat32" and "bfloat16", as in config.model.dtype.
    config.dtypes = ("bfloat16", "float32")
    # Images in a batch by the decoder's (or encoder's) data type, over all devices.
    config.batch_size = ConfigDict({"gray": 16, "heat": 16})
    # Training steps in a dispatch.
    config.steps_per_dispatch = 20
    # Timed dispatches, after an untimed one; their median and spread are reported.
    config.repeats = 7
    # Images are made smaller by this factor.
    config.downscale = 1
    # Channels of the encoder's first block, and of the U-Net's first stage.
    config.num_kernels = 16
    # See num_kernels.
    config.unet_width = 64
    # How layers are computed: "auto" (by platform), "native" (XLA's own, as on TPUs), "cpu", "gpu"
    # (models/operations.py). Results differ by rounding only.
    config.conv = "auto"
    # "pmap" or "shard_map".
    config.mode = "pmap"
    # Side of the square matrices whose product is the compute ceiling.
    config.matrix = 8192
    # Megabytes whose copy is the memory ceiling.
    config.copy_mb = 1024
    # True: nothing is timed; one step of each case and type is compared with the CPU's in float32.
    config.against_cpu = False
    # tpu_aot only: slices to compile for, as libtpu names them.
    config.topologies = ()
    # gpu_aot only: numbers of H200 to compile for, each with the whole config.batch_size.
    config.gpus = ()
    # gpu_aot only: how many of a step's biggest kernels to list.
    config.biggest = 0
    # collectives only: numbers of devices, each with the whole config.batch_size.
    config.device_counts = ()
    _PRESETS[preset](config)
    return config


def _cpu(config: ConfigDict) -> None:
    config.cases = ("pretrain H", "segment H/H", "classify H/H", "encode H", "pretrain G")
    config.dtypes = ("float32",)
    config.batch_size = ConfigDict({"gray": 1, "heat": 16})
    config.steps_per_dispatch = 1
    config.repeats = 3
    config.matrix = 2048
    config.copy_mb = 256


def _gpu(config: ConfigDict) -> None:
    config.cases = ("pretrain H:64", "segment H/H:64", "pretrain H:16", "segment H/H:16")
    config.cases += ("pretrain G:16",)
    config.profiled = config.cases[:2]
    config.feeding = ()
    config.dtypes = ("bfloat16",)


def _against_cpu(config: ConfigDict) -> None:
    config.cases = ("pretrain H:4", "segment H/H:4")
    config.feeding = ()
    config.dtypes = ("float32", "tensorfloat32", "bfloat16")
    config.downscale = 4
    config.against_cpu = True


def _quick(config: ConfigDict) -> None:
    _cpu(config)
    config.cases = ("pretrain H", "segment G/H", "encode H", "predict H/H")
    config.feeding = ("pretrain H",)
    config.batch_size.heat = 2
    config.steps_per_dispatch = 2
    config.repeats = 2
    config.downscale = 4
    config.num_kernels = 2
    config.unet_width = 2
    config.matrix = 512
    config.copy_mb = 1


def _tpu_aot(config: ConfigDict) -> None:
    config.cases = ("pretrain H", "segment H/H", "pretrain G", "segment G/G")
    config.dtypes = ("bfloat16",)
    config.steps_per_dispatch = 1
    config.topologies = ("v5e:2x2", "v6e:2x2")


def _gpu_aot(config: ConfigDict) -> None:
    config.cases = ("pretrain H", "segment H/H", "predict H/H", "pretrain G", "segment G/G")
    config.dtypes = ("bfloat16",)
    config.batch_size.heat = 64
    config.gpus = (1, 8)


def _collectives(config: ConfigDict) -> None:
    config.cases = ("pretrain H", "segment H/H")
    config.dtypes = ("float32",)
    config.batch_size.heat = 2
    config.downscale = 4  # what is sent does not depend on the images' size
    config.device_counts = (1, 2, 4, 8)


_PRESETS = {
    "against_cpu": _against_cpu,
    "collectives": _collectives,
    "cpu": _cpu,
    "gpu": _gpu,
    "gpu_aot": _gpu_aot,
    "quick": _quick,
    "tpu_aot": _tpu_aot,
}


get_config = common.presets(_build, choices=_PRESETS)
