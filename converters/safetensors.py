"""Reads the tensor tables of safetensors files: names, types, shapes and offsets, not the data.

In: a file, untrusted. Out: `StoredTensor`s whose offsets lie inside the file. Knows nothing of models.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType

from gemma4gguf.bundle.container import tensor_nbytes
from gemma4gguf.errors import ConversionError
from gemma4gguf.limits import current

from .jsonfile import parse

TYPES = {
    "BF16": GGMLQuantizationType.BF16,
    "F16": GGMLQuantizationType.F16,
    "F32": GGMLQuantizationType.F32,
}
MAX_DIMENSION = 1 << 40
MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: `shape` rows first, its data from byte `offset` of `path`."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    path: Path
    offset: int

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.shape, self.type)


def listed(names: list[str], limit: int = 12) -> str:
    """Names for a message: the first `limit`, and how many more there are."""
    more = len(names) - limit
    shown = (n if n.isprintable() and len(n) <= 200 else repr(n[:200]) for n in names[:limit])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def read_file(path: Path, ignored: Callable[[str], bool] = lambda name: False) -> dict[str, StoredTensor]:
    """The tensor table of one safetensors file, without the names that are `ignored`."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if length > min(size - 8, current().table_bytes):
                raise _damaged(path, f"its header of {length:,} bytes runs past the end of the file ({size:,} bytes)")
            header = parse(file.read(length))
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    start = 8 + length
    return {name: _stored(path, name, entry, start, size) for name, entry in header.items() if not ignored(name)}


def described(path: Path, entries: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Tensors of a file that was not downloaded, from the entries of its header."""
    return {name: _stored(path, name, entry, 0, 1 << 62) for name, entry in entries.items()}


def _stored(path: Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = len(shape) <= MAX_DIMENSIONS and all(
            type(n) is int and 0 <= n <= MAX_DIMENSION for n in (*shape, begin, end)
        )
    except (TypeError, KeyError, ValueError):
        whole, dtype, shape, begin, end = False, None, (), 0, 0
    if not whole:
        raise _damaged(path, f"the entry of {name!r:.200} is not a dtype, a shape and two offsets")
    kind = TYPES.get(dtype) if isinstance(dtype, str) else None
    if kind is None:
        raise ConversionError(
            f"{path}: {name!r:.200} is stored as {dtype!r:.40}, expected {', '.join(TYPES)}; "
            "take the checkpoint that was not quantised"
        )
    width = 4 if kind is GGMLQuantizationType.F32 else 2
    if end - begin != prod(shape) * width:
        raise _damaged(
            path, f"{name!r:.200} of shape {list(shape)} takes {prod(shape) * width:,} bytes, not {end - begin:,}"
        )
    if start + end > size:
        raise _damaged(path, f"{name!r:.200} ends at byte {start + end:,}, the file at {size:,}")
    return StoredTensor(name, shape, kind, path, start + begin)


def _damaged(path: Path, what: str) -> ConversionError:
    return ConversionError(f"{path}: {what}; the file is damaged or incomplete, get it again")
