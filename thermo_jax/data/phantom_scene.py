"""What a camera sees of a phantom body, version 2: temperatures in degrees C, and the drawn regions.

It is a pure function of a random key, made of array operations only, so that a device can render
thousands of bodies at once, at any size.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thermo_jax.data import phantom_anatomy as anatomy
from thermo_jax.data.phantom_anatomy import HABITS, Body, Egg
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES

_sigmoid = jax.nn.sigmoid
_SIDES = (-1, 1)


def _join(a: Array, b: Array, radius: float) -> Array:
    """Smooth union of two signed distances (positive inside): the crease is rounded."""
    blend = jnp.clip(radius - jnp.abs(a - b), 0, None)
    return jnp.maximum(a, b) + blend * blend / (4 * radius)


def _bump(x: Array) -> Array:
    return jnp.exp(-jnp.square(x))


def _capsule(u: Array, v: Array, start: tuple, end: tuple, width) -> Array:
    """Signed distance to a thick line."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = jnp.clip(((u - start[0]) * du + (v - start[1]) * dv) / (du**2 + dv**2), 0, 1)
    return width - jnp.hypot(u - start[0] - along * du, v - start[1] - along * dv)


def _smooth_noise(key: jax.Array, shape: tuple[int, int], cell: int) -> Array:
    """Unit-variance noise, correlated over about `cell` pixels of 640x480."""
    coarse = (max(480 // cell, 2) + 2, max(640 // cell, 2) + 2)
    noise = jax.random.normal(key, coarse)
    return 1.25 * jax.image.resize(noise, shape, "cubic")


def _sample(field: Array, x: Array, y: Array) -> Array:
    """`field` at fractional indices (row y, column x), edges repeated."""
    return jax.scipy.ndimage.map_coordinates(field, [y, x], order=1, mode="nearest")


def _outline(body: Body, u: Array, v: Array) -> Array:
    """Approximate signed distance in pixels to the body's outline, positive inside."""
    girth = body["girth"]
    knots = jnp.array([40.0, 120.0, 230.0, 340.0, 520.0])
    halves = jnp.stack([190.0 * girth, 200 * girth, 200 * girth, 190 * girth, body["waist"] * girth])
    half = jnp.interp(v, knots, halves)
    torso = -_join(jnp.abs(u) - half, body["collar"] - 34 + 0.12 * jnp.abs(u) - v, 30)
    neck = jnp.minimum(body["neck_width"] - jnp.abs(u), body["collar"] + 20 - v)
    inside = _join(torso, neck, 60)
    inside = _join(inside, 94 - jnp.hypot(u, 0.85 * (v - body["chin"] + 92)), 12)  # the head
    for i, (side, breast) in enumerate(zip(_SIDES, anatomy.breasts(body), strict=True)):
        sin, cos = jnp.sin(body["arm_angle"][i]), jnp.cos(body["arm_angle"][i])
        start = (side * 148 * girth, body["shoulder_v"])
        end = (start[0] + side * 420 * cos, start[1] - 420 * sin)
        inside = _join(inside, _capsule(u, v, start, end, body["arm_width"][i]), 46)
        inside = _join(inside, (1 - breast.radius(u, v)) * breast.width, 14)
        top = body["forearm_v"] - 400 * (1 - body["forearm"][i])
        forearm = _capsule(u, v, (side * 340.0, top), (side * 60.0, top - 50), 42)
        inside = jnp.maximum(inside, forearm)
    return inside


def _vessels(key: jax.Array, body: Body, u: Array, v: Array, shape: tuple[int, int]) -> Array:
    """Warmth 0..1 of superficial vessels: contours of distorted noise look like a web."""
    keys = jax.random.split(key, 6)
    rows, columns = shape
    noise = jax.random.normal(keys[0], (2, 34, 44))
    bend = [_smooth_noise(k, shape, 60) for k in keys[1:3]]
    cell = body["vessel_scale"]
    total = jnp.zeros(shape)
    for layer, (factor, width) in enumerate(((1.0, 0.16), (1.7, 0.22))):
        x = (u + 18 * bend[0] + 340) / (cell * factor)
        y = (v + 18 * bend[1] + 60) / (cell * factor * 1.3)
        x, y = x % 42, y % 32
        ridge = _bump(_sample(noise[layer], x, y) / width)
        total = jnp.maximum(total, ridge * (1 - 0.3 * layer))
    strength = _sigmoid(2.2 * _smooth_noise(keys[3], shape, 70) - 0.3)
    return total * strength


def _add_breast(skin, body: Body, i: int, breast: Egg, nipple: Egg, u, v, key):
    """Adds a breast to the skin: cool, its lower edge sharp above a warm fold, its top soft."""
    p, q = breast.local(u, v)
    rho = jnp.hypot(p, q)
    distance = (1 - rho) * breast.width  # pixels, positive inside
    low = jnp.clip(p + 0.15, 0, 1)
    inner = jnp.clip(-q, 0, 1)
    fold = _bump((jnp.clip(-distance, 0, None)) / body["fold_width"]) * (distance < 0)
    skin = skin + body["fold_warm"] * jnp.clip(low + 0.5 * inner, 0, 1) * fold
    cover = _sigmoid(distance / (3 + 24 * jnp.clip(0.45 - p, 0, 1.2)))
    dome = jnp.sqrt(jnp.clip(1 - rho * rho, 0, None))
    depth = body["breast_depth"]
    warmth = -body["breast_cool"][i] * (0.35 + 0.5 * dome + depth * 0.5 * jnp.clip(p + 0.4, 0, 1.4))
    away = jnp.hypot(u - nipple.u, v - nipple.v)
    warmth = warmth - body["areola_cool"] * _sigmoid((24 - away) / 4)
    warmth = warmth - body["nipple_cool"][i] * _sigmoid((body["nipple_tip"] - away) / 1.5)
    spot_u, spot_v, size, angle = jax.random.uniform(key, (4,), minval=-0.6, maxval=0.6)
    lesion = _bump(jnp.hypot(p - spot_u, q - spot_v) / (0.35 + 0.3 * size))
    warmth = warmth + body["lesion"][i] * body["lesion_warm"] * lesion
    scar = _bump((p - spot_v + angle * q) * breast.length / 3) * (jnp.abs(q - spot_u) < 0.35)
    warmth = warmth + body["scar"][i] * body["scar_warm"] * scar
    return skin + cover * warmth


def _skin(key: jax.Array, body: Body, u: Array, v: Array, inside: Array, shape) -> Array:
    """Temperature of the skin, relative to its mean, in degrees C."""
    keys = jax.random.split(key, 8)
    side_u, girth = jnp.abs(u), body["girth"]
    skin = body["blotches"] * (
        0.5 * _smooth_noise(keys[0], shape, 24) + 0.6 * _smooth_noise(keys[1], shape, 80)
    )
    pairs = list(zip(anatomy.breasts(body), anatomy.nipples(body), strict=True))
    fold_v = (pairs[0][0].v + pairs[1][0].v) / 2 + 90
    skin += body["belly_warm"] * _sigmoid((v - fold_v) / 20)
    skin += body["sternum_warm"] * _bump(u / 45) * _sigmoid((v - fold_v + 110) / 40)
    neck = _sigmoid((body["collar"] - 10 - v) / 12) * _sigmoid((body["neck_width"] + 14 - side_u) / 9)
    wrinkles = 0.3 * jnp.sin((v + 0.002 * u * u) / 7.0)
    skin += body["neck_warm"] * neck * (1 + wrinkles)
    skin -= body["face_cool"] * _sigmoid((body["chin"] - 10 - jnp.square(u) / 260 - v) / 6)
    for i, (side, armpit) in enumerate(zip(_SIDES, anatomy.armpits(body), strict=True)):
        rho = armpit.radius(u, v)
        skin += body["armpit_warm"] * _sigmoid((1 - rho) * 5)
        # A warm crease runs up from the lower end of the armpit, along its inner side.
        p, q = armpit.local(u, v)
        crease = _bump((q - body["crease_out"][i]) * armpit.width / body["crease_width"])
        crease *= _sigmoid((p + 0.9) * 6) * _sigmoid((1.15 - p) * 10)
        skin += body["crease_warm"][i] * crease
        skin -= body["arm_cool"] * _sigmoid((side * u - armpit.side * armpit.u - 40) / 25) * _sigmoid((290 - v) / 30)
    vessels = _vessels(keys[2], body, u, v, shape)
    for i, (breast, nipple) in enumerate(pairs):
        skin = _add_breast(skin, body, i, breast, nipple, u, v, keys[3 + i])
    skin += body["vessels"] * vessels
    skin -= body["edge_cool"] * jnp.exp(-jnp.clip(inside, 0, None) / body["edge_width"])
    return skin


def _cover(image, opacity, temperature):
    return image + opacity * (temperature - image)


def temperatures(key: jax.Array, body: Body, u, v, shape: tuple[int, int]):
    """Temperature [H,W] in degrees C of the whole scene."""
    keys = jax.random.split(key, 8)
    inside = _outline(body, u, v)
    room, base = body["room"], body["skin"]
    wall = room + 0.4 * _smooth_noise(keys[0], shape, 120) + 0.9 * jnp.exp(jnp.minimum(inside, 0) / 25)
    skin = base + body["contrast"] * _skin(keys[1], body, u, v, inside, shape)
    skin = jnp.maximum(skin, room + 2)
    image = _cover(wall, _sigmoid(inside / 1.8), skin)
    # ---- hair beside the neck, a necklace, a paper marker on the belly
    strands = 1 + 0.3 * _smooth_noise(keys[2], shape, 12)
    for i, side in enumerate(_SIDES):
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
    image = _cover(image, body["marker"] * _sigmoid((body["marker_half"] - square) / 0.7), marker)
    return image


def label_map(body: Body, u: Array, v: Array) -> Array:
    """The regions that annotators draw, int32 [H,W]: breasts, nipples, armpits, neck."""
    labels = jnp.full(u.shape, BACKGROUND, jnp.int32)
    parts = {
        "breast": anatomy.breasts(body),
        "nipple": anatomy.nipples(body),
        "armpit": anatomy.armpits(body),
    }
    for part, pair in parts.items():
        down, out, factor = HABITS[part]
        down, out = down + body["drawn_down"], out + body["drawn_out"]
        factor = factor * body["drawn_factor"]
        for name, egg in zip(("left", "right"), pair, strict=True):
            drawn = egg.radius(u - egg.side * out, v - down) < factor
            labels = jnp.where(drawn, CLASS_NAMES.index(f"{name}_{part}"), labels)
    knots, halves = anatomy.neck_knots(body)
    half = jnp.interp(v - body["drawn_down"], knots, halves, left=0, right=0)
    inside = jnp.abs(u) < half
    return jnp.where(inside, CLASS_NAMES.index("neck"), labels)


def _grid(body: Body, shape: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """x, y in pixels of 640x480, and body coordinates u, v of the centres of the pixels."""
    rows, columns = shape
    y = (jnp.arange(rows) + 0.5)[:, None] * (480 / rows) - 0.5
    x = (jnp.arange(columns) + 0.5)[None, :] * (640 / columns) - 0.5
    dx = (x - 320 - body["shift_x"]) / body["scale"]
    dy = (y - 240 - body["shift_y"]) / body["scale"]
    sin, cos = jnp.sin(body["turn"]), jnp.cos(body["turn"])
    u = cos * dx + sin * dy + body["lean"] * (y - 240)
    v = cos * dy - sin * dx + 240
    return x, y, u, v


@partial(jax.jit, static_argnames=("shape", "drawn_shape"))
def render(
    key: jax.Array, *, shape: tuple[int, int] = (480, 640), drawn_shape: tuple[int, int] = (480, 640)
):
    """(temperatures float32 [H,W] in degrees C, label map int32) of a random body.

    Args:
      drawn_shape: of the label map.
    """
    keys = jax.random.split(key, 4)
    body = anatomy.draw_body(keys[0])
    x, y, u, v = _grid(body, shape)
    image = temperatures(keys[1], body, u, v, shape)
    far = jnp.square((x - 320) / 320) + jnp.square((y - 240) / 240)
    image += body["vignette"] * far
    noise = body["noise"] * jax.random.normal(keys[2], shape)
    return image + noise, label_map(body, *_grid(body, drawn_shape)[2:])
