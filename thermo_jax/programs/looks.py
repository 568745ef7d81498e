"""What a rival looks at: the data set itself, or the same with other gray pixels.

`rivals/areas.py` explains areas and temperatures. Here, the shipped segmenter finds the breasts.
"""

import functools
import hashlib
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from thermo_jax.data.dataset import Dataset
from thermo_jax.data.examples import block_mean
from thermo_jax.errors import UserError
from thermo_jax.inference.trained_models import SHIPPED, load_model
from thermo_jax.rivals import areas
from thermo_jax.rivals.networks import look_of, sees_whole_images
from thermo_jax.training.weights_file import SHIPPED_FILE


def of_area(dataset: Dataset, *, area: str, temperatures: str) -> Dataset:
    """The data set as a rival sees it. Raises UserError if a matrix is missing."""
    segment = _shipped_segmenter() if area == "breasts" else None
    return areas.of_area(dataset, area=area, absolute=temperatures == "kept", segment=segment)


def seen_by(config: ConfigDict, dataset: Dataset) -> Dataset:
    """The data set as the network of a decoder's run sees it.

    Raises:
      UserError: `config.model.temperatures` is "kept", and an image has no matrix.
    """
    model = config.model.to_dict()
    if sees_whole_images(model):
        return dataset
    area, temperatures = look_of(model)
    if temperatures == "kept" and not areas.has_temperatures(dataset, config.task):
        lacking = [r.name for r in dataset.select(config.task) if r.temperature_path is None]
        raise UserError(
            "config.model.temperatures='kept' needs temperature matrices of all images, and "
            f"{len(lacking)} have none, such as {lacking[0]}: use 'removed'"
        )
    return cached_look(dataset, area, temperatures)


@functools.lru_cache(maxsize=1)
def cached_look(dataset: Dataset, area: str, temperatures: str) -> Dataset:
    """The result of `of_area`. The last one stays in memory, with its images, for the next run."""
    return of_area(dataset, area=area, temperatures=temperatures)


def shipped_id() -> str:
    """The SHA-256 of the weights that come with thermo_jax."""
    return hashlib.sha256(SHIPPED_FILE.read_bytes()).hexdigest()


def _shipped_segmenter() -> Callable[[np.ndarray], np.ndarray]:
    """A function: gray image uint8 [480,640,1] -> label map, by the shipped segmenter."""
    model = load_model(SHIPPED, dtype="float32")

    def segment(image: np.ndarray) -> np.ndarray:
        reduced = block_mean(image, factor=model.downscale)[np.newaxis]
        return model.label_maps(reduced, shape=reduced.shape[1:3])[0]

    return segment
