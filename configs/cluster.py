"""Clusters a pretrained encoder's latents without labels, and scores the clusters.

    python -m thermo_jax.main --config=configs/cluster.py:heat --workdir=runs/cluster_heat \
        --config.data.root=/data/dmr-ir --config.encoder.workdir=runs/encoder_heat

Presets: `gray` or `heat` (default), then optionally `phantom`, joined by commas. Keep config.split
as in the encoder's run: the test patients are then unseen by the encoder. The run takes a minute.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def _build(data_type: str = "heat") -> ConfigDict:
    config = common.base("cluster", data_type=data_type)  # config.seed chooses the first centers
    # Number of clusters in each image; with more than 8, several clusters share a class.
    config.num_clusters = 10
    # Largest number of iterations of k-means, which stops earlier if the clusters hardly change.
    config.iterations = 100
    # Images encoded and clustered at once, over all devices.
    config.batch_size = 8
    # True: use the annotated images of the test patients; False: of all patients.
    config.only_test = True
    config.encoder = ConfigDict()
    # Workdir of the pretrained encoder (a run of configs/encoder.py).
    config.encoder.workdir = ""
    # Data type the encoder was trained on: "gray" or "heat".
    config.encoder.type = data_type
    return config


get_config = common.presets(_build, choices=("gray", "heat"), options={"phantom": common.phantom})
