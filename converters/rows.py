"""Reads rows of stored tensors: their bytes, or exact float32 values.

In: where a tensor is stored, and which rows. Out: uint8 or float32 arrays, in buffers that one thread uses again and
again. Knows nothing of what is done with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np
from gguf import GGMLQuantizationType as T
from numpy.typing import NDArray

from gemma4gguf.bundle.container import tensor_nbytes
from gemma4gguf.errors import ConversionError

from .gemma4 import LowRank
from .safetensors import StoredTensor

SLAB = 1 << 20  # values in one piece of work: 4 MB as float32, which stays in a core's cache

Bytes = NDArray[np.uint8]
FloatArray = NDArray[np.float32]


class Rows:
    """One thread's reader. What it returns is overwritten by the next call."""

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def raw(self, stored: StoredTensor, start: int, stop: int) -> Bytes:
        """The stored bytes of rows `start` to `stop`. Raises ConversionError when they cannot be read."""
        each = tensor_nbytes((_width(stored),), stored.type)
        raw = self._buffer("raw", (stop - start) * each)
        try:
            # Read, not mapped: when a file shrinks or a disk fails, a read is an error, but a map kills the process.
            with open(stored.path, "rb", buffering=0) as file:
                file.seek(stored.offset + start * each)
                view, done = raw.data, 0
                while done < len(view):
                    count = file.readinto(view[done:])
                    if not count:
                        raise ConversionError(
                            f"{stored.path}: ended inside {stored.name!r}; it changed while it was read"
                        )
                    done += count
        except OSError as error:
            raise ConversionError(f"{stored.path}: {stored.name!r} cannot be read ({error.strerror})") from None
        return raw

    def floats(self, kind: T, raw: Bytes, width: int) -> FloatArray:
        """Stored bytes of F32, BF16, F16 or Q8_0 as float32 [n, width], exact."""
        if kind is T.F32:
            stored: FloatArray = raw.view(np.float32).reshape(-1, width)
            return stored
        if kind is T.Q8_0:
            blocks = raw.reshape(-1, 34)  # a float16 scale and 32 int8 each
            scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
            values: FloatArray = blocks[:, 2:].view(np.int8).astype(np.float32) * scales
            return values.reshape(-1, width)
        halves = raw.view(np.uint16)
        out: FloatArray = self._buffer("floats", halves.size * 4).view(np.float32)
        if kind is T.BF16:  # the upper half of a float32
            np.left_shift(halves, np.uint32(16), out=out.view(np.uint32), casting="unsafe")
        else:
            out[:] = halves.view(np.float16)
        return out.reshape(-1, width)

    def read(self, stored: StoredTensor, start: int, stop: int) -> FloatArray:
        """Rows `start` to `stop` as float32 [n, width], exact."""
        return self.floats(stored.type, self.raw(stored, start, stop), _width(stored))

    def _buffer(self, name: str, size: int) -> Bytes:
        held = self._buffers.get(name)
        if held is None or held.size < size:
            held = self._buffers[name] = np.empty(size, np.uint8)
        return held[:size]


def _width(stored: StoredTensor) -> int:
    return stored.shape[-1] if stored.shape else 1


def change_rows(change: LowRank, start: int, stop: int) -> FloatArray:
    """Rows `start` to `stop` of what an adapter adds, float32 [n, columns]."""
    a, b = change.a, change.b
    rank = a.shape[0]
    if not change.embedding:
        added: FloatArray = (Rows().read(b, start, stop) * change.scale) @ Rows().read(a, 0, rank)
        return added
    rows = np.empty((rank, stop - start), np.float32)
    reader, row = Rows(), replace(a, shape=(a.shape[1], 1))  # each of a's rows in turn, and of it only some columns
    for i in range(rank):
        first = i * a.shape[1]
        rows[i] = reader.read(row, first + start, first + stop)[:, 0]
    transposed: FloatArray = (rows.T * change.scale) @ whole(b).T
    return transposed


def slabs(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces that hold about SLAB values each."""
    step = max(1, SLAB // width)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def spread(rows: int, each: int, places: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of `each` rows, or all there are, at up to `places` places from the first row to the last."""
    each = min(each, rows)
    for start in sorted({i * (rows - each) // (places - 1) for i in range(places)}):
        yield start, start + each


def whole(stored: StoredTensor) -> FloatArray:
    """A small tensor as float32, in its own shape."""
    values: FloatArray = np.empty(stored.shape, np.float32)
    values[...] = Rows().read(stored, 0, prod(stored.shape[:-1])).reshape(stored.shape)
    return values


def equal(one: StoredTensor, other: StoredTensor, rows: int) -> bool:
    """Whether the first `rows` rows of two matrices hold the same values. Stops reading at the first difference."""
    if _width(one) != _width(other) or any(len(t.shape) != 2 or t.shape[0] < rows for t in (one, other)):
        return False
    left, right = Rows(), Rows()
    for start, stop in slabs(rows, _width(one)):
        if one.type is other.type:
            same = np.array_equal(left.raw(one, start, stop), right.raw(other, start, stop))
        else:
            same = np.array_equal(left.read(one, start, stop), right.read(other, start, stop))
        if not same:
            return False
    return True
