"""Compares two segmenters: are their weights equal to the bit, and if not, how do regions differ?

    python launch/compare_weights.py NEW.safetensors [OLD.safetensors] [--images=20]

Without OLD, NEW is compared with the model in the package. `train_shipped.sh` starts this program.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from thermo_jax.data.phantom import write_phantom
from thermo_jax.errors import UserError
from thermo_jax.inference.predictor import Predictor
from thermo_jax.training.weights_file import SHIPPED, read_weights

SEED = 21  # of the phantoms: those of training runs have the seed 0, so that these are new


def compare(new: str, old: str, *, images: int) -> str:
    """A sentence: equal digests, or the share of label pixels that differ on synthetic images."""
    digests = [read_weights(path)[1]["weights_sha256"] for path in (new, old)]
    if digests[0] == digests[1]:
        return f"equal to the bit: the weights' SHA-256 is {digests[0]}"
    with tempfile.TemporaryDirectory() as folder:
        data = write_phantom(Path(folder) / "phantom", patients=images, seed=SEED, version=2)
        ours, theirs = (
            np.stack(
                [
                    prediction.label_map
                    for prediction in Predictor(path, check=False).predict_files(data)
                ]
            )
            for path in (new, old)
        )
    different = ours != theirs
    by_image = different.mean((1, 2))
    return (
        f"the weights differ. On {len(ours)} synthetic images, {different.sum()} of "
        f"{different.size} label pixels differ ({100 * different.mean():.3f} %; in the worst image "
        f"{100 * by_image.max():.3f} %)"
    )


def main(arguments: list[str]) -> int:
    """Prints the comparison; the exit code is 2 if a file cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("new")
    parser.add_argument("old", nargs="?", default=SHIPPED)
    parser.add_argument("--images", type=int, default=20)
    given = parser.parse_args(arguments)
    try:
        print(compare(given.new, given.old, images=given.images))
    except UserError as error:
        print(f"compare_weights.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
