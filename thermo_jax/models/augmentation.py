"""Augmentation: each image is changed at random before a training step reads it (SPEC section 10).

    mirror -> warp (affine and elastic) -> rectangles -> gamma -> smooth field -> blur -> noise

Labels follow the image through the mirror and the warp. The result is rounded to uint8 again, so
that everything that reads images works as without augmentation. Each transform is a function of
the images and of given random numbers; `augment` draws these numbers, from one key for each image.
The functions run inside the jitted step. A transform that is off is not part of the program.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8

# Distance between the random vectors or levels of a smooth field, as a share of the height.
FIELD_SPACING = 0.25
# The largest height and width of a rectangle, as a share of the image's height.
RECTANGLE_SIZE = 0.2
# A blur's kernel ends at this many standard deviations.
BLUR_TRUNCATE = 3.0
_NUMBERS = 8  # uniform numbers for each image, one for each transform that needs one
_WHITE = 255.0  # the largest level


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """How much images are changed: the fields of `config.augment`. 0 or False is off.

    "Largest" means that each image gets its own number, uniform between this and its opposite.

    Attributes:
      mirror: whether half of the images are mirrored.
      rotation: largest angle, degrees.
      scale: largest logarithm of the magnification.
      stretch: largest logarithm of the ratio of the magnifications of height and width.
      shift: largest shift down and to the right, as a share of the height.
      elastic: standard deviation of a smooth displacement, as a share of the height.
      gamma: largest logarithm of the exponent of the levels, which are from 0 to 1.
      field: standard deviation of a smooth field that is added, as a share of the 255 levels.
      noise: standard deviation of independent noise, as a share of the 255 levels.
      blur: largest standard deviation of a Gaussian kernel, pixels; each image's is at least 0.
      rectangles: largest number of rectangles of one level that cover parts of the image.
    """

    mirror: bool = False
    rotation: float = 0.0
    scale: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    gamma: float = 0.0
    field: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    rectangles: int = 0

    @property
    def is_on(self) -> bool:
        """Whether any transform is on."""
        return any(dataclasses.astuple(self))

    @property
    def warps(self) -> bool:
        """Whether any transform moves pixels by other than a mirror."""
        return any((self.rotation, self.scale, self.stretch, self.shift, self.elastic))


OFF = AugmentSettings()


def augment(
    images: UInt8[Array, "b h w c"],
    soft_labels: Float[Array, "b h w k"] | None = None,
    *,
    keys: Key[Array, " b"],
    settings: AugmentSettings,
    swap: Sequence[int] = (),
    dtype=jnp.float32,
) -> tuple[UInt8[Array, "b h w c"], Float[Array, "b h w k"] | None]:
    """Returns changed images, and the labels that belong to them.

    All channels of an image are changed alike, except that each has its own noise.

    Args:
      soft_labels: shares of the classes at each pixel; None if there are no labels of pixels.
      keys: one for each image. They alone determine the change.
      swap: for each class, the class that it becomes in a mirrored image.
      dtype: the type of the random numbers and of everything that is computed.
    """
    if not settings.is_on:
        return images, soft_labels
    _, height, width, channels = images.shape
    number_keys, field_keys, rectangle_keys, noise_keys = jax.vmap(
        lambda key: jax.random.split(key, 4), out_axes=1
    )(keys)
    draw = functools.partial(_draw, dtype=dtype)
    numbers = draw(jax.random.uniform, number_keys, (_NUMBERS,), minval=-1.0).T
    mirrored, angle, scale, stretch, down, right, gamma, blur = numbers
    if settings.elastic or settings.field:
        rows, columns = (
            smooth_weights(size, spacing=FIELD_SPACING * height) for size in (height, width)
        )
        grids = draw(jax.random.normal, field_keys, (3, rows.shape[1], columns.shape[1]))
        fields = smooth_fields(grids, rows, columns)

    if settings.mirror:
        images, soft_labels = mirror(images, soft_labels, mirrored > 0, swap=swap)
    x = images.astype(dtype)
    if settings.warps:
        rows_columns = affine_coordinates(
            (height, width),
            angle=jnp.deg2rad(settings.rotation * angle),
            log_scale=settings.scale * scale,
            log_stretch=settings.stretch * stretch,
            shift=settings.shift * height * jnp.stack([down, right], -1),
        )
        if settings.elastic:
            rows_columns += settings.elastic * height * fields[:, :2]
        x, soft_labels = _warp_together(x, soft_labels, rows_columns)
    if settings.rectangles:
        drawn = draw(jax.random.uniform, rectangle_keys, (settings.rectangles, 6))
        x = cover(x, *place_rectangles(drawn, (height, width)))
    if settings.gamma:
        x = change_gamma(x, settings.gamma * gamma)
    if settings.field:
        x = x + _WHITE * settings.field * fields[:, 2, :, :, None]
    if settings.blur:
        radius = math.ceil(BLUR_TRUNCATE * settings.blur)
        x = blur_images(x, settings.blur * (blur + 1) / 2, radius=radius)
    if settings.noise:
        noise = draw(jax.random.normal, noise_keys, (height, width, channels))
        x = x + _WHITE * settings.noise * noise
    return jnp.clip(jnp.round(x), 0, _WHITE).astype(jnp.uint8), soft_labels


def _draw(sample, keys: Key[Array, " b"], shape: tuple[int, ...], *, dtype, **limits) -> Array:
    """Returns random numbers [b, *shape], those of each image from its own key."""
    return jax.vmap(lambda key: sample(key, shape, dtype, **limits))(keys)


# --------------------------------------------------------------------------------------------------
# Geometry
# --------------------------------------------------------------------------------------------------


def mirror(
    images: Array, soft_labels: Array | None, mirrored: Bool[Array, " b"], *, swap: Sequence[int]
) -> tuple[Array, Array | None]:
    """Exchanges left and right of the mirrored images, and the classes of the two sides."""
    mirrored = mirrored[:, None, None, None]
    images = jnp.where(mirrored, images[:, :, ::-1], images)
    if soft_labels is not None:
        other = soft_labels[:, :, ::-1, np.asarray(swap)]
        soft_labels = jnp.where(mirrored, other, soft_labels)
    return images, soft_labels


def affine_coordinates(
    size: tuple[int, int],
    *,
    angle: Float[Array, " b"],
    log_scale: Float[Array, " b"],
    log_stretch: Float[Array, " b"],
    shift: Float[Array, "b 2"],
) -> Float[Array, "b 2 h w"]:
    """Returns, for each pixel of the result, the row and the column of the pixel that it shows.

    The content is magnified by exp(log_scale), its height by exp(log_stretch) more than its width,
    turned counterclockwise by the angle (radians) about the image's centre, and moved down and to
    the right by the shift (pixels).
    """
    center = (np.array(size, np.float32) - 1) / 2
    pixels = np.stack(np.indices(size), -1).astype(np.float32) - center  # [h,w,2]
    # From the result back to the source: shift, turn, then scale.
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([jnp.stack([cosine, sine], -1), jnp.stack([-sine, cosine], -1)], 1)
    scales = jnp.exp(-log_scale[:, None] + log_stretch[:, None] * np.array([-0.5, 0.5], np.float32))
    matrix = scales[:, :, None] * turn
    offset = pixels - shift[:, None, None]
    source = (matrix[:, None, None] * offset[..., None, :]).sum(-1) + center
    return jnp.moveaxis(source, -1, 1)


def warp(x: Float[Array, "b h w c"], rows_columns: Float[Array, "b 2 h w"]) -> Array:
    """Reads x at these rows and columns, by bilinear interpolation; edges are repeated."""
    batch, height, width, channels = x.shape
    last = jnp.array([height - 1, width - 1], rows_columns.dtype)[:, None, None]
    source = jnp.clip(rows_columns, 0, last)
    first = jnp.clip(jnp.floor(source), 0, last - 1)  # the second pixel lies inside, too
    down, right = jnp.moveaxis((source - first).astype(x.dtype), 1, 0)[..., None]
    row, column = jnp.moveaxis(first.astype(jnp.int32), 1, 0)
    pixel = (jnp.arange(batch)[:, None, None] * height + row) * width + column
    flat = x.reshape(-1, channels)
    take = lambda offset: flat.at[pixel + offset].get(mode="promise_in_bounds")  # noqa: E731
    upper = take(0) * (1 - right) + take(1) * right
    lower = take(width) * (1 - right) + take(width + 1) * right
    return upper * (1 - down) + lower * down


def _warp_together(
    images: Array, soft_labels: Array | None, rows_columns: Array
) -> tuple[Array, Array | None]:
    """Warps images and labels with one gather."""
    if soft_labels is None:
        return warp(images, rows_columns), None
    both = jnp.concatenate([images, soft_labels.astype(images.dtype)], -1)
    warped = warp(both, rows_columns)
    channels = images.shape[-1]
    return warped[..., :channels], warped[..., channels:].astype(soft_labels.dtype)


# --------------------------------------------------------------------------------------------------
# Smooth fields
# --------------------------------------------------------------------------------------------------


def smooth_weights(size: int, *, spacing: float) -> np.ndarray:
    """Returns weights [size, n] that make a smooth curve from n independent numbers.

    A number's weight falls with its distance like a Gaussian whose standard deviation is the
    distance of neighbouring numbers. The squares of a row have the sum 1, so that the curve has the
    variance of the numbers everywhere.

    Args:
      spacing: distance of neighbouring numbers, pixels.
    """
    count = math.ceil((size - 1) / spacing) + 5  # two beyond each edge
    knots = (size - 1) / 2 + (np.arange(count) - (count - 1) / 2) * spacing
    weights = np.exp(-0.5 * ((np.arange(size)[:, None] - knots) / spacing) ** 2)
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def smooth_fields(
    grids: Float[Array, "b n r c"], rows: np.ndarray, columns: np.ndarray
) -> Float[Array, "b n h w"]:
    """Returns smooth fields from grids of independent numbers and `smooth_weights` of each axis."""
    rows, columns = jnp.asarray(rows, grids.dtype), jnp.asarray(columns, grids.dtype)
    high = jax.lax.Precision.HIGHEST
    wide = jnp.einsum("bnrc,wc->bnrw", grids, columns, precision=high)
    return jnp.einsum("hr,bnrw->bnhw", rows, wide, precision=high)


# --------------------------------------------------------------------------------------------------
# Levels
# --------------------------------------------------------------------------------------------------


def place_rectangles(
    numbers: Float[Array, "b n 6"], size: tuple[int, int]
) -> tuple[Float[Array, "b n 2"], Float[Array, "b n 2"], Float[Array, "b n"]]:
    """Returns the rectangles' centres and half sizes (rows, columns; pixels), and their levels.

    Each of an image's rectangles exists with probability 1/2; the others have the size 0.

    Args:
      numbers: uniform from 0 to 1.
    """
    centers = numbers[..., :2] * np.array(size, np.float32)
    exists = numbers[..., 5:] < 0.5
    halves = numbers[..., 2:4] * exists * (RECTANGLE_SIZE * size[0] / 2)
    return centers, halves, numbers[..., 4] * _WHITE


def cover(
    x: Float[Array, "b h w c"],
    centers: Float[Array, "b n 2"],
    halves: Float[Array, "b n 2"],
    levels: Float[Array, "b n"],
) -> Float[Array, "b h w c"]:
    """Gives the pixels whose centres lie in a rectangle its level; later rectangles lie on top."""
    height, width = x.shape[1:3]
    rows = jnp.arange(height, dtype=x.dtype)[:, None] + 0.5
    columns = jnp.arange(width, dtype=x.dtype) + 0.5
    for number in range(levels.shape[1]):
        (row, column), (tall, wide) = (
            pair[:, number].T[..., None, None] for pair in (centers, halves)
        )
        inside = (abs(rows - row) < tall) & (abs(columns - column) < wide)
        x = jnp.where(inside[..., None], levels[:, number, None, None, None], x)
    return x


def change_gamma(x: Float[Array, "b h w c"], log_gamma: Float[Array, " b"]) -> Array:
    """Raises levels, as shares of 255, to the power exp(log_gamma)."""
    return _WHITE * (x / _WHITE) ** jnp.exp(log_gamma)[:, None, None, None]


def blur_images(
    x: Float[Array, "b h w c"], deviations: Float[Array, " b"], *, radius: int
) -> Float[Array, "b h w c"]:
    """Blurs with a Gaussian kernel of 2 * radius + 1 pixels on each axis; edges are repeated.

    Args:
      deviations: the kernels' standard deviations, pixels.
    """
    distances = np.arange(-radius, radius + 1, dtype=np.float32)
    safe = jnp.maximum(deviations, 1e-2)[:, None]  # so narrow a kernel is exactly [.., 0, 1, 0, ..]
    kernels = jnp.exp(-0.5 * (distances / safe) ** 2)
    kernels = (kernels / kernels.sum(1, keepdims=True))[..., None, None, None]  # [b,n,1,1,1]
    for axis in (1, 2):
        edges = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded, size = jnp.pad(x, edges, mode="edge"), x.shape[axis]
        x = sum(
            kernels[:, i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * radius + 1)
        )
    return x
