"""Evaluates trained decoders on labelled or annotated thermograms, without training.

    python -m thermo_jax.main --config=configs/evaluate.py --workdir=runs/evaluated \
        --config.data.root=/data/clinic --config.models=runs/classify_HH,runs/segment_HH,shipped

Classifiers are evaluated on the images with a diagnosis, segmenters on the annotated images. The
results have the same form as those of a training run. Patients who are known to have trained a
model are left out. Without --config.models, the segmenter that comes with thermo_jax is evaluated.
Preset: `phantom` (synthetic data instead of a folder).
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def _build() -> ConfigDict:
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "evaluate"
    common.apply_models(config)
    # Path of a split.json, which every training run writes to its workdir: only the patients in its
    # set "test" are evaluated. "" = all patients.
    config.split_file = ""
    # Images in a batch, over all devices.
    config.batch_size = 8
    config.data = common.data("gray")
    # The data type, size and colours of the images are those that each model reads. Nothing is
    # trained, so that there are no control experiments and no endless phantoms.
    for field in ("type", "downscale", "colormap", "shuffle_labels", "endless"):
        del config.data[field]
    config.flir = common.flir()
    config.parallel = common.parallel()
    config.report = common.report()
    return config


get_config = common.presets(_build, options={"phantom": common.phantom})
