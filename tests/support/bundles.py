"""Small bundles of every kind of value, made byte by byte; no model is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from numpy.typing import NDArray

from gemma4gguf.bundle.container import (
    encode_array,
    encode_pair,
    padded,
    place_tensors,
)
from gemma4gguf.bundle.reading import (
    DRAFTER,
    EMBEDDER,
    TEXT,
    Bundle,
    Section,
)
from gemma4gguf.bundle.writing import Part, part_of

WORDS = ["", "a", "größe", "😀", "<bos>", "x" * 300]
VALUES: dict[T, NDArray[Any]] = {
    T.F32: np.arange(6, dtype=np.float32).reshape(2, 3),
    T.F16: np.arange(8, dtype=np.float16).reshape(2, 2, 2),
}


def part(architecture: str, seed: int = 0, **extra: bytes) -> Part:
    """A small section of every kind of value; another `seed`, other data."""
    pairs = {
        "general.architecture": encode_pair("general.architecture", V.STRING, architecture),
        "some.bool": encode_pair("some.bool", V.BOOL, True),
        "some.float": encode_pair("some.float", V.FLOAT32, 0.5),
        "some.words": encode_array("some.words", V.STRING, WORDS),
        "some.bytes": encode_array("some.bytes", V.UINT8, [0, 255]),
        "some.numbers": encode_array("some.numbers", V.INT32, [-1, 0, 1 << 30]),
        **extra,
    }
    arrays = {f"t.{kind.name}": values + seed for kind, values in VALUES.items()}
    arrays["t.one"] = np.asarray([seed], np.float32)
    kinds = {np.dtype(np.float32): T.F32, np.dtype(np.float16): T.F16}
    table = place_tensors([(name, a.shape, kinds[a.dtype]) for name, a in arrays.items()])

    def data() -> Iterator[bytes]:
        for array in arrays.values():
            yield array.tobytes()
            yield bytes(padded(array.nbytes) - array.nbytes)

    return Part(architecture, pairs, table, data)


PARTS = (part(TEXT, 1), part(EMBEDDER, 2), part(DRAFTER, 3))


def number(key: str, value: int) -> dict[str, bytes]:
    return {key: encode_pair(key, V.UINT32, value)}


def keys(section: Section, new: Mapping[str, bytes], without: str = "") -> Part:
    part = part_of(section)
    kept = {k: v for k, v in part.pairs.items() if k != without}
    return replace(part, pairs=kept | dict(new))


def poke(path: Path, architecture: str, tensor: str, new: bytes) -> Path:
    section = Bundle.open(path).require(architecture)
    with open(path, "r+b") as file:
        file.seek(section.header.data_start + section.tensors[tensor].offset)
        file.write(new)
    return path


def string(key: str, value: str) -> dict[str, bytes]:
    return {key: encode_pair(key, V.STRING, value)}
