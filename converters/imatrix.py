"""Reads and writes importance matrices, llama.cpp's files: how much each column of a weight matters.

In: a file, untrusted, GGUF or the older .dat. Out: for each tensor float32 [columns], the values that llama-quantize
reads; or the sums behind them, which can be written as a GGUF again. Knows of a model only the names and widths of its
tensors, to refuse another model's file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from gemma4gguf.arguments import local_path
from gemma4gguf.bundle.container import encode_array, encode_header, encode_pair, padded, place_tensors, read_header
from gemma4gguf.bundle.newfile import new_file
from gemma4gguf.errors import ConversionError, FormatError, InputError

from .safetensors import listed

FloatArray = NDArray[np.float32]
SUMS, COUNTS = ".in_sum2", ".counts"
TASK = "gemma4gguf.imatrix.task"
WEIGHT_NAMES, WEIGHTS = "gemma4gguf.imatrix.weight_names", "gemma4gguf.imatrix.weights"
CHUNK_SIZE = 512  # tokens of a piece of text
LOGITS = ("token_embd.weight", "output.weight")  # llama-imatrix omits them, or its values do not apply to them
MAX_VALUES = 1 << 24  # of one entry
MAX_ENTRIES = 1 << 16


@dataclass(frozen=True)
class ImportanceMatrix:
    """`values[name]` is float32 [columns]. `dataset`, `chunks`: the text it was computed on; None, 0 if unknown.

    `weights`: how much the error of each matrix changes the predictions, where that was measured.
    """

    path: Path
    values: Mapping[str, FloatArray]
    dataset: str | None
    chunks: int
    weights: Mapping[str, float] = field(default_factory=dict)

    def pairs(self) -> dict[str, bytes]:
        """The keys that llama-quantize writes about an importance matrix; the file's name without its folder."""
        u32, text = GGUFValueType.UINT32, GGUFValueType.STRING
        table = [
            ("file", text, self.path.name),
            ("dataset", text, self.dataset),
            ("entries_count", u32, len(self.values)),
            ("chunks_count", u32, self.chunks or None),
        ]
        named = ((f"quantize.imatrix.{key}", kind, value) for key, kind, value in table if value is not None)
        return {key: encode_pair(key, kind, value) for key, kind, value in named}

    def check(self, widths: Mapping[str, int]) -> tuple[str, ...]:
        """Names of the tensors that have no values here. `widths`: the quantisable tensors and their columns.

        Raises ConversionError for another model's file.
        """
        unknown = sorted(n for n in self.values if n not in widths and n not in LOGITS)
        wrong = sorted(
            f"{n} has {v.size:,} values, expected {widths[n]:,}"
            for n, v in self.values.items()
            if n in widths and n not in LOGITS and v.size != widths[n]
        )
        if unknown or wrong:
            found = wrong or [f"{n} is not in this model" for n in unknown]
            raise ConversionError(
                f"{self.path}: belongs to another model: {listed(found, 3)}; compute this model's with llama-imatrix"
            )
        return tuple(n for n in widths if n not in self.values and n not in LOGITS)

    def of(self, name: str, width: int) -> FloatArray | None:
        """A tensor's values, float32 [width], or None."""
        found = self.values.get(name)
        return found if found is not None and found.size == width else None


@dataclass(frozen=True)
class Sums:
    """What a GGUF importance matrix stores: by tensor, sums of squares float32 [columns] and the rows they are over.

    `chunks`: pieces of text and media that were evaluated. `task`: what an unfinished one is for, else empty.
    `weights`: see `ImportanceMatrix`.
    """

    sums: Mapping[str, FloatArray]
    counts: Mapping[str, float]
    datasets: tuple[str, ...]
    chunks: int
    task: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)

    def matrix(self, path: Path) -> ImportanceMatrix:
        """The values that llama-quantize reads."""
        counts = {name: np.float32(np.rint(count)) for name, count in self.counts.items()}
        values = {n: s / counts[n] if counts[n] > 0 else np.ones_like(s) for n, s in self.sums.items()}
        return ImportanceMatrix(path, values, self.datasets[0] if self.datasets else None, self.chunks, self.weights)


def read_imatrix(path: str | Path) -> ImportanceMatrix:
    """Read an importance matrix. Raises InputError (no such file) or ConversionError (damaged or another kind)."""
    path = local_path(path)
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: cannot be read as an importance matrix ({error})") from None
    with data:
        try:
            found = _read_gguf(path, data).matrix(path) if data[:4] == b"GGUF" else _read_legacy(path, data)
        except FormatError as error:
            raise ConversionError(str(error)) from None
    bad = sorted(n for n, v in found.values.items() if not np.isfinite(v).all() or (v < 0).any())
    if bad or not found.values:
        what = f"values of {listed(bad, 3)} are not finite" if bad else "no entries"
        raise ConversionError(f"{path}: {what}; compute the importance matrix again")
    return found


def read_sums(path: str | Path) -> Sums:
    """Read a GGUF importance matrix as it is stored. Raises as `read_imatrix` does."""
    path = local_path(path)
    read_imatrix(path)  # so that a damaged one is told of, whichever way
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ConversionError(f"{path}: is an importance matrix of the older kind, which cannot be added to")
        return _read_gguf(path, data)


def write_sums(path: Path, found: Sums, *, force: bool) -> None:
    """Write an importance matrix as llama-imatrix does. Raises ConversionError."""
    u32, f32, text = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING
    pairs = [
        encode_pair("general.type", text, "imatrix"),
        encode_array("imatrix.datasets", text, found.datasets or ("unknown",)),
        encode_pair("imatrix.chunk_count", u32, found.chunks),
        encode_pair("imatrix.chunk_size", u32, CHUNK_SIZE),
        *([encode_pair(TASK, text, found.task)] if found.task else []),
        *([encode_array(WEIGHT_NAMES, text, list(found.weights))] if found.weights else []),
        *([encode_array(WEIGHTS, f32, list(found.weights.values()))] if found.weights else []),
    ]
    arrays: dict[str, FloatArray] = {}
    for name in sorted(found.sums):
        arrays[name + SUMS] = found.sums[name].reshape(1, -1)
        arrays[name + COUNTS] = np.full((1, 1), found.counts[name], np.float32)
    table = place_tensors((name, values.shape, GGMLQuantizationType.F32) for name, values in arrays.items())
    header = encode_header(pairs, table)
    size = len(header) + sum(padded(t.nbytes) for t in table)
    with new_file(path, size, force=force) as file:
        file.write(header)
        for values in arrays.values():
            file.write(values.tobytes() + bytes(padded(values.nbytes) - values.nbytes))


def _read_gguf(path: Path, data: mmap.mmap) -> Sums:
    header = read_header(data, 0, str(path))
    if header.metadata.get("general.type") != "imatrix" and not any(n.endswith(SUMS) for n in header.tensors):
        raise ConversionError(f"{path}: is a GGUF but no importance matrix; expected what llama-imatrix writes")

    def array(name: str) -> FloatArray:
        info = header.tensors.get(name)
        if info is None or info.type is not GGMLQuantizationType.F32:
            raise ConversionError(f"{path}: has no float32 tensor {name!r}; compute the importance matrix again")
        found: FloatArray = np.frombuffer(data, np.float32, info.nbytes // 4, header.data_start + info.offset).copy()
        return found

    sums, counts = {}, {}
    for name in header.tensors:
        if name.endswith(SUMS):
            tensor = name.removesuffix(SUMS)
            sums[tensor], count = array(name), array(tensor + COUNTS)
            if count.size != 1:
                raise ConversionError(f"{path}: {tensor} has {count.size} experts; it belongs to another model")
            counts[tensor] = float(count[0])
    datasets, chunks = (header.metadata.get(f"imatrix.{key}") for key in ("datasets", "chunk_count"))
    named = tuple(d for d in datasets if isinstance(d, str) and d) if isinstance(datasets, Sequence) else ()
    task = header.metadata.get(TASK)
    chunks = chunks if type(chunks) is int and chunks > 0 else 0
    names, numbers = (header.metadata.get(key) for key in (WEIGHT_NAMES, WEIGHTS))
    weights = {}
    if isinstance(names, Sequence) and isinstance(numbers, Sequence):
        weights = {str(n): float(w) for n, w in zip(names, numbers, strict=False) if isinstance(w, float) and w >= 0}
    return Sums(sums, counts, named, chunks, task if isinstance(task, str) else "", weights)


def _read_legacy(path: Path, data: mmap.mmap) -> ImportanceMatrix:
    at = _Cursor(path, data)
    values = {}
    for _ in range(at.number(MAX_ENTRIES)):
        name = at.text()
        calls = at.number((1 << 31) - 1, least=-(1 << 31))
        sums = at.floats()
        values[name] = sums / np.float32(calls) if calls > 0 else sums
    chunks = at.number((1 << 31) - 1) if at.left else 0
    dataset = at.text() if at.left else None
    return ImportanceMatrix(path, values, dataset or None, chunks)


class _Cursor:
    """Reads an untrusted .dat file from front to back."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ConversionError(f"{self.path}: is no importance matrix, or a damaged one (byte {self.at:,})")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, most: int, least: int = 0) -> int:
        (value,) = struct.unpack("<i", self.take(4))
        if not least <= value <= most:
            raise ConversionError(f"{self.path}: is no importance matrix, or a damaged one (byte {self.at:,})")
        return int(value)

    def text(self) -> str:
        return self.take(self.number(1 << 16)).decode("utf-8", "replace")

    def floats(self) -> FloatArray:
        found: FloatArray = np.frombuffer(self.take(4 * self.number(MAX_VALUES, least=1)), np.float32).copy()
        return found
