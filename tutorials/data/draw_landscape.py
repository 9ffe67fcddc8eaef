"""Draws landscape.png, the picture that the tutorials run on: evening sun over hills, a lake, and trees in front.

    python tutorials/data/draw_landscape.py [OUTPUT.png]

Everything comes from a seeded random generator, so that the picture can be made again. It is drawn four times as
large as it is saved, and then reduced: edges come out smooth, and textures have detail at every scale.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

SIZE = 224
FINE = SIZE * 4
HORIZON = 0.56
SUN = (0.69, 0.36)

Array = npt.NDArray[Any]


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: int, octaves: int = 5) -> Array:
    """Smooth random values in -1..1: `octaves` layers, each twice as fine and half as strong as the one before."""
    total: Array = np.zeros(shape)
    weight = 0.0
    for octave in range(octaves):
        n = cells << octave
        grid = Image.fromarray(rng.uniform(-1, 1, (n + 1, n + 1)).astype(np.float32))
        total += np.asarray(grid.resize(shape[::-1], Image.Resampling.BICUBIC)) * 0.5**octave
        weight += 0.5**octave
    return total / weight


def stretched(rng: np.random.Generator, cells: int, octaves: int, by: int) -> Array:
    """Noise over the whole picture, drawn out horizontally `by` times: clouds and waves."""
    narrow = noise(rng, (FINE, FINE), cells, octaves)[:, : FINE // by]
    wide: Array = np.asarray(Image.fromarray(narrow.astype(np.float32)).resize((FINE, FINE), Image.Resampling.BICUBIC))
    return wide


def blend(image: Array, colour: Array, amount: Array) -> Array:
    """`image` covered by `colour` where `amount` is 1, untouched where it is 0."""
    cover: Array = amount[..., None]
    mixed: Array = image * (1 - cover) + colour * cover
    return mixed


def sky(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Blue above, orange at the horizon, a glowing sun, and streaks of cloud."""
    stops = np.array([0.0, 0.3, 0.47, HORIZON])
    colours = np.array([[52, 92, 158], [126, 156, 196], [238, 190, 140], [250, 205, 130]], float)
    image = np.stack([np.interp(y, stops, colours[:, c]) for c in range(3)], axis=-1)
    clouds = stretched(rng, 7, 6, 4)
    cover = np.clip((clouds - 0.02) * 2.6, 0, 1) * np.clip((0.5 - y) * 4, 0, 0.9)
    lit = np.clip(0.75 + 0.5 * stretched(rng, 14, 4, 4), 0, 1)[..., None]
    image = blend(image, np.array([255.0, 222, 196]) * lit + np.array([150.0, 130, 150]) * (1 - lit), cover)
    away = np.hypot(x - SUN[0], y - SUN[1])
    image = blend(image, np.array([255.0, 216, 140]), np.exp(-away / 0.16) * 0.85)
    return blend(image, np.array([255.0, 250, 226]), np.clip((0.042 - away) / 0.012, 0, 1))


def hills(rng: np.random.Generator, image: Array, y: Array) -> Array:
    """Four ridges, one in front of the other, the farther ones lost in haze."""
    haze = np.array([236.0, 196, 156])
    for depth, (base, height, colour) in enumerate(
        [
            (0.485, 0.10, (150, 140, 160)),
            (0.515, 0.07, (110, 116, 124)),
            (0.540, 0.05, (78, 98, 84)),
            (0.560, 0.03, (54, 76, 50)),
        ]
    ):
        ridge = base - height * (0.5 + 1.4 * noise(rng, (1, FINE), 3 + depth, 8)[0])
        texture = noise(rng, (FINE, FINE), 24 << (depth // 2), 4)[..., None]
        ground = np.array(colour, float) * (1 + 0.28 * texture)
        ground = ground * (1 - 0.16 * (3 - depth)) + haze * 0.16 * (3 - depth)
        cover = np.clip((y - ridge[None, :]) * FINE / 2, 0, 1) * (y < HORIZON + 0.002)
        image = blend(image, ground, cover)
    return image


def lake(rng: np.random.Generator, image: Array, x: Array, y: Array) -> Array:
    """Below the horizon, what is above it upside down, broken up by waves, darker and bluer."""
    top = int(HORIZON * FINE)
    rows = np.arange(FINE - top)
    waves = stretched(rng, 40, 4, 6)[top:]
    near = (rows / len(rows))[:, None]
    source = np.clip(top - 1 - rows[:, None] * 1.15 + waves * (4 + 60 * near), 0, top - 1).astype(int)
    water = image[source, np.arange(FINE)[None, :]] * 0.72 + np.array([16.0, 28, 48])
    glitter = np.exp(-np.abs(x[top:] - SUN[0]) / (0.03 + 0.1 * near)) * np.clip(waves * 3 - 0.5, 0, 1)
    result = image.copy()
    result[top:] = blend(water, np.array([255.0, 236, 180]), glitter * 0.8)
    return result


def meadow(rng: np.random.Generator, image: Array, x: Array, y: Array) -> Array:
    """A grassy bank in front, lit from the sun's side, with single blades at its edge."""
    edge = 0.865 - 0.13 * (1 - x[0]) ** 2 + 0.02 * noise(rng, (1, FINE), 4, 4)[0]
    blades = np.abs(noise(rng, (1, FINE), 160, 2)[0]) * 0.018
    cover = np.clip((y - (edge - blades)[None, :]) * FINE / 3, 0, 1)
    grass = np.asarray(Image.fromarray(noise(rng, (FINE // 4, FINE), 90, 4).astype(np.float32)).resize((FINE, FINE)))
    light = 0.62 + 0.3 * x + 0.5 * grass
    return blend(image, np.array([96.0, 112, 42]) * light[..., None], cover)


def tree(rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, foot: float, height: float) -> None:
    """A pine: a trunk, and rows of drooping branches that get shorter towards the top."""
    width = height * 0.032
    draw.polygon([(x - width, foot), (x + width, foot), (x, foot - height)], fill=(40, 30, 24))
    for level in np.linspace(0.12, 0.99, int(height / 7)):
        reach = height * 0.21 * (1 - level) ** 0.85 + 2
        at = foot - height * level
        for side in (-1, 1):
            for _ in range(3):
                length = reach * rng.uniform(0.55, 1.1)
                drop = length * rng.uniform(0.25, 0.55)
                shade = rng.uniform(0.7, 1.25) * (1.35 if side > 0 else 0.9)
                colour = tuple(int(c * shade) for c in (24, 42, 26))
                tip = (x + side * length, at + drop)
                draw.polygon([(x, at - height * 0.02), tip, (x, at + height * 0.035)], fill=colour)


def trees(rng: np.random.Generator, image: Array) -> Array:
    """A group of pines on the left, and a lone one on the right."""
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for x, foot, height in [
        (0.30, 0.830, 0.30), (0.03, 0.80, 0.47), (0.23, 0.82, 0.43), (0.11, 0.815, 0.60), (0.90, 0.90, 0.34)
    ]:  # fmt: skip
        tree(rng, draw, x * FINE, foot * FINE, height * FINE)
    return np.asarray(picture, dtype=float)


def landscape(seed: int = 7) -> Image.Image:
    """The picture, SIZE x SIZE pixels, RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:FINE, 0:FINE] / FINE
    image = sky(rng, x, y)
    image = hills(rng, image, y)
    image = lake(rng, image, x, y)
    image = meadow(rng, image, x, y)
    image = trees(rng, image)
    grain = rng.normal(0, 5.0, image.shape)
    fine = Image.fromarray(np.clip(image + grain, 0, 255).astype(np.uint8))
    return fine.resize((SIZE, SIZE), Image.Resampling.LANCZOS).filter(ImageFilter.UnsharpMask(1, 60, 2))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("landscape.png")
    landscape().save(target, optimize=True)
    print(f"{target}: {target.stat().st_size} bytes")
