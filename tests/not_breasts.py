"""Twenty generated pictures that show no breast: noise, patterns, people and things.

Each is an array [480,640]: temperatures in degrees C, or gray levels of 8 bits.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

HEIGHT, WIDTH = 480, 640
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(float)


def soft(mask, sigma=4.0):
    return ndimage.gaussian_filter(mask.astype(float), sigma)


def smooth(rng, sigma):
    field = ndimage.gaussian_filter(rng.standard_normal((HEIGHT, WIDTH)), sigma, mode="reflect")
    return field / field.std()


def ellipse(row, column, height, width):
    return ((ROWS - row) / height) ** 2 + ((COLUMNS - column) / width) ** 2 < 1


def box(row, column, height, width):
    return (np.abs(ROWS - row) < height / 2) & (np.abs(COLUMNS - column) < width / 2)


def levels(field):
    return np.uint8(255 * (field - field.min()) / np.ptp(field))


def noise(rng):
    return rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def clouds(rng):
    return np.float32(30 + sum(smooth(rng, sigma) * sigma**0.5 for sigma in (3, 10, 30)) / 5)


def ramp_across(rng):
    return levels(COLUMNS)


def ramp_down(rng):
    return np.float32(22 + 12 * ROWS / HEIGHT)


def stripes(rng):
    return levels(np.sin((COLUMNS + 0.5 * ROWS) / 20))


def checks(rng):
    return np.uint8(255 * ((ROWS // 60 + COLUMNS // 60) % 2))


def text(rng):
    page = Image.new("L", (WIDTH, HEIGHT), 255)
    draw = ImageDraw.Draw(page)
    words = ["nobody", "reads", "this", "page", "black", "on", "white", "an", "open", "book"]
    for row in range(10, HEIGHT - 30, 32):
        draw.text((15, row), " ".join(rng.choice(words, 9)), 0, ImageFont.load_default(24))
    return np.array(page)


def solar_panels(rng):
    cells = 25 + 3 * rng.uniform(size=(5, 6))
    picture = cells[(ROWS * 5 / HEIGHT).astype(int), (COLUMNS * 6 / WIDTH).astype(int)]
    frame = (ROWS * 5 / HEIGHT % 1 < 0.06) | (COLUMNS * 6 / WIDTH % 1 < 0.05)
    return np.float32(np.where(frame, 20, picture) + 8 * soft(ellipse(300, 200, 15, 15)))


def lamp(rng):
    return np.float32(22 + 15 * np.exp(-((ROWS - 220) ** 2 + (COLUMNS - 330) ** 2) / 9000))


def two_balls(rng):
    return np.float32(22 + 10 * soft(ellipse(240, 200, 80, 80) | ellipse(240, 440, 80, 80), 5))


def cup(rng):
    handle = ellipse(260, 430, 70, 55) & ~ellipse(260, 430, 48, 34)
    return np.float32(23 + 16 * soft(box(270, 300, 260, 220), 3) + 6 * soft(handle, 2))


def room(rng):
    picture = np.full((HEIGHT, WIDTH), 21.0)
    for _ in range(9):
        size = rng.uniform(30, 200, 2)
        picture += rng.uniform(-3, 4) * soft(box(*rng.uniform((0, 0), (480, 640)), *size), 1.5)
    return np.float32(picture + 8 * soft(box(350, 420, 80, 180), 2))


def street(rng):
    picture = np.where(ROWS < 200, 17.0, 27.0) + 0.5 * smooth(rng, 10)
    return np.float32(picture + 8 * soft(ellipse(300, 150, 30, 60) | ellipse(380, 450, 40, 80), 3))


def circuit(rng):
    picture = np.full((HEIGHT, WIDTH), 26.0)
    for _ in range(25):
        place, size = rng.uniform((0, 0), (480, 640)), rng.uniform(16, 70, 2)
        picture += rng.uniform(0, 9) * soft(box(*place, *size), 2)
    return np.float32(picture)


def face(rng):
    picture = 22 + 11 * soft(ellipse(230, 320, 175, 120), 5)
    picture -= 5 * soft(ellipse(100, 320, 90, 125), 8)  # hair
    picture += 1.5 * soft(ellipse(212, 270, 14, 24) | ellipse(212, 370, 14, 24), 6)  # eyes
    picture -= 2.5 * soft(ellipse(265, 320, 22, 20), 8)  # nose
    return np.float32(picture + 0.15 * smooth(rng, 12))


def portrait(rng):
    picture = 22 + 11 * soft(ellipse(150, 320, 105, 80)) + 4 * soft(ellipse(470, 320, 190, 230), 6)
    return np.float32(picture + smooth(rng, 15) * soft(ROWS > 300))


def shirt(rng):
    body = (np.abs(COLUMNS - 320) < 175 + 0.1 * (ROWS - 240)) & (ROWS > 110)
    picture = 22 + 5.5 * soft(body, 6) + 10 * soft(ellipse(40, 320, 70, 60), 5)
    picture += 7 * soft(ellipse(100, 320, 40, 45), 5) + 1.2 * smooth(rng, 12) * soft(body, 10)
    return np.float32(picture + 5 * soft(box(370, 90, 220, 80) | box(370, 550, 220, 80), 5))


def hand(rng):
    mask = ellipse(320, 320, 110, 95) | box(440, 320, 200, 140)
    for angle, length in ((-0.75, 130), (-0.3, 175), (-0.05, 185), (0.2, 175), (0.5, 150)):
        for reach in np.linspace(60, 60 + length, 30):
            row, column = 320 - reach * np.cos(angle), 320 + reach * np.sin(angle)
            mask |= ellipse(row, column, 24, 24)
    return np.float32(23 + 9 * soft(mask) + 0.2 * smooth(rng, 15) * soft(mask))


def legs(rng):
    mask = box(240, 215, 600, 140) | box(240, 425, 600, 140)
    return np.float32(22 + 9 * soft(mask, 5) + 0.4 * smooth(rng, 15))


def foot(rng):
    mask = ellipse(300, 320, 190, 75) | ellipse(120, 330, 50, 85)
    return np.float32(22 + 8 * soft(mask, 5) + 0.2 * smooth(rng, 12))


PICTURES = (
    *(noise, clouds, ramp_across, ramp_down, stripes, checks, text, solar_panels, lamp),
    *(two_balls, cup, room, street, circuit, face, portrait, shirt, hand, legs, foot),
)


def picture(make):
    """The picture of one of the functions PICTURES."""
    return make(np.random.default_rng([22, PICTURES.index(make)]))
