"""Held-out material that is kept with the repository: three files to show, and a small set for the tests.

In: held-out `Material`. Out: models/demo/digits.png, number.wav and clip.mp4; tests/data/tiny.json and tiny.flac.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from . import pictures, speech, videos
from .texts import Material

DEMO_ROW, DEMO_WORD, TEST_DIGITS, CLIPS_A_WORD = (4, 0, 7, 2), "seven", 100, 2
DEMO_COLOURS = ("blue", "yellow")  # one of videos.HELD_PAIRS


def write_demo(folder: Path, held: Material, seed: int = 2) -> None:
    """A card with four handwritten digits, a spoken one, and a clip, never trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    digits = [held.digits[rng.choice(np.flatnonzero(held.labels == digit))] for digit in DEMO_ROW]
    card = pictures.card(digits, rng, plain=True)
    card.resize((5 * card.width, 5 * card.height), Image.Resampling.BICUBIC).save(folder / "digits.png")
    clips = [samples for word, samples in held.clips if word == DEMO_WORD]
    pause = np.zeros(speech.RATE // 20, np.int16)
    sound = np.concatenate([pause, clips[rng.integers(len(clips))], pause])
    soundfile.write(folder / "number.wav", sound, speech.RATE, subtype="PCM_16")
    (folder / "clip.mp4").write_bytes(videos.encoded(demo_clip()))


def demo_clip(seed: int = 2) -> videos.Clip:
    """A circle that changes its colour in the middle of six seconds."""
    rng = np.random.default_rng(seed)
    fills = [pictures.tint(pictures.COLOURS[colour], rng, 12) for colour in DEMO_COLOURS]
    return videos.Clip(
        count=6,
        rate=1.0,
        colours=list(DEMO_COLOURS),
        turns=[3],
        kind="circle",
        size=(128, 96),
        ground=pictures.tint((225, 225, 225), rng, 14),
        fills=fills,
        radius=27.0,
        path=(38.0, 48.0, 90.0, 48.0),
        seed=seed,
    )


def write_tests(folder: Path, held: Material, seed: int = 3) -> None:
    """Digits as lists of numbers; clips one after the other in one file, with where each ends."""
    rng = np.random.default_rng(seed)
    at = rng.permutation(len(held.labels))[:TEST_DIGITS]
    words, sounds = [], []
    for word in speech.SAID:
        own = [samples for w, samples in held.clips if w == word]
        for i in rng.permutation(len(own))[:CLIPS_A_WORD]:
            words.append(word)
            sounds.append(own[i])
    content = {
        "digits": held.digits[at].reshape(len(at), 64).tolist(),
        "labels": held.labels[at].tolist(),
        "words": words,
        "ends": np.cumsum([len(s) for s in sounds]).tolist(),
    }
    (folder / "tiny.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    soundfile.write(folder / "tiny.flac", np.concatenate(sounds), speech.RATE, subtype="PCM_16")
