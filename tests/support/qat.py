"""Checkpoints as quantisation-aware training leaves them: bfloat16 weights that lie on a 4-bit grid, in blocks of 32.

Comes in: a checkpoint folder with bfloat16 safetensors. Goes out: the same folder, its matrices put on grids in place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize

from gemma4gguf.bundle.container import padded
from gemma4gguf.bundle.reading import read_sections
from gemma4gguf.bundle.writing import part_of, write_bundle
from tests.support.standin import bfloat16, slab

FloatArray = npt.NDArray[np.float32]
SLAB = 1 << 16  # blocks worked on at a time


def rounded(values: FloatArray) -> FloatArray:
    """float32 values as bfloat16 holds them."""
    bits = np.frombuffer(bfloat16(values), "<u2").astype(np.uint32) << np.uint32(16)
    found: FloatArray = bits.view(np.float32).reshape(values.shape)
    return found


def _spread(name: str, first: int, count: int, low: float, high: float) -> FloatArray:
    """float32 [count], from `low` to `high`, by chance."""
    middle, part = (low + high) / 2, (high - low) / 4
    return np.asarray(np.clip(middle + part * slab(name, 1, first, count), low, high), np.float32)


Steps = Callable[[FloatArray, str, int], FloatArray]


def extremum(largest: FloatArray, name: str, first: int) -> FloatArray:
    """The grid's end is the largest weight: what llama.cpp takes for granted."""
    return rounded(largest / np.float32(8))


def learned(largest: FloatArray, name: str, first: int) -> FloatArray:
    """Found in training, stored as bfloat16."""
    return rounded(largest / _spread(name, first, len(largest), 5.5, 8.5))


def learned_float32(largest: FloatArray, name: str, first: int) -> FloatArray:
    """Found in training, and kept as float32: half precision cannot hold each of them."""
    return largest / _spread(name, first, len(largest), 5.5, 8.5)


def clipped(largest: FloatArray, name: str, first: int) -> FloatArray:
    """Much smaller than the largest weight asks for: several weights sit at the grid's ends."""
    return rounded(largest / _spread(name, first, len(largest), 9, 14))


KINDS: tuple[Steps, ...] = (extremum, learned, learned_float32, clipped)


def on_grid(blocks: FloatArray, steps: Steps, name: str, first: int) -> FloatArray:
    """Blocks float32 [n, 32] on a grid, every 50th of them zero, as bfloat16 holds them."""
    step = steps(np.abs(blocks).max(1), name, first)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(step > 0, np.clip(np.rint(blocks / step), -8, 7), 0)
    found = rounded((codes * step).astype(np.float32))
    found[(-first) % 50 :: 50] = 0
    return found


def put_on_grids(folder: Path, kinds: tuple[Steps, ...] = KINDS, only: str = "") -> dict[str, Steps]:
    """Put the text matrices whose name has `only` in it on grids, one kind after another. Returns each one's kind."""
    chosen = {}
    turns = cycle(kinds)
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        data = np.memmap(path, "<u2", "r+", offset=8 + size)
        for name, entry in header.items():
            if (
                name == "__metadata__"
                or len(entry["shape"]) != 2
                or "norm" in name
                or "vision" in name
                or "audio" in name
            ):
                continue
            start, stop = (n // 2 for n in entry["data_offsets"])
            chosen[name] = next(turns)
            for first in range(0, (stop - start) // 32, SLAB):
                part = data[start + 32 * first : min(start + 32 * (first + SLAB), stop)]
                values = (part.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(-1, 32)
                part[:] = np.frombuffer(bfloat16(on_grid(values, chosen[name], name, first)), "<u2")
        data.flush()
    return chosen


def dequantised(bundle: Path, source: Path, out: Path) -> Path:
    """The text model of `bundle` in the layout of `source`, the same in F32: its values, rounded to bfloat16."""
    (held, *_), (plain, *_) = read_sections(bundle), read_sections(source)

    def data() -> Iterator[npt.NDArray[np.uint8]]:
        for name, info in plain.tensors.items():
            found = dequantize(held.raw(name), held.tensors[name].type).astype(np.float32).reshape(-1)
            values = (rounded(found) if len(info.shape) > 1 else found).view(np.uint8)
            yield np.concatenate([values, np.zeros(padded(info.nbytes) - info.nbytes, np.uint8)])

    write_bundle(out, [replace(part_of(plain), data=data)])
    return out
