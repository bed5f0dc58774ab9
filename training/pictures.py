"""Pictures: handwritten digits on a card, coloured shapes, photographs, and the checkpoint's way to cut them up.

In: a random generator. Out: PIL images with what they show; uint8 patches [N, 6912] with positions [N, 2] (x, y).
The photographs are kept with this code (models/README.md names their sources); each is shown in many crops.
Knows no tokens and no torch. The digits are scikit-learn's (1,797 pictures of 8 x 8, from the UCI repository, CC BY
4.0); one in five, drawn by a fixed seed, is held out and never trained on.

The embedder's first LayerNorm takes brightness and contrast out of each patch, so ink and paper differ in hue, and
not along one line through grey: a stroke's darkness then turns the direction of the patch's colour, which the
LayerNorm keeps.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .config import IMAGE_BUDGET, PATCH

SHAPES = ["circle", "square", "triangle", "cross", "ring"]
COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (40, 70, 215),
    "yellow": (235, 215, 40),
    "purple": (140, 45, 175),
    "orange": (240, 135, 25),
}

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = {
    "a cat": ROOT / "models" / "demo" / "cat.jpg",
    "a cup of coffee": ROOT / "training" / "photographs" / "coffee.jpg",
    "a rocket": ROOT / "training" / "photographs" / "rocket.jpg",
    "an astronaut": ROOT / "training" / "photographs" / "astronaut.jpg",
    "many galaxies": ROOT / "training" / "photographs" / "galaxies.jpg",
}
PHOTO_SIZES = [(96, 72), (72, 96), (84, 84), (144, 96), (240, 160)]

Patches = tuple[NDArray[np.uint8], NDArray[np.int32]]  # [N, 6912] and their places [N, 2] as x, y


def handwriting(held: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images uint8 [n, 8, 8] with values 0..255, labels int [n])."""
    from sklearn.datasets import load_digits

    data = load_digits()
    fifth = np.random.default_rng(5).permutation(len(data.target)) % 5 == 0
    pick = fifth == held
    return np.clip(data.images[pick] * (255 / 16), 0, 255).astype(np.uint8), data.target[pick]


def size_for(width: int, height: int, budget: int = IMAGE_BUDGET) -> tuple[int, int]:
    """The processor's rule: the largest (width, height) in whole patches that the budget holds, aspect nearly kept."""
    pixels = budget * PATCH * PATCH
    factor = math.sqrt(pixels / (width * height))
    return (math.floor(factor * width / PATCH) * PATCH, math.floor(factor * height / PATCH) * PATCH)


def patches(image: Image.Image, budget: int = IMAGE_BUDGET) -> Patches:
    """PIL RGB -> (uint8 [N, 6912] in row, column, channel order; int32 [N, 2] as x, y)."""
    width, height = size_for(*image.size, budget)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = height // PATCH, width // PATCH
    cut = pixels.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
    y, x = np.divmod(np.arange(rows * columns, dtype=np.int32), columns)
    return cut, np.stack([x, y], 1)


def warp(digit: NDArray[np.uint8], rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """One 8 x 8 digit -> float32 ink [size, size] in 0..1: turned, slanted, scaled and moved a little."""
    angle, shear = rng.normal(0, 0.10), rng.normal(0, 0.10)
    sx, sy = 8 / size * rng.uniform(0.9, 1.14, 2)
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = cos * sx, (-sin + shear) * sx
    c, d = sin * sy, cos * sy
    mid, dx, dy = size / 2, *rng.normal(0, 0.25, 2)
    ink = Image.fromarray(digit).transform(
        (size, size),
        Image.Transform.AFFINE,
        (a, b, 4 + dx - a * mid - b * mid, c, d, 4 + dy - c * mid - d * mid),
        Image.Resampling.BICUBIC,
    )
    return np.asarray(np.asarray(ink, np.float32) / 255, np.float32)


def card(
    digits: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], rng: np.random.Generator, plain: bool = False
) -> Image.Image:
    """A row of 1 to 4 digits [n, 8, 8], from the left, in ink on a cream card with room for four."""
    size = 24  # pixels of the picture that a digit takes
    height, width = size + 8, 4 * size + 6
    ink = np.zeros((height, width), np.float32)
    for slot, digit in enumerate(digits):
        shape = (
            np.asarray(Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
            if plain
            else warp(digit, rng, size)
        )
        dx, dy = rng.integers(0, 5), rng.integers(1, 8)
        x = slot * size + dx
        ink[dy : dy + size, x : x + size] = np.maximum(ink[dy : dy + size, x : x + size], shape)
    paper = np.array([246, 232, 205]) + rng.normal(0, 3, 3)
    pen = np.array([30, 62, 150]) + rng.normal(0, 6, 3)
    pixels = paper + (pen - paper) * (ink * rng.uniform(0.85, 1.0))[..., None]
    pixels += rng.normal(0, 2.0, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


Colour = tuple[int, int, int]


def tint(colour: Sequence[int], rng: np.random.Generator, spread: float) -> Colour:
    """A colour near another."""
    r, g, b = np.clip(np.array(colour) + rng.normal(0, spread, 3), 0, 255).astype(int)
    return int(r), int(g), int(b)


def shape(rng: np.random.Generator) -> tuple[Image.Image, str, str]:
    """(picture 96 x 96, colour, shape): one figure of any size and place on a pale ground."""
    colour, kind = list(COLOURS)[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
    image = Image.new("RGB", (96, 96), tint((225, 225, 225), rng, 12))
    fill = tint(COLOURS[colour], rng, 10)
    r = rng.uniform(18, 34)
    x, y = rng.uniform(r + 2, 94 - r, 2)
    figure(ImageDraw.Draw(image), kind, (x, y), r, fill)
    return image, colour, kind


def figure(draw: ImageDraw.ImageDraw, kind: str, middle: tuple[float, float], r: float, fill: Colour) -> None:
    """Draw one of SHAPES around `middle`."""
    x, y = middle
    box = (x - r, y - r, x + r, y + r)
    if kind == "circle":
        draw.ellipse(box, fill=fill)
    elif kind == "square":
        draw.rectangle((x - r * 0.85, y - r * 0.85, x + r * 0.85, y + r * 0.85), fill=fill)
    elif kind == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r * 0.8), (x + r, y + r * 0.8)], fill=fill)
    elif kind == "cross":
        w = r * 0.32
        draw.rectangle((x - r, y - w, x + r, y + w), fill=fill)
        draw.rectangle((x - w, y - r, x + w, y + r), fill=fill)
    else:
        draw.ellipse(box, outline=fill, width=max(4, int(r * 0.35)))


def photographs() -> list[tuple[str, Image.Image]]:
    return [(name, Image.open(path).convert("RGB")) for name, path in PHOTOGRAPHS.items()]


def look(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Some crop of a photograph, maybe mirrored, with another light, and compressed; now and then all of it."""
    width, height = photo.size
    share = 1.0 if rng.random() < 0.2 else rng.uniform(0.55, 1.0)
    w, h = width * share, height * share * rng.uniform(0.85, 1.0)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    size = PHOTO_SIZES[rng.integers(len(PHOTO_SIZES))]
    image = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + w, top + h))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image, np.float32) * rng.uniform(0.7, 1.25) * rng.uniform(0.93, 1.07, 3) + rng.uniform(-20, 20)
    return compressed(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), rng)


def compressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As a JPEG of some quality leaves it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(35, 95)))
    return Image.open(file).convert("RGB")
