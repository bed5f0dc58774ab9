"""A bundle taken apart into plain values, changed, and written again with right sizes and hashes.

In: a bundle. Out: `Piece`s, one for each section, to whose keys, tensor table and data anything may be done; then a
file that parses, so that what is wrong with it is what was changed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import (
    TensorInfo,
    encode_array,
    encode_pair,
    encode_string,
    padded,
    place_tensors,
    tensor_nbytes,
)
from gemma4gguf.bundle.reading import TEXT, Bundle, Section
from gemma4gguf.bundle.writing import Part, write_bundle

Shape = tuple[int, ...]
WHOLE = ("general.", "tokenizer.", "gemma4gguf.", "clip.", "split.", "quantize.", "nobody.")  # how other keys begin


@dataclass
class Piece:
    """One section: encoded pairs by key, and each tensor's type, shape (rows first) and bytes."""

    architecture: str
    pairs: dict[str, bytes]
    values: dict[str, Any]
    types: dict[str, tuple[V, V | None]]
    tensors: dict[str, tuple[T, Shape, bytes]] = field(default_factory=dict)
    alignment: int = 32

    def key(self, name: str) -> str:
        """`name` with the section's architecture before it, but for names that are whole."""
        return name if name.startswith(WHOLE) else f"{self.architecture}.{name}"

    def put(self, name: str, kind: V, value: Any) -> None:
        """Store a key as `kind`; a list becomes an array of `kind`."""
        key = self.key(name)
        encode = encode_array if isinstance(value, (list, tuple)) and value else encode_pair
        self.pairs[key] = encode_empty(key, kind) if value == [] else encode(key, kind, value)
        self.values[key] = value
        self.types[key] = (V.ARRAY, kind) if isinstance(value, (list, tuple)) else (kind, None)

    def drop(self, name: str) -> None:
        for held in (self.pairs, self.values, self.types):
            held.pop(self.key(name), None)

    def shape(self, name: str, shape: Shape, kind: T | None = None, data: bytes | None = None) -> None:
        """Give a tensor another shape or type; its bytes are repeated or cut to fit."""
        old, _, held = self.tensors.get(name, (T.F32, (), b"\0"))
        kind = old if kind is None else kind
        size = tensor_nbytes(shape, kind)
        held = held if data is None else data
        self.tensors[name] = kind, shape, (held * (size // max(1, len(held)) + 1))[:size]

    def part(self) -> Part:
        rows = list(self.tensors.items())
        table = place_tensors([(name, shape, kind) for name, (kind, shape, _) in rows])
        if self.alignment != 32:
            table = _aligned(table, self.alignment)

        def data() -> Iterable[bytes]:
            yield b"".join(raw + bytes(-len(raw) % self.alignment) for _, (_, _, raw) in rows)

        return Part(self.architecture, self.pairs, table, data, self.alignment)


Change = Callable[[Piece], object]


def _aligned(table: list[TensorInfo], alignment: int) -> list[TensorInfo]:
    out, offset = [], 0
    for row in table:
        out.append(replace(row, offset=offset))
        offset += padded(row.nbytes, alignment)
    return out


def encode_empty(key: str, kind: V) -> bytes:
    """An array without values, which the writer refuses to write."""
    return encode_string(key) + struct.pack("<IIQ", V.ARRAY, kind, 0)


def encode_bytes(key: str, values: Iterable[bytes]) -> bytes:
    """An array of strings of any bytes."""
    rows = list(values)
    body = b"".join(struct.pack("<Q", len(row)) + row for row in rows)
    return encode_string(key) + struct.pack("<IIQ", V.ARRAY, V.STRING, len(rows)) + body


def pieces(bundle: Bundle | Path) -> dict[str, Piece]:
    """Architecture -> its section, taken apart."""
    bundle = Bundle.open(bundle) if isinstance(bundle, Path) else bundle
    return {section.architecture: _piece(section) for section in bundle.sections}


def _piece(section: Section) -> Piece:
    header = section.header
    pairs = {k: v for k, v in header.pairs.items() if not k.startswith("gemma4gguf.bundle.")}
    return Piece(
        section.architecture,
        pairs,
        {key: header.metadata[key] for key in pairs},
        {key: header.type_of(key) for key in pairs},
        {name: (t.type, t.shape, np.asarray(section.raw(name)).tobytes()) for name, t in header.tensors.items()},
    )


def copied(held: dict[str, Piece]) -> dict[str, Piece]:
    """To be changed without changing the first."""
    return {
        name: replace(p, pairs={**p.pairs}, values={**p.values}, types={**p.types}, tensors={**p.tensors})
        for name, p in held.items()
    }


def write(held: dict[str, Piece], out: Path) -> Path:
    """A bundle of the pieces, the text model first."""
    assert next(iter(held)) == TEXT
    write_bundle(out, [piece.part() for piece in held.values()], force=True)
    return out
