"""Finds the grid that blocks of 32 weights lie on, and stores them on it without loss.

In: float32 weights and the precision they were rounded to. Out: for each block its step and codes, and whether they
give the weights back; or the bytes of a block type. A checkpoint of quantisation-aware training holds step * code,
rounded to bfloat16. llama.cpp takes the largest weight over -8 as the step, which is right only where the grid's end
was used. Here the step is what all 32 weights allow: code by code, the weight's rounding leaves an interval for it, and
the step is the half-precision number in the middle of what is left. Knows nothing of files, threads or models.

Arrays are [32, n], a block per column, because numpy is fast along the last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize
from numpy.typing import NDArray

BLOCK = 32
FINE = 16  # codes up to here are told apart whatever bfloat16 has made of the weights
TRIED = 8192  # blocks times codes that are tried in one go
CHUNK = 4096  # blocks worked on at a time: half a megabyte of float32 stays in a core's cache
HALF_STEP = {T.BF16: 1 << 15, T.F16: 1 << 12, T.F32: 1}  # half a unit in the last place, counted in float32's bits

FloatArray = NDArray[np.float32]
Codes = NDArray[np.int8]
Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """A block type that holds `step` * code: the largest code of either sign, and how many codes a block may span."""

    type: T
    top: int
    span: int


# From few bits to many. A weight of 0 has code 0 in all of them; Q4_1 holds codes that lie to one side (zero points).
GRIDS = (Grid(T.Q4_0, 8, 16), Grid(T.Q4_1, 15, 16), Grid(T.Q8_0, 127, 255))


@dataclass(frozen=True)
class Lattice:
    """What a tensor's weights lie on, and the precision they were rounded to: half a step, as in HALF_STEP."""

    grid: Grid
    half_step: int


@dataclass(frozen=True)
class Count:
    """Blocks of a tensor: given back exactly; on the grid, with a step that half precision rounds; on no grid.

    `error`: the largest difference from a weight where it is not given back exactly.
    """

    exact: int = 0
    rounded: int = 0
    off: int = 0
    error: float = 0.0

    @property
    def blocks(self) -> int:
        return self.exact + self.rounded + self.off

    def __add__(self, other: Count) -> Count:
        counts = self.exact + other.exact, self.rounded + other.rounded, self.off + other.off
        return Count(*counts, max(self.error, other.error))


@dataclass(frozen=True)
class Fit:
    """`steps` float32 [n], numbers that half precision holds. `codes` int8 [32, n].

    `found`: there is a step that gives all weights of the block. `exact`: this one does, so half precision holds it.
    """

    steps: FloatArray
    codes: Codes
    found: Flags
    exact: Flags


def fit(blocks: FloatArray, half_step: int, grid: Grid) -> Fit:
    """Find step and codes of float32 [height, n], a block per column. `half_step`: see `Lattice`."""
    with np.errstate(all="ignore"):  # blocks of zeros, and of values that are not finite
        return _fit(blocks, half_step, grid)


def _fit(blocks: FloatArray, half_step: int, grid: Grid) -> Fit:
    sizes = np.abs(blocks)
    bits = sizes.view(np.uint32)
    largest = sizes.max(0)
    smallest = ((bits - np.uint32(1)).min(0) + np.uint32(1)).view(np.float32)  # above 0: zeros wrap around
    zero = largest == 0
    ratio = np.clip(np.rint(largest / smallest), 1, grid.top) if grid.top <= FINE else np.float32(grid.top)
    guess = np.where(zero, 1, ratio).astype(np.float32)
    steps, counts, found, exact = _solve(sizes, largest, smallest, guess, half_step)
    # The smallest weight is one step in most blocks of 4 bits. In the others, every code of the largest one is tried.
    # With 8 bits that would take too long: there the largest weight must be the grid's end.
    left, code = np.flatnonzero(~found & ~zero), grid.top if grid.top <= FINE else 0
    while left.size and code:
        tries = np.arange(code, max(0, code - max(1, TRIED // left.size)), -1, dtype=np.float32)
        again = np.tile(left, len(tries))
        tried = _solve(sizes[:, again], largest[again], smallest[again], np.repeat(tries, left.size), half_step)
        fits = tried[2].reshape(len(tries), -1)
        good = np.flatnonzero(fits.any(0))
        at, of = left[good], fits.argmax(0)[good] * left.size + good
        steps[at], counts[:, at], found[at], exact[at] = tried[0][of], tried[1][:, of], tried[2][of], tried[3][of]
        left, code = np.delete(left, good), code - len(tries)
    steps[zero] = 0
    codes = np.copysign(counts, blocks).astype(np.int8)
    flip = codes.max(0) > grid.top - 1 if grid.type is T.Q4_0 else np.zeros(len(steps), np.bool_)
    if flip.any():  # -8 to 7: a block with +8 gets a negative step
        steps[flip] *= -1
        codes[:, flip] *= -1
    spans = codes.max(0).astype(np.int16) - codes.min(0)
    fits = spans < grid.span
    if grid.type is T.Q4_1:  # its offset is a number of half precision, too
        offset = steps * codes.min(0)
        exact &= offset == offset.astype(np.float16)
    return Fit(steps, codes, found & fits | zero, exact & fits | zero)


def _solve(
    sizes: FloatArray, largest: FloatArray, smallest: FloatArray, top: FloatArray, half_step: int
) -> tuple[FloatArray, FloatArray, Flags, Flags]:
    """Steps [n], counts of steps [32, n], `found` and `exact`, where the largest weight is `top` steps."""
    per = np.where(largest > 0, top / largest, 0).astype(np.float32)
    counts = np.rint(sizes * per)
    if (top > FINE).any():  # the largest weights' rounding is near half a step there: let all weights say the step
        per = np.where(largest > 0, np.square(counts).sum(0) / (sizes * counts).sum(0), 0).astype(np.float32)
        counts = np.rint(sizes * per)
    least = np.maximum(np.rint(smallest * per), 1)
    # A zero is no bound for the step. It counts as one more of the smallest weight.
    bits = np.maximum(sizes, smallest).view(np.uint32)
    divisors = np.maximum(counts, least)
    # The ends of what is rounded to this weight. They belong to it where its last bit is 0; else two float32
    # numbers are taken off, more than a division's own rounding.
    odd = (bits >> np.uint32(half_step.bit_length())) & np.uint32(half_step > 1)
    inside = odd << np.uint32(1)
    low = np.divide((bits - np.uint32(half_step) + inside).view(np.float32), divisors).max(0)
    high = np.divide((bits + np.uint32(half_step) - inside).view(np.float32), divisors).min(0)
    steps = ((low + high) / 2).astype(np.float16).astype(np.float32)
    return steps, counts, low <= high, (low <= steps) & (steps <= high)


# ── storing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _halves(values: FloatArray) -> Bytes:
    """float32 [n] as half precision, uint8 [n, 2]."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _nibbles(codes: NDArray[np.uint8]) -> Bytes:
    """Codes 0 to 15, uint8 [32, n], as uint8 [n, 16]: the first 16 in the low halves, the others in the high ones."""
    found: Bytes = (codes[:16] | (codes[16:] << np.uint8(4))).T
    return found


def _q4_0(steps: FloatArray, codes: Codes) -> Bytes:
    return np.hstack([_halves(steps), _nibbles((codes + np.int8(8)).view(np.uint8))])


def _q4_1(steps: FloatArray, codes: Codes) -> Bytes:
    lowest = codes.min(0)
    return np.hstack([_halves(steps), _halves(steps * lowest), _nibbles((codes - lowest).view(np.uint8))])


def _q8_0(steps: FloatArray, codes: Codes) -> Bytes:
    return np.hstack([_halves(steps), codes.T.view(np.uint8)])


_PACK: Mapping[T, Callable[[FloatArray, Codes], Bytes]] = {T.Q4_0: _q4_0, T.Q4_1: _q4_1, T.Q8_0: _q8_0}


def store(rows: FloatArray, lattice: Lattice, otherwise: Callable[[FloatArray], Bytes]) -> tuple[Bytes, Count]:
    """Rows float32 [n, width] as blocks of the grid's type, uint8, and how well that went.

    `otherwise` stores blocks float32 [n, 32] that lie on no grid.
    """
    grid = lattice.grid
    blocks, total = rows.reshape(-1, BLOCK), Count()
    out = np.empty((len(blocks), GGML_QUANT_SIZES[grid.type][1]), np.uint8)
    for start in range(0, len(blocks), CHUNK):
        part, stored = blocks[start : start + CHUNK], out[start : start + CHUNK]
        found = fit(np.ascontiguousarray(part.T), lattice.half_step, grid)
        stored[...] = _PACK[grid.type](found.steps, found.codes)
        off = ~found.found
        if off.any():
            stored[off] = otherwise(np.ascontiguousarray(part[off])).reshape(-1, stored.shape[1])
        worst = 0.0
        if not found.exact.all():
            near = dequantize(stored[~found.exact], grid.type).reshape(-1, BLOCK)
            worst = float(np.abs(near - part[~found.exact]).max())
        exact, lost = int(found.exact.sum()), int(off.sum())
        total += Count(exact, len(part) - exact - lost, lost, worst)
    return out.reshape(-1), total
