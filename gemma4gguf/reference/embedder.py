"""Pixels and samples become soft tokens. Pictures have the size of their patches: resizing them is not the model's.

Source: transformers 5.24 Gemma4UnifiedVisionEmbedder, Gemma4UnifiedMultimodalEmbedder and both feature extractors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Floats, Whole, layer_norm, rms_norm
from .weights import Weights

SIDE, FRAME = 48, 640  # pixels of a patch's side, samples of a frame


def patches(rgb: NDArray[np.uint8]) -> tuple[Floats, Whole]:
    """A picture, uint8 [H, W, 3], both sides multiples of 48 -> patches from 0 to 1, and their places (x, y).

    A patch is its pixels row by row, each red, green, blue: [n, 6912]. Patches follow each other row by row.
    """
    down, across = rgb.shape[0] // SIDE, rgb.shape[1] // SIDE
    cut = [
        rgb[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE].reshape(-1)
        for y in range(down)
        for x in range(across)
    ]
    places = [(x, y) for y in range(down) for x in range(across)]
    return np.stack(cut).astype(np.float32) * np.float32(1 / 255), np.array(places, np.int64)


def frames(samples: Floats) -> Floats:
    """A clip, 16 kHz, from -1 to 1, float32 [n] -> [ceil(n / 640), 640], the last frame filled with zeros."""
    return np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)


def image_tokens(weights: Weights, pixels: Floats, places: Whole) -> Floats:
    """float32 [n, hidden]."""

    def get(name: str) -> Floats:
        return weights.whole(f"vision.{name}")

    def norm(x: Floats, name: str) -> Floats:
        return layer_norm(x, get(f"{name}.weight"), get(f"{name}.bias"))

    x = norm(pixels, "patch_ln1") @ get("patch_dense.weight").T + get("patch_dense.bias")
    table = get("pos_embedding")  # [places, 2, width]
    x = norm(norm(x, "patch_ln2") + table[places[:, 0], 0] + table[places[:, 1], 1], "pos_norm")
    soft: Floats = rms_norm(x, weights.numbers.vision_epsilon) @ get("embedding_projection.weight").T
    return soft


def audio_tokens(weights: Weights, framed: Floats) -> Floats:
    """float32 [n, hidden]."""
    projection = weights.whole("audio.embedding_projection.weight")
    soft: Floats = rms_norm(framed, weights.numbers.audio_epsilon) @ projection.T
    return soft
