"""Converts weights between the published PyTorch code's files and workdirs of this package.

    python -m thermo_jax.main --config=configs/convert.py:import --workdir=runs/encoder_heat \
        --config.weights=encoder.pty
    python -m thermo_jax.main --config=configs/convert.py:import --workdir=runs/segment_HH \
        --config.weights=segmenter.pty --config.encoder.workdir=runs/encoder_heat
    python -m thermo_jax.main --config=configs/convert.py:export --workdir=published \
        --config.run=runs/segment_HH

Presets: `import` (default) or `export`. An imported encoder can be given to classify.py, segment.py
and cluster.py, an imported decoder to predict.py and export.py. Files are state dicts, as
torch.save writes them; code in them is never run. Needs PyTorch: `pip install 'thermo_jax[torch]'`.
"""

from ml_collections import ConfigDict

from thermo_jax.configs import common


def _build(direction: str = "import") -> ConfigDict:
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = "convert"
    # "import" or "export": set by the preset.
    config.direction = direction
    if direction == "export":
        # Workdir of an encoder or decoder, whose best model is written.
        config.run = ""
        return config
    # State dict (.pty, .pt, .pth) of an encoder with its reconstruction, or of a decoder.
    config.weights = ""
    config.encoder = ConfigDict()
    # For a decoder: workdir of the encoder that it uses, which may be an imported one.
    config.encoder.workdir = ""
    # For a decoder: data type of its images, "gray" or "heat"; "" = that of its encoder.
    config.type = ""
    # The model's images are smaller by this factor; 1 in the published models.
    config.downscale = 1
    # For a decoder: matplotlib colour map that renders its heatmaps where only temperatures exist.
    config.colormap = "jet"
    return config


get_config = common.presets(_build, choices=("import", "export"))
