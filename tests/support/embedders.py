"""Bundles around a small random embedder. Its weights are at hand in the checkpoint's order too, for a twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Kind

from gemma4gguf.bundle.container import encode_array, encode_pair, padded, place_tensors
from gemma4gguf.bundle.projector import PATCH_SIDE, PATCH_VALUES
from gemma4gguf.bundle.writing import Part, write_bundle

HIDDEN, WIDTH, TABLE, FRAME = 64, 96, 80, 640  # the embedder's width differs from the text model's on purpose


Arrays = Mapping[str, Any]


def checkpoint_weights(seed: int = 0) -> dict[str, Any]:
    """Under their stored names, float32, the patch matrix and its norm still in the checkpoint's order."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, spread: float, centre: float = 0.0) -> Any:
        return (centre + spread * rng.standard_normal(shape)).astype(np.float32)

    weights = {
        "v.patch_embd.weight": normal(WIDTH, PATCH_VALUES, spread=PATCH_VALUES**-0.5),
        "v.patch_embd.bias": normal(WIDTH, spread=0.1),
        "v.position_embd.weight": normal(2, TABLE, WIDTH, spread=0.3),
        "mm.input_projection.weight": normal(HIDDEN, WIDTH, spread=WIDTH**-0.5),
        "mm.a.input_projection.weight": normal(HIDDEN, FRAME, spread=FRAME**-0.5),
    }
    for number, width in ((1, PATCH_VALUES), (2, WIDTH), (3, WIDTH)):
        weights[f"v.patch_norm.{number}.weight"] = normal(width, spread=0.2, centre=1)
        weights[f"v.patch_norm.{number}.bias"] = normal(width, spread=0.1)
    return weights


def planes(array: Any) -> Any:
    """The last axis from row, column, RGB to red plane, green plane, blue plane, index by index."""
    side = PATCH_SIDE
    order = [(i % side**2) // side * side * 3 + i % side * 3 + i // side**2 for i in range(PATCH_VALUES)]
    return array[..., order]


METADATA: dict[str, tuple[Kind, Any]] = {
    "general.architecture": (Kind.STRING, "clip"),
    "clip.has_vision_encoder": (Kind.BOOL, True),
    "clip.has_audio_encoder": (Kind.BOOL, True),
    "clip.vision.projector_type": (Kind.STRING, "gemma4uv"),
    "clip.vision.embedding_length": (Kind.UINT32, WIDTH),
    "clip.vision.projection_dim": (Kind.UINT32, HIDDEN),
    "clip.vision.patch_size": (Kind.UINT32, 16),
    "clip.vision.attention.layer_norm_epsilon": (Kind.FLOAT32, 1e-6),
    "clip.audio.projector_type": (Kind.STRING, "gemma4ua"),
    "clip.audio.embedding_length": (Kind.UINT32, FRAME),
    "clip.audio.projection_dim": (Kind.UINT32, HIDDEN),
    "clip.audio.attention.layer_norm_epsilon": (Kind.FLOAT32, 1e-6),
}


@dataclass(frozen=True)
class Contents:
    """What goes into a test bundle; `weights` in the checkpoint's order."""

    weights: Arrays
    metadata: Mapping[str, tuple[Kind, Any]]
    arrays: Mapping[str, list[float]]
    types: Mapping[str, Type]
    hidden: int = HIDDEN

    def without(self, *keys: str) -> Contents:
        def keep(of: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in of.items() if name not in keys}

        return replace(self, metadata=keep(self.metadata), weights=keep(self.weights))

    def having(self, key: str, kind: Kind, value: Any) -> Contents:
        return replace(self, metadata={**self.metadata, key: (kind, value)})

    def holding(self, name: str, array: Any) -> Contents:
        return replace(self, weights={**self.weights, name: array})


def contents(seed: int = 0) -> Contents:
    arrays = {"clip.vision.image_mean": [0.0] * 3, "clip.vision.image_std": [1.0] * 3}
    return Contents(checkpoint_weights(seed), METADATA, arrays, {})


def part(architecture: str, pairs: dict[str, bytes], tensors: Arrays, types: Mapping[str, Type]) -> Part:
    data = {name: gguf.quants.quantize(array, types.get(name, Type.F32)) for name, array in tensors.items()}
    table = place_tensors([(name, array.shape, types.get(name, Type.F32)) for name, array in tensors.items()])
    pieces = [data[t.name].tobytes().ljust(padded(t.nbytes), b"\0") for t in table]
    return Part(architecture, pairs, table, lambda: iter(pieces))


def write(path: Path, what: Contents, *, embedder: bool = True) -> Path:
    text = {
        "general.architecture": encode_pair("general.architecture", Kind.STRING, "gemma4"),
        "gemma4.embedding_length": encode_pair("gemma4.embedding_length", Kind.UINT32, what.hidden),
    }
    parts = [part("gemma4", text, {"token_embd.weight": np.ones((4, 32), np.float32)}, {})]
    if embedder:
        pairs = {key: encode_pair(key, kind, value) for key, (kind, value) in what.metadata.items()}
        pairs |= {key: encode_array(key, Kind.FLOAT32, values) for key, values in what.arrays.items()}
        stored = dict(what.weights)
        for name in ("v.patch_embd.weight", "v.patch_norm.1.weight", "v.patch_norm.1.bias"):
            if name in stored and stored[name].shape[-1] == PATCH_VALUES:
                stored[name] = planes(stored[name])
        parts.append(part("clip", pairs, stored, what.types))
    write_bundle(path, parts)
    return path
