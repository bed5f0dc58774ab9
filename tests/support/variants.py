"""Variants of a checkpoint: a copy with changed files, and safetensors read and written without a library.

In: a checkpoint folder. Out: another one. Tensors are (dtype, shape, bytes) by name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TINY = Path(__file__).parent.parent.parent / "models" / "tiny"
VOCABULARY, EMBEDDING = 2048, "model.language_model.embed_tokens.weight"  # of the tiny model
Tensor = tuple[str, list[int], bytes]


def copy(out: Path, *, source: Path = TINY, without: Collection[str] = ()) -> Path:
    """A copy of a checkpoint in the folder `out`."""
    out.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in without:
            shutil.copy(file, out)
    return out


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def load(path: Path) -> dict[str, Tensor]:
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    return {
        name: (e["dtype"], e["shape"], raw[start + e["data_offsets"][0] : start + e["data_offsets"][1]])
        for name, e in header.items()
    }


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    blob = json.dumps(header).encode()
    path.write_bytes(len(blob).to_bytes(8, "little") + blob + b"".join(data for _, _, data in tensors.values()))


def float32(values: NDArray[Any]) -> Tensor:
    return "F32", list(values.shape), np.ascontiguousarray(values, "<f4").tobytes()


def values(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor's values as float32."""
    dtype, shape, data = tensor
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32).reshape(shape)


def add_tokens(folder: Path, *texts: str, special: bool = True, resize: int = 0) -> None:
    """Add tokens to the tiny model's tokenizer, and `resize` rows to its embedding and its config."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    added = [{"id": VOCABULARY + i, "content": text, **flags} for i, text in enumerate(texts)]
    edit(folder / "tokenizer.json", lambda t: t["added_tokens"].extend(added))
    if resize:
        tensors = load(folder / "model.safetensors")
        dtype, (rows, width), data = tensors[EMBEDDING]
        grown = (dtype, [rows + resize, width], data + bytes(2 * width * resize))
        save(folder / "model.safetensors", tensors | {EMBEDDING: grown})
        edit(folder / "config.json", lambda c: c["text_config"].update(vocab_size=rows + resize))
