"""Applies trained decoders to your own thermograms: probability, regions, temperatures, reports.

    python -m thermo_jax.main --config=configs/predict.py --workdir=predictions \
        --config.input=/data/my_thermograms --config.models=runs/classify,runs/segment

Without --config.models, the segmenter that comes with thermo_jax finds the regions, and there are
no probabilities. It was trained on synthetic images only (thermo_jax/shipped/MODEL_CARD.md).

Reads pictures (JPEG, PNG, TIFF, BMP, WebP, GIF) and temperatures (txt, csv, asc, npy, npz,
floating-point or 16-bit TIFF and PNG; FLIR radiometric JPEG with `pip install 'thermo_jax[flir]'`)
of any size. Files with the same folder and name are one thermogram. A thermograms.csv in the
folder, or else the names of files (T0001.1.1.S.2012-10-08.00.txt, PAC_4_DN0) or folders (0001,
patient 1, sub-02), identify the patients. A patient's probability is the mean over their
thermograms, without the views and mirrored copies that a classifier was not trained on; the
patient's page shows all. A thermogram without a patient is reported separately. A thermogram that
seems to show no two breasts from the front is marked, and is not part of its patient's mean either.
A file that cannot be read is listed in predictions.csv, and the others are still processed. A
thermogram takes about a second on a CPU.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def _build() -> ConfigDict:
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "predict"
    # Thermograms, separated by commas: files, folders (with their subfolders), zips, or patterns
    # such as "clinic/*.csv".
    config.input = ""
    common.apply_models(config)
    # Thermograms in a batch.
    config.batch_size = 8
    # Whether to draw an overlay of every thermogram and write a page of every patient.
    config.reports = True
    # Whether to write a LabelMe file of every thermogram, to correct its regions.
    config.labelme = False
    # Whether to check that each thermogram shows two breasts from the front. One that seems not to
    # gets a note, no differences between left and right, and no part in its patient's mean.
    config.check = True
    # What the colours of temperatures in the reports mean: "patient" (one scale for all thermograms
    # of a patient), "thermogram" (a scale of its own for each), or a range in degrees C ("24..36").
    config.scale = "patient"
    # matplotlib colour map of temperatures in the reports.
    config.colormap = "inferno"
    config.data = ConfigDict()
    # Unit of temperatures: "celsius", "fahrenheit", "kelvin", "centikelvin" (kelvin x 100), or
    # "auto", which recognises it by each image's median.
    config.data.unit = "auto"
    config.flir = common.flir()
    return config


get_config = common.presets(_build)
