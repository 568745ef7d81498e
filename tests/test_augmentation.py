"""Each transform does what NumPy and SciPy do; labels follow the image; keys decide everything."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training as tiny
from augmented_trainers import augmented
from scipy import ndimage

from thermo_jax.data.thermogram import CLASS_NAMES, MIRRORED_CLASSES
from thermo_jax.models import augmentation
from thermo_jax.models.augmentation import AugmentSettings, augment
from thermo_jax.training.parallel import gather
from thermo_jax.training.state import AUGMENTATION, example_keys

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

HEIGHT, WIDTH = 12, 16
ALL = AugmentSettings(
    mirror=True,
    rotation=20.0,
    scale=0.2,
    stretch=0.1,
    shift=0.1,
    elastic=0.03,
    gamma=0.4,
    field=0.1,
    noise=0.05,
    blur=1.0,
    rectangles=2,
)


def random_images(channels: int = 1) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, channels))
    return images.astype(np.uint8)


def random_class_maps(classes: int = 8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, (4, HEIGHT, WIDTH))


def keys_of(step: int) -> jax.Array:
    rng = jax.random.key_data(jax.random.key(1))
    return example_keys(rng, step, AUGMENTATION, examples=jnp.arange(4))


@partial(jax.jit, static_argnames="settings")
def changed(images, labels=None, *, step=0, settings=ALL):
    return augment(images, labels, keys=keys_of(step), settings=settings, swap=MIRRORED_CLASSES)


def differences(left, right) -> np.ndarray:
    return np.abs(np.asarray(left, float) - np.asarray(right, float))


# --------------------------------------------------------------------------- one by one


def read_at(image: np.ndarray, rows_columns: np.ndarray) -> np.ndarray:
    """Read each channel of an image [h,w,c] at given positions [2,h,w]."""
    channels = [
        ndimage.map_coordinates(
            image[..., c].astype(np.float64), rows_columns, order=1, mode="nearest"
        )
        for c in range(image.shape[-1])
    ]
    return np.stack(channels, -1)


def test_the_warp_reads_as_map_coordinates_does_also_beyond_the_edges():
    images = random_images(3).astype(np.float32)
    rng = np.random.default_rng(2)
    positions = rng.uniform(-3, WIDTH + 3, (4, 2, HEIGHT, WIDTH)).astype(np.float32)
    warped = jax.jit(augmentation.warp)(images, positions)
    expected = np.stack([read_at(*pair) for pair in zip(images, positions, strict=True)])
    np.testing.assert_allclose(warped, expected, atol=1e-3)


def test_the_affine_map_magnifies_turns_and_moves_about_the_centre():
    """A point of the source appears where its transformed position says."""
    numbers = {"angle": 0.3, "log_scale": 0.2, "log_stretch": 0.1, "shift": (2.0, -1.0)}
    given = {name: jnp.array([value]) for name, value in numbers.items()}
    ((rows, columns),) = augmentation.affine_coordinates((HEIGHT, WIDTH), **given)
    down, right = np.asarray(rows) - 5.5, np.asarray(columns) - 7.5
    down, right = down * np.exp(0.2 + 0.05), right * np.exp(0.2 - 0.05)
    # Counterclockwise as seen, with rows pointing down: what lies to the right goes up.
    turned = (np.cos(0.3) * down - np.sin(0.3) * right, np.sin(0.3) * down + np.cos(0.3) * right)
    result = np.indices((HEIGHT, WIDTH)) - np.array([5.5, 7.5])[:, None, None]
    np.testing.assert_allclose(turned[0] + 2, result[0], atol=1e-5)
    np.testing.assert_allclose(turned[1] - 1, result[1], atol=1e-5)


def test_smooth_fields_are_sums_of_gaussians_with_the_variance_of_the_numbers():
    weights = [augmentation.smooth_weights(size, spacing=4.0) for size in (HEIGHT, WIDTH)]
    grid = np.random.default_rng(3).standard_normal(
        (1, 1, weights[0].shape[1], weights[1].shape[1])
    )
    field = augmentation.smooth_fields(jnp.float32(grid), *weights)
    expected = np.zeros((HEIGHT, WIDTH))
    variance = np.zeros((HEIGHT, WIDTH))
    y, x = np.indices((HEIGHT, WIDTH))
    for (row, column), number in np.ndenumerate(grid[0, 0]):
        # The grid is symmetric about the centre.
        y0 = 5.5 + 4 * (row - (grid.shape[2] - 1) / 2)
        x0 = 7.5 + 4 * (column - (grid.shape[3] - 1) / 2)
        bump = np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * 4**2))
        expected += number * bump
        variance += bump**2
    np.testing.assert_allclose(field[0, 0], expected / np.sqrt(variance), atol=1e-5)


def test_the_blur_is_scipys_and_of_width_zero_changes_nothing():
    images = random_images(2).astype(np.float32)
    deviations = np.array([0.0, 0.4, 1.0, 2.0], np.float32)
    blurred = jax.jit(augmentation.blur_images, static_argnames="radius")(
        images, deviations, radius=6
    )
    np.testing.assert_array_equal(blurred[0], images[0])
    for image, result, deviation in zip(images[1:], blurred[1:], deviations[1:], strict=True):
        sigma = (deviation, deviation, 0)
        expected = ndimage.gaussian_filter(image, sigma, mode="nearest", radius=(6, 6, 0))
        np.testing.assert_allclose(result, expected, atol=1e-3)


def test_gamma_keeps_black_and_white():
    images = random_images().astype(np.float32)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    log_gamma = np.array([0.0, 0.5, -0.5, 1.0], np.float32)
    result = augmentation.change_gamma(jnp.asarray(images), jnp.asarray(log_gamma))
    expected = 255 * (images / 255) ** np.exp(log_gamma)[:, None, None, None]
    np.testing.assert_allclose(result, expected, atol=1e-3)
    np.testing.assert_allclose(result[:, 0, :2, 0], [[0, 255]] * 4, atol=1e-4)


def test_later_rectangles_cover_earlier_ones():
    images = random_images(2).astype(np.float32)
    centers = jnp.tile(jnp.array([[3.0, 4.0], [4.0, 6.0]]), (4, 1, 1))
    halves = jnp.tile(jnp.array([[2.0, 3.0], [1.0, 2.0]]), (4, 1, 1))
    covered = augmentation.cover(
        jnp.asarray(images), centers, halves, jnp.tile(jnp.array([10.0, 20]), (4, 1))
    )
    expected = images.copy()
    expected[:, 1:5, 1:7] = 10
    expected[:, 3:5, 4:8] = 20
    np.testing.assert_array_equal(covered, expected)


def test_half_of_the_rectangles_exist_and_none_is_larger_than_its_limit():
    numbers = jax.random.uniform(jax.random.key(0), (1000, 1, 6))
    _, halves, levels = augmentation.place_rectangles(numbers, (HEIGHT, WIDTH))
    assert 0.45 < (halves[:, 0, 0] > 0).mean() < 0.55
    assert 0.9 < halves.max() / (augmentation.RECTANGLE_SIZE * HEIGHT / 2) <= 1
    assert 0 <= levels.min() < 5 and 250 < levels.max() <= 255


# --------------------------------------------------------------------------- labels follow


def test_mirrored_classes_are_those_of_the_other_side():
    def other_side(name):
        swapped = {"left": "right", "right": "left"}
        return "_".join(swapped.get(word, word) for word in name.split("_"))

    assert [CLASS_NAMES[k] for k in MIRRORED_CLASSES] == [other_side(name) for name in CLASS_NAMES]


def test_a_mirrored_images_labels_are_mirrored_and_their_sides_are_swapped():
    images, class_maps = random_images(), random_class_maps()
    labels = np.eye(8, dtype=np.float32)[class_maps]
    mirrored = np.array([True, False, True, False])
    result, targets = augmentation.mirror(
        jnp.asarray(images), jnp.asarray(labels), jnp.asarray(mirrored), swap=MIRRORED_CLASSES
    )
    for i, flip in enumerate(mirrored):
        expected = np.array(MIRRORED_CLASSES)[class_maps[i, :, ::-1]] if flip else class_maps[i]
        np.testing.assert_array_equal(targets[i].argmax(-1), expected)
        np.testing.assert_array_equal(result[i], images[i, :, ::-1] if flip else images[i])


def test_a_shift_by_whole_pixels_is_exact():
    images = random_images().astype(np.float32)
    zero = jnp.zeros(4)
    positions = augmentation.affine_coordinates(
        (HEIGHT, WIDTH), angle=zero, log_scale=zero, log_stretch=zero, shift=jnp.full((4, 2), 2.0)
    )
    shifted = augmentation.warp(jnp.asarray(images), positions)
    expected = np.pad(images, [(0, 0), (2, 0), (2, 0), (0, 0)], mode="edge")[:, :HEIGHT, :WIDTH]
    np.testing.assert_array_equal(shifted, expected)


def test_labels_are_warped_to_the_pixel_like_the_image():
    """The image is the class map of two classes: it stays the warped share of class 1."""
    class_maps = random_class_maps(2)
    warps = AugmentSettings(rotation=20.0, scale=0.2, stretch=0.1, shift=0.1, elastic=0.05)
    images = (255 * class_maps[..., None]).astype(np.uint8)
    result, labels = changed(images, np.eye(8, dtype=np.float32)[class_maps], settings=warps)
    assert (np.asarray(result) != images).any((1, 2, 3)).all()
    assert differences(result[..., 0], 255 * labels[..., 1]).max() < 0.501
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["gamma", "field", "noise", "blur", "rectangles"])
def test_what_only_changes_levels_leaves_labels_alone(name):
    settings = AugmentSettings(**{name: getattr(ALL, name)})
    images = random_images()
    labels = np.eye(8, dtype=np.float32)[random_class_maps()]
    result, targets = changed(images, labels, settings=settings)
    assert (np.asarray(result) != images).any()
    np.testing.assert_array_equal(targets, labels)


# ------------------------------------------------------------------------ keys, settings


def test_off_gives_the_same_arrays():
    images, labels = jnp.asarray(random_images()), jnp.ones((4, HEIGHT, WIDTH, 8))
    result = augment(images, labels, keys=keys_of(0), settings=augmentation.OFF)
    assert result[0] is images and result[1] is labels


def test_every_setting_alone_is_on():
    for field in dataclasses.fields(AugmentSettings):
        settings = AugmentSettings(**{field.name: getattr(ALL, field.name)})
        assert settings.is_on, field.name
    assert not augmentation.OFF.is_on


def test_equal_keys_give_equal_images_and_other_keys_give_others():
    images = np.tile(random_images()[:1], (4, 1, 1, 1))
    first, again, other = (np.asarray(changed(images, step=step)[0]) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    results = [*first, *other]
    assert all((a != b).any() for i, a in enumerate(results) for b in results[:i])
    assert first.dtype == np.uint8


def test_channels_and_labels_do_not_change_what_happens_to_an_image_except_for_noise():
    gray, settings = random_images(), dataclasses.replace(ALL, noise=0.0)
    labels = np.eye(8, dtype=np.float32)[random_class_maps()]
    expected, _ = changed(gray, labels, settings=settings)
    result, _ = changed(np.tile(gray, 3), settings=settings)
    # Compiled differently, a level may be rounded up or down.
    assert differences(result, np.tile(expected, 3)).max() <= 1
    assert differences(result, np.tile(expected, 3)).mean() < 0.01


@pytest.mark.parametrize(("count", "mode"), [(2, "pmap"), (4, "shard_map")])
def test_the_number_of_devices_does_not_change_the_images(count, mode):
    def step(rng, batch):
        keys = example_keys(rng, 5, AUGMENTATION, examples=batch["slot"])
        images, _ = augment(batch["images"], keys=keys, settings=ALL)
        return gather(images)

    parallel, images = tiny.devices(count, mode=mode), random_images()
    rng = parallel.replicate(jax.random.key_data(jax.random.key(1)))
    batch = parallel.put_batch({"images": images, "slot": np.arange(4, dtype=np.int32)})
    result, expected = parallel.wrap(step)(rng, batch), changed(images, step=5)[0]
    assert differences(result, expected).max() <= 1
    assert differences(result, expected).mean() < 0.01


@pytest.mark.parametrize("task", ["classify", pytest.param("segment", marks=pytest.mark.slow)])
def test_a_training_step_changes_the_images_by_its_number_and_the_slots(task):
    with tiny.shallow_decoders():
        trainer = augmented(tiny.decoder_trainer(task))
        assert_losses_depend_on_step_and_slots(trainer, tiny.batch_of(tiny.columns(8)))


@pytest.mark.slow
def test_a_pretraining_step_changes_the_images_before_it_reads_patches():
    """With given patches, nothing else in the step is random."""
    trainer = augmented(tiny.encoder_trainer())

    def step(state, batch):
        anchors = jnp.full((8, 4, 2), 6)
        positions = anchors, jnp.tile(anchors[:, :, None] + 1, (1, 1, 10, 1))
        return trainer.train_step(state, batch | {"positions": positions})

    batch = tiny.batch_of(tiny.columns(8))
    assert_losses_depend_on_step_and_slots(trainer._replace(train_step=step), batch)


def assert_losses_depend_on_step_and_slots(trainer: tiny.Trainer, batch: dict) -> None:
    parallel = tiny.devices(1)
    step = parallel.wrap(trainer.train_step)

    def loss(number: int, first_slot: int) -> float:
        rows = {name: batch[name] for name in trainer.column_names}
        rows["slot"] = batch["slot"] + first_slot
        state = parallel.replicate(trainer.state.replace(step=np.int32(number)))
        return float(step(state, parallel.put_batch(rows))[1]["loss"])

    losses = [loss(0, 0), loss(0, 0), loss(1, 0), loss(0, 8)]
    assert losses[0] == losses[1] and len(set(losses)) == 3, losses
