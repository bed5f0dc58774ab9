"""Reads the tensor tables of safetensors files: names, types, shapes and offsets, not the data.

In: a checkpoint folder, untrusted. Out: `StoredTensor`s whose offsets lie inside their files. Knows nothing of models.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType

from gemma4gguf.bundle.container import tensor_nbytes
from gemma4gguf.errors import ConversionError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
TYPES = {
    "BF16": GGMLQuantizationType.BF16,
    "F16": GGMLQuantizationType.F16,
    "F32": GGMLQuantizationType.F32,
}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from an untrusted file."""
    try:
        raw = path.read_bytes()
        value = json.loads(raw)
        if _SURROGATE.search(raw):  # JSON can escape half a surrogate pair, which UTF-8 cannot encode
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise ConversionError(f"{path}: no such file; get the whole checkpoint again") from None
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: is not JSON ({error}); get it again") from None
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: holds a {type(value).__name__}, expected a JSON object; get it again")
    return value


def read_folder(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint folder, single-file or sharded, by name.

    Raises ConversionError for a folder without weights, a missing shard (named, with its tensors), or a damaged file.
    """
    index = folder / INDEX
    if index.is_file():
        return _read_shards(folder, _weight_map(index))
    single = folder / SINGLE
    if single.is_file():
        return read_file(single)
    loose = sorted(folder.glob("*.safetensors"))
    if len(loose) == 1 and not loose[0].name.startswith("adapter"):
        return read_file(loose[0])
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        raise ConversionError(f"{folder}: holds pickled weights only; save the model as safetensors first")
    what = f"{len(loose)} safetensors files but no {INDEX}" if loose else f"neither {SINGLE} nor {INDEX}"
    raise ConversionError(f"{folder}: has {what}; get the whole checkpoint again")


def weight_files(folder: Path) -> list[str]:
    """Names of the weights files that a folder's index names; without an index, the single file's."""
    index = folder / INDEX
    return sorted(set(_weight_map(index).values())) if index.is_file() else [SINGLE]


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ConversionError(f"{index}: has no weight_map; get it again")
    bad = next((v for v in found.values() if Path(v).name != v or not v.endswith(".safetensors")), None)
    if bad is not None:
        raise ConversionError(f"{index}: names the file {bad!r}, expected a .safetensors file beside it")
    return found


def _read_shards(folder: Path, weight_map: Mapping[str, str]) -> dict[str, StoredTensor]:
    names = sorted(set(weight_map.values()))
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
        tensors = sorted(t for t, file in weight_map.items() if file in missing)
        raise ConversionError(
            f"{folder}: {'shard' if len(missing) == 1 else 'shards'} {', '.join(missing)} missing, with "
            f"{listed(tensors)}; get the whole checkpoint again"
        )
    found: dict[str, StoredTensor] = {}
    for name in names:
        found |= read_file(folder / name)
    lost = sorted(t for t, file in weight_map.items() if t not in found or found[t].path.name != file)
    if lost:
        raise ConversionError(f"{folder}: {INDEX} promises {listed(lost)}, not in the files it names; get them again")
    return found


def listed(names: list[str], limit: int = 12) -> str:
    """Names for a message: the first `limit`, and how many more there are."""
    more = len(names) - limit
    shown = (n if n.isprintable() and len(n) <= 200 else repr(n[:200]) for n in names[:limit])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def read_file(path: Path) -> dict[str, StoredTensor]:
    """The tensor table of one safetensors file."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise _damaged(path, f"its header of {length:,} bytes runs past the end of the file ({size:,} bytes)")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    start = 8 + length
    return {name: _stored(path, name, entry, start, size) for name, entry in header.items()}


def described(path: Path, entries: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Tensors of a file that was not downloaded, from the entries of its header."""
    return {name: _stored(path, name, entry, 0, 1 << 62) for name, entry in entries.items()}


def _stored(path: Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole, dtype, shape, begin, end = False, None, (), 0, 0
    if not whole:
        raise _damaged(path, f"the entry of {name!r} is not a dtype, a shape and two offsets")
    kind = TYPES.get(dtype) if isinstance(dtype, str) else None
    if kind is None:
        raise ConversionError(
            f"{path}: {name!r} is stored as {dtype}, expected {', '.join(TYPES)}; "
            "take the checkpoint that was not quantised"
        )
    width = 4 if kind is GGMLQuantizationType.F32 else 2
    if end - begin != prod(shape) * width:
        raise _damaged(
            path, f"{name!r} of shape {list(shape)} takes {prod(shape) * width:,} bytes, not {end - begin:,}"
        )
    if start + end > size:
        raise _damaged(path, f"{name!r} ends at byte {start + end:,}, the file at {size:,}")
    return StoredTensor(name, shape, kind, path, start + begin)


def _damaged(path: Path, what: str) -> ConversionError:
    return ConversionError(f"{path}: {what}; the file is damaged or incomplete, get it again")
