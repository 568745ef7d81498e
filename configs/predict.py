"""Applies trained decoders to your own thermograms: probability, regions, temperatures, reports.

    python -m thermo_jax.main --config=configs/predict.py --workdir=predictions \
        --config.input=/data/my_thermograms --config.models=runs/classify,runs/segment

Reads JPEG, PNG, TIFF, and temperatures in degrees C (txt, csv, npy, floating-point TIFF; FLIR
radiometric JPEG with `pip install 'thermo_jax[flir]'`) of any size. Files with the same folder and
name are one thermogram. The names of files (T0001.1.1.S.2012-10-08.00.txt) or folders (0001,
patient 1) identify the patients. A patient's probability is the mean over their thermograms,
without the views and mirrored copies that a classifier was not trained on; the patient's page shows
all. A thermogram without a patient is reported separately. A file that cannot be read is listed in
predictions.csv, and the others are still processed. A thermogram takes about a second on a CPU.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def _build() -> ConfigDict:
    config = ConfigDict()
    config.task = "predict"  # the program
    # A thermogram, or a folder of them (subfolders are searched).
    config.input = ""
    # Workdirs of trained decoders, separated by commas; a folder that contains several (such as a
    # table1 run) stands for all of them. Predictions of decoders of one task are averaged.
    config.models = ""
    # Thermograms in a batch.
    config.batch_size = 8
    # Whether to draw an overlay of every thermogram and write a page of every patient.
    config.reports = True
    # matplotlib colour map of temperatures in the reports.
    config.colormap = "inferno"
    config.model = ConfigDict()
    # Type in which layers are computed; configs/common.py lists the choices.
    config.model.dtype = "auto"
    return config


get_config = common.presets(_build)
