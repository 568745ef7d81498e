"""The paper's Table 1 and ours beside it: both encoders and all eight decoders, cross-validated.

    python -m thermo_jax.main --config=configs/table1.py:honest --workdir=runs/table1 \
        --config.data.root=/data/dmr-ir

Presets: `honest` (default: encoders train on training patients only, validation patients choose
epoch and threshold, out-of-fold predictions of 5 folds), `paper` (the published protocol,
optimistic: selected on test), `smoke` (phantom data, reduced, H/H, 2 of 4 folds: 13 minutes on 2
CPU cores, AUROC .989, mIoU .815), `small` (row G/G with the recipe of configs/small.py, on raw
pixels; with `--config.stages.segment.encoder.kind=pretrained` on latents of CUTS), `fine_tune` (row
G/G, only the segmenter, from the one that comes with thermo_jax), `quick` (for tests: learns
nothing). The same command continues after an interruption; finished stages are not repeated.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import classify, common, encoder, segment, small


def _build(preset: str = "honest") -> ConfigDict:
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "table1"
    # Seed of every stage's initial weights and order of images.
    config.seed = 0
    # Rows to run, as encoder/decoder.
    config.rows = common.ROWS
    # Decoders to train.
    config.tasks = ("classify", "segment")
    # How many of the split.folds folds are run, 0 = all.
    config.num_folds = 0
    # How often patients are divided into folds, with split.seed, split.seed + 1, ...
    config.repeats = 1
    # A folder of fold files (`folds` in a workdir) to use instead of a new division. "" = none.
    config.folds_dir = ""
    # Also run every row with an encoder that saw the test patients' images, without labels.
    config.transductive = False
    recipe = "small" if preset in ("small", "fine_tune") else ""
    common.stages(
        config,
        encoder=encoder.get_config(recipe),
        classify=classify.get_config(recipe),
        segment=segment.get_config(preset if preset == "fine_tune" else recipe),
    )
    _PRESETS[preset](config)
    return config


def _paper(config: ConfigDict) -> None:
    config.split.protocol = "paper"
    config.num_folds = 1  # 80:20
    config.data.frames = "all"


def _smoke(config: ConfigDict) -> None:
    config.rows = ("H/H",)
    common.phantom(config)
    config.data.phantom_patients = 120
    config.split.folds = 4
    config.num_folds = 2
    config.downscale.update({"gray": 8, "heat": 2})
    config.batch_size.update({"gray": 8, "heat": 8})
    config.stages.encoder.model.num_kernels = 8
    config.stages.encoder.train.epochs = 12
    for stage in (config.stages.classify, config.stages.segment):
        stage.model.unet_width = 16
    config.stages.classify.model.head = "pooled"
    config.stages.classify.train.learning_rate = 2e-3
    config.stages.classify.train.epochs = 24
    config.stages.segment.train.epochs = 80


def _quick(config: ConfigDict) -> None:
    config.rows = ("H/H",)
    common.phantom(config)
    config.data.phantom_patients = 12
    config.data.loader = "numpy"
    config.split.folds = 2
    config.downscale.update({"gray": 20, "heat": 5})
    config.batch_size.update({"gray": 4, "heat": 4})
    config.report.bootstrap = 50
    config.stages.encoder.model.num_kernels = 1
    for stage in config.stages.values():
        stage.train.epochs = 1
    for stage in (config.stages.classify, config.stages.segment):
        stage.model.unet_width = 1


def _small(config: ConfigDict) -> None:
    config.rows = ("G/G",)
    small.study(config)


def _fine_tune(config: ConfigDict) -> None:
    _small(config)
    config.tasks = ("segment",)


_PRESETS = {
    "fine_tune": _fine_tune,
    "honest": lambda config: None,
    "paper": _paper,
    "quick": _quick,
    "small": _small,
    "smoke": _smoke,
}


get_config = common.presets(_build, choices=_PRESETS)
