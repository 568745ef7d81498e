"""Trained decoders, ready to run: found among workdirs and files, loaded, applied to images.

workdirs -> the best model of each, with its frozen encoder -> outputs for batches of images
"""

import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, UInt8

from thermo_jax.data.examples import image_shape
from thermo_jax.data.thermogram import GRAY_SHAPE, MIRRORED_CLASSES
from thermo_jax.errors import UserError
from thermo_jax.inference.find_models import DECODERS, find_models
from thermo_jax.inference.inputs import Paths
from thermo_jax.models.decoders import HEADS
from thermo_jax.models.frozen import FrozenEncoder, encode
from thermo_jax.models.mirror import mirror_averaged
from thermo_jax.models.operations import choose_operations
from thermo_jax.models.precision import choose_dtype, matmul_precision
from thermo_jax.rivals.networks import architecture_of, look_of, sees_whole_images
from thermo_jax.training import train_decoder, weights_file
from thermo_jax.training.checkpoints import check_validated

SHIPPED = weights_file.SHIPPED
SHIPPED_TITLE = "the model that comes with thermo_jax, trained on synthetic images only"


class Model(NamedTuple):
    """A trained decoder, ready to run."""

    name: str  # the part of its workdir that differs from the other models
    task: str  # "classify" or "segment"
    data_type: str  # of its images
    colormap: str  # renders heatmaps from temperatures
    downscale: int
    views: tuple[int, ...]  # in its training data, keys of VIEW_NAMES
    mirrored: bool  # whether mirrored copies were in its training data
    dtype: str  # compute type, of models/precision.py
    encoder: FrozenEncoder
    decoder: Any
    variables: dict  # of the decoder
    meta: dict  # of its checkpoint or file: "config", "encoder", "trained_on", ...
    source: Path  # its workdir or file
    mirror_average: bool = False  # see models/mirror.py

    @property
    def is_shipped(self) -> bool:
        """Whether it comes with the package."""
        return self.source == weights_file.SHIPPED_FILE

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of its images."""
        return image_shape(self.data_type, downscale=self.downscale)

    def __call__(
        self,
        images: UInt8[Array | np.ndarray, "b h w c"],
        *,
        shape: tuple[int, int] = GRAY_SHAPE,
    ) -> dict[str, jax.Array]:
        """The outputs for a batch of images: see `forward`."""
        return forward(
            self.variables,
            self.encoder.variables,
            images,
            encoder=self.encoder.module,
            decoder=self.decoder,
            shape=shape,
            mirror_average=self.mirror_average,
        )

    def label_maps(
        self, images: UInt8[Array | np.ndarray, "b h w c"], *, shape: tuple[int, int]
    ) -> np.ndarray:
        """A segmenter's classes uint8 [B, *shape], computed in the model's own precision."""
        with matmul_precision(self.dtype, platform=jax.default_backend()):
            classes = self(images, shape=shape)["classes"]
        return np.asarray(classes.argmax(-1), np.uint8)


def load_model(
    workdir: str | os.PathLike, *, name: str = "", dtype: str = "auto", any_look: bool = False
) -> Model:
    """The best model of the run of a decoder.

    Args:
      workdir: of the run, or a file of weights (`training/weights_file.py`), or "shipped".
      dtype: compute type, of models/precision.py.
      any_look: accept a model that does not see whole images; the caller prepares its images.
    Raises:
      FileNotFoundError: there is no checkpoint.
      UserError: the run trained something else, or was stopped in its first epoch, or its model
        sees breasts or temperatures (`config.model.area` and `temperatures`).
    """
    platform = jax.default_backend()
    with weights_file.open_decoder(workdir) as (meta, read_variables):
        config = meta["config"]
        task, data, model = config["task"], config["data"], config["model"]
        if not meta.get("finished", True):  # files of weights lack this field
            logging.warning(
                "%s has not finished its training (epoch %d): its best model so far is used.",
                workdir,
                meta["epoch"],
            )
        if task not in DECODERS:
            raise UserError(
                f"{workdir} contains a run of {task}: expected a classifier or segmenter"
            )
        if not any_look and not sees_whole_images(model):
            area, temperatures = look_of(model)
            raise UserError(
                f"{workdir} was trained with config.model.area={area!r} and "
                f"config.model.temperatures={temperatures!r}, for comparison in its own run: name "
                "a model that sees whole images, with 'full' and 'removed'"
            )
        check_validated(meta, workdir=workdir)
        dtype = choose_dtype(dtype, device=jax.devices()[0])
        operations = choose_operations("auto", platform=platform)
        encoder = FrozenEncoder.abstract(
            meta["encoder"],
            num_kernels=config["encoder"].get("num_kernels"),
            dtype=dtype,
            operations=operations,
        )
        decoder = train_decoder.make_decoder(
            task,
            architecture=architecture_of(model),
            width=model["unet_width"],
            head=model.get("head", HEADS[0]),
            dtype=dtype,
            operations=operations,
        )
        latents = encoder.latents(image_shape(data["type"], downscale=data["downscale"]))
        like = train_decoder.abstract_variables(decoder, latents.shape)
        variables = read_variables({"model": like, "encoder": encoder.variables})
    return Model(
        name=name or Path(workdir).name,
        task=task,
        data_type=data["type"],
        colormap=data["colormap"],
        downscale=data["downscale"],
        # Imported models lack this field. The published ones were trained on frontal views.
        views=tuple(data.get("views", (1,))),
        mirrored=data.get("mirrored", False),
        dtype=dtype,
        encoder=encoder.with_variables(jax.device_put(variables["encoder"])),
        decoder=decoder,
        variables=jax.device_put(variables["model"]),
        meta=meta,
        source=weights_file.SHIPPED_FILE if str(workdir) == SHIPPED else Path(workdir),
        mirror_average=model.get("mirror_average", False),
    )


def load_models(workdirs: Paths, *, dtype: str = "auto") -> list[Model]:
    """Loads all models of `find_models`; their names are paths without the common part.

    `find_models` and `load_model` explain the arguments and the errors.
    """
    found = find_models(workdirs)
    trained = [path for path in found if path != weights_file.SHIPPED_FILE]
    common = os.path.commonpath([path.parent for path in trained]) if trained else ""
    names = {path: path.relative_to(common).as_posix() for path in trained}
    return [load_model(path, name=names.get(path, SHIPPED), dtype=dtype) for path in found]


@partial(jax.jit, static_argnames=("encoder", "decoder", "shape", "mirror_average"))
def forward(
    variables, frozen, images, *, encoder, decoder, shape=GRAY_SHAPE, mirror_average=False
) -> dict[str, jax.Array]:
    """ "probabilities" [B] and "evidence" [B,h,w], or "classes" [B,*shape,K] (probabilities)."""

    def decode(images):
        latents = encode(images, encoder=encoder, variables=frozen)
        return decoder.apply(variables, latents, train=False)

    if mirror_average:
        outputs = mirror_averaged(decode, images, swap=MIRRORED_CLASSES)
    else:
        outputs = decode(images)
    if isinstance(outputs, tuple):
        logits, evidence = outputs
        return {"probabilities": jax.nn.sigmoid(logits), "evidence": evidence}
    height, width = shape
    full = decoder.operations.resize(outputs, height=height, width=width)
    return {"classes": jax.nn.softmax(full)}
