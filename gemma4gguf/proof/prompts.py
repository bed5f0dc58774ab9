"""The fixed prompts: text, pictures and sound made from integers, so that everybody's figures are of the same rows.

Pictures have a size that fills the budget as it is: no resampler comes between the file and the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from ..chat.rendering import Segment, raw_segments

SIDE, RATE = 48, 16_000  # pixels of a patch's side; samples a second
BEYOND = 64  # tokens of a long text that are beyond the window
CLIP = 25_000  # samples: 39 frames and a part of one
SENTENCE = "The quick brown fox jumps over the lazy dog; 47 + 38 = 85, and das Größte ist 你好. "


@dataclass(frozen=True)
class Prompt:
    """`modality`: what it is about, as a report calls it. `segments`: text, pictures and clips in order. `most`: tokens
    that are read of a text, which has more with any tokenizer; None: all.
    """

    modality: str
    segments: Sequence[Segment]
    most: int | None = None


def prompts(budget: int, window: int, *, sees: bool, hears: bool, short: bool) -> list[Prompt]:
    """The prompts for a model: `budget` soft tokens a picture, `window` positions. `short`: none beyond the window."""
    first, second = picture(budget, 1), picture(budget, 2)
    sound = (clip(), RATE)
    asked = "<|turn>user\n{}What is this? " + SENTENCE + "<turn|>\n<|turn>model\n"
    found = [Prompt("text", raw_segments(asked.format("")))]
    if not short:
        most = window + BEYOND
        sentences = SENTENCE * (most // 8 + 1)  # a sentence is more than 8 tokens
        found.append(Prompt("long text", raw_segments(sentences), most))
    if sees:
        found.append(Prompt("picture", raw_segments(asked.format("<|image|>"), [first])))
    if sees and not short:
        found.append(Prompt("two pictures", raw_segments("One: <|image|> Two: <|image|>Which?", [first, second])))
    if hears:
        found.append(Prompt("sound", raw_segments(asked.format("<|audio|>"), [], [sound])))
    if sees and hears and not short:
        found.append(Prompt("mixed", raw_segments(asked.format("<|audio|>, <|image|>"), [second], [sound])))
    return found


def picture(budget: int, seed: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: waves and slopes, other ones in every colour; wider than high."""
    down = isqrt(budget) - 1
    y, x = np.mgrid[0 : down * SIDE, 0 : budget // down * SIDE]
    colours = [
        (x * (c + 1) // 3 + y * (seed + 2) // 2 + x * y // (97 + 31 * c) + (x * 7 ^ y * 5) % 40) for c in range(3)
    ]
    return (np.stack(colours, axis=-1) % 256).astype(np.uint8)


def clip() -> NDArray[np.float32]:
    """float32 [n]: a rising saw tooth, loud and quiet by turns."""
    n = np.arange(CLIP, dtype=np.int64)
    saw = ((n * (40 + n // 400)) % 4096 - 2048) / np.float32(4096)
    return np.asarray(saw * np.where(n // 3000 % 4 == 2, 0.001, 1.0), np.float32)
