"""Long sound put together from spoken digits and words that the small model was never trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.support.held import material

RATE = 16_000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Word(NamedTuple):
    start: float  # s
    end: float
    word: str


def clips() -> list[tuple[str, NDArray[np.float32]]]:
    """Twenty clips and what is said in them."""
    return [(word, np.float32(clip / 32768)) for word, clip in material().clips[::2]]


def memo(seed: int, pauses: tuple[float, float] = (1.0, 1.6)) -> tuple[NDArray[np.float32], list[Word]]:
    """All clips with pauses of so many seconds before them and low noise in them; what is said when."""
    draw = np.random.default_rng(seed)
    parts: list[NDArray[np.float32]] = []
    said: list[Word] = []
    at = 0
    for word, clip in clips():
        pause = draw.normal(0, 0.0005, int(draw.uniform(*pauses) * RATE)).astype(np.float32)
        parts += [pause, clip]
        begins, at = at + len(pause), at + len(pause) + len(clip)
        said.append(Word(begins / RATE, at / RATE, word))
    return np.concatenate(parts), said


def is_said(word: str, text: str) -> bool:
    """Whether the small model's answer names a word or digit."""
    wanted = str(DIGITS.index(word)) if word in DIGITS else word
    return wanted in text.rstrip(".").split()


def named(text: str) -> list[str]:
    """The word or digit that the small model's answer ends with, as a word; nothing where it is empty."""
    return [DIGITS[int(word)] if word in "0123456789" else word for word in text.rstrip(".").split()[-1:]]
