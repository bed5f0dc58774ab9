"""What an embedder section must hold: its keys, and the shapes and types of its tensors.

An embedder section and the text section that it must fit come in. A checked `Projector` goes out, or a FormatError.
This module does no arithmetic: see `media.embedder`. llama.cpp calls the embedder a projector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ..errors import FormatError
from .reading import Section
from .relatives import tower
from .schema import MATRIX_TYPES
from .settings import BUDGETS

PATCH_SIDE = 48  # pixels; 16 of the checkpoint's patch_size times a pooling kernel of 3
CHANNELS = 3  # RGB
PATCH_VALUES = PATCH_SIDE * PATCH_SIDE * CHANNELS  # 6912
FRAME_SAMPLES = 640  # samples in a frame; one frame is one soft token
AXES = 2  # the position tables: x, then y

# Metadata key -> (required value, value if the key is missing). Other values would need other pixel preprocessing.
_PIXEL_KEYS: dict[str, tuple[Any, Any]] = {
    "clip.vision.patch_size": (16, None),
    "clip.vision.projector.scale_factor": (3, 3),
    "clip.vision.image_mean": ([0.0] * CHANNELS, [0.0] * CHANNELS),
    "clip.vision.image_std": ([1.0] * CHANNELS, [1.0] * CHANNELS),
}
PROJECTORS = {"vision": "gemma4uv", "audio": "gemma4ua"}
_VECTOR_TYPES = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
_MATRIX_TYPES = MATRIX_TYPES - {GGMLQuantizationType.Q1_0}  # those that gguf can read back
_ANY = 0  # a dimension that may have any size


@dataclass(frozen=True)
class Half:
    """The image or the audio half of the embedder, with its metadata and tensor shapes checked and nothing loaded."""

    section: Section
    hidden: int
    epsilon: float  # of the RMS norm before the projection
    names: tuple[str, ...]

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Every tensor as float32: memory-mapped if stored as F32, otherwise converted."""
        return {name: np.asarray(self.section.array(name), dtype=np.float32) for name in self.names}


@dataclass(frozen=True)
class Projector:
    """An embedder section, checked. `hidden`: the width of a soft token. One half may be missing."""

    vision: Half | None
    audio: Half | None
    hidden: int


def check_embedder(text: Section, embedder: Section) -> None:
    """Raise FormatError unless the section is the encoder-free embedder of a model as wide as `text`."""
    meta = embedder.metadata
    for kind in _projectors(meta):
        if kind not in PROJECTORS.values():
            raise FormatError(
                f"{embedder.path}: holds {tower(kind)}; Gemma 4 12B has no encoder, its embedder is of the types "
                f"{' and '.join(PROJECTORS.values())}: give the mmproj file of a 12B"
            )
    read_projector(text, embedder)


def _projectors(meta: Mapping[str, Any]) -> list[str]:
    keys = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")
    return [str(meta[key]) for key in keys if key in meta]


def read_projector(text: Section, embedder: Section) -> Projector:
    """Check an embedder section. Raises FormatError if it is damaged, of another type, or another width than `text`."""
    where = f"{embedder.path}: the multimodal embedder"
    vision, audio = _half(embedder, "vision", where), _half(embedder, "audio", where)
    hidden = text.metadata.get(f"{text.architecture}.embedding_length")
    made = [half.hidden for half in (vision, audio) if half]
    if not made or any(n != hidden for n in made):
        found = " and ".join(map(str, made)) or "no"
        raise FormatError(
            f"{where} makes soft tokens of {found} values, the text model takes {hidden}; "
            "pack the embedder of the same model"
        )
    return Projector(vision, audio, made[0])


def _half(section: Section, half: str, where: str) -> Half | None:
    """Check the metadata and tensor shapes of one half. None if the section says that it has no such half."""
    meta = section.metadata
    if meta.get(f"clip.has_{half}_encoder") is not True:
        return None
    kind = meta.get("clip.projector_type", meta.get(f"clip.{half}.projector_type"))
    if kind != PROJECTORS[half]:
        raise FormatError(f"{where} has a {half} projector of type {kind!r:.80}, expected {PROJECTORS[half]!r}")
    for key, (expected, default) in _PIXEL_KEYS.items() if half == "vision" else ():
        if meta.get(key, default) != expected:
            raise FormatError(f"{where}: {key} is {meta.get(key, default)!r:.80}, expected {expected!r}")
    width, hidden = (_size(meta, f"clip.{half}.{key}", where) for key in ("embedding_length", "projection_dim"))
    key = f"clip.{half}.attention.layer_norm_epsilon"
    epsilon = meta.get(key)
    if not isinstance(epsilon, float) or not (math.isfinite(epsilon) and 0 < epsilon < 1):
        raise FormatError(f"{where}: {key} is {epsilon!r:.80}, expected a small number such as 1e-6")
    shapes = half_shapes(half, width, hidden)
    for name, shape in shapes.items():
        _check_tensor(section, name, shape, where)
    if half == "vision" and (places := section.tensors["v.position_embd.weight"].shape[1]) < min(BUDGETS):
        raise FormatError(f"{where} knows {places} places of a patch, expected at least {min(BUDGETS)}; convert again")
    return Half(section, hidden, epsilon, tuple(shapes))


def _size(meta: Mapping[str, Any], key: str, where: str) -> int:
    value = meta.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FormatError(f"{where}: {key} is {value!r:.80}, expected a size")
    return value


def _check_tensor(section: Section, name: str, shape: tuple[int, ...], where: str) -> None:
    info = section.tensors.get(name)
    if info is None:
        raise FormatError(f"{where} has no tensor {name!r}; convert the checkpoint again")
    fits = len(info.shape) == len(shape) and all(want in (n, _ANY) for n, want in zip(info.shape, shape, strict=True))
    if not fits or 0 in info.shape:
        wanted = tuple("any" if n == _ANY else n for n in shape)
        raise FormatError(f"{where}: {name!r} has shape {info.shape}, expected {wanted}")
    if info.type not in (_VECTOR_TYPES if len(shape) == 1 else _MATRIX_TYPES):
        raise FormatError(f"{where}: {name!r} is stored as {info.type.name}, expected F32; convert again")


def half_shapes(half: str, width: int, hidden: int, places: int = _ANY) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape in numpy order. `width` is the embedder's own, `hidden` a soft token's, `places` a patch's."""
    if half == "audio":
        return {"mm.a.input_projection.weight": (hidden, FRAME_SAMPLES)}
    return {
        "v.patch_norm.1.weight": (PATCH_VALUES,),
        "v.patch_norm.1.bias": (PATCH_VALUES,),
        "v.patch_embd.weight": (width, PATCH_VALUES),
        "v.patch_embd.bias": (width,),
        "v.patch_norm.2.weight": (width,),
        "v.patch_norm.2.bias": (width,),
        "v.position_embd.weight": (AXES, places, width),
        "v.patch_norm.3.weight": (width,),
        "v.patch_norm.3.bias": (width,),
        "mm.input_projection.weight": (hidden, width),
    }
