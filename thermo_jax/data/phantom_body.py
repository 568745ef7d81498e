"""The phantom's body: its shape, and its temperature in degrees C as a camera would see it.

A body consists of smooth implicit shapes in body coordinates (pixels; u to image right, v down,
u = 0 on the midline): torso, raised arms, neck, two breasts. Temperatures imitate a thermogram:
cool breasts above warm folds, warm armpits and neck, vessels, a cold room, a paper marker. A sick
patient has one warm spot, and a slightly warmer breast around it. No real image was used, and the
images show nothing about real disease.
"""

import dataclasses
import math

import numpy as np
from PIL import Image
from scipy import ndimage

from thermo_jax.data.thermogram import GRAY_SHAPE

# ----------------------------------------------------------------------------- anatomy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Egg:
    """An ellipse, wider below if `taper` > 0, its lower end turned outward by `tilt` radians."""

    u: float
    v: float
    width: float  # half axes in pixels
    length: float
    tilt: float = 0.0
    taper: float = 0.0

    def local(self, u, v):
        """(p, q): position along the axis (down) and across it (outward), in half axes."""
        side, sin, cos = math.copysign(1, self.u), math.sin(self.tilt), math.cos(self.tilt)
        p = (side * sin * (u - self.u) + cos * (v - self.v)) / self.length
        q = (side * cos * (u - self.u) - sin * (v - self.v)) / self.width
        return p, q / np.clip(1 + self.taper * p, 0.35, None)

    def point(self, p, q):
        """Body coordinates [..., 2] of the local (p, q); the inverse of `local`."""
        side, sin, cos = math.copysign(1, self.u), math.sin(self.tilt), math.cos(self.tilt)
        along, across = p * self.length, q * (1 + self.taper * p) * self.width
        return np.stack(
            [self.u + side * (sin * along + cos * across), self.v + cos * along - sin * across], -1
        )

    def contour(self, count: int = 56):
        """Vertices [count, 2] of the outline in body coordinates."""
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
        return self.point(np.cos(angle), np.sin(angle))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body:
    """Shape and pose of one patient. Pairs are (image left, image right)."""

    turn: float  # radians
    scale: float
    shift: tuple[float, float]  # of the body's origin, from the middle of the top edge
    girth: float
    arm_angle: tuple[float, float]
    neck_width: float
    chin: float  # v of the chin
    collar: float  # v of the jugular notch
    breasts: tuple[Egg, Egg]
    nipples: tuple[Egg, Egg]
    armpits: tuple[Egg, Egg]

    def to_body(self, x, y):
        """Pixel coordinates to body coordinates."""
        dx, dy = (x - 320 - self.shift[0]) / self.scale, (y - 240 - self.shift[1]) / self.scale
        sin, cos = math.sin(self.turn), math.cos(self.turn)
        return cos * dx + sin * dy, cos * dy - sin * dx + 240

    def to_pixels(self, points):
        """Body coordinates [..., 2] to pixel coordinates [..., 2] (x, y)."""
        u, v = points[..., 0], points[..., 1] - 240
        sin, cos = math.sin(self.turn), math.cos(self.turn)
        x = 320 + self.shift[0] + self.scale * (cos * u - sin * v)
        y = 240 + self.shift[1] + self.scale * (sin * u + cos * v)
        return np.stack([x, y], -1)

    def neck_contour(self):
        """Vertices [n, 2] of the neck: under the chin, out at the shoulders, down to the notch."""
        w, chin, notch = self.neck_width, self.chin, self.collar
        half = [(0, chin + 4), (0.5 * w, chin), (0.92 * w, chin - 14), (0.95 * w, 40)]
        half += [(1.02 * w, notch - 52), (1.22 * w, notch - 36), (0.85 * w, notch - 18)]
        half += [(0.35 * w, notch - 4), (0, notch)]
        return np.array(half + [(-u, v) for u, v in half[-2:0:-1]], np.float64)

    def polygons(self) -> dict[str, np.ndarray]:
        """Class name -> vertices [n, 2] in pixels, inside the image, in drawing order."""
        shapes = {}
        pairs = {"breast": self.breasts, "nipple": self.nipples, "armpit": self.armpits}
        for part, pair in pairs.items():
            for side, egg in zip(("left", "right"), pair, strict=True):
                shapes[f"{side}_{part}"] = egg.contour(24 if part == "nipple" else 56)
        shapes["neck"] = self.neck_contour()
        corner = np.array(GRAY_SHAPE[::-1], np.float64)
        return {name: np.clip(self.to_pixels(s), 0, corner) for name, s in shapes.items()}


def draw_body(rng: np.random.Generator) -> Body:
    """A random body, as it appears in a frontal view of 640x480 pixels, with raised arms."""
    girth = rng.uniform(0.93, 1.07)
    size = rng.uniform(0.87, 1.16)  # of both breasts
    sag, apart, tilt = rng.uniform(-12, 16), rng.uniform(116, 126), rng.uniform(0.1, 0.34)
    taper = rng.uniform(0.08, 0.24)
    nipple_p, nipple_q = rng.uniform(0.3, 0.52), rng.uniform(0.02, 0.26)
    areola = rng.uniform(22, 29)
    breasts, nipples, armpits = [], [], []
    for side in (-1, 1):
        breast_size = size * rng.uniform(0.97, 1.03)
        breast = Egg(
            u=side * apart * girth + rng.uniform(-4, 4),
            v=284 + sag + rng.uniform(-6, 6),
            width=106 * breast_size * girth,
            length=132 * breast_size,
            tilt=tilt + rng.uniform(-0.04, 0.04),
            taper=taper,
        )
        u, v = breast.point(nipple_p + rng.uniform(-0.05, 0.05), nipple_q).tolist()
        wide = areola * rng.uniform(0.94, 1.06)
        nipples.append(Egg(u=u, v=v, width=wide, length=wide * rng.uniform(0.92, 1.1)))
        armpits.append(
            Egg(
                u=side * rng.uniform(204, 218) * girth,
                v=rng.uniform(118, 132),
                width=rng.uniform(50, 60),
                length=rng.uniform(88, 100),
                tilt=rng.uniform(-0.12, 0.06),
                taper=-0.4,
            )
        )
        breasts.append(breast)
    arms = (rng.uniform(0.5, 0.95) + rng.uniform(-0.08, 0.08, 2)).tolist()
    return Body(
        turn=rng.uniform(-0.05, 0.05),
        scale=rng.uniform(0.95, 1.05),
        shift=(rng.uniform(-18, 18), rng.uniform(-14, 14)),
        girth=girth,
        arm_angle=(arms[0], arms[1]),
        neck_width=rng.uniform(66, 77),
        chin=rng.uniform(-20, 26),
        collar=rng.uniform(108, 124),
        breasts=(breasts[0], breasts[1]),
        nipples=(nipples[0], nipples[1]),
        armpits=(armpits[0], armpits[1]),
    )


# ----------------------------------------------------------------------------- temperature


def _sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def _join(a, b, radius: float):
    """Smooth union of two signed distances (positive inside): the crease is rounded."""
    blend = np.clip(radius - np.abs(a - b), 0, None)
    return np.maximum(a, b) + blend * blend / (4 * radius)


def _outline(body: Body, u, v):
    """Approximate signed distance [480, 640] in pixels to the body's outline, positive inside."""
    half = np.interp(v, (40, 120, 210, 320, 500), (190, 208, 214, 196, 188)).astype(np.float32)
    torso = -_join(np.abs(u) - half * body.girth, 84 + 0.05 * np.abs(u) - v, 30)
    inside = _join(torso, np.minimum(body.neck_width - np.abs(u), 150 - v), 70)
    inside = _join(inside, 94 - np.hypot(u, v - body.chin + 92), 12)  # the head
    for side, angle, breast in zip((-1, 1), body.arm_angle, body.breasts, strict=True):
        du, dv = side * u - 150 * body.girth, v - 150
        sin, cos = math.sin(angle), math.cos(angle)
        along = np.clip(cos * du - sin * dv, 0, 420)
        away = np.hypot(du - cos * along, dv + sin * along)
        inside = _join(inside, 84 - 0.05 * along - away, 46)
        inside = _join(inside, (1 - np.hypot(*breast.local(u, v))) * breast.width, 14)
    return inside


def _smooth_noise(rng: np.random.Generator, sigma: float):
    """Unit-variance noise [480, 640], correlated over about `sigma` pixels (at least 8)."""
    coarse = ndimage.gaussian_filter(rng.standard_normal((120, 160)), sigma / 4, mode="wrap")
    coarse = Image.fromarray((coarse / coarse.std()).astype(np.float32))
    return np.asarray(coarse.resize(GRAY_SHAPE[::-1], Image.Resampling.BICUBIC))


def _walk(rng, start, target, length: float, strength: float, paths: list) -> None:
    """Appends a winding vessel (points [n, 2], strengths [n]) and its branches to `paths`."""
    position, heading = np.array(start, np.float64), np.arctan2(*(target - start)[::-1])
    heading += rng.normal(0, 0.5)
    points = [position.copy()]
    curl = 0.0
    for _ in range(int(length / 6)):
        to_target = np.arctan2(*(target - position)[::-1]) - heading
        curl = 0.75 * curl + rng.normal(0, 0.11)
        heading += curl + 0.06 * np.sin(to_target)
        position += 6 * np.array([np.cos(heading), np.sin(heading)])
        points.append(position.copy())
        if strength > 0.45 and rng.random() < 0.07:
            fork = position + 90 * np.array([np.cos(heading + 0.9), np.sin(heading + 0.9)])
            _walk(rng, position, fork, 0.55 * length, 0.6 * strength, paths)
    points = np.array(points)
    steps = np.arange(0, len(points) - 1, 0.1)
    dense = np.stack([np.interp(steps, range(len(points)), points[:, i]) for i in (0, 1)], -1)
    paths.append((dense, strength * np.sin(np.linspace(0.35, np.pi, len(dense)))))


def _vessels(rng: np.random.Generator, body: Body):
    """Warmth [480, 640], about 0..1, of the superficial vessels: a soft core in a wide glow."""
    paths: list = []
    for breast, nipple, armpit in zip(body.breasts, body.nipples, body.armpits, strict=True):
        target = np.array([nipple.u, nipple.v])
        for _ in range(rng.integers(4, 8)):  # start at the upper rim or the side of the breast
            angle = rng.uniform(1.7, 4.6)
            start = breast.point(np.cos(angle), np.sin(angle))
            _walk(rng, start, target, rng.uniform(70, 170), rng.uniform(0.4, 1.0), paths)
        for _ in range(2):  # over the upper chest, away from the armpit
            start = np.array([0.7 * armpit.u, armpit.v]) + rng.uniform(-30, 30, 2)
            end = np.array([0.15 * armpit.u, armpit.v + rng.uniform(-10, 120)])
            _walk(rng, start, end, rng.uniform(60, 130), rng.uniform(0.3, 0.7), paths)
    lines = np.zeros(GRAY_SHAPE, np.float32)
    for points, strength in paths:
        x, y = np.rint(body.to_pixels(points)).astype(int).T
        keep = (x >= 0) & (x < GRAY_SHAPE[1]) & (y >= 0) & (y < GRAY_SHAPE[0])
        np.maximum.at(lines, (y[keep], x[keep]), strength[keep].astype(np.float32))
    fine, glow = ndimage.gaussian_filter(lines, 2.6), ndimage.gaussian_filter(lines, 8, truncate=3)
    return 1.3 * np.tanh((4.2 * fine + 6.5 * glow) / 1.3)


def _lesion(rng: np.random.Generator, breast: Egg, u, v):
    """Warming [480, 640] in degrees C of a sick breast: strong at a spot, slight elsewhere."""
    angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.5)
    centre = breast.point(reach * math.cos(angle), reach * math.sin(angle)).tolist()
    away = np.hypot(u - centre[0], (v - centre[1]) * rng.uniform(0.85, 1.15))
    away = away * (1 + 0.12 * _smooth_noise(rng, 24))
    spot = np.exp(-np.square(away / rng.uniform(42, 52)))
    return rng.uniform(2.7, 3.3) * spot + rng.uniform(0.6, 0.9)


def _add_breast(skin, breast: Egg, nipple: Egg, u, v, *, rng, coolness: float, lesion):
    """Adds a breast to `skin` [480, 640]; it is sick if `lesion` is a random generator."""
    p, q = breast.local(u, v)
    rho = np.hypot(p, q)
    low = np.clip(p, 0, 1)
    # There is a warm fold below the breast, and the breast covers the upper part of the fold. The
    # breast's edge is sharp at the fold, and soft at the top.
    skin = skin + rng.uniform(0.9, 1.5) * low * np.exp(-np.square((rho - 1) * breast.width / 18))
    cover = _sigmoid((1 - rho) * breast.width / (3 + 16 * np.clip(0.35 - p, 0, 1)))
    dome = np.sqrt(np.clip(1 - rho * rho, 0, None))
    warmth = -coolness * (rng.uniform(0.6, 0.7) + rng.uniform(0.9, 1.1) * dome * (0.75 + 0.4 * p))
    areola = np.hypot(*nipple.local(u, v))
    warmth = warmth - rng.uniform(0.45, 0.75) * _sigmoid((0.95 - areola) * 6)
    warmth = warmth - rng.uniform(0.3, 0.7) * np.exp(-np.square(areola / 0.28))
    warmth = warmth - 0.5 * low * np.exp(-np.square((1 - rho) * breast.width / 8))
    if lesion is not None:
        warmth = warmth + _lesion(lesion, breast, u, v)
    return skin + cover * warmth


def _room(rng: np.random.Generator, u, v, inside):
    """Wall temperature [480, 640]; opacity (0..1) and temperature of the marker on the belly."""
    room = rng.uniform(20.0, 23.5)
    wall = room + 0.4 * _smooth_noise(rng, 120) + 0.9 * np.exp(np.minimum(inside, 0) / 25)
    centre, half = (rng.uniform(-12, 12), rng.uniform(405, 430)), rng.uniform(14, 22)
    square = np.maximum(np.abs(u - centre[0]), np.abs(v - centre[1]))
    has_marker = rng.random() < 0.7
    return wall, has_marker * _sigmoid((half - square) / 0.7), room + rng.uniform(1.0, 5.0)


def temperature_fields(body: Body, *, seed: tuple[int, int], sick: bool):
    """Rested temperature [480, 640] in degrees C, and how strongly cooling lowers it (0..1)."""
    rng, lesion = np.random.default_rng((*seed, 1)), np.random.default_rng((*seed, 2))
    y, x = np.mgrid[: GRAY_SHAPE[0], : GRAY_SHAPE[1]].astype(np.float32)
    u, v = body.to_body(x, y)
    inside = _outline(body, u, v)
    skin = rng.uniform(32.4, 33.4) + 0.22 * _smooth_noise(rng, 22) + 0.25 * _smooth_noise(rng, 70)
    skin += rng.uniform(0.5, 0.9) * _sigmoid((v - 330) / 30)  # belly
    skin += 0.5 * np.exp(-np.square(u / 60)) * _sigmoid((v - 90) / 30)  # breast bone
    neck = np.hypot(u / (1.05 * body.neck_width), (v - 40) / (body.collar - 40))
    skin += rng.uniform(0.9, 1.4) * _sigmoid((1 - neck) * 7)
    skin -= rng.uniform(0.6, 1.2) * _sigmoid((body.chin - np.square(u) / 260 - v) / 4)  # face
    for armpit in body.armpits:
        rho = np.hypot(*armpit.local(u, v))
        skin += rng.uniform(1.0, 1.5) * _sigmoid((1 - rho) * 5)
        skin += rng.uniform(0.9, 1.3) * np.exp(-np.square(rho / 0.5))
    skin -= 1.3 * _sigmoid((np.abs(u) - 285 * body.girth) / 22)  # upper arms
    ridge = np.exp(-np.square(_smooth_noise(rng, 26) / 0.22))  # contours of noise look like a web
    skin += 0.4 * ridge * _sigmoid(2 * _smooth_noise(rng, 60)) * _sigmoid((v - 70) / 15)

    sick_side = int(lesion.integers(2))
    coolness = rng.uniform(0.75, 1.2)  # of both breasts
    for index, (breast, nipple) in enumerate(zip(body.breasts, body.nipples, strict=True)):
        spot = lesion if sick and index == sick_side else None
        skin = _add_breast(skin, breast, nipple, u, v, rng=rng, coolness=coolness, lesion=spot)
    vessels = _vessels(rng, body)
    skin += rng.uniform(0.45, 0.85) * vessels
    skin -= 1.6 * np.exp(-np.clip(inside, 0, None) / 7)  # skin seen at a grazing angle

    wall, marker_cover, marker = _room(rng, u, v, inside)
    body_cover = _sigmoid(inside / 1.8)
    rested = wall + body_cover * (skin - wall)
    rested += marker_cover * (marker - rested)
    response = body_cover * (1 - marker_cover) * np.clip(1 - 0.5 * vessels, 0.2, 1)
    return ndimage.gaussian_filter(rested, 1.1), response


def expose(rested, response, *, seed: tuple[int, int], frame: int | None):
    """One exposure [480, 640] float32: `frame` of the rewarming, or None for the static image."""
    rng = np.random.default_rng((*seed, 3, 99 if frame is None else frame))
    image = rested
    if frame is not None:
        image = rested - 0.9 * np.exp(-frame / 9) * response
    if frame:  # the patient breathes; frame 0 does not move, because it is annotated
        image = ndimage.shift(image, rng.normal(0, 0.6, 2), order=1, mode="nearest")
    noise = rng.standard_normal(GRAY_SHAPE, np.float32) * 0.05 + rng.normal(0, 0.015, GRAY_SHAPE[1])
    return np.round(image + noise, 2).astype(np.float32)
