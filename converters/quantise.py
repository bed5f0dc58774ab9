"""Makes the tensor data of a section: reads and quantises slabs of rows on several threads.

In: planned tensors, in order. Out: pieces of bytes, in order; the number of threads does not change them. Memory is
bounded by the slabs, except for the few small tensors that are computed or transposed. Knows nothing of headers or
models.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from gguf import GGMLQuantizationType as T

from gemma4gguf.bundle.container import padded, tensor_nbytes
from gemma4gguf.errors import ConversionError, NativeError
from gemma4gguf.native import quantizer

from . import grid
from .gemma4 import MappedTensor
from .rows import Bytes, FloatArray, Rows, change_rows, slabs
from .safetensors import StoredTensor

AHEAD = 2  # slabs per thread that may be in work or wait to be written
Slab = tuple[Bytes, grid.Count | None]


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written as `type`; `importance` is float32 [columns], or None. `lattice`: what it lies on."""

    tensor: MappedTensor
    type: T
    importance: FloatArray | None = None
    lattice: grid.Lattice | None = None

    @property
    def rows(self) -> int:
        return prod(self.tensor.shape[:-1])

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.tensor.shape, self.type)


def pieces(
    tensors: Sequence[PlannedTensor], threads: int, counts: dict[str, grid.Count] | None = None
) -> Iterator[Bytes]:
    """The tensors' data, each padded to the alignment of a GGUF. `counts` gets how those on a grid were stored.

    Raises ConversionError that names the tensor when it holds values that cannot be stored, or cannot be read.
    """
    jobs = (job for planned in tensors for job in _jobs(planned))
    scratch = _Scratch()
    pool = ThreadPoolExecutor(threads, "quantise")
    waiting: deque[tuple[str, Future[Slab]]] = deque()

    def written() -> Bytes:
        name, future = waiting.popleft()
        data, count = future.result()
        if count is not None and counts is not None:
            counts[name] = counts.get(name, grid.Count()) + count
        return data

    with quantizer.quantizer():
        try:
            for planned, start, stop in jobs:
                waiting.append((planned.tensor.name, pool.submit(_slab, scratch, planned, start, stop)))
                if len(waiting) > threads * AHEAD:
                    yield written()
            while waiting:
                yield written()
        finally:  # also after Ctrl-C or a full disk
            pool.shutdown(wait=True, cancel_futures=True)


class _Scratch(threading.local):
    """One reader for each thread."""

    def __init__(self) -> None:
        self.rows = Rows()


def _jobs(planned: PlannedTensor) -> Iterator[tuple[PlannedTensor, int, int]]:
    if planned.tensor.transpose or planned.tensor.values is not None:
        yield planned, 0, planned.rows  # these tensors are small; a transposed one's rows are not contiguous
        return
    for start, stop in slabs(planned.rows, planned.tensor.shape[-1]):
        yield planned, start, stop


def _slab(scratch: _Scratch, planned: PlannedTensor, start: int, stop: int) -> Slab:
    """Rows `start` to `stop` of a tensor as bytes of its new type, with padding after the last row."""
    count = None
    tensor, width = planned.tensor, planned.tensor.shape[-1]
    if tensor.values is not None:
        out = _quantised(planned, tensor.values.reshape(-1, width)[start:stop])
    else:
        assert tensor.stored is not None
        stored, reader = tensor.stored, scratch.rows
        raw = reader.raw(stored, start, stop)
        if tensor.transpose:
            first, second = stored.shape[:2]
            raw = np.ascontiguousarray(raw.reshape(first, second, -1).transpose(1, 0, 2)).reshape(-1)
        if stored.type is planned.type and tensor.columns is None and tensor.change is None:
            _check_copied(planned, stored, raw)
            out = raw.copy()
        else:
            rows = reader.floats(stored.type, raw, width)
            if tensor.change is not None:
                rows = rows + change_rows(tensor.change, start, stop)
            if tensor.columns is not None:
                rows = np.ascontiguousarray(rows[:, tensor.columns])
            if not np.isfinite(rows).all():
                raise _not_finite(planned, stored)
            if planned.lattice is not None:
                out, count = grid.store(rows, planned.lattice, partial(_quantised, planned))
            else:
                out = _quantised(planned, rows)
    tail = padded(planned.nbytes) - planned.nbytes if stop == planned.rows else 0
    return np.concatenate([out, np.zeros(tail, np.uint8)]) if tail else out, count


def _quantised(planned: PlannedTensor, rows: FloatArray) -> Bytes:
    if planned.type is T.F32:
        return np.array(rows, np.float32).reshape(-1).view(np.uint8)
    try:
        return quantizer.quantize_rows(rows, planned.type, planned.importance).reshape(-1)
    except NativeError as error:
        raise ConversionError(f"{planned.tensor.name}: {error}; choose another type for it with types=") from None


def _check_copied(planned: PlannedTensor, stored: StoredTensor, raw: Bytes) -> None:
    """Raise unless bytes that are copied as they are hold finite values."""
    if stored.type is T.BF16:
        fine = bool((raw.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0) < 0x7F80)
    elif stored.type in (T.F32, T.F16):
        fine = bool(np.isfinite(raw.view(np.float32 if stored.type is T.F32 else np.float16)).all())
    else:
        fine = quantizer.is_valid(raw, stored.type)
    if not fine:
        raise _not_finite(planned, stored)


def _not_finite(planned: PlannedTensor, stored: StoredTensor) -> ConversionError:
    return ConversionError(
        f"{stored.path}: {stored.name!r} ({planned.tensor.name}) holds values that are not finite; "
        "the checkpoint is broken, get it again"
    )
