"""The checkpoint's multimodal embedder in numpy: patches and frames to soft tokens.

A bundle's embedder section comes in, then patches (see `image`) or frames (see `audio`). Soft tokens go out: float32
[N, hidden], the rows of an embedding batch for llama.cpp. The arithmetic is float32 on memory-mapped matrices. This
module does not know prompts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..bundle.projector import AXES, CHANNELS, FRAME_SAMPLES, PATCH_SIDE, PATCH_VALUES, read_projector
from ..bundle.reading import EMBEDDER, Bundle
from ..errors import FormatError, InputError
from .image import Patches

LAYER_NORM_EPSILON = 1e-5  # torch's default; the checkpoint's config does not name it
BLOCK_ROWS = 280  # soft tokens computed at a time: limits the working memory of a large budget

_Floats: TypeAlias = "NDArray[np.float32]"


class Embedder:
    """Turns patches and frames into soft tokens with the weights of a bundle's embedder section.

    `source`: an open Bundle or a path to one. `hidden`: the width of a soft token. `sees`, `hears`: which halves the
    section has. Weights load at first use: F32 is memory-mapped, other types are converted. Raises FormatError if there
    is no embedder, it belongs to another model, or its tensors do not fit its metadata.
    Source: transformers 5.24 Gemma4UnifiedVisionEmbedder and Gemma4UnifiedMultimodalEmbedder; tensors as llama.cpp's
    gemma4uv and gemma4ua projectors store them.
    """

    def __init__(self, source: Bundle | str | os.PathLike[str]) -> None:
        bundle = source if isinstance(source, Bundle) else Bundle.open(source)
        projector = read_projector(bundle.text, bundle.require(EMBEDDER))
        self._where = f"{bundle.path}: the multimodal embedder"
        self._vision, self._audio, self.hidden = projector.vision, projector.audio, projector.hidden
        self.sees, self.hears = self._vision is not None, self._audio is not None

    def image(self, patches: Patches | NDArray[Any], positions: NDArray[Any] | None = None) -> _Floats:
        """Patches to float32 [N, hidden]. Instead of `Patches`: pixels [N, 6912], 0 to 1, and positions [N, 2] (x, y).

        Raises InputError for a missing image half, a wrong shape or range, or a position beyond the position tables.
        """
        if self._vision is None:
            raise InputError(f"{self._where} has no image half; convert the full checkpoint to look at pictures")
        given = patches.pixels if isinstance(patches, Patches) else patches
        positions = patches.positions if isinstance(patches, Patches) else positions
        pixels = _checked(given, PATCH_VALUES, "pixels")
        if float(pixels.min()) < 0 or float(pixels.max()) > 1:
            raise InputError(f"pixels from {pixels.min():g} to {pixels.max():g}: expected 0 to 1; divide by 255")
        weights = self._vision_weights
        places = _checked_positions(positions, len(pixels), weights["v.position_embd.weight"].shape[1])
        out = np.empty((len(pixels), self.hidden), np.float32)
        for i in range(0, len(pixels), BLOCK_ROWS):
            block = slice(i, i + BLOCK_ROWS)
            out[block] = _image_block(weights, pixels[block], places[block], self._vision.epsilon)
        return self._finite(out)

    def audio(self, frames: NDArray[Any]) -> _Floats:
        """Frames [N, 640], 16 kHz samples from -1 to 1, to float32 [N, hidden]. Raises InputError."""
        if self._audio is None:
            raise InputError(f"{self._where} has no audio half; convert the full checkpoint to listen to clips")
        samples = _checked(frames, FRAME_SAMPLES, "frames")
        projection = self._audio_weights["mm.a.input_projection.weight"]
        return self._finite(_rms_norm(samples, self._audio.epsilon) @ projection.T)

    @cached_property
    def _vision_weights(self) -> Mapping[str, _Floats]:
        return self._vision.weights() if self._vision else {}

    @cached_property
    def _audio_weights(self) -> Mapping[str, _Floats]:
        return self._audio.weights() if self._audio else {}

    def _finite(self, soft: _Floats) -> _Floats:
        if not np.isfinite(soft).all():
            raise FormatError(f"{self._where} gives values that are not finite: its weights are damaged; convert again")
        return soft


# ── arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────────


def _image_block(
    weights: Mapping[str, _Floats], pixels: _Floats, positions: NDArray[np.intp], epsilon: float
) -> _Floats:
    """[n, 6912] in the checkpoint's row, column, RGB order -> [n, hidden]."""

    def norm(x: _Floats, number: int) -> _Floats:
        name = f"v.patch_norm.{number}."
        return _layer_norm_in_place(x, weights[name + "weight"], weights[name + "bias"])

    # The stored matrix expects all red values, then green, then blue. Permuting the patches copies 8 MB; permuting the
    # matrix would copy 106 MB.
    planes = pixels.reshape(-1, PATCH_SIDE * PATCH_SIDE, CHANNELS).swapaxes(1, 2)  # [n, 3, 2304]
    x = norm(np.array(planes, order="C").reshape(-1, PATCH_VALUES), 1)  # [n, 6912], a copy
    x = x @ weights["v.patch_embd.weight"].T  # [n, width]
    x += weights["v.patch_embd.bias"]
    x = norm(x, 2)
    along_x, along_y = weights["v.position_embd.weight"]  # [table, width] each
    x += along_x[positions[:, 0]] + along_y[positions[:, 1]]
    x = norm(x, 3)
    soft: _Floats = _rms_norm(x, epsilon) @ weights["mm.input_projection.weight"].T
    return soft


def _layer_norm_in_place(x: _Floats, weight: _Floats, bias: _Floats) -> _Floats:
    x -= x.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
    x *= _inverse_deviation(x, LAYER_NORM_EPSILON)
    x *= weight
    x += bias
    return x


def _rms_norm(x: _Floats, epsilon: float) -> _Floats:
    return np.asarray(x * _inverse_deviation(x, epsilon), np.float32)


def _inverse_deviation(x: _Floats, epsilon: float) -> _Floats:
    """1 / sqrt(mean(x²) + epsilon) of each row, [n, 1]. Only the sum is float64, so that uniform patches stay exact."""
    mean_square = np.einsum("ij,ij->i", x, x, dtype=np.float64) / x.shape[1]
    return np.asarray(1 / np.sqrt(mean_square + epsilon), np.float32)[:, None]


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _checked(values: NDArray[Any], width: int, what: str) -> _Floats:
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] != width or not len(array) or array.dtype.kind != "f":
        raise InputError(f"{what} of shape {array.shape}, {array.dtype}: expected float32 [N, {width}], N at least 1")
    if not np.isfinite(array).all():
        raise InputError(f"{what} hold values that are not finite (NaN or infinity)")
    return array.astype(np.float32, copy=False)


def _checked_positions(positions: NDArray[Any] | None, count: int, table: int) -> NDArray[np.intp]:
    array = np.asarray(positions)
    if positions is None or array.shape != (count, AXES) or array.dtype.kind not in "iu":
        found = "none" if positions is None else f"{array.dtype} {array.shape}"
        raise InputError(f"positions: expected int32 ({count}, {AXES}) as (x, y), found {found}")
    low, high = int(array.min()), int(array.max())
    if low < 0:
        raise InputError(f"a patch at position {low}: rows that only pad must be dropped before")
    if high >= table:
        raise InputError(
            f"a patch at position {high}: this checkpoint knows 0 to {table - 1}; choose a smaller budget or crop"
        )
    return array.astype(np.intp)
