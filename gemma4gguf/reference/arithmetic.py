"""The arithmetic of one layer: norms, rotation, masks, attention. Arrays in, arrays out; float32 but for sums.

Source: transformers 5.24 Gemma4UnifiedTextModel with the masks that `generate()` makes for a static cache.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float32]"
Whole: TypeAlias = "NDArray[np.int64]"

LAYER_NORM_EPSILON = 1e-5  # torch's default
BLOCK = 256  # rows whose scores, or other intermediate values, are in memory at a time


def rms_norm(x: Floats, epsilon: float, weight: Floats | None = None) -> Floats:
    """Each row of the last axis divided by its root mean square, then times `weight` (not 1 + weight)."""
    mean_square = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
    normed: Floats = (x / np.sqrt(mean_square + epsilon)).astype(np.float32)
    return normed if weight is None else normed * weight


def layer_norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    centred = x - np.mean(x, axis=-1, dtype=np.float64, keepdims=True)
    variance = np.mean(np.square(centred), axis=-1, keepdims=True)
    normed: Floats = (centred / np.sqrt(variance + LAYER_NORM_EPSILON)).astype(np.float32)
    return normed * weight + bias


def gelu(x: Floats) -> Floats:
    """The tanh form, of a few rows at a time: its intermediate values are as large as they are."""
    out = np.empty_like(x)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        inner = np.float32(np.sqrt(2 / np.pi)) * (part + np.float32(0.044715) * part * part * part)
        out[start : start + BLOCK] = np.float32(0.5) * part * (1 + np.tanh(inner))
    return out


def frequencies(head: int, theta: float, fraction: float = 1.0) -> Floats:
    """Radians per position of each pair of a head, float32 [head / 2].

    The exponent's denominator is the whole head. Pairs beyond `fraction` of the head do not turn (full layers).
    """
    pairs = np.arange(head // 2)
    turning = pairs < int(head * fraction / 2)
    radians: Floats = np.where(turning, theta ** (-2.0 * pairs / head), 0.0).astype(np.float32)
    return radians


def rotate(x: Floats, positions: Whole, radians: Floats) -> Floats:
    """X [n, heads, head]; the pairs of a head are its value j and its value j + head / 2."""
    angles = positions[:, None, None].astype(np.float32) * radians  # [n, 1, head / 2]
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def visible(queries: Whole, keys: Whole, pictures: Whole, window: int | None) -> NDArray[np.bool_]:
    """Which keys each query sees, [queries, keys]: itself and what is before it.

    In sliding layers (`window` positions) a picture's soft tokens also see those behind them of the same picture, and
    nothing sees further back than the window. Full layers (None) are causal throughout. `pictures` numbers the
    picture that each position belongs to; 0 is none, sound included.
    """
    q, k = queries[:, None], keys[None]
    seen: NDArray[np.bool_] = k <= q
    if window is None:
        return seen
    together = (pictures[queries][:, None] == pictures[keys][None]) & (pictures[queries][:, None] > 0)
    seen = (seen | together) & (k > q - window)
    return seen


def attend(q: Floats, k: Floats, v: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Q [n, heads, head], k and v [m, key heads, head], seen [n, m] -> [n, heads * head]. Scores are not scaled."""
    out = np.empty_like(q)
    group = q.shape[1] // k.shape[1]
    for head in range(q.shape[1]):
        keys, values = k[:, head // group], v[:, head // group]  # [m, head] each
        scores = np.where(seen, q[:, head] @ keys.T, np.float32(-np.inf))
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = (shares / shares.sum(axis=1, keepdims=True)) @ values
    return out.reshape(len(q), -1)
