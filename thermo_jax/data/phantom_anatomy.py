"""The bodies of phantom version 2: every number that varies between images, and shapes.

A body consists of eggs (breasts, nipples, armpits), capsules (arms), circles (head) and outlines
(torso, neck) in body coordinates: pixels of a 640x480 image, u to the image's right, v down, u = 0
on the midline. Pairs are (image left, image right).

Every number is a function of three independent standard normal numbers. The comments of
`PARAMETERS` say where their distributions come from: "annotators" are summary numbers (means and
standard deviations) of the regions that were drawn on the 11 annotated patients of DMR-IR that SPEC
section 11 calls "choosing"; "seen" was estimated by looking at thermograms, and made wider; the
rest is stated. No code here reads a real image.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Key

MOST = 2.5  # standard deviations from the mean: numbers farther away become this one


@dataclasses.dataclass(frozen=True)
class Normal:
    """A normal number. `own` makes it a pair: `sd` is common to both sides, `own` is not."""

    mean: float
    sd: float
    own: float | None = None

    def __call__(self, z: Float[Array, "3"], quantile: Float[Array, "3"]) -> Array:
        """The value of three standard normal numbers; `quantile` is their distribution function."""
        common = self.mean + self.sd * z[0]
        return common if self.own is None else common + self.own * z[1:]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A uniform number; because of `MOST`, .6 % of its range is never drawn at either end."""

    low: float
    high: float

    def __call__(self, z: Float[Array, "3"], quantile: Float[Array, "3"]) -> Array:
        """The value of three standard normal numbers; the first one is used."""
        return self.low + (self.high - self.low) * quantile[0]


@dataclasses.dataclass(frozen=True)
class Chance:
    """1 with this probability, else 0. `sides` makes it a pair of independent numbers."""

    probability: float
    sides: bool = False

    def __call__(self, z: Float[Array, "3"], quantile: Float[Array, "3"]) -> Array:
        """The value of three standard normal numbers."""
        return jnp.float32((quantile[1:] if self.sides else quantile[0]) < self.probability)


PARAMETERS: dict[str, Normal | Uniform | Chance] = {
    # Lengths are in pixels of body coordinates if no unit is given.
    # ---- pose: the camera's distance and direction (annotators: the sd of centres is 20 pixels)
    "scale": Normal(1.0, 0.06),
    "shift_x": Normal(2, 12),
    "shift_y": Normal(0, 16),
    "turn": Normal(0, 0.03),  # radians
    "lean": Normal(0, 0.04),  # du / dv: the patient leans, or the camera is not level
    # ---- breasts (annotators: half axes 157 and 98, sd 25 and 12; centre v 283, sd 21; tilt 26
    # degrees, sd 8; inner edges 6 pixels apart; correlation of the two sides .95)
    "breast_size": Normal(0.0, 0.12, 0.03),  # logarithm, of both half axes
    "breast_length": Normal(152, 9, 3),
    "breast_width": Normal(98, 5, 2),
    "breast_tilt": Normal(0.43, 0.13, 0.06),  # radians; the lower end points outward
    "breast_taper": Normal(0.12, 0.08, 0.03),  # see `Egg`; above 0 is wider below
    "breast_v": Normal(284, 16, 5),
    "breast_gap": Normal(3, 5, 4),  # between the inner edge and the midline
    # ---- nipples, in half axes of the breast (annotators: .60 down, sd .17; .19 outward, sd .2)
    "nipple_down": Normal(0.60, 0.17, 0.06),
    "nipple_out": Normal(0.19, 0.18, 0.08),
    "nipple_length": Normal(26, 3.0, 2.0),  # of the drawn region (annotators: 28 and 24)
    "nipple_width": Normal(24, 2.5, 1.5),
    "nipple_tip": Uniform(6, 13),  # radius of the visible spot (seen)
    # ---- armpits (annotators: centre 198 from the midline, v 119; half axes 95 and 61)
    "armpit_u": Normal(212, 14, 7),
    "armpit_v": Normal(128, 16, 6),
    "armpit_length": Normal(108, 11, 4),
    "armpit_width": Normal(58, 7, 3),
    "armpit_taper": Normal(-0.55, 0.12),  # narrower below
    "armpit_tilt": Normal(0.0, 0.15, 0.08),
    # ---- neck (annotators: v 14 to 115, sd 20 and 33; u -99 to 99, sd 20; 11,900 square pixels)
    "chin": Normal(14, 22),
    "collar": Normal(114, 22),
    "neck_width": Normal(68, 8),  # half of it
    "collar_width": Normal(110, 14),  # half of it
    # ---- the same annotator draws the same region differently (estimated)
    "drawn_down": Normal(0, 4),
    "drawn_out": Normal(0, 4),
    "drawn_factor": Normal(1, 0.03),
    # ---- outline (seen)
    "girth": Normal(1.0, 0.06),  # multiplies the torso's widths and the armpits' distance
    "waist": Normal(182, 12),  # half the torso's width at the image's lower end
    "arm_angle": Normal(0.72, 0.2, 0.1),  # radians above the horizontal
    "arm_width": Normal(80, 8, 2),  # half of it
    "shoulder_v": Normal(142, 12),
    "forearm": Chance(0.25, sides=True),  # crosses the upper corner of the image
    "forearm_v": Uniform(-60, 20),
    # ---- temperatures, degrees C (seen, and wider): differences from the skin
    "skin": Uniform(30.5, 34),
    "room": Uniform(19, 25),
    "contrast": Uniform(0.6, 1.7),  # multiplies all differences below
    "breast_cool": Normal(1.5, 0.7, 0.15),
    "breast_depth": Uniform(0.3, 1.3),  # how much cooler its lower part is
    "fold_warm": Uniform(0.5, 2.4),
    "fold_width": Uniform(8, 26),
    "sternum_warm": Uniform(0.0, 1.4),
    "belly_warm": Uniform(-0.2, 1.6),
    "neck_warm": Uniform(0.2, 1.8),
    "face_cool": Uniform(-1.0, 1.5),
    "armpit_warm": Uniform(0.0, 1.2),
    "crease_warm": Normal(1.2, 0.5, 0.3),
    "crease_width": Uniform(6, 24),
    "crease_out": Normal(0.1, 0.25, 0.1),  # from the armpit's axis, in half axes
    "arm_cool": Uniform(0.0, 1.8),
    "nipple_cool": Normal(0.7, 0.7, 0.15),  # may be warm
    "areola_cool": Uniform(-0.2, 0.7),
    "edge_cool": Uniform(0.8, 2.6),  # skin seen at a grazing angle
    "edge_width": Uniform(4, 14),
    "vessels": Uniform(0.0, 1.5),
    "vessel_scale": Uniform(22, 60),  # size of the meshes
    "blotches": Uniform(0.1, 0.6),
    "lesion": Chance(0.15, sides=True),
    "lesion_warm": Uniform(-1.0, 2.5),
    # ---- things that are not the body (seen)
    "marker": Chance(0.75),
    "marker_u": Normal(0, 14),
    "marker_v": Normal(410, 18),
    "marker_half": Uniform(18, 36),  # half of its side
    "marker_turn": Normal(0, 0.08),
    "marker_level": Uniform(0.0, 0.5),  # between the room and the skin
    "hair": Chance(0.2, sides=True),
    "hair_length": Uniform(40, 190),
    "necklace": Chance(0.15),
    "necklace_drop": Uniform(20, 120),
    "scar": Chance(0.12, sides=True),
    "scar_warm": Uniform(-1.2, 1.2),
    # ---- camera (makers state noise of .04 for the FLIR SC-620 of DMR-IR, less for cooled cameras,
    # .1 to .15 for small ones; in the sample, some frames are colder or warmer at their edges)
    "noise": Uniform(0.01, 0.15),  # sd, degrees C
    "vignette": Normal(0, 0.25),  # degrees C at the edges of the image
}

# How the regions that annotators draw differ from the anatomy: pixels down and outward, and a
# factor of both half axes. SPEC section 11 measures the differences; these numbers were then tuned
# by the scores on the choosing patients.
HABITS = {
    "breast": (-8.0, -2.0, 1.04),
    "nipple": (-1.0, -4.0, 0.95),
    "armpit": (10.0, -14.0, 1.0),
}
NECK_HABIT = (-16.0, 12.0)  # pixels down, of its upper and its lower end

Body = dict[str, Any]


def draw_body(key: Key[Array, ""]) -> Body:
    """A random body: the value of each of `PARAMETERS`, a number or a pair."""
    z = jnp.clip(jax.random.normal(key, (len(PARAMETERS), 3)), -MOST, MOST)
    quantiles = norm.cdf(z)  # all at once, which compiles faster
    rules = zip(PARAMETERS.items(), z, quantiles, strict=True)
    return {name: rule(*numbers) for (name, rule), *numbers in rules}


# --------------------------------------------------------------------------------------------------
# Coordinates
# --------------------------------------------------------------------------------------------------


def to_body(
    body: Body, x: Float[Array, "..."], y: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Body coordinates (u, v) of pixel coordinates (x, y) of a 640x480 image."""
    dx = (x - 320 - body["shift_x"]) / body["scale"]
    dy = (y - 240 - body["shift_y"]) / body["scale"]
    sin, cos = jnp.sin(body["turn"]), jnp.cos(body["turn"])
    below = cos * dy - sin * dx
    return cos * dx + sin * dy + body["lean"] * below, below + 240


def to_pixels(body: Body, u: Any, v: Any) -> tuple[Array, Array]:
    """Pixel coordinates (x, y) of body coordinates; the inverse of `to_body`."""
    below = v - 240
    aside = u - body["lean"] * below
    sin, cos = jnp.sin(body["turn"]), jnp.cos(body["turn"])
    x = 320 + body["shift_x"] + body["scale"] * (cos * aside - sin * below)
    return x, 240 + body["shift_y"] + body["scale"] * (sin * aside + cos * below)


@dataclasses.dataclass(frozen=True)
class Egg:
    """An ellipse, wider below if `taper` > 0, whose lower end points outward by `tilt` radians.

    Attributes:
      side: -1 (image left) or 1: the direction of "outward".
      u, v: the centre.
      width, length: half axes.
    """

    side: int
    u: Any
    v: Any
    width: Any
    length: Any
    tilt: Any = 0.0
    taper: Any = 0.0

    def local(self, u: Array, v: Array) -> tuple[Array, Array]:
        """(p, q): position along the axis (down) and across it (outward), in half axes."""
        sin, cos = jnp.sin(self.tilt), jnp.cos(self.tilt)
        out, down = self.side * (u - self.u), v - self.v
        p = (sin * out + cos * down) / self.length
        q = (cos * out - sin * down) / self.width
        return p, q / self._widening(p)

    def _widening(self, p: Any) -> Array:
        return jnp.clip(1 + self.taper * p, 0.35, None)

    def point(self, p: Any, q: Any) -> tuple[Array, Array]:
        """Body coordinates (u, v) of the local (p, q); the inverse of `local`."""
        sin, cos = jnp.sin(self.tilt), jnp.cos(self.tilt)
        along, across = p * self.length, q * self._widening(p) * self.width
        u = self.u + self.side * (sin * along + cos * across)
        return u, self.v + cos * along - sin * across

    def radius(self, u: Array, v: Array) -> Array:
        """The distance from the centre, as a share of that of the outline: 1 on the outline."""
        return jnp.hypot(*self.local(u, v))

    def changed(self, down: Any, out: Any, factor: Any) -> "Egg":
        """The egg, moved by pixels and magnified."""
        return dataclasses.replace(
            self,
            u=self.u + self.side * out,
            v=self.v + down,
            width=self.width * factor,
            length=self.length * factor,
        )


# --------------------------------------------------------------------------------------------------
# Anatomy
# --------------------------------------------------------------------------------------------------

SIDES = (-1, 1)


def breasts(body: Body) -> tuple[Egg, Egg]:
    """Both breasts. Their inner edges lie near the midline, however large they are."""

    def breast(i: int) -> Egg:
        size = jnp.exp(body["breast_size"][i])
        width, length = size * body["breast_width"][i], size * body["breast_length"][i]
        tilt = jnp.clip(body["breast_tilt"][i], 0.05, 0.9)
        reach = jnp.hypot(length * jnp.sin(tilt), width * jnp.cos(tilt))
        u = SIDES[i] * (reach + body["breast_gap"][i])
        v = body["breast_v"][i] + 40 * (size - 1)
        return Egg(SIDES[i], u, v, width, length, tilt, body["breast_taper"][i])

    return breast(0), breast(1)


def nipples(body: Body) -> tuple[Egg, Egg]:
    """The regions that annotators draw around the nipples, which are smaller."""

    def nipple(i: int, breast: Egg) -> Egg:
        down, out = body["nipple_down"][i], body["nipple_out"][i]
        far = jnp.clip(jnp.hypot(down, out) / 0.86, 1.0, None)  # stay inside the breast
        u, v = breast.point(down / far, out / far)
        return Egg(breast.side, u, v, body["nipple_width"][i], body["nipple_length"][i])

    left, right = breasts(body)
    return nipple(0, left), nipple(1, right)


def armpits(body: Body) -> tuple[Egg, Egg]:
    """Both armpits, wide above and pointed below."""

    def armpit(i: int) -> Egg:
        return Egg(
            SIDES[i],
            SIDES[i] * body["armpit_u"][i] * body["girth"],
            body["armpit_v"][i],
            body["armpit_width"][i],
            body["armpit_length"][i],
            body["armpit_tilt"][i],
            body["armpit_taper"],
        )

    return armpit(0), armpit(1)


# --------------------------------------------------------------------------------------------------
# What annotators draw
# --------------------------------------------------------------------------------------------------


def drawn_eggs(body: Body) -> dict[str, Egg]:
    """Class name -> region, in the order in which they are drawn; the neck comes after them."""
    parts = {"breast": breasts(body), "nipple": nipples(body), "armpit": armpits(body)}
    drawn = {}
    for part, pair in parts.items():
        down, out, factor = HABITS[part]
        change = (
            down + body["drawn_down"],
            out + body["drawn_out"],
            factor * body["drawn_factor"],
        )
        for name, egg in zip(("left", "right"), pair, strict=True):
            drawn[f"{name}_{part}"] = egg.changed(*change)
    return drawn


def drawn_neck(body: Body) -> tuple[Array, Array]:
    """(v, half width) of the corners of the neck's outline, from the chin to the jugular notch."""
    chin, collar = (
        body[end] + habit + body["drawn_down"]
        for end, habit in zip(("chin", "collar"), NECK_HABIT, strict=True)
    )
    v = chin + jnp.clip(collar - chin, 40, None) * jnp.array([0.0, 0.12, 0.45, 0.55, 0.8, 1.0])
    width, wings = body["neck_width"], body["collar_width"]
    half = jnp.stack([0.55 * width, 0.9 * width, 0.98 * width, wings, 0.5 * width, 0.0 * width])
    return v, half


def polygons(body: Body, *, count: int = 64) -> dict[str, Float[np.ndarray, "n 2"]]:
    """Class name -> vertices (x, y) of 640x480 pixels, inside the image, in drawing order."""
    angle = jnp.linspace(0, 2 * jnp.pi, count, endpoint=False)
    outlines = {
        name: egg.point(jnp.cos(angle), jnp.sin(angle)) for name, egg in drawn_eggs(body).items()
    }
    v, half = drawn_neck(body)
    outlines["neck"] = jnp.concatenate([half, -half[::-1]]), jnp.concatenate([v, v[::-1]])
    rings = {name: np.stack(to_pixels(body, *uv), -1) for name, uv in outlines.items()}
    return {name: np.clip(ring, 0, (640, 480)).astype(np.float64) for name, ring in rings.items()}
