"""Pretraining of the CUTS encoder: the steps of one device (SPEC section 2).

images -> augmentation -> anchors and positives (drawn on the device) -> latents and patches
       -> lambda * contrastive + (1 - lambda) * reconstruction -> AdamW
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from thermo_jax.models import losses
from thermo_jax.models.augmentation import OFF, AugmentSettings, augment
from thermo_jax.models.cuts import CHANNELS, Cuts, scale_images
from thermo_jax.models.operations import NATIVE, Operations
from thermo_jax.models.patches import choose_positives, draw_positions
from thermo_jax.models.precision import array_dtype
from thermo_jax.training import parallel
from thermo_jax.training.state import AUGMENTATION, TrainState, example_keys

# Validation uses this step number, so that it draws the same patches at every epoch.
VALIDATION = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The pretraining loss: the fields of `config.loss`, which configs/encoder.py explains."""

    contrastive_weight: float = 0.01
    form: str = "paper"
    temperature: float = 0.5
    num_patches: int = 16


# --------------------------------------------------------------------------------------------------
# The update
# --------------------------------------------------------------------------------------------------


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: Cuts,
    tx: optax.GradientTransformation,
    loss: LossSettings,
    augmentation: AugmentSettings = OFF,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Makes one update, from one device's part of the batch.

    Args:
      batch: "images" uint8 [b,H,W,C], and "slot" int32 [b], the numbers of the images in the whole
        batch. If it has "positions", as `draw` returns them, none are drawn.
    """
    images, positions = batch["images"], batch.get("positions")
    if positions is None:
        positions = draw(state, batch, image_size=images.shape[1:3], model=model, loss=loss)
    if augmentation.is_on:
        keys = example_keys(state.rng, state.step, AUGMENTATION, examples=batch["slot"])
        dtype = jax.tree.leaves(state.params)[0].dtype
        images, _ = augment(images, keys=keys, settings=augmentation, dtype=dtype)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        values, batch_stats = pretraining_losses(
            variables, images, positions, model=model, loss=loss, train=True
        )
        means = {name: value.mean() for name, value in values.items()}
        return means["loss"], (means, batch_stats)

    grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.pmean((grads, metrics))
    return state.apply_gradients(grads, tx=tx, batch_stats=batch_stats), metrics


def pretraining_losses(
    variables: dict, images: jax.Array, positions, *, model: Cuts, loss: LossSettings, train: bool
) -> tuple[dict[str, jax.Array], dict]:
    """Returns "loss", "contrastive" and "reconstruction" of images, [b], and batch statistics."""
    # Patches are drawn and compared in the parameters' type, even if convolutions use bfloat16.
    images = scale_images(images, dtype=jax.tree.leaves(variables["params"])[0].dtype)
    anchors_hw, candidates_hw = positions
    positives_hw = choose_positives(images, anchors_hw, candidates_hw, patch_size=model.patch_size)
    outputs, updates = model.apply(
        variables, images, anchors_hw, positives_hw, train=train, mutable=["batch_stats"]
    )
    contrastive = losses.CONTRASTIVE_LOSSES[loss.form](
        outputs.anchors, outputs.positives, temperature=loss.temperature
    )
    reconstruction = losses.reconstruction_loss(outputs.patches, outputs.reconstructed)
    weight = loss.contrastive_weight
    values = {
        "loss": weight * contrastive + (1 - weight) * reconstruction,
        "contrastive": contrastive,
        "reconstruction": reconstruction,
    }
    return values, updates.get("batch_stats", variables["batch_stats"])


def draw(
    state: TrainState,
    rows: dict[str, jax.Array],
    *,
    image_size: tuple[int, int],
    model: Cuts,
    loss: LossSettings,
) -> tuple[jax.Array, jax.Array]:
    """Returns the random positions of a step: anchors [b,S,2] and candidates [b,S,10,2].

    They do not depend on the images, so that several steps can draw them together.

    Args:
      rows: "slot" int32 [b].
      image_size: (H, W).
    """
    keys = example_keys(state.rng, state.step, examples=rows["slot"])
    sizes = {"num_patches": loss.num_patches, "patch_size": model.patch_size}
    return draw_positions(keys, height=image_size[0], width=image_size[1], **sizes)


def eval_step(
    state: TrainState, batch: dict[str, jax.Array], *, model: Cuts, loss: LossSettings
) -> dict[str, jax.Array]:
    """Returns sums of the losses over a batch, in inference mode, always for the same patches."""
    images, rows = batch["images"], {"slot": batch["index"]}
    validation = state.replace(step=VALIDATION)
    positions = draw(validation, rows, image_size=images.shape[1:3], model=model, loss=loss)
    values, _ = pretraining_losses(
        state.variables, images, positions, model=model, loss=loss, train=False
    )
    return parallel.masked_sums(values, batch["mask"])


# --------------------------------------------------------------------------------------------------
# What is trained
# --------------------------------------------------------------------------------------------------


def make_model(
    *,
    data_type: str,
    patch_size: int = 5,
    num_kernels: int = 16,
    dtype: str = "float32",
    operations: Operations = NATIVE,
) -> Cuts:
    """Returns the model that is pretrained; its batch statistics are those of all devices.

    Args:
      data_type: "gray" or "heat".
      dtype: the compute type, see `models/precision.py`.
    """
    return Cuts(
        channels=CHANNELS[data_type],
        patch_size=patch_size,
        num_kernels=num_kernels,
        operations=dataclasses.replace(
            operations, dtype=array_dtype(dtype), axis_name=parallel.AXIS
        ),
    )


def create_state(
    model: Cuts,
    *,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    image_shape: tuple[int, ...],
    ema: float = 0.0,
) -> TrainState:
    """Returns the initial state for images of shape (H, W, C). Use it with `state.initialise`.

    Args:
      ema: see `TrainState`.
    """
    init_key, step_key = jax.random.split(rng)
    positions = jnp.zeros((1, 1, 2), jnp.int32) + model.patch_size // 2
    images = jnp.zeros((1, *image_shape))
    variables = model.init(init_key, images, positions, positions, train=False)
    return TrainState.create(variables, tx=tx, rng=step_key, ema=ema)
