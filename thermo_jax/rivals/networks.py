"""The networks of rivals: what `config.model.architecture` may be besides "unet", and their looks.

They are decoders. With `config.encoder.kind="none"`, they read raw pixels, and are trained, saved
and applied by the same programs as our own.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from thermo_jax.errors import UserError
from thermo_jax.models.decoders import Decoder
from thermo_jax.models.operations import Operations
from thermo_jax.rivals.attention_cnn import AttentionCnn
from thermo_jax.rivals.registry import AREAS, TEMPERATURES
from thermo_jax.rivals.transformer_unet import TransformerUNet
from thermo_jax.rivals.vgg import Vgg
from thermo_jax.rivals.vision_transformer import VisionTransformer

UNET = "unet"  # our own decoders, of models/decoders.py
_NETWORKS = {
    "classify": {
        "cnn": AttentionCnn,
        "soft_attention": partial(AttentionCnn, attention="soft"),
        "hard_attention": partial(AttentionCnn, attention="hard"),
        "self_attention": partial(AttentionCnn, attention="self"),
        "vgg": Vgg,
        "vit": VisionTransformer,
    },
    "segment": {"transformer_unet": TransformerUNet},
}
ARCHITECTURES = (UNET, *(name for networks in _NETWORKS.values() for name in networks))


def architecture_of(model: Mapping[str, Any]) -> str:
    """Returns the name in a run's `config.model`; runs of earlier versions have a U-Net."""
    return model.get("architecture", UNET)


def look_of(model: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the area and the temperatures (registry.py) that a run's network sees.

    Args:
      model: the run's `config.model`; segmenters, and runs of earlier versions, see whole images.
    """
    return model.get("area", AREAS[0]), model.get("temperatures", TEMPERATURES[0])


def sees_whole_images(model: Mapping[str, Any]) -> bool:
    """Whether a run's network sees whole images with their usual pixels, as ours does."""
    return look_of(model) == (AREAS[0], TEMPERATURES[0])


def check_architecture(name: str, *, task: str) -> None:
    """Raises UserError if there is no such decoder for the task, "classify" or "segment"."""
    known = (UNET, *_NETWORKS[task])
    if name not in known:
        raise UserError(
            f"config.model.architecture={name!r} is not for the task {task!r}: choose "
            f"{' or '.join(known)}"
        )


def make_network(name: str, *, task: str, width: int, operations: Operations) -> Decoder:
    """Returns the network of this name.

    Args:
      width: 16 is the size that the network's file states; other values scale its channels.
    Raises:
      UserError: the task has no such network.
    """
    check_architecture(name, task=task)
    return _NETWORKS[task][name](width=width, operations=operations)
