"""Prompts, pictures and clips that the runtime and the reference are both asked about.

Pictures and clips are made from integers, the pictures at a size that needs no resizing, so that neither Pillow's nor
anybody's resampler comes between the two sides. Used by the golden tests, by the parity tests and by the script that
makes the golden values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tests.support.standin import normal

RATE = 16_000  # Hz
PICTURE_SIZES = {"landscape": (672, 912), "portrait": (1152, 528), "banner": (144, 4416)}  # height, width in pixels
CLIP_SAMPLES = {"short": 20_800, "long": 64_001}  # 32.5 frames, and 100 frames and one sample


@dataclass(frozen=True)
class Case:
    """One prompt: raw text with `<|image|>` and `<|audio|>` where pictures and clips go, without `<bos>`."""

    name: str
    prompt: str
    images: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()


LONG = "The quick brown fox jumps over the lazy dog, and then the next thing. "  # many times the window of 64 tokens
CASES = (
    Case("text", "What is in this picture? There is a cat on the table."),
    Case("one_token", "a"),
    Case(
        "turns", "<|turn>user\nWas ist das für 1 Größe? 你好 😀\n\n<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"
    ),
    Case("beyond_window", LONG * 12 + "\n\n\tÀ côté de la forêt, 1000 друзья. " * 3),
    Case("image", "<|turn>user\n<|image|>What is this?<turn|>\n<|turn>model\n", images=("landscape",)),
    Case("image_alone", "<|image|>", images=("banner",)),
    Case("image_beyond_window", LONG * 4 + "<|image|>" + LONG * 4, images=("portrait",)),
    Case("two_images", "One: <|image|> Two: <|image|>Which is the best?", images=("landscape", "portrait")),
    Case("images_touching", "<|image|><|image|>", images=("portrait", "portrait")),
    Case("audio", "<|turn>user\nTranscribe this.<|audio|><turn|>\n<|turn>model\n", audio=("short",)),
    Case("audio_beyond_window", "<|audio|>" + LONG, audio=("long",)),
    Case(
        "everything",
        "<|turn>user\nLook: <|image|> and hear: <|audio|>. Once more <|image|>!" + LONG + "<turn|>\n<|turn>model\n",
        images=("banner", "landscape"),
        audio=("short",),
    ),
)


@cache
def picture(name: str) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: a slope with waves and noise, different in every channel and for every name."""
    height, width = PICTURE_SIZES[name]
    seed = sorted(PICTURE_SIZES).index(name)
    y, x = np.mgrid[0:height, 0:width]  # int64 [height, width] each
    channels = [(x * (c + 1) // 3 + y * (seed + 2) // 2 + (x * y) // (97 + 31 * c)) % 256 for c in range(3)]
    noise = np.rint(normal((height, width, 3), f"picture {name}", seed) * 12).astype(np.int64)
    return np.clip(np.stack(channels, axis=-1) + noise, 0, 255).astype(np.uint8)


@cache
def clip(name: str) -> npt.NDArray[np.float32]:
    """float32 [samples], 16 kHz, within -1 to 1: a saw tooth that rises, falls silent in the middle, and noise."""
    count = CLIP_SAMPLES[name]
    n = np.arange(count, dtype=np.int64)
    saw = ((n * (40 + n // 400)) % 4096 - 2048) / np.float32(4096)
    noise = normal((count,), f"clip {name}", 0) / 16
    loud = np.where((n // 3000) % 4 == 2, np.float32(0.001), np.float32(1))  # quiet frames show a wrong epsilon
    return np.asarray(np.clip((saw + noise) * loud, -1, 1), np.float32)
