"""Training of a decoder on a frozen encoder: the steps of one device (SPEC section 2).

    images -> augmentation -> frozen encoder (`models/frozen.py`) -> latents -> decoder -> update

Without augmentation, a frozen encoder's latents can be computed once. If a batch contains
"latents", the encoder is not used. Classification and segmentation differ only in their losses and
predictions.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from thermo_jax.data import phantom_scene
from thermo_jax.data.thermogram import CLASS_NAMES, MIRRORED_CLASSES
from thermo_jax.models import losses
from thermo_jax.models.augmentation import OFF, AugmentSettings, augment
from thermo_jax.models.cuts import Encoder
from thermo_jax.models.decoders import HEADS, Classifier, Decoder, Segmenter, soft_labels
from thermo_jax.models.frozen import encode
from thermo_jax.models.mirror import mirror_averaged
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.precision import array_dtype
from thermo_jax.rivals.networks import UNET, make_network
from thermo_jax.training import parallel
from thermo_jax.training.state import AUGMENTATION, PHANTOMS, TrainState, example_keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
    """A segmenter's loss: the fields of `config.loss`, which configs/segment.py explains."""

    dice: float = 0.0
    nipple_weight: float = 2.0

    @property
    def class_weights(self) -> tuple[float, ...]:
        """Weights of the classes in the cross-entropy."""
        return tuple(self.nipple_weight if "nipple" in name else 1.0 for name in CLASS_NAMES)


# --------------------------------------------------------------------------------------------------
# The update
# --------------------------------------------------------------------------------------------------


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    encoder: Encoder,
    decoder: Decoder,
    tx: optax.GradientTransformation,
    augmentation: AugmentSettings = OFF,
    loss: LossSettings = LossSettings(),
    endless: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Makes one update, from one device's part of the batch.

    Args:
      batch: "images" uint8 [b,H,W,C] or "latents" [b,V,H,W,L]; "labels" int32 [b] to classify,
        "label_maps" uint8 [b,480,640] to segment. Augmentation needs "images" and "slot" int32 [b],
        the numbers of the images in the whole batch.
      loss: of a segmenter; a classifier has no settings.
      endless: new phantoms replace the batch's images and label maps in each step.
    """
    if endless:
        batch = _phantoms(state, batch)
    if augmentation.is_on:
        batch = _augmented(state, batch, augmentation)
    latents = _latents(state, batch, encoder=encoder)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs, updates = decoder.apply(variables, latents, train=True, mutable=["batch_stats"])
        values = _losses(outputs, batch, loss=loss)
        means = {name: value.mean() for name, value in values.items()}
        return means["loss"], (means, updates["batch_stats"])

    grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.pmean((grads, metrics))
    return state.apply_gradients(grads, tx=tx, batch_stats=batch_stats), metrics


def _phantoms(state: TrainState, batch: dict) -> dict:
    """Returns the batch with new phantoms as "images" and "soft_labels"."""
    keys = example_keys(state.rng, state.step, PHANTOMS, examples=batch["slot"])
    render = functools.partial(phantom_scene.example, shape=batch["images"].shape[1:3])
    images, targets = jax.vmap(render)(keys)
    return batch | {"images": images, "soft_labels": targets}


def _augmented(state: TrainState, batch: dict, settings: AugmentSettings) -> dict:
    """Returns the batch with other images, and "soft_labels" in place of "label_maps"."""
    keys = example_keys(state.rng, state.step, AUGMENTATION, examples=batch["slot"])
    images, dtype, targets = batch["images"], jax.tree.leaves(state.params)[0].dtype, None
    if "soft_labels" in batch or "label_maps" in batch:
        targets = _targets(batch, height=images.shape[1], dtype=dtype)
    images, targets = augment(
        images, targets, keys=keys, settings=settings, swap=MIRRORED_CLASSES, dtype=dtype
    )
    return batch | {"images": images, "soft_labels": targets}


def _targets(batch: dict, *, height: int, dtype) -> jax.Array:
    """Returns the shares of the classes at each pixel [b,H,W,K]."""
    if "soft_labels" in batch:
        return batch["soft_labels"].astype(dtype)
    return soft_labels(
        batch["label_maps"], height=height, num_classes=len(CLASS_NAMES), dtype=dtype
    )


def _latents(state: TrainState, batch: dict, *, encoder: Encoder) -> jax.Array:
    if "latents" in batch:
        return batch["latents"]
    return encode(batch["images"], encoder=encoder, variables=state.frozen)


def _losses(outputs, batch: dict, *, loss: LossSettings) -> dict[str, jax.Array]:
    """Returns "loss" and "accuracy" [b] of a classifier's or a segmenter's outputs."""
    if isinstance(outputs, tuple):
        logits, _ = outputs
        labels = batch["labels"].astype(logits.dtype)
        accuracy = (logits > 0) == (labels > 0.5)
        values = losses.classification_loss(logits, labels)
    else:
        logits, dtype = outputs, outputs.dtype
        targets = _targets(batch, height=logits.shape[1], dtype=dtype)
        accuracy = (logits.argmax(-1) == targets.argmax(-1)).mean((1, 2), dtype=dtype)
        values = losses.segmentation_loss(logits, targets, class_weights=loss.class_weights)
        if loss.dice:
            values += loss.dice * losses.soft_dice_loss(logits, targets)
    return {"loss": values.astype(logits.dtype), "accuracy": accuracy.astype(logits.dtype)}


def encode_step(variables: dict, batch: dict[str, jax.Array], *, encoder: Encoder) -> jax.Array:
    """Returns latents `[B,V,H,W,L]` of the "images" of a batch, from all devices."""
    return parallel.gather(encode(batch["images"], encoder=encoder, variables=variables))


def eval_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    encoder: Encoder,
    decoder: Decoder,
    loss: LossSettings = LossSettings(),
) -> dict[str, jax.Array]:
    """Returns sums of the losses over the batch's examples, in inference mode."""
    latents = _latents(state, batch, encoder=encoder)
    outputs = decoder.apply(state.variables, latents, train=False)
    return parallel.masked_sums(_losses(outputs, batch, loss=loss), batch["mask"])


def predict_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    encoder: Encoder,
    decoder: Decoder,
    full_shape: tuple[int, int],
    mirror_average: bool = False,
    with_classes: bool = False,
) -> dict[str, jax.Array]:
    """Returns predictions for all examples of the batch and its padding.

    A classifier's are "probabilities" [B] and "evidence" [B,H,W], whose sum plus the bias is the
    logit. A segmenter's are "label_maps" uint8 [B,H,W], and "full_label_maps" uint8 [B,*full_shape]
    from bilinearly up-sampled logits.

    Args:
      mirror_average: see `models/mirror.py`; it needs "images" in the batch.
      with_classes: a segmenter's predictions also are the probabilities of the classes, "classes"
        [B,H,W,K] and "full_classes" [B,*full_shape,K].
    """

    def decode(batch: dict):
        latents = _latents(state, batch, encoder=encoder)
        return decoder.apply(state.variables, latents, train=False)

    if mirror_average:
        outputs = mirror_averaged(
            lambda images: decode({"images": images}), batch["images"], swap=MIRRORED_CLASSES
        )
    else:
        outputs = decode(batch)
    if isinstance(outputs, tuple):
        logits, evidence = outputs
        return parallel.gather({"probabilities": jax.nn.sigmoid(logits), "evidence": evidence})
    full = decoder.operations.resize(outputs, height=full_shape[0], width=full_shape[1])
    results = {
        "label_maps": outputs.argmax(-1).astype(jnp.uint8),
        "full_label_maps": full.argmax(-1).astype(jnp.uint8),
    }
    if with_classes:
        results |= {"classes": jax.nn.softmax(outputs), "full_classes": jax.nn.softmax(full)}
    return parallel.gather(results)


# --------------------------------------------------------------------------------------------------
# What is trained
# --------------------------------------------------------------------------------------------------


def make_decoder(
    task: str,
    *,
    architecture: str = UNET,
    width: int = 64,
    head: str = HEADS[0],
    dtype: str = "float32",
    operations: Operations = NATIVE,
) -> Decoder:
    """Returns the decoder of a task, "classify" or "segment".

    Args:
      architecture: "unet", or the name of a rival's network (`rivals/networks.py`).
      width: channels of the U-Net's first stage.
      head: the U-Net classifier's head, see `models/decoders.py`. Other networks have their own.
      dtype: the compute type, see `models/precision.py`.
    Raises:
      UserError: the task has no such architecture.
    """
    operations = dataclasses.replace(operations, dtype=array_dtype(dtype), axis_name=parallel.AXIS)
    if architecture != UNET:
        return make_network(architecture, task=task, width=width, operations=operations)
    if task == "classify":
        return Classifier(width, operations, head=head)
    return Segmenter(width, operations, num_classes=len(CLASS_NAMES))


def abstract_variables(decoder: Decoder, latents_shape: tuple[int, ...]) -> dict:
    """Returns shapes and types of a decoder's variables for latents of shape (V, H, W, L)."""
    latents = jax.ShapeDtypeStruct((1, *latents_shape), jnp.float32)
    return jax.eval_shape(functools.partial(decoder.init, train=False), jax.random.key(0), latents)


def create_state(
    decoder: Decoder,
    *,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    latents_shape: tuple[int, ...],
    frozen: dict,
    ema: float = 0.0,
    average_with_init: bool = False,
    start: dict | None = None,
) -> TrainState:
    """Returns the initial state for latents of shape (V, H, W, L). Use it with `state.initialise`.

    Args:
      frozen: the encoder's variables.
      ema, average_with_init: see `TrainState`.
      start: variables of a trained decoder, which replace random ones. Some may be absent.
    """
    init_key, step_key = jax.random.split(rng)
    variables = decoder.init(init_key, jnp.zeros((1, *latents_shape)), train=False)
    variables = unflatten_dict(flatten_dict(variables) | flatten_dict(start or {}))
    return TrainState.create(
        variables, tx=tx, rng=step_key, frozen=frozen, ema=ema, average_with_init=average_with_init
    )
