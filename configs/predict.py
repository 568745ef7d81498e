"""Applies trained decoders to your own thermograms: probability, regions, temperatures, reports.

    python -m thermo_jax.main --config=configs/predict.py --workdir=predictions \
        --config.input=/data/my_thermograms --config.models=runs/classify,runs/segment

Reads JPEG, PNG, TIFF, and temperatures in degrees C (txt, csv, npy, floating-point TIFF; FLIR
radiometric JPEG with `pip install 'thermo_jax[flir]'`) of any size. Files of one folder and one
name are one thermogram. Patients are told by file names (T0001.1.1.S.2012-10-08.00.txt) or folders
(0001, patient 1): a patient's probability is the mean over her thermograms, but for those whose
names tell a view, or a mirrored copy, that a classifier was not trained on; her page shows them
all; a thermogram that tells no patient stands alone. A file that cannot be read is told in
predictions.csv; the rest goes on.
Takes about a second a thermogram on a CPU at full resolution.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def get_config(argument: str = "") -> ConfigDict:
    """The configuration; there are no presets."""
    return common.parse_preset(
        argument, choices=(), default="", options={}, build=_build, file="predict.py"
    )


def _build(_: str) -> ConfigDict:
    config = ConfigDict()
    # What to run.
    config.task = "predict"
    # A thermogram, or a folder of them (subfolders are searched).
    config.input = ""
    # Workdirs of trained decoders, joined by commas; a folder above several (a table1 run's, say)
    # gives all of them. Those of one task are an ensemble: their mean is the answer.
    config.models = ""
    # Thermograms computed at once.
    config.batch_size = 8
    # Whether to draw an overlay of every thermogram and write a page of every patient.
    config.reports = True
    # matplotlib colour map of temperatures in the reports.
    config.colormap = "inferno"
    config.model = ConfigDict()
    # Compute type: "float32", "tensorfloat32" (the same arrays, but an accelerator
    # rounds what it multiplies: models/precision.py), "bfloat16", or "auto" (bfloat16, but float32
    # on CPUs and on NVIDIA's GPUs before Ampere).
    config.model.dtype = "auto"
    return config
