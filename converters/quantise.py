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
from math import prod
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as T
from numpy.typing import NDArray

from gemma4gguf.bundle.container import padded, tensor_nbytes
from gemma4gguf.errors import ConversionError, NativeError
from gemma4gguf.native import quantizer

from .gemma4 import MappedTensor
from .safetensors import StoredTensor

SLAB = 1 << 20  # values in one piece of work: 4 MB as float32, which stays in a core's cache
AHEAD = 2  # slabs per thread that may be in work or wait to be written

Bytes = NDArray[np.uint8]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written as `type`; `importance` is float32 [columns], or None."""

    tensor: MappedTensor
    type: T
    importance: FloatArray | None = None

    @property
    def rows(self) -> int:
        return prod(self.tensor.shape[:-1])

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.tensor.shape, self.type)


def pieces(tensors: Sequence[PlannedTensor], threads: int) -> Iterator[Bytes]:
    """The tensors' data, each padded to the alignment of a GGUF.

    Raises ConversionError that names the tensor when it holds values that cannot be stored, or cannot be read.
    """
    jobs = (job for planned in tensors for job in _jobs(planned))
    scratch = threading.local()
    pool = ThreadPoolExecutor(threads, "quantise")
    waiting: deque[Future[Bytes]] = deque()
    with quantizer.quantizer():
        try:
            for planned, start, stop in jobs:
                waiting.append(pool.submit(_slab, scratch, planned, start, stop))
                if len(waiting) > threads * AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also after Ctrl-C or a full disk
            pool.shutdown(wait=True, cancel_futures=True)


def _jobs(planned: PlannedTensor) -> Iterator[tuple[PlannedTensor, int, int]]:
    step = max(1, SLAB // planned.tensor.shape[-1])
    if planned.tensor.transpose or planned.tensor.values is not None:
        step = planned.rows  # these tensors are small; a transposed one's rows are not contiguous
    for start in range(0, planned.rows, step):
        yield planned, start, min(start + step, planned.rows)


def _slab(scratch: Any, planned: PlannedTensor, start: int, stop: int) -> Bytes:
    """Rows `start` to `stop` of a tensor as bytes of its new type, with padding after the last row."""
    tensor, width = planned.tensor, planned.tensor.shape[-1]
    if tensor.values is not None:
        out = _quantised(planned, tensor.values.reshape(-1, width)[start:stop])
    else:
        assert tensor.stored is not None
        stored = tensor.stored
        raw = _read(scratch, planned, stored, start, stop)
        if stored.type is planned.type and tensor.columns is None:
            _check_copied(planned, stored, raw)
            out = raw.copy()
        else:
            rows = _floats(scratch, stored.type, raw, width)
            if tensor.columns is not None:
                rows = np.ascontiguousarray(rows[:, tensor.columns])
            if not np.isfinite(rows).all():
                raise _not_finite(planned, stored)
            out = _quantised(planned, rows)
    if stop < planned.rows:
        return out
    tail = padded(planned.nbytes) - planned.nbytes
    return np.concatenate([out, np.zeros(tail, np.uint8)]) if tail else out


def _quantised(planned: PlannedTensor, rows: FloatArray) -> Bytes:
    if planned.type is T.F32:
        return np.array(rows, np.float32).reshape(-1).view(np.uint8)
    try:
        return quantizer.quantize_rows(rows, planned.type, planned.importance).reshape(-1)
    except NativeError as error:
        raise ConversionError(f"{planned.tensor.name}: {error}; choose another type for it with --type") from None


def _read(scratch: Any, planned: PlannedTensor, stored: StoredTensor, start: int, stop: int) -> Bytes:
    """The stored bytes of rows `start` to `stop`. With `transpose`: of all rows, transposed."""
    width = stored.shape[-1] if stored.shape else 1
    each = tensor_nbytes((width,), stored.type)
    raw = _buffer(scratch, "raw", (stop - start) * each)
    try:
        # Read, not mapped: when a file shrinks or a disk fails, a read returns an error and a map kills the process.
        with open(stored.path, "rb", buffering=0) as file:
            file.seek(stored.offset + start * each)
            view, done = raw.data, 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise ConversionError(f"{stored.path}: ended inside {stored.name!r}; it changed while it was read")
                done += count
    except OSError as error:
        raise ConversionError(f"{stored.path}: {stored.name!r} cannot be read ({error.strerror})") from None
    if planned.tensor.transpose:
        first, second = stored.shape[:2]
        return np.ascontiguousarray(raw.reshape(first, second, -1).transpose(1, 0, 2)).reshape(-1)
    return raw


def _floats(scratch: Any, kind: T, raw: Bytes, width: int) -> FloatArray:
    """Stored bytes as float32 [n, width], exact. The result may share one of this thread's buffers."""
    if kind is T.F32:
        stored: FloatArray = raw.view(np.float32).reshape(-1, width)
        return stored
    if kind is T.Q8_0:
        blocks = raw.reshape(-1, 34)  # a float16 scale and 32 int8 each
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        values: FloatArray = blocks[:, 2:].view(np.int8).astype(np.float32) * scales
        return values.reshape(-1, width)
    halves = raw.view(np.uint16)
    out: FloatArray = _buffer(scratch, "floats", halves.size * 4).view(np.float32)
    if kind is T.BF16:  # the upper half of a float32
        np.left_shift(halves, np.uint32(16), out=out.view(np.uint32), casting="unsafe")
    else:
        out[:] = halves.view(np.float16)
    return out.reshape(-1, width)


def _buffer(scratch: Any, name: str, size: int) -> Bytes:
    """`size` bytes, uint8; this thread uses the same memory again for each slab."""
    held: Bytes | None = getattr(scratch, name, None)
    if held is None or held.size < size:
        held = np.empty(size, np.uint8)
        setattr(scratch, name, held)
    return held[:size]


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
