"""The embedder: read in Python, where a fault must be a FormatError before the arithmetic, or of its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.projector import check_embedder
from gemma4gguf.bundle.reading import EMBEDDER, TEXT
from gemma4gguf.errors import FormatError
from gemma4gguf.media.embedder import Embedder
from tests.support import rewrite
from tests.support.attacks import one_line, planned
from tests.support.rewrite import Change, Piece

U32, F32 = V.UINT32, V.FLOAT32
NAN, INF = float("nan"), float("inf")


def put(key: str, kind: V, value: Any) -> Change:
    return lambda piece: piece.put(key, kind, value)


Stored = tuple[tuple[V, Any], ...]
EPSILONS: Stored = (
    *((F32, 0.0), (F32, -1e-6), (F32, NAN), (F32, INF), (F32, 1e30)),
    *((U32, 1), (V.STRING, "1e-6"), (F32, [1e-6])),
)
WIDTHS: Stored = (
    *((U32, 0), (U32, 1), (U32, (1 << 32) - 1), (V.INT32, -64), (F32, 64.0)),
    *((V.STRING, "64"), (U32, [64]), (V.BOOL, True)),
)
PATCHES: Stored = ((U32, 0), (U32, 14), (U32, (1 << 32) - 1), (V.STRING, "16"), (U32, [16]))


def halves(kind: V, value: Any) -> Change:
    def do(piece: Piece) -> None:
        for half in ("vision", "audio"):
            piece.put(f"clip.has_{half}_encoder", kind, value)

    return do


def keys() -> Iterator[tuple[str, Change]]:
    for half in ("vision", "audio"):
        start = f"clip.{half}."
        for kind, value in EPSILONS:
            yield f"{half} epsilon {value!r}", put(f"{start}attention.layer_norm_epsilon", kind, value)
        for kind, value in WIDTHS:
            yield f"{half} width {value!r}", put(f"{start}projection_dim", kind, value)
        for word in ("gemma4v", "gemma3", "", "gemma4uv\0", "x" * 5000):
            yield f"{half} type {word!r:.12}", put(f"{start}projector_type", V.STRING, word)
        yield f"{half} type of a number", put(f"{start}projector_type", U32, 4)
        yield f"{half} type of a list", put(f"{start}projector_type", V.STRING, ["gemma4uv"])
    for kind, value in PATCHES:
        yield f"patches of {value!r}", put("clip.vision.patch_size", kind, value)
    for value in ([NAN] * 3, [1.0] * 3, [0.0] * 2, [0.0] * 4, 0.0):
        yield f"mean {value!r}", put("clip.vision.image_mean", F32, value)
    yield "neither half", halves(V.BOOL, False)
    yield "halves that are numbers", halves(U32, 1)
    yield "one type for both", put("clip.projector_type", V.STRING, "gemma4uv")


MATRICES = (
    "v.patch_embd.weight",
    "mm.input_projection.weight",
    "mm.a.input_projection.weight",
    "v.position_embd.weight",
)
VECTORS = ("v.patch_norm.1.weight", "v.patch_norm.2.bias", "v.patch_embd.bias")


def without(name: str) -> Change:
    return lambda piece: piece.tensors.pop(name)


def tensors() -> Iterator[tuple[str, Change]]:
    def stored(name: str, kind: T) -> Change:
        return lambda piece: piece.shape(name, piece.tensors[name][1], kind)

    def shaped(name: str, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Change:
        return lambda piece: piece.shape(name, change(piece.tensors[name][1]))

    for name in MATRICES:
        for kind in (T.I8, T.I16, T.I32, T.I64, T.F64, T.Q8_1):
            yield f"{name} {kind.name}", stored(name, kind)
        yield f"{name} flat", shaped(name, lambda s: (int(np.prod(s)),))
        yield f"{name} a dimension more", shaped(name, lambda s: (1, *s))
        yield f"{name} wider", shaped(name, lambda s: (*s[:-1], s[-1] + 32))
        yield f"{name} turned", shaped(name, lambda s: (*s[:-2], s[-1], s[-2] + 1))
    for name in VECTORS:
        for kind in (T.I32, T.F64, T.Q8_0):
            yield f"{name} {kind.name}", stored(name, kind)
        yield f"{name} longer", shaped(name, lambda s: (s[0] + 32,))
    for name in (*MATRICES, *VECTORS):
        yield f"no {name}", without(name)


ROWS = [pytest.param(change, id=name.replace("\0", "NUL")) for name, change in (*keys(), *tensors())]


@pytest.mark.parametrize("change", ROWS)
def test_embedders(change: Change, unchanged: dict[str, Piece]) -> None:
    held = rewrite.copied(unchanged)
    change(held[EMBEDDER])
    one_line(lambda: check_embedder(planned(held, TEXT), planned(held, EMBEDDER)), Path("FILE"))


@pytest.mark.parametrize("value", [NAN, INF, -INF, 3e38])
@pytest.mark.parametrize("name", [*MATRICES, *VECTORS])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_are_not_finite(name: str, value: float, changed: Callable[..., Path]) -> None:
    def fill(piece: Piece) -> None:
        kind, shape, raw = piece.tensors[name]
        assert kind is T.F32
        piece.tensors[name] = kind, shape, np.full(len(raw) // 4, value, np.float32).tobytes()

    embedder = Embedder(changed(fill, EMBEDDER))
    pixels, positions = np.full((2, 6912), 0.25, np.float32), np.zeros((2, 2), np.int32)
    pixels[:, ::2] = 0.75
    frames = np.full((2, 640), 0.5, np.float32)
    with suppress(FormatError):
        assert np.isfinite(embedder.image(pixels, positions)).all()
    with suppress(FormatError):
        assert np.isfinite(embedder.audio(frames)).all()
