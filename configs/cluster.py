"""Clusters a pretrained encoder's latents without labels, and scores the clusters.

    python -m thermo_jax.main --config=configs/cluster.py:heat --workdir=runs/cluster_heat \
        --config.data.root=/data/dmr-ir --config.encoder.workdir=runs/encoder_heat

Presets: `gray` or `heat` (default), then optionally `phantom`, joined by commas. Keep config.split
as in the encoder's run: the test patients are then unseen by the encoder. Takes a minute.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def get_config(argument: str = "") -> ConfigDict:
    """The configuration of a preset such as "gray"."""
    return common.parse_preset(
        argument,
        choices=("gray", "heat"),
        default="heat",
        options={"phantom": common.phantom},
        build=_build,
        file="cluster.py",
    )


def _build(data_type: str) -> ConfigDict:
    config = ConfigDict()
    # What to run.
    config.task = "cluster"
    # Seed of the clusters' first centers.
    config.seed = 0
    # Clusters of each image; those beyond the 8 classes share a class with another.
    config.num_clusters = 10
    # At most so many iterations of k-means; it ends earlier when the clusters hardly change.
    config.iterations = 100
    # Images encoded and clustered at once, over all devices.
    config.batch_size = 8
    # True: the annotated images of the test patients; False: of all patients.
    config.only_test = True

    config.data = common.data(data_type)
    config.split = common.split()
    config.parallel = common.parallel()
    config.encoder = ConfigDict()
    # Workdir of the pretrained encoder (a run of configs/encoder.py).
    config.encoder.workdir = ""
    # Data type the encoder was trained on: "gray" or "heat".
    config.encoder.type = data_type
    config.model = ConfigDict()
    # Compute type of the encoder: "float32", "tensorfloat32" (the same arrays, but an accelerator
    # rounds what it multiplies: models/precision.py), "bfloat16", or "auto" (bfloat16, but float32
    # on CPUs and on NVIDIA's GPUs before Ampere).
    # k-means computes in float32 always.
    config.model.dtype = "auto"
    # How layers are computed: "auto" (by platform), "native" (XLA's own, as on TPUs), "cpu", "gpu"
    # (models/operations.py). Results differ by rounding only.
    config.model.conv = "auto"
    return config
