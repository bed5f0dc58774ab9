"""Pictures that are as hard to decode as those of a camera."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

LARGE = (4000, 3000)  # pixels


def photo(size: tuple[int, int] = LARGE, seed: int = 0) -> bytes:
    """A JPEG with soft shapes and a camera's noise."""
    chance = np.random.default_rng(seed)
    shapes = Image.fromarray(chance.integers(0, 256, (30, 40, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(shapes) + chance.normal(0, 3, (*size[::-1], 3)).astype(np.float32)
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()
