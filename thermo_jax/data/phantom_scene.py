"""What a camera sees of a phantom body, version 2: temperatures, and the drawn regions.

It is a pure function of a random key, made of array operations only, so that a device can render
thousands of bodies at once, at any size.

What varies between images is in `phantom_anatomy.PARAMETERS`. The numbers in this file are equal
in all images: places, widths and softness of edges (pixels of body coordinates) and temperatures
(degrees C), estimated by looking at thermograms. The model that ships was trained on exactly these
numbers and this order of random draws: to change them, add a version to `phantom.VERSIONS`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from thermo_jax.data import phantom_anatomy as anatomy
from thermo_jax.data.phantom_anatomy import SIDES, Body, Egg
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, GRAY_SHAPE

_sigmoid = jax.nn.sigmoid


def _join(a: Array, b: Array, radius: float) -> Array:
    """Smooth union of two signed distances (positive inside): the crease is rounded."""
    blend = jnp.clip(radius - jnp.abs(a - b), 0, None)
    return jnp.maximum(a, b) + blend * blend / (4 * radius)


def _bump(x: Array) -> Array:
    """1 at x = 0, near 0 beyond x = 2."""
    return jnp.exp(-jnp.square(x))


def _polyline(x: Array, knots: Sequence[Any] | Array, values: Sequence[Any] | Array) -> Array:
    """Linear interpolation between knots, constant outside them; faster than `jnp.interp`."""
    y = values[0]
    for i in range(len(knots) - 1):
        rise = jnp.clip((x - knots[i]) / (knots[i + 1] - knots[i]), 0, 1)
        y = y + (values[i + 1] - values[i]) * rise
    return y


def _capsule(u: Array, v: Array, start: tuple, end: tuple, radius: Any) -> Array:
    """Signed distance (positive inside) to the outline of a thick line with round ends."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = jnp.clip(((u - start[0]) * du + (v - start[1]) * dv) / (du**2 + dv**2), 0, 1)
    return radius - jnp.hypot(u - start[0] - along * du, v - start[1] - along * dv)


def _smooth_noise(key: Key[Array, ""], shape: tuple[int, int], cell: int) -> Array:
    """Unit-variance noise, correlated over about `cell` pixels of 640x480."""
    coarse = (max(480 // cell, 2) + 2, max(640 // cell, 2) + 2)
    noise = jax.random.normal(key, coarse)
    return 1.25 * jax.image.resize(noise, shape, "cubic")


def _sample(field: Array, x: Array, y: Array) -> Array:
    """`field` at fractional indices (row y, column x), linearly; edges are repeated."""
    return jax.scipy.ndimage.map_coordinates(field, [y, x], order=1, mode="nearest")


def _outline(body: Body, u: Array, v: Array) -> Array:
    """Approximate signed distance in pixels to the body's outline, positive inside."""
    girth = body["girth"]
    edges = [190 * girth, 200 * girth, 200 * girth, 190 * girth, body["waist"] * girth]
    half = _polyline(v, (40.0, 120.0, 230.0, 340.0, 520.0), edges)
    torso = -_join(jnp.abs(u) - half, body["collar"] - 34 + 0.12 * jnp.abs(u) - v, 30)
    neck = jnp.minimum(body["neck_width"] - jnp.abs(u), body["collar"] + 20 - v)
    inside = _join(torso, neck, 60)
    inside = _join(inside, 94 - jnp.hypot(u, 0.85 * (v - body["chin"] + 92)), 12)  # the head
    for i, (side, breast) in enumerate(zip(SIDES, anatomy.breasts(body), strict=True)):
        sin, cos = jnp.sin(body["arm_angle"][i]), jnp.cos(body["arm_angle"][i])
        start = (side * 148 * girth, body["shoulder_v"])
        end = (start[0] + side * 420 * cos, start[1] - 420 * sin)
        inside = _join(inside, _capsule(u, v, start, end, body["arm_width"][i]), 46)
        inside = _join(inside, (1 - breast.radius(u, v)) * breast.width, 14)
        # Without a forearm, it lies 400 pixels higher: above the image.
        top = body["forearm_v"] - 400 * (1 - body["forearm"][i])
        forearm = _capsule(u, v, (side * 340.0, top), (side * 60.0, top - 50), 42)
        inside = jnp.maximum(inside, forearm)
    return inside


def _vessels(key: Key[Array, ""], body: Body, u: Array, v: Array) -> Array:
    """Warmth 0..1 of superficial vessels: the places where distorted noise is 0 look like a web."""
    shape = u.shape
    keys = jax.random.split(key, 4)
    noise = jax.random.normal(keys[0], (2, 34, 44))
    bend_u, bend_v = (18 * _smooth_noise(k, shape, 60) for k in keys[1:3])
    total = jnp.zeros(shape)
    # Two layers: the second has a coarser web, and is less warm.
    for layer, (size, width, strength) in enumerate(((1.0, 0.16, 1.0), (1.7, 0.22, 0.7))):
        cell = body["vessel_scale"] * size
        # Column and row in the grid of noise.
        x, y = (u + bend_u + 340) / cell, (v + bend_v + 60) / (1.3 * cell)
        ridge = _bump(_sample(noise[layer], x % 42, y % 32) / width)
        total = jnp.maximum(total, strength * ridge)
    # Vessels are visible in some areas only.
    return total * _sigmoid(2.2 * _smooth_noise(keys[3], shape, 70) - 0.3)


def _add_breast(
    skin: Array,
    body: Body,
    i: int,
    breast: Egg,
    nipple: Egg,
    u: Array,
    v: Array,
    key: Key[Array, ""],
) -> Array:
    """Adds side `i`'s breast to the skin's temperatures.

    It is cool, its lower edge is sharp above a warm fold, and its upper edge is soft.
    """
    p, q = breast.local(u, v)
    rho = jnp.hypot(p, q)
    distance = (1 - rho) * breast.width  # pixels, positive inside
    low, inner = jnp.clip(p + 0.15, 0, 1), jnp.clip(-q, 0, 1)
    # The warm fold lies outside the breast, along its lower and inner edge.
    fold = _bump((jnp.clip(-distance, 0, None)) / body["fold_width"]) * (distance < 0)
    skin = skin + body["fold_warm"] * jnp.clip(low + 0.5 * inner, 0, 1) * fold
    # The edge is 3 pixels soft below, up to 32 above.
    cover = _sigmoid(distance / (3 + 24 * jnp.clip(0.45 - p, 0, 1.2)))
    # Cooler in the middle, and below.
    dome = jnp.sqrt(jnp.clip(1 - rho * rho, 0, None))
    depth = body["breast_depth"]
    warmth = -body["breast_cool"][i] * (0.35 + 0.5 * dome + depth * 0.5 * jnp.clip(p + 0.4, 0, 1.4))
    away = jnp.hypot(u - nipple.u, v - nipple.v)  # from the nipple; the areola's radius is 24
    warmth = warmth - body["areola_cool"] * _sigmoid((24 - away) / 4)
    warmth = warmth - body["nipple_cool"][i] * _sigmoid((body["nipple_tip"] - away) / 1.5)
    # A lesion (round) and a scar (a line); if a breast has both, they lie at one place.
    spot_u, spot_v, size, angle = jax.random.uniform(key, (4,), minval=-0.6, maxval=0.6)
    lesion = _bump(jnp.hypot(p - spot_u, q - spot_v) / (0.35 + 0.3 * size))
    warmth = warmth + body["lesion"][i] * body["lesion_warm"] * lesion
    scar = _bump((p - spot_v + angle * q) * breast.length / 3) * (jnp.abs(q - spot_u) < 0.35)
    warmth = warmth + body["scar"][i] * body["scar_warm"] * scar
    return skin + cover * warmth


def _skin(key: Key[Array, ""], body: Body, u: Array, v: Array, inside: Array) -> Array:
    """Temperature of the skin in degrees C, relative to `body["skin"]`, before `contrast`."""
    keys, shape = jax.random.split(key, 5), u.shape
    side_u = jnp.abs(u)
    skin = body["blotches"] * (
        0.5 * _smooth_noise(keys[0], shape, 24) + 0.6 * _smooth_noise(keys[1], shape, 80)
    )
    pairs = list(zip(anatomy.breasts(body), anatomy.nipples(body), strict=True))
    fold_v = (pairs[0][0].v + pairs[1][0].v) / 2 + 90  # about the lower ends of the breasts
    skin += body["belly_warm"] * _sigmoid((v - fold_v) / 20)
    skin += body["sternum_warm"] * _bump(u / 45) * _sigmoid((v - fold_v + 110) / 40)
    neck = _sigmoid((body["collar"] - 10 - v) / 12) * _sigmoid(
        (body["neck_width"] + 14 - side_u) / 9
    )
    wrinkles = 0.3 * jnp.sin((v + 0.002 * u * u) / 7.0)
    skin += body["neck_warm"] * neck * (1 + wrinkles)
    skin -= body["face_cool"] * _sigmoid((body["chin"] - 10 - jnp.square(u) / 260 - v) / 6)
    for i, (side, armpit) in enumerate(zip(SIDES, anatomy.armpits(body), strict=True)):
        rho = armpit.radius(u, v)
        skin += body["armpit_warm"] * _sigmoid((1 - rho) * 5)
        # A warm crease runs up from the lower end of the armpit.
        p, q = armpit.local(u, v)
        crease = _bump((q - body["crease_out"][i]) * armpit.width / body["crease_width"])
        crease *= _sigmoid((p + 0.9) * 6) * _sigmoid((1.15 - p) * 10)
        skin += body["crease_warm"][i] * crease
        # The arms, above v = 290 and outward of the armpits, are cool.
        skin -= (
            body["arm_cool"]
            * _sigmoid((side * u - armpit.side * armpit.u - 40) / 25)
            * _sigmoid((290 - v) / 30)
        )
    vessels = _vessels(keys[2], body, u, v)
    for i, (breast, nipple) in enumerate(pairs):
        skin = _add_breast(skin, body, i, breast, nipple, u, v, keys[3 + i])
    skin += body["vessels"] * vessels
    skin -= body["edge_cool"] * jnp.exp(-jnp.clip(inside, 0, None) / body["edge_width"])
    return skin


def _cover(image: Array, opacity: Array, temperature: Array) -> Array:
    """The image behind something of this temperature."""
    return image + opacity * (temperature - image)


def temperatures(
    key: Key[Array, ""], body: Body, u: Float[Array, "h w"], v: Float[Array, "h w"]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Temperature in degrees C of the whole scene; how much of each pixel is skin, 0..1.

    Hair and a necklace on the skin count as skin.
    """
    shape = u.shape
    keys = jax.random.split(key, 3)
    inside = _outline(body, u, v)
    room, base = body["room"], body["skin"]
    near = jnp.exp(jnp.minimum(inside, 0) / 25)  # the wall near the body is warmer
    wall = room + 0.4 * _smooth_noise(keys[0], shape, 120) + 0.9 * near
    skin = base + body["contrast"] * _skin(keys[1], body, u, v, inside)
    skin = jnp.maximum(skin, room + 2)
    opacity = _sigmoid(inside / 1.8)
    image = _cover(wall, opacity, skin)
    # ---- hair beside the neck, a necklace, a paper marker on the belly
    strands = 1 + 0.3 * _smooth_noise(keys[2], shape, 12)
    for i, side in enumerate(SIDES):
        lock = _sigmoid((30 - jnp.abs(side * u - body["neck_width"] - 16)) / 8)
        lock *= _sigmoid((body["chin"] + body["hair_length"] - v) / 12)
        image = _cover(image, body["hair"][i] * lock * jnp.clip(0.7 * strands, 0, 1), room + 3.5)
    sag = body["collar"] - 30 + body["necklace_drop"] * (1 - jnp.square(u / 90))
    chain = _bump((v - sag) / 2.5) * (jnp.abs(u) < 88) * body["necklace"]
    image = _cover(image, 0.8 * chain, room + 5)
    sin, cos = jnp.sin(body["marker_turn"]), jnp.cos(body["marker_turn"])
    du, dv = u - body["marker_u"], v - body["marker_v"]
    square = jnp.maximum(jnp.abs(cos * du + sin * dv), jnp.abs(cos * dv - sin * du))
    marker = room + body["marker_level"] * (base - room)
    paper = body["marker"] * _sigmoid((body["marker_half"] - square) / 0.7)
    return _cover(image, paper, marker), opacity * (1 - paper)


def label_map(body: Body, u: Float[Array, "h w"], v: Float[Array, "h w"]) -> UInt8[Array, "h w"]:
    """The class of each pixel, as annotators draw it."""
    labels = jnp.full(u.shape, BACKGROUND, jnp.uint8)
    for name, egg in anatomy.drawn_eggs(body).items():
        labels = jnp.where(egg.radius(u, v) < 1, jnp.uint8(CLASS_NAMES.index(name)), labels)
    knots, halves = anatomy.drawn_neck(body)
    half = jnp.where(v < knots[0], 0, _polyline(v, knots, halves))
    return jnp.where(jnp.abs(u) < half, jnp.uint8(CLASS_NAMES.index("neck")), labels)


def grid(body: Body, shape: tuple[int, int]) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Body coordinates (u, v) of the centres of the pixels of an image of this shape.

    The image shows the same scene at any size.
    """
    rows, columns = shape
    y = (jnp.arange(rows) + 0.5)[:, None] * (GRAY_SHAPE[0] / rows) - 0.5
    x = (jnp.arange(columns) + 0.5)[None, :] * (GRAY_SHAPE[1] / columns) - 0.5
    return anatomy.to_body(body, x, y)


@partial(jax.jit, static_argnames="shape")
def render(
    body: Body, key: Key[Array, ""], *, shape: tuple[int, int] = GRAY_SHAPE
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Temperatures in degrees C of a body, without noise; how much of each pixel is skin, 0..1."""
    u, v = grid(body, shape)
    image, skin = temperatures(key, body, u, v)
    rows, columns = (jnp.linspace(-1, 1, size) for size in shape)
    return image + body["vignette"] * (rows[:, None] ** 2 + columns**2), skin


def example(
    key: Key[Array, ""], *, shape: tuple[int, int]
) -> tuple[UInt8[Array, "h w 1"], Float[Array, "h w k"]]:
    """A gray image of a random body, and the shares of the classes at each pixel.

    Levels are those of `radiometry.render_gray`: the minimum is 0, the maximum 255. Regions are
    drawn at twice the size, so that shares are quarters. Noise is that of a pixel of this image,
    whatever its size.
    """
    body_key, key, noise_key = jax.random.split(key, 3)
    body = anatomy.draw_body(body_key)
    image, _ = render(body, key, shape=shape)
    image += body["noise"] * jax.random.normal(noise_key, shape)
    low, high = image.min(), image.max()
    gray = jnp.round(255 * (image - low) / (high - low)).astype(jnp.uint8)
    height, width = shape
    labels = label_map(body, *grid(body, (2 * height, 2 * width)))
    one_hot = labels.reshape(height, 2, width, 2)[..., None] == jnp.arange(len(CLASS_NAMES))
    return gray[..., None], one_hot.mean((1, 3), dtype=jnp.float32)
