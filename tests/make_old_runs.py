"""Makes the small runs of tests/old_runs: `python make_old_runs.py FOLDER`, with the old code."""

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from thermo_jax import main
from thermo_jax.configs import classify, encoder, segment
from thermo_jax.data.phantom import COCO_NAME, write_phantom
from thermo_jax.training import loop

EPOCHS = 3


class Interrupted(Exception):
    """Stops a run, as a kill or a full disk would."""


def shrink(config, **encoder_fields):
    """Shrinks a configuration: 24x32 heatmaps of 8 patients, narrow models, one device."""
    config.data.root = "data"
    config.data.downscale = 5
    config.data.loader = "numpy"
    config.parallel.devices = 1
    config.split.folds = 4
    config.train.batch_size = 4
    config.train.epochs = EPOCHS
    if config.task == "encoder":
        config.model.num_kernels = 1
    else:
        config.model.unet_width = 2
        config.encoder.update(encoder_fields)
        config.report.bootstrap = 20
    return config


def run_until(epoch, config, workdir):
    """Trains, and stops after the epoch unless it is None."""

    def on_epoch(number):
        if number == epoch:
            raise Interrupted

    fit = loop.fit
    loop.fit = partial(fit, on_epoch=on_epoch)
    try:
        main.run(config, workdir)
    except Interrupted:
        pass
    finally:
        loop.fit = fit


def prune(workdir):
    """Deletes files that neither a continued run nor a prediction needs."""
    for name in ("tensorboard", "pictures", "tables"):
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in ("report.html", "report.md", "results.txt", ".lock"):
        (workdir / name).unlink(missing_ok=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    with tempfile.TemporaryDirectory() as cache:
        phantom = write_phantom(Path(cache) / "phantom", patients=8)
        for path in (COCO_NAME, *(f"{n:04d}/*_snap.jpg" for n in range(1, 9))):
            for file in phantom.glob(path):
                target = folder / "data" / file.relative_to(phantom)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        for page in phantom.glob("*/description.html"):
            shutil.copy(page, folder / "data" / page.relative_to(phantom))
    os.chdir(folder)
    for state, epoch in (("finished", None), ("stopped", 2)):
        run_until(epoch, shrink(encoder.get_config("heat")), f"{state}/encoder")
        given = {"workdir": "finished/encoder"}
        run_until(epoch, shrink(classify.get_config("H/H"), **given), f"{state}/classify")
        run_until(epoch, shrink(segment.get_config("H/H"), **given), f"{state}/segment")
    for workdir in Path().glob("*/*"):
        if (workdir / "config.json").is_file():
            prune(workdir)
