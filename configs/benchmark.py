"""Times training and inference on random images; needs neither data nor TensorFlow.

    python -m thermo_jax.main --config=configs/benchmark.py:cpu --workdir=runs/benchmark

Presets: `quick` (tiny, for the tests), `cpu` (default) and `gpu` (five cases in five minutes).
The other presets measure no time:
- `against_cpu` compares one step in each compute type with a step in float32 on the CPU;
- `tpu_aot` compiles the real steps for TPU slices on any machine with libtpu
  (`pip install '.[tpu]'`) and says whether they fit;
- `gpu_aot` compiles them for NVIDIA's H200 on any machine with JAX's plugin for CUDA 13
  (`pip install '.[cuda13]'`; start it with JAX_PLATFORMS=cpu), and counts their kernels and bytes;
- `collectives` counts what devices send each other in a step (on the CPU, start it with
  XLA_FLAGS=--xla_force_host_platform_device_count=8).

On a GPU, steps that are sent together run as one CUDA graph (thermo_jax/training/xla_flags.py), in
which the profiler sees no kernels. To list the kernels, and to add rows with XLA's default graphs
to the same table, run the benchmark a second time with the same workdir and
XLA_FLAGS=--xla_gpu_enable_command_buffer=-CONVOLUTION,-WHILE. `launch/gpu_check.sh` does all this.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def _build(preset: str = "cpu") -> ConfigDict:
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "benchmark"
    # What is timed: "pretrain", "classify" and "segment" are training steps, "encode" and "predict"
    # inference. "encode and segment" (or classify) encodes in every training step. "augmented
    # segment" (or classify, pretrain) also changes the images at random. Each name is followed by a
    # data type ("H") or a row of Table 1 ("H/H"). "pretrain H:64" has 64 images in a step instead
    # of config.batch_size.
    config.cases = ("pretrain H", "segment H/H", "classify H/H", "encode H", "pretrain G")
    # Training cases that are also timed with each way of feeding batches to steps. If there are
    # any, a call of a step that does nothing is timed, too.
    config.feeding = ("pretrain H", "encode and segment H/H")
    # Cases of which JAX's profiler lists the longest kernels, in the first of config.dtypes.
    config.profiled = ()
    # Compute types: "float32", "tensorfloat32" and "bfloat16", as in config.model.dtype.
    config.dtypes = ("float32",)
    # Images in a batch, over all devices, by data type (if a decoder is timed, its data type).
    config.batch_size = ConfigDict({"gray": 16, "heat": 16})
    # Training steps that are sent to the devices at once: a dispatch.
    config.steps_per_dispatch = 1
    # Timed dispatches, after an untimed one; their median and spread are reported.
    config.repeats = 3
    # Images are made smaller by this factor.
    config.downscale = 1
    # Channels of the encoder's first block.
    config.num_kernels = 16
    # True: decoders read raw pixels, as with config.encoder.kind="none".
    config.raw_pixels = False
    # Channels of the U-Net's first stage.
    config.unet_width = 64
    # How layers are computed: "native" (with XLA's own operations), "cpu", "gpu", or "auto" (the
    # one for this platform, see models/operations.py). Results differ by rounding only.
    config.conv = "auto"
    # "pmap" or "shard_map".
    config.mode = "pmap"
    # Side of the square matrices whose product measures the device's highest computing speed.
    config.matrix = 2048
    # Megabytes whose copy measures the device's highest memory speed.
    config.copy_mb = 256
    # True: time nothing, but compare one step of each case and type with float32 on the CPU.
    config.against_cpu = False
    # tpu_aot only: slices to compile for, as libtpu names them.
    config.topologies = ()
    # gpu_aot only: numbers of H200 to compile for; every GPU has a batch of config.batch_size.
    config.gpus = ()
    # gpu_aot only: how many of a step's longest kernels to list.
    config.biggest = 0
    # collectives only: numbers of devices; every device has a batch of config.batch_size.
    config.device_counts = ()
    config.update(_PRESETS[preset])
    return config


_PRESETS = {  # each with the fields that it changes
    "against_cpu": {
        "cases": ("pretrain H:4", "segment H/H:4"),
        "feeding": (),
        "dtypes": ("float32", "tensorfloat32", "bfloat16"),
        "downscale": 4,
        "against_cpu": True,
    },
    "collectives": {
        "cases": ("pretrain H", "segment H/H"),
        "batch_size": {"heat": 2},
        "downscale": 4,  # what is sent does not depend on the images' size
        "device_counts": (1, 2, 4, 8),
    },
    "cpu": {"batch_size": {"gray": 1}},
    "gpu": {
        "cases": (
            "pretrain H:64",
            "segment H/H:64",
            "pretrain H:16",
            "segment H/H:16",
            "pretrain G:16",
        ),
        "profiled": ("pretrain H:64", "segment H/H:64"),
        "feeding": (),
        "dtypes": ("bfloat16",),
        "steps_per_dispatch": 20,
        "repeats": 7,
        "matrix": 8192,
        "copy_mb": 1024,
    },
    "gpu_aot": {
        "cases": ("pretrain H", "segment H/H", "predict H/H", "pretrain G", "segment G/G"),
        "dtypes": ("bfloat16",),
        "batch_size": {"heat": 64},
        "gpus": (1, 8),
    },
    "quick": {
        "cases": ("pretrain H", "segment G/H", "encode H", "predict H/H"),
        "feeding": ("pretrain H",),
        "batch_size": {"gray": 1, "heat": 2},
        "steps_per_dispatch": 2,
        "repeats": 2,
        "downscale": 4,
        "num_kernels": 2,
        "unet_width": 2,
        "matrix": 512,
        "copy_mb": 1,
    },
    "tpu_aot": {
        "cases": ("pretrain H", "segment H/H", "pretrain G", "segment G/G"),
        "dtypes": ("bfloat16",),
        "topologies": ("v5e:2x2", "v6e:2x2"),
    },
}


get_config = common.presets(_build, choices=_PRESETS)
