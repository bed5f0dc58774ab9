"""Clips: a coloured figure, or the whole picture, that turns from one colour into another, once or twice.

In: a random generator. Out: `Clip`s, whose frames are drawn when they are asked for, and files of them. Knows no
tokens and no torch.
Pairs of a first and a second colour that training never sees: HELD_PAIRS.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw

from .pictures import COLOURS, SHAPES, Colour, compressed, figure, tint

FRAMES = 32  # that a video is shown with, at most
SIZES = [(64, 64), (96, 72), (96, 54), (60, 80), (128, 96)]
HELD_PAIRS = [("red", "purple"), ("green", "orange"), ("blue", "yellow"), ("yellow", "red"), ("purple", "green")]
SLOW_SECONDS = (10, 400)  # that a slow clip lasts, at least and at most
LEAST_STEP = 1 / 18  # of the hue circle, between two colours of any hue that follow each other


@dataclass(frozen=True)
class Clip:
    count: int  # frames
    rate: float  # frames a second
    colours: list[str]
    turns: list[int]  # the frames from which on it has the second colour, the third
    kind: str | None  # one of SHAPES, or None for the whole picture
    size: tuple[int, int]
    ground: Colour
    fills: list[Colour]
    radius: float
    path: tuple[float, float, float, float]  # from x, y to x, y
    seed: int

    def chosen(self) -> list[int]:
        """The numbers of the frames that are shown: the processor's rule."""
        return [i * self.count // FRAMES for i in range(FRAMES)] if self.count > FRAMES else list(range(self.count))

    def stamp(self, number: int) -> str:
        seconds = int(number / self.rate)
        return f"{seconds // 60:02d}:{seconds % 60:02d}"

    def turn_stamp(self) -> str:
        """The first stamp that is shown with the second colour."""
        return self.stamp(next(i for i in self.chosen() if i >= self.turns[0]))

    def frame(self, number: int) -> Image.Image:
        fill = self.fills[sum(number >= turn for turn in self.turns)]
        rng = np.random.default_rng([self.seed, number])
        if self.kind is None:
            image = Image.new("RGB", self.size, fill)
        else:
            x1, y1, x2, y2 = self.path
            at = number / max(1, self.count - 1)
            image = Image.new("RGB", self.size, self.ground)
            figure(ImageDraw.Draw(image), self.kind, (x1 + (x2 - x1) * at, y1 + (y2 - y1) * at), self.radius, fill)
        if self.seed % 4 == 0:
            return compressed(image, rng)
        noise = rng.integers(-3, 4, (*self.size[::-1], 3), np.int16)
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))

    def shown(self) -> Iterator[tuple[str, Image.Image]]:
        """(stamp, frame) of each frame that is shown."""
        for number in self.chosen():
            yield self.stamp(number), self.frame(number)


def hue(colour: Colour) -> float:
    return colorsys.rgb_to_hsv(*(value / 255 for value in colour))[0]


HUES = {name: hue(colour) for name, colour in COLOURS.items()}


def apart(one: float, other: float) -> float:
    """How far two hues are from each other on their circle, 0 to 0.5."""
    return abs((one - other + 0.5) % 1 - 0.5)


def called(colour: Colour) -> str:
    """The name of the nearest hue."""
    return min(HUES, key=lambda name: apart(hue(colour), HUES[name]))


def any_hue(name: str, rng: np.random.Generator, before: Colour | None) -> Colour:
    """A vivid colour that this name is the nearest to, and whose hue differs from the one before it."""
    while True:
        r, g, b = (round(255 * value) for value in colorsys.hsv_to_rgb(rng.random(), *rng.uniform(0.6, 1, 2)))
        if called((r, g, b)) == name and (before is None or apart(hue((r, g, b)), hue(before)) >= LEAST_STEP):
            return r, g, b


def clip(
    rng: np.random.Generator,
    held: bool,
    turns: int,
    long: bool = False,
    named: Collection[int] = range(3),
    slow: bool = False,
) -> Clip:
    """A clip of 2 to 8 frames; a long one has more, often more than are shown.

    `held`: its first two colours are one of HELD_PAIRS; else they are none of them. `named`: which of its colours are
    to be called by name; in half of the clips the others have any hue. `slow`: it lasts up to minutes, however few its
    frames, so that its stamps are any.
    """
    few, most = (2, 8) if not long else (9, 32) if rng.random() < (0.7 if slow else 0.4) else (33, 399)
    count = max(int(rng.integers(few, most + 1)), turns + 1)
    if slow:
        rate = count / float(np.exp(rng.uniform(*np.log(SLOW_SECONDS))))
    else:
        rates = [0.5, 1.0, 1.0, 1.0, 2.0, 3.0] if not long else [1.0, 2.0, 5.0, 10.0, 24.0, 25.0, 30.0]
        rate = float(rng.choice(rates))
    shown = [i * count // FRAMES for i in range(FRAMES)] if count > FRAMES else list(range(count))
    changes = sorted(int(shown[i]) for i in 1 + rng.permutation(len(shown) - 1)[:turns])
    names = list(COLOURS)
    while True:
        colours = [names[i] for i in rng.permutation(len(names))[: turns + 1]]
        if held == ((colours[0], colours[1]) in HELD_PAIRS):
            break
    size = SIZES[rng.integers(len(SIZES))]
    radius = float(min(size) * rng.uniform(0.2, 0.42))
    path = [float(rng.uniform(radius, side - radius)) for side in size * 2]
    if rng.random() < 0.4:
        path[2:] = path[:2]
    kind = None if rng.random() < 0.3 else SHAPES[rng.integers(len(SHAPES))]
    ground = tint((225, 225, 225), rng, 14)
    fills: list[Colour] = []
    loose = len(named) < len(colours) and rng.random() < 0.5
    for i, name in enumerate(colours):
        free = loose and i not in named
        fills.append(any_hue(name, rng, fills[-1] if fills else None) if free else tint(COLOURS[name], rng, 12))
    return Clip(
        count=count,
        rate=rate,
        colours=colours,
        turns=changes,
        kind=kind,
        size=size,
        ground=ground,
        fills=fills,
        radius=radius,
        path=(path[0], path[1], path[2], path[3]),
        seed=int(rng.integers(1 << 30)),
    )


def encoded(clip: Clip) -> bytes:
    """The clip as an MP4 file."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(clip.rate), options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = *clip.size, "yuv420p"
        for number in range(clip.count):
            frame = av.VideoFrame.from_ndarray(np.asarray(clip.frame(number)), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()
