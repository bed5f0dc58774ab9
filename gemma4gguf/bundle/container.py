"""Read and write one GGUF v3 header: its keys and its tensor table, not the tensor data.

Reading takes the untrusted bytes of a file and returns a `Header`; every count, length and offset in it was checked
against the file's size. Writing takes keys and tensors and returns bytes. This module does not know sections or
models: see `reading`, `writing` and `validation`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, overload

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from ..errors import FormatError
from ..limits import current

MAGIC = b"GGUF"
VERSION = 3
_OTHERS = {  # what people take for a GGUF, by its first 4 bytes
    b"vers": "perhaps a Git LFS pointer; get the file itself with `git lfs pull`",
    b"<": "perhaps a web page in place of a download; get the file again",
    b"PK\x03\x04": "a ZIP archive, perhaps PyTorch weights; convert a checkpoint in safetensors",
    b"lmgg": "an old GGML file; get the model as GGUF",
    b"fmgg": "an old GGML file; get the model as GGUF",
    b"tjgg": "an old GGML file; get the model as GGUF",
}
DEFAULT_ALIGNMENT = 32  # bytes
MAX_DIMENSIONS = 4
_SCALARS: dict[GGUFValueType, struct.Struct] = {
    GGUFValueType.UINT8: struct.Struct("<B"),
    GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"),
    GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: struct.Struct("<I"),
    GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"),
    GGUFValueType.BOOL: struct.Struct("<?"),
    GGUFValueType.UINT64: struct.Struct("<Q"),
    GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
}
_U32, _U64 = _SCALARS[GGUFValueType.UINT32], _SCALARS[GGUFValueType.UINT64]


@dataclass(frozen=True)
class TensorInfo:
    """One row of a tensor table. `shape` is in numpy's order (rows first); `offset` is in bytes from the data start."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.shape, self.type)


@dataclass(frozen=True)
class Header:
    """The keys and the tensor table of one GGUF.

    `start`: where the GGUF begins in its file; `data_start`: where its tensor data begins; `end`: the first byte after
    the last tensor's padding, at most the file's size. `pairs` maps each key to the raw bytes of the key and its value,
    in file order, so that a rewrite can copy what it does not change.
    """

    start: int
    data_start: int
    end: int
    alignment: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    pairs: Mapping[str, bytes]

    def type_of(self, key: str) -> tuple[GGUFValueType, GGUFValueType | None]:
        """The type that a value is stored as, and of an array also the type of its elements."""
        raw, at = self.pairs[key], _U64.size + len(key.encode())
        kind = GGUFValueType(_U32.unpack_from(raw, at)[0])
        return kind, GGUFValueType(_U32.unpack_from(raw, at + 4)[0]) if kind is GGUFValueType.ARRAY else None


class LazyStrings(Sequence[str]):
    """An array of strings, each decoded when it is asked for (a vocabulary has 262,144 of them)."""

    def __init__(self, raw: bytes, count: int) -> None:
        self._raw, self._count = raw, count

    @cached_property
    def stored(self) -> list[bytes]:
        """Each string's bytes, as they are in the file."""
        raw, length, pos = self._raw, _U64.unpack_from, 0
        found = []
        for _ in range(self._count):
            start = pos + 8
            pos = start + length(raw, pos)[0]
            found.append(raw[start:pos])
        return found

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self.stored[index]
        return _decoded(found) if isinstance(found, bytes) else list(map(_decoded, found))

    def __iter__(self) -> Iterator[str]:
        return map(_decoded, self.stored)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"LazyStrings({self._count})"


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def tensor_nbytes(shape: Sequence[int], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor's data; `shape` in numpy order, the last dimension a whole number of the type's blocks."""
    block, size = GGML_QUANT_SIZES[kind]
    count = 1
    for n in shape:
        count *= n
    return int(count // block * size)


def padded(n: int, alignment: int = DEFAULT_ALIGNMENT) -> int:
    """`n` rounded up to a multiple of `alignment`."""
    return -(-n // alignment) * alignment


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Allowance:
    """What remains of the limits on one file's headers. Reading a header reduces it."""

    def __init__(self) -> None:
        self.limits = limits = current()
        self.bytes, self.keys, self.tensors = limits.header_bytes, limits.entries, limits.entries
        self.numbers, self.strings = limits.numbers, limits.strings


class Slices(Protocol):
    """What a header is read from: bytes, a mapped file, or a file on the Hub, of which slices are fetched."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> bytes: ...


class _Cursor:
    """A read position in untrusted bytes. Every read is checked against the end first."""

    def __init__(self, data: Slices, start: int, where: str, allowance: Allowance) -> None:
        self.data, self.pos, self.where, self.left = data, start, where, allowance
        self.size = min(len(data), start + allowance.bytes)

    def fail(self, what: str) -> FormatError:
        return FormatError(
            f"{self.where}: {what} at byte {self.pos:,}: the file is damaged or incomplete; get it again"
        )

    @property
    def whole(self) -> str:
        return f"file ({self.size:,} bytes)" if self.size == len(self.data) else f"largest header ({self.size:,} bytes)"

    def take(self, n: int) -> bytes:
        if n > self.size - self.pos:
            raise self.fail(f"a field of {n:,} bytes runs past the end of the {self.whole}")
        out = self.data[self.pos : self.pos + n]
        self.pos += n
        return out

    def number(self, kind: struct.Struct) -> Any:
        return kind.unpack(self.take(kind.size))[0]

    def string(self, what: str, limit: int) -> bytes:
        n = self.number(_U64)
        if n > limit:
            raise self.fail(f"{what} of {n:,} bytes (at most {limit:,})")
        return self.take(n)

    def name(self, what: str) -> str:
        """A key or a tensor's name. A NUL is refused, because C would read a shorter name."""
        try:
            text = self.string(what, self.left.limits.key_bytes).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} that is not UTF-8") from None
        if "\0" in text:
            raise self.fail(f"{what} with a NUL in it ({text!r:.80})")
        return text

    def value(self) -> Any:
        kind = self.kind()
        if kind is GGUFValueType.STRING:
            return _decoded(self.string("a string", self.left.limits.string_bytes))
        if kind is GGUFValueType.ARRAY:
            return self.array()
        return self.number(_SCALARS[kind])

    def kind(self) -> GGUFValueType:
        number = self.number(_U32)
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.fail(f"unknown value type {number}") from None

    def array(self) -> Any:
        kind, count = self.kind(), self.number(_U64)
        if kind is GGUFValueType.ARRAY:
            raise self.fail("an array of arrays")
        if kind is not GGUFValueType.STRING:
            scalar = _SCALARS[kind]
            self.room(count, scalar.size, self.left.numbers)
            self.left.numbers -= count
            return list(struct.unpack(f"<{count}{scalar.format[1:]}", self.take(count * scalar.size)))
        self.room(count, _U64.size, self.left.strings)
        self.left.strings -= count
        start, data, size, pos = self.pos, self.data, self.size, self.pos
        for _ in range(count):  # the one hot loop: 776,000 strings in a 12B's header
            end = pos + 8
            pos = end + int.from_bytes(data[pos:end], "little")
            if pos > size:  # here, not after the loop: the next look would fetch a file on the Hub up to there
                raise self.fail(f"an array of {count:,} strings runs past the end of the {self.whole}")
        self.pos = pos
        return LazyStrings(data[start:pos], count)

    def room(self, count: int, each: int, left: int) -> None:
        if count > (self.size - self.pos) // each:
            raise self.fail(f"an array of {count:,} values runs past the end of the {self.whole}")
        if count > left:
            raise self.fail(f"an array of {count:,} values, more than the {left:,} that a file may still have")


def _other_version(version: int) -> str:
    """Why a file of this version is not read, and what to do."""
    if version & 0xFFFF == 0:
        return "is a big-endian GGUF, expected little-endian; turn it around with `gguf-convert-endian FILE little`"
    cure = (
        "a newer gemma4gguf may read it" if version > VERSION else "convert its checkpoint again, or get a newer file"
    )
    return f"GGUF version {version} is not supported (expected {VERSION}); {cure}"


def read_header(data: Slices, start: int, where: str, allowance: Allowance | None = None) -> Header:
    """Parse the GGUF that begins at byte `start` of `data`. `where` names the file in errors.

    `allowance`: the limits, shared by all headers of a file. Raises FormatError for anything that is not a well-formed
    little-endian GGUF v3 inside the file's bounds.
    """
    left = allowance or Allowance()
    at = _Cursor(data, start, where, left)
    if len(data) - start < 24 or data[start : start + 4] != MAGIC:
        found = bytes(data[start : start + 4])
        kind = next((f": {what}" for begin, what in _OTHERS.items() if found.startswith(begin)), "")
        raise FormatError(f"{where}: not a GGUF file (it starts with {found!r}, expected {MAGIC!r}){kind}")
    at.pos += 4
    version = at.number(_U32)
    if version != VERSION:
        raise FormatError(f"{where}: {_other_version(version)}")
    tensor_count, pair_count = at.number(_U64), at.number(_U64)
    if tensor_count > left.tensors or pair_count > left.keys:
        raise at.fail(f"{tensor_count:,} tensors and {pair_count:,} keys (at most {left.limits.entries:,} of each)")
    left.tensors -= tensor_count
    left.keys -= pair_count

    metadata: dict[str, Any] = {}
    pairs: dict[str, bytes] = {}
    for key, value, raw in _pairs(at, pair_count):
        if key in metadata:
            raise at.fail(f"the key {key!r:.80} a second time")
        metadata[key], pairs[key] = value, raw
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 8 <= alignment <= left.limits.alignment or alignment & (alignment - 1):
        raise FormatError(f"{where}: general.alignment is {alignment!r:.80}, expected a power of two")

    tensors: dict[str, TensorInfo] = {}
    for _ in range(tensor_count):
        info = _tensor_info(at)
        if info.name in tensors:
            raise at.fail(f"the tensor {info.name!r:.80} a second time")
        if info.offset % alignment:
            raise at.fail(f"the tensor {info.name!r:.80} at offset {info.offset}, not a multiple of {alignment}")
        tensors[info.name] = info
    left.bytes -= at.pos - start
    data_start = start + padded(at.pos - start, alignment)
    last = max((t.offset + t.nbytes for t in tensors.values()), default=0)
    if tensors and data_start + last > len(data):
        missing = data_start + last - len(data)
        raise FormatError(f"{where}: truncated: {missing:,} bytes of tensor data are missing; get the file again")
    return Header(
        start=start,
        data_start=data_start,
        end=min(len(data), data_start + padded(last, alignment)),
        alignment=alignment,
        metadata=metadata,
        tensors=tensors,
        pairs=pairs,
    )


def leading_keys(data: bytes) -> dict[str, Any]:
    """The first keys of a GGUF whose first bytes are `data`: those that are whole there. Empty for other files."""
    at, found = _Cursor(data, 8, "head", Allowance()), dict[str, Any]()
    if data[:4] == MAGIC:
        with suppress(FormatError):  # the bytes end somewhere
            _, count = at.number(_U64), at.number(_U64)
            found.update((key, value) for key, value, _ in _pairs(at, count))
    return found


def _pairs(at: _Cursor, count: int) -> Iterator[tuple[str, Any, bytes]]:
    """Each key with its value, read and as bytes."""
    for _ in range(count):
        begin = at.pos
        key, value = at.name("a key"), at.value()
        yield key, value, at.data[begin : at.pos]


def _tensor_info(at: _Cursor) -> TensorInfo:
    name = at.name("a tensor name")
    dimensions = at.number(_U32)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise at.fail(f"the tensor {name!r:.80} with {dimensions} dimensions")
    shape = tuple(at.number(_U64) for _ in range(dimensions))[::-1]
    kind, offset = at.number(_U32), at.number(_U64)
    try:
        kind = GGMLQuantizationType(kind)
    except ValueError:
        raise at.fail(f"the tensor {name!r:.80} of unknown type {kind}") from None
    block = GGML_QUANT_SIZES[kind][0]
    if any(not 1 <= n < 1 << 40 for n in shape) or shape[-1] % block:
        raise at.fail(f"the tensor {name!r:.80} of shape {list(shape)} in blocks of {block}")
    return TensorInfo(name, shape, kind, offset)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def encode_string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return _U64.pack(len(raw)) + raw


def encode_pair(key: str, kind: GGUFValueType, value: Any) -> bytes:
    """One key with a scalar or string value of type `kind`."""
    body = encode_string(value) if kind is GGUFValueType.STRING else _SCALARS[kind].pack(value)
    return encode_string(key) + _U32.pack(kind) + body


def encode_array(key: str, kind: GGUFValueType, values: Sequence[Any]) -> bytes:
    """One key with an array of `kind`. Raises ValueError for an empty array, which some GGUF readers refuse."""
    if not values:
        raise ValueError(f"{key}: an empty array cannot be stored")
    if kind is GGUFValueType.STRING:
        body = b"".join(map(encode_string, values))
    else:
        body = struct.pack(f"<{len(values)}{_SCALARS[kind].format[1:]}", *values)
    return encode_string(key) + _U32.pack(GGUFValueType.ARRAY) + _U32.pack(kind) + _U64.pack(len(values)) + body


def encode_header(pairs: Iterable[bytes], tensors: Iterable[TensorInfo], alignment: int = DEFAULT_ALIGNMENT) -> bytes:
    """A whole header, padded up to the start of the tensor data."""
    pairs, tensors = list(pairs), list(tensors)
    out = [MAGIC, _U32.pack(VERSION), _U64.pack(len(tensors)), _U64.pack(len(pairs)), *pairs]
    for t in tensors:
        out += [encode_string(t.name), _U32.pack(len(t.shape)), *(_U64.pack(n) for n in reversed(t.shape))]
        out += [_U32.pack(t.type), _U64.pack(t.offset)]
    header = b"".join(out)
    return header + bytes(padded(len(header), alignment) - len(header))


def place_tensors(
    tensors: Iterable[tuple[str, tuple[int, ...], GGMLQuantizationType]], alignment: int = DEFAULT_ALIGNMENT
) -> list[TensorInfo]:
    """Lay (name, shape, type) tensors out one after another, each offset a multiple of `alignment`, in bytes."""
    out, offset = [], 0
    for name, shape, kind in tensors:
        out.append(TensorInfo(name, shape, kind, offset))
        offset += padded(out[-1].nbytes, alignment)
    return out
