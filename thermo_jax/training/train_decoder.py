"""Training of a decoder on a frozen encoder: the per-device steps (SPEC section 2).

    images -> frozen encoder (`models/frozen.py`) -> latents -> decoder -> Adam

A batch that already holds "latents" skips the encoder: a frozen encoder's latents can be computed
once. Classification and segmentation differ in their loss and in what they predict, nothing else.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.models import losses
from thermo_jax.models.cuts import Encoder
from thermo_jax.models.decoders import HEADS, Classifier, Segmenter, soft_labels
from thermo_jax.models.frozen import encode
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.precision import array_dtype
from thermo_jax.training import parallel
from thermo_jax.training.state import TrainState

# --------------------------------------------------------------------------------------------------
# The update
# --------------------------------------------------------------------------------------------------


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    encoder: Encoder,
    decoder: Classifier | Segmenter,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update, on one device's part of the batch.

    Args:
      batch: "images" uint8 [b,H,W,C] or "latents" [b,V,H,W,L]; "labels" int32 [b] to classify,
        "label_maps" uint8 [b,480,640] to segment.
    """
    latents = _latents(state, batch, encoder=encoder)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs, updates = decoder.apply(variables, latents, train=True, mutable=["batch_stats"])
        means = {name: value.mean() for name, value in _losses(outputs, batch).items()}
        return means["loss"], (means, updates["batch_stats"])

    grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.pmean((grads, metrics))
    return state.apply_gradients(grads, tx=tx, batch_stats=batch_stats), metrics


def _latents(state: TrainState, batch: dict, *, encoder: Encoder) -> jax.Array:
    if "latents" in batch:
        return batch["latents"]
    return encode(batch["images"], encoder=encoder, variables=state.frozen)


def _losses(outputs, batch: dict) -> dict[str, jax.Array]:
    """Per-example losses from a decoder's outputs."""
    if isinstance(outputs, tuple):
        logits, _ = outputs
        labels = batch["labels"].astype(logits.dtype)
        correct = (logits > 0) == (labels > 0.5)
        values = {"loss": losses.classification_loss(logits, labels), "accuracy": correct}
    else:
        logits = outputs
        targets = soft_labels(
            batch["label_maps"],
            height=logits.shape[1],
            num_classes=logits.shape[-1],
            dtype=logits.dtype,
        )
        correct = (logits.argmax(-1) == targets.argmax(-1)).mean((1, 2), dtype=logits.dtype)
        values = {"loss": losses.segmentation_loss(logits, targets), "accuracy": correct}
    return {name: value.astype(logits.dtype) for name, value in values.items()}


def encode_step(variables: dict, batch: dict[str, jax.Array], *, encoder: Encoder) -> jax.Array:
    """Latents `[B,V,H,W,L]` of the "images" of a batch, from all devices."""
    return parallel.gather(encode(batch["images"], encoder=encoder, variables=variables))


def eval_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    encoder: Encoder,
    decoder: Classifier | Segmenter,
) -> dict[str, jax.Array]:
    """Sums of the losses over the batch's examples, in inference mode."""
    latents = _latents(state, batch, encoder=encoder)
    outputs = decoder.apply(state.variables, latents, train=False)
    return parallel.masked_sums(_losses(outputs, batch), batch["mask"])


def predict_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    encoder: Encoder,
    decoder: Classifier | Segmenter,
    full_shape: tuple[int, int],
) -> dict[str, jax.Array]:
    """Predictions for every example of the batch, padding included.

    Returns:
      To classify: "probabilities" [B] and "evidence" [B,H,W] (which sums up to the logit, less its
      bias). To segment: "label_maps" uint8 [B,H,W], and "full_label_maps" uint8 [B,*full_shape]
      from bilinearly up-sampled logits.
    """
    latents = _latents(state, batch, encoder=encoder)
    outputs = decoder.apply(state.variables, latents, train=False)
    if isinstance(outputs, tuple):
        logits, evidence = outputs
        return parallel.gather({"probabilities": jax.nn.sigmoid(logits), "evidence": evidence})
    full = decoder.operations.resize(outputs, height=full_shape[0], width=full_shape[1])
    return parallel.gather(
        {
            "label_maps": outputs.argmax(-1).astype(jnp.uint8),
            "full_label_maps": full.argmax(-1).astype(jnp.uint8),
        }
    )


# --------------------------------------------------------------------------------------------------
# What is trained
# --------------------------------------------------------------------------------------------------


def make_decoder(
    task: str,
    *,
    width: int = 64,
    head: str = HEADS[0],
    dtype: str = "float32",
    operations: Operations = NATIVE,
) -> Classifier | Segmenter:
    """The decoder of a task, "classify" or "segment".

    Args:
      width: channels of the U-Net's first stage.
      head: a classifier's, see `models/decoders.py`.
      dtype: the compute type, see `models/precision.py`.
    """
    common = {
        "width": width,
        "axis_name": parallel.AXIS,
        "dtype": array_dtype(dtype),
        "operations": operations,
    }
    if task == "classify":
        return Classifier(head=head, **common)
    return Segmenter(num_classes=len(CLASS_NAMES), **common)


@functools.cache
def make_optimizer(learning_rate: float) -> optax.GradientTransformation:
    """Adam; equal numbers give the same object."""
    return optax.adam(learning_rate)


def create_state(
    decoder: Classifier | Segmenter,
    *,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    latents_shape: tuple[int, ...],
    frozen: dict,
) -> TrainState:
    """Initial state for latents of shape (V, H, W, L); `frozen` are the encoder's variables.

    Call it through `state.initialise`.
    """
    init_key, step_key = jax.random.split(rng)
    variables = decoder.init(init_key, jnp.zeros((1, *latents_shape)), train=False)
    return TrainState.create(variables, tx=tx, rng=step_key, frozen=frozen)
